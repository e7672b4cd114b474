"""Merging one weight with its factors, and what that costs. Tensors in, a tensor and counts out.

A slice of rows can be merged alone, with the same rows of ``left`` and of the mask: that is how a
checkpoint larger than memory is merged. The costs of slices, and of layers, add up.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pruning.lora.arithmetic import product
from pruning.problems import Problem, ProblemError, fail

TRAINED = ("dense", "masked", "multiplicative")  # what the update was while it was trained


@dataclass(frozen=True)
class MergeCost:
    """Counts of weights, and how far the merged weight is from the one that was trained."""

    numel: int = 0
    zeros_before: int = 0
    zeros_after: int = 0
    resurrected: int = 0  # not zero now: under the mask; without a mask, of those that were zero
    newly_dead: int = 0  # zero now and not before, though kept
    max_update: float = 0.0  # the largest |Δ| that was trained
    max_dropped: float = 0.0  # the largest |Δ| that the merge left out
    update_square: float = 0.0  # ‖Δ‖² as trained, and of what was left out
    dropped_square: float = 0.0

    @property
    def sparsity_before(self) -> float:
        return self.zeros_before / self.numel if self.numel else 0.0

    @property
    def sparsity_after(self) -> float:
        return self.zeros_after / self.numel if self.numel else 0.0

    @property
    def update_norm(self) -> float:
        return math.sqrt(self.update_square)

    @property
    def dropped_norm(self) -> float:
        return math.sqrt(self.dropped_square)

    @property
    def dropped_share(self) -> float:
        """‖dropped‖ / ‖Δ‖: 0 where the merged weight computes what was trained."""
        return self.dropped_norm / self.update_norm if self.update_square else 0.0

    def __add__(self, other: "MergeCost") -> "MergeCost":
        largest = {
            name: max(getattr(self, name), getattr(other, name)) for name in ("max_update", "max_dropped")
        }
        sums = {
            name: getattr(self, name) + getattr(other, name)
            for name in self.__dataclass_fields__
            if name not in largest
        }
        return MergeCost(**sums, **largest)

    def as_dict(self) -> dict[str, Any]:
        names = ("numel", "sparsity_before", "sparsity_after", "resurrected", "newly_dead")
        costs = ("max_update", "max_dropped", "update_norm", "dropped_norm", "dropped_share")
        return {name: getattr(self, name) for name in (*names, *costs)}


def merge_rows(
    weight: Tensor,
    left: Tensor,
    right: Tensor,
    *,
    scaling: float,
    trained: str = "dense",
    mask: Tensor | None = None,
    keep_sparsity: bool = True,
    where: str = "weight",
) -> tuple[Tensor, MergeCost]:
    """The merged weight, of the type of ``weight``, and its cost.

    ``left @ right`` is the update (``pruning.lora.arithmetic``); ``trained`` says what was done with it in
    the forward pass, ``mask`` what is to stay zero. A dense update is cut to the mask only if
    ``keep_sparsity``; the others keep zeros by themselves.
    """
    assert trained in TRAINED, trained
    update = product(left, right, scaling)
    if trained == "masked":
        assert mask is not None, "a masked update without its mask"
        update = update * mask
    elif trained == "multiplicative":
        update = update * weight
    merged = (weight + update).to(weight.dtype)
    dropped = torch.zeros((), dtype=update.dtype)
    if trained == "dense" and keep_sparsity and mask is not None:
        merged = torch.where(mask, merged, torch.zeros((), dtype=merged.dtype))
        dropped = update.masked_fill(mask, 0)
    broken = _count(~merged.isfinite()) + _count(~weight.isfinite())
    if broken:
        raise fail(
            where, f"{broken:,} values are NaN or infinite", "merge a checkpoint from before the loss broke"
        )
    dead = weight == 0
    gone = merged == 0
    kept = ~dead if mask is None else mask
    return merged, MergeCost(
        numel=weight.numel(),
        zeros_before=_count(dead),
        zeros_after=_count(gone),
        resurrected=_count(~gone & ~kept),
        newly_dead=_count(gone & ~dead & kept),
        max_update=_largest(update),
        max_dropped=_largest(dropped),
        update_square=_square(update),
        dropped_square=_square(dropped),
    )


class FactorNames(NamedTuple):
    """Of one layer, in a state dict."""

    weight: str
    a: str
    b: str


def find_factors(names: Iterable[str], where: str) -> dict[str, FactorNames]:
    """Layer → the names of its weight and factors. All layers where one of the three is missing are told."""
    known = dict.fromkeys(names)
    layers = dict.fromkeys(
        name.rsplit("lora_", 1)[0].rstrip(".") for name in known if name.endswith(("lora_A", "lora_B"))
    )
    if not layers:
        what = "holds no LoRA factors: it was merged already, or is not of a LoRA run"
        raise fail(where, what, "name the checkpoint that the LoRA run wrote")
    found, problems = {}, []
    for layer in layers:
        three = FactorNames(*(f"{layer}.{part}".lstrip(".") for part in ("weight", "lora_A", "lora_B")))
        missing = [name for name in three if name not in known]
        for name in missing:
            what = f"is missing, though {next(n for n in three[1:] if n in known)} is there"
            problems.append(Problem(f"{where}: {name}", what, "take a whole checkpoint"))
        found[layer] = three
    if problems:
        raise ProblemError(problems)
    return found


def sides(
    shape: tuple[int, ...], a: Tensor, b: Tensor, where: str, *, embedding: bool | None = None
) -> tuple[Tensor, Tensor]:
    """Left and right of the update of a weight of ``shape``: B·A of a Linear, Aᵀ·Bᵀ of an Embedding.

    Where the shapes alone do not tell, a square weight, ``embedding`` does; it is a Linear otherwise.
    """
    shapes = f"A {tuple(a.shape)} and B {tuple(b.shape)} are no factors of a weight {shape}"
    if a.ndim != 2 or b.ndim != 2 or a.shape[0] != b.shape[1] or len(shape) != 2:
        raise fail(where, shapes, "take the factors of this model")
    of_linear = (b.shape[0], a.shape[1]) == shape
    of_embedding = (a.shape[1], b.shape[0]) == shape
    if of_embedding and (embedding or not of_linear) and embedding is not False:
        return a.t(), b.t()
    if of_linear and not embedding:
        return b, a
    raise fail(where, shapes, "take the factors of this model")


def report(costs: Mapping[str, MergeCost]) -> dict[str, Any]:
    """As a receipt has it: all layers together, and each."""
    total = sum(costs.values(), MergeCost())
    return {"global": total.as_dict(), "per_layer": {name: cost.as_dict() for name, cost in costs.items()}}


def _count(true: Tensor) -> int:
    return int(torch.count_nonzero(true))  # many times as fast as a sum of bools


def _largest(tensor: Tensor) -> float:
    return float(torch.linalg.vector_norm(tensor, float("inf"))) if tensor.numel() else 0.0


def _square(tensor: Tensor) -> float:
    return float(torch.linalg.vector_norm(tensor, dtype=torch.float64)) ** 2
