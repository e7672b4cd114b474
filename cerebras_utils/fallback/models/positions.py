"""Positions that are added: vectors to embeddings (learned, fixed), or biases to logits (ALiBi, relative)."""

import math

import torch
from torch import Tensor, nn
from torch.nn import init

from cerebras_utils.fallback.models.initializers import Initializer
from cerebras_utils.fallback.models.options import Options

_LONGEST = 10000.0  # wave of fixed positions, in radians per position
_FARTHEST = 128  # relative distances from here on share the last bucket


class Learned(nn.Module):
    def __init__(self, options: Options, weights: Initializer) -> None:
        super().__init__()
        self._offset = options.position_embedding_offset
        self.embed = nn.Embedding(options.max_position_embeddings + self._offset, options.hidden_size)
        weights(self.embed.weight.data)

    def forward(self, length: int) -> Tensor:
        positions = torch.arange(length, device=self.embed.weight.device) + self._offset
        vectors: Tensor = self.embed(positions)
        return vectors


class Fixed(nn.Module):
    """Interleaved sines and cosines (Vaswani et al.), kept as a parameter that is never trained."""

    def __init__(self, options: Options) -> None:
        super().__init__()
        size = options.hidden_size
        waves = size // 2
        steps = torch.arange(waves, dtype=torch.float32) * -(math.log(_LONGEST) / (waves - 1))
        positions = torch.arange(options.max_position_embeddings, dtype=torch.float32)
        angles = positions[:, None] * torch.exp(steps)
        pairs = torch.stack((angles.sin(), angles.cos()), dim=-1).flatten(-2)
        self.fpe = nn.Parameter(nn.functional.pad(pairs, (0, size % 2)), requires_grad=False)

    def forward(self, length: int) -> Tensor:
        return self.fpe[:length]


class Alibi(nn.Module):
    """Attention with linear biases (Press et al.). The slopes are in the state dict, trained or not."""

    def __init__(self, options: Options) -> None:
        super().__init__()
        self._scale = -options.pos_scaling_factor
        if options.alibi_trainable_slopes:
            slopes = init.xavier_uniform_(torch.zeros(options.num_heads, 1))
        else:
            slopes = torch.tensor(_slopes(options.num_heads)).unsqueeze(-1)
        self.slopes = nn.Parameter(slopes, requires_grad=options.alibi_trainable_slopes)

    def forward(self, length: int) -> Tensor:
        distances = _relative(length, self.slopes.device).abs()
        return (self.slopes / self._scale).unsqueeze(1) * distances


class Relative(nn.Module):
    """A learned bias for each head and bucket of distances, as in T5, towards the past only."""

    def __init__(self, options: Options) -> None:
        super().__init__()
        self.relative_attention_bias = nn.Embedding(options.num_relative_attention_buckets, options.num_heads)
        init.xavier_uniform_(self.relative_attention_bias.weight.data)

    def forward(self, length: int) -> Tensor:
        distances = (-_relative(length, self.relative_attention_bias.weight.device)).clamp(min=0)
        values: Tensor = self.relative_attention_bias(self._buckets(distances))
        return values.permute(2, 0, 1)

    def _buckets(self, distances: Tensor) -> Tensor:
        """Half of the buckets for a distance each, half for ranges that grow."""
        count = self.relative_attention_bias.num_embeddings
        exact = count // 2
        share = torch.log(distances.clamp(min=1) / exact) / math.log(_FARTHEST / exact)
        ranges = exact + (share * (count - exact)).long()
        return torch.where(distances < exact, distances, ranges.clamp(max=count - 1))


def _relative(length: int, device: torch.device) -> Tensor:
    """How far each key (columns) lies after each query (rows)."""
    places = torch.arange(length, device=device)
    return places[None, :] - places[:, None]


def _slopes(heads: int) -> list[float]:
    """A geometric sequence; where the heads are no power of two, filled up from that of the next power."""
    power = 2 ** math.floor(math.log2(heads))
    start = 2 ** -(2 ** -(math.log2(power) - 3))
    slopes = [float(start * start**i) for i in range(power)]
    return slopes if power == heads else slopes + _slopes(2 * power)[::2][: heads - power]
