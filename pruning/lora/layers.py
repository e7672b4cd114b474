"""Linear and Embedding layers with factors beside their weight.

A layer changes its class in place and keeps its tensors: every name in the state dict stays, and
``lora_A`` and ``lora_B`` come after ``weight`` and ``bias``, as in ModelZoo. First values as there too:
of a Linear, A is drawn as a Linear's weight is and B is zero; of an Embedding, A is zero and B normal.
Either way the update starts as zero.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from pruning.lora.arithmetic import gated_linear, updated

FACTORS = ("lora_A", "lora_B")


@dataclass(frozen=True)
class Settings:
    """Of one layer."""

    r: int
    alpha: float
    scaling: float
    dropout: float
    mode: str


class Adapted:
    """What both kinds of layer have in common. ``weight_mask``, where there is one, is the weight's mask."""

    weight: Tensor
    lora_A: nn.Parameter  # noqa: N815
    lora_B: nn.Parameter  # noqa: N815
    lora: Settings
    has_mask = False  # a mask belongs to the weight: what computes without it would be another function

    def factors(self) -> tuple[Tensor, Tensor]:
        """A and B as they count: where a factor has a mask, without what it drops."""
        kept = []
        for name in FACTORS:
            factor, mask = getattr(self, name), getattr(self, f"{name}_mask", None)
            kept.append(factor if mask is None else factor * mask)
        return kept[0], kept[1]

    def sides(self) -> tuple[Tensor, Tensor]:
        """Left and right of the update as ``pruning.lora.arithmetic`` has them."""
        raise NotImplementedError

    def gate(self) -> Tensor | None:
        if self.lora.mode == "multiplicative":
            return self.weight
        if self.lora.mode != "sparse_to_sparse":
            return None
        mask: Tensor | None = getattr(self, "weight_mask", None)
        assert mask is not None or not self.has_mask, "the mask of the weight is not there yet"
        return mask

    def effective_weight(self) -> Tensor:
        """The weight that the layer computes with, dropout aside."""
        return updated(self.weight, *self.sides(), self.lora.scaling, self.gate())


class LoRALinear(nn.Linear, Adapted):
    def forward(self, x: Tensor) -> Tensor:
        """With dropout, the update sees another input than the frozen weight, so it is not added to it."""
        gate, dropping = self.gate(), self.training and self.lora.dropout > 0
        a, b = self.factors()
        if gate is not None and not dropping:
            return gated_linear(x, self.weight, self.bias, b, a, gate, self.lora.scaling)
        seen = functional.dropout(x, self.lora.dropout, training=True) if dropping else x
        frozen = functional.linear(x, self.weight, self.bias)
        if gate is not None:
            return frozen + gated_linear(seen, None, None, b, a, gate, self.lora.scaling)
        return frozen + (seen @ a.transpose(0, 1) @ b.transpose(0, 1)) * self.lora.scaling

    def sides(self) -> tuple[Tensor, Tensor]:
        a, b = self.factors()
        return b, a


class LoRAEmbedding(nn.Embedding, Adapted):
    """Looks its update up row by row: the whole update is never formed. Has no dropout, as in ModelZoo."""

    def forward(self, indices: Tensor) -> Tensor:
        a, b = self.factors()
        rows = self._look_up(indices, self.weight)
        update = (self._look_up(indices, a.transpose(0, 1)) @ b.transpose(0, 1)) * self.lora.scaling
        if self.lora.mode == "multiplicative":
            update = update * rows
        elif (mask := self.gate()) is not None:
            update = update * functional.embedding(indices, mask.to(update.dtype))
        return rows + update

    def sides(self) -> tuple[Tensor, Tensor]:
        a, b = self.factors()
        return a.transpose(0, 1), b.transpose(0, 1)

    def _look_up(self, indices: Tensor, table: Tensor) -> Tensor:
        return functional.embedding(
            indices, table, self.padding_idx, scale_grad_by_freq=self.scale_grad_by_freq
        )


KINDS: dict[type[nn.Module], type[LoRALinear] | type[LoRAEmbedding]] = {
    nn.Linear: LoRALinear,
    nn.Embedding: LoRAEmbedding,
}


def attach(
    layer: nn.Module,
    settings: Settings,
    *,
    generator: torch.Generator | None = None,
    draw_as_modelzoo: bool = False,
) -> None:
    """Give a Linear or Embedding its factors.

    ModelZoo builds a new layer and draws its weight twice before it copies the old one;
    ``draw_as_modelzoo`` makes the same idle draws, so that the same seed gives the same factors.
    """
    kind, weight = KINDS[type(layer)], layer.weight
    assert isinstance(weight, Tensor)
    if draw_as_modelzoo:
        _fresh(layer).reset_parameters()
    # A weight (n, m) of a Linear takes A (r, m) and B (n, r); of an Embedding A (r, n) and B (m, r).
    columns, rows = reversed(weight.shape) if kind is LoRALinear else weight.shape
    a = torch.zeros(settings.r, columns, device=weight.device, dtype=weight.dtype)
    b = torch.zeros(rows, settings.r, device=weight.device, dtype=weight.dtype)
    if kind is LoRALinear:
        _draw(a, generator, lambda tensor, **k: nn.init.kaiming_uniform_(tensor, a=math.sqrt(5), **k))
    else:
        _draw(b, generator, nn.init.normal_)
    layer.__class__ = kind
    assert isinstance(layer, Adapted)
    layer.lora = settings
    layer.lora_A, layer.lora_B = nn.Parameter(a), nn.Parameter(b)


def mask_layer(layer: nn.Module, name: str, mask: Tensor) -> None:
    """Keep a mask of the parameter ``name`` beside it: it moves with the layer, and is in no state dict."""
    parameter = getattr(layer, name)
    layer.register_buffer(f"{name}_mask", mask.to(parameter.device, torch.bool), persistent=False)
    if name == "weight":
        layer.has_mask = True  # type: ignore[assignment]


def detach(layer: nn.Module, weight: Tensor) -> None:
    """Take the factors away again; the layer goes on with ``weight``."""
    plain = next(plain for plain, kind in KINDS.items() if type(layer) is kind)
    with torch.no_grad():
        layer.weight.copy_(weight)  # type: ignore[operator]
    for name in ("weight_mask", *(f"{factor}_mask" for factor in FACTORS)):
        if name in layer._buffers:
            delattr(layer, name)
    for name in (*FACTORS, "lora"):
        delattr(layer, name)
    layer.__dict__.pop("has_mask", None)
    layer.__class__ = plain


def _fresh(layer: nn.Module) -> nn.Linear | nn.Embedding:
    """A layer like this one, newly drawn."""
    assert isinstance(layer, nn.Linear | nn.Embedding)
    device, dtype = layer.weight.device, layer.weight.dtype
    if isinstance(layer, nn.Linear):
        biased = layer.bias is not None
        return nn.Linear(layer.in_features, layer.out_features, biased, device=device, dtype=dtype)
    return nn.Embedding(layer.num_embeddings, layer.embedding_dim, device=device, dtype=dtype)


def _draw(factor: Tensor, generator: torch.Generator | None, law: Callable[..., Tensor]) -> None:
    """A generator of the caller's draws on the CPU, so that a seed gives the same factors on any device."""
    if generator is None:
        law(factor)
    else:
        factor.copy_(law(torch.empty(factor.shape), generator=generator))
