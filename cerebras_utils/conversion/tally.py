"""What a merge did, layer by layer: the receipt."""

from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor

from cerebras_utils.conversion.merged import Piece


@dataclass
class Layer:
    weights: int = 0
    zeros_before: int = 0
    zeros_after: int = 0
    resurrected: int = 0  # zero under the mask, or in the base where there is no mask; not zero now
    newly_dead: int = 0  # not zero before, zero now
    hidden: int = 0  # of the base, not zero under the mask
    update_square: float = 0.0
    dropped_square: float = 0.0
    dropped_max: float = 0.0

    def add(self, piece: Piece, keep: bool) -> None:
        before, after = piece.before != 0, piece.after != 0
        allowed = before if piece.mask is None else piece.mask
        self.weights += before.numel()
        self.zeros_before += before.numel() - _count(before)
        self.zeros_after += after.numel() - _count(after)
        self.resurrected += _count(after & ~allowed)
        self.newly_dead += _count(before & ~after)
        self.hidden += piece.hidden
        self.update_square += _norm(piece.update) ** 2
        if keep:
            dropped = piece.update.masked_fill(allowed, 0)
            self.dropped_square += _norm(dropped) ** 2
            self.dropped_max = max(self.dropped_max, _norm(dropped, float("inf")))

    def summary(self) -> dict[str, Any]:
        share = (self.dropped_square / self.update_square) ** 0.5 if self.update_square else 0.0
        return {
            "weights": self.weights,
            "sparsity_before": self.zeros_before / self.weights if self.weights else 0.0,
            "sparsity_after": self.zeros_after / self.weights if self.weights else 0.0,
            "resurrected": self.resurrected,
            "newly_dead": self.newly_dead,
            "update_norm": self.update_square**0.5,
            "dropped_norm": self.dropped_square**0.5,
            "dropped_share": share,
            "dropped_max": self.dropped_max,
        }


def _count(true: Tensor) -> int:
    return int(torch.count_nonzero(true))  # many times as fast as a sum of bools


def _norm(values: Tensor, order: float = 2) -> float:
    return float(torch.linalg.vector_norm(values, order, dtype=torch.float64))


@dataclass
class Tally:
    keep: bool
    layers: dict[str, Layer] = field(default_factory=dict)

    def __call__(self, name: str, piece: Piece) -> None:
        self.layers.setdefault(name, Layer()).add(piece, self.keep)

    def total(self) -> Layer:
        total = Layer()
        for layer in self.layers.values():
            for name, value in asdict(layer).items():
                held = getattr(total, name)
                setattr(total, name, max(held, value) if name == "dropped_max" else held + value)
        return total

    def receipt(self) -> dict[str, Any]:
        layers = {name: layer.summary() for name, layer in sorted(self.layers.items())}
        return {"total": self.total().summary(), "layers": layers}
