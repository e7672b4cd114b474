"""Rotary positions: pairs of neighbouring dimensions, turned by an angle that grows with the position.

Frequencies are computed in the order of operations of ModelZoo, in fp32: a position in the thousands
multiplies the last bit of a frequency into the angle.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from cerebras_utils.fallback.models.options import Options


@dataclass(frozen=True)
class Rotation:
    """Sines and cosines of every position and pair: computed once, used by queries and keys of all layers."""

    cos: Tensor  # (length, 1, pairs)
    sin: Tensor

    def turn(self, x: Tensor) -> Tensor:
        """Turn (batch, length, heads, size) in its first dimensions; those past the pairs stay."""
        size = 2 * self.cos.shape[-1]
        cos, sin = self.cos, self.sin
        if x.dtype != torch.float32:
            cos, sin = cos.to(x.dtype), sin.to(x.dtype)
        even, odd = x[..., :size:2], x[..., 1:size:2]
        turned = torch.stack((even * cos - odd * sin, odd * cos + even * sin), dim=-1).flatten(-2)
        return turned if size == x.shape[-1] else torch.cat((turned, x[..., size:]), dim=-1)


def rotation(options: Options, length: int, device: torch.device) -> Rotation:
    frequencies, factor = _SCALED[options.pos_scaling_type.lower()](options, _frequencies(options, device))
    positions = torch.arange(length, device=device, dtype=torch.float32)
    if options.pos_scaling_type == "linear":
        positions = positions / options.pos_scaling_factor
    angles = positions[:, None, None] * frequencies
    return Rotation(cos=angles.cos() * factor, sin=angles.sin() * factor)


def _frequencies(options: Options, device: torch.device) -> Tensor:
    """theta^(-2 i / size) for each pair i; the constant-folding of the CS-3 rounds it in another way."""
    size = options.rotary_size
    theta = torch.tensor(options.rope_theta, device=device, dtype=torch.float32)
    pairs = torch.arange(size // 2, device=device, dtype=torch.float32)
    if options.fold_rope_consts:
        return 1 / theta ** (2 * pairs / size)
    return torch.exp(pairs * (-torch.log(theta) * 2 / size))


def _linear(options: Options, frequencies: Tensor) -> tuple[Tensor, float]:
    return frequencies, 1.0


def _llama3(options: Options, frequencies: Tensor) -> tuple[Tensor, float]:
    """Short waves stay, long ones are stretched, those between are blended (Llama 3.1)."""
    given = options.pos_scaling_extra_args or {}
    low, high = given.get("low_freq_factor", 1), given.get("high_freq_factor", 4)
    before = given.get("original_max_position_embeddings", 8192)
    waves = 2 * math.pi / frequencies
    stretched = frequencies / options.pos_scaling_factor
    share = (before / waves - low) / (high - low)
    blended = (1 - share) * stretched + share * frequencies
    # "+ 1" and the comparison with 1 round a wave that is next to a bound as ModelZoo rounds it
    short, long = waves - before / high + 1 < 1, waves - before / low + 1 > 1
    return torch.where(short, frequencies, torch.where(long, stretched, blended)), 1.0


def _yarn(options: Options, frequencies: Tensor) -> tuple[Tensor, float]:
    """Peng et al., arXiv:2309.00071."""
    given = options.pos_scaling_extra_args or {}
    size, scale = options.rotary_size, options.pos_scaling_factor
    before = given["original_max_position_embeddings"]

    def pair_that_turns(times: float) -> float:
        return size * math.log(before / (times * 2 * math.pi)) / (2 * math.log(options.rope_theta))

    first, last = pair_that_turns(given.get("beta_fast", 32)), pair_that_turns(given.get("beta_slow", 1))
    if given.get("truncate", True):
        first, last = math.floor(first), math.ceil(last)
    first, last = max(first, 0), min(last, size - 1)
    if first == last:
        last += 0.001
    pairs = torch.arange(size // 2, device=frequencies.device, dtype=torch.float32)
    kept = (1 - ((pairs - first) / (last - first)).clamp(0, 1)) * given.get("extrapolation_factor", 1.0)
    blended = frequencies / scale * (1 - kept) + frequencies * kept
    factor = given.get("mscale_a", 0.1) * math.log(scale) + given.get("mscale_b", 1.0) if scale > 1 else 1.0
    return blended, factor


def _longrope(options: Options, frequencies: Tensor) -> tuple[Tensor, float]:
    """Ding et al., arXiv:2402.13753: a factor for each pair, chosen by the length of the positions."""
    given = options.pos_scaling_extra_args or {}
    before, after = given["original_max_position_embeddings"], options.max_position_embeddings
    which = "long" if after > before else "short"
    factors = torch.tensor(given[f"{which}_factor"], dtype=torch.float32, device=frequencies.device)
    pairs = torch.arange(len(factors), device=frequencies.device, dtype=torch.float32)
    scaled = 1.0 / (factors * options.rope_theta ** (2 * pairs / options.rotary_size))
    return scaled, _longrope_factor(given, which, before, after)


def _longrope_factor(given: Mapping[str, Any], which: str, before: int, after: int) -> float:
    for name in (f"{which}_mscale", "attention_factor"):
        if name in given:
            return float(given[name])
    return 1.0 if after <= before else math.sqrt(1 + math.log(after / before) / math.log(before))


_SCALED: dict[str, Callable[[Options, Tensor], tuple[Tensor, float]]] = {
    "linear": _linear,
    "llama3": _llama3,
    "yarn": _yarn,
    "longrope": _longrope,
}
