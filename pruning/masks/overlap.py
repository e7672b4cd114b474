"""How alike two masks are, and how alike they would be by chance."""

import math
from dataclasses import dataclass

from pruning.masks.bits import Bytes, count
from pruning.masks.collection import Masks, opened


@dataclass(frozen=True)
class Overlap:
    """Counts of the kept weights of two masks A and B, and what follows from them."""

    numel: int
    kept_a: int
    kept_b: int
    both: int
    by_chance: float  # expected ``both``, for masks of these sparsities that know nothing of each other

    @property
    def iou(self) -> float:
        """Intersection over union of the kept weights; 1 for two masks that keep nothing."""
        return self._iou(self.both)

    @property
    def chance_iou(self) -> float:
        """pq / (p + q - pq) with p and q kept: an IoU is to be read against this, not against 0."""
        return self._iou(self.by_chance)

    @property
    def agreement(self) -> float:
        """The fraction of weights that both keep or both drop."""
        return 1 - (self.kept_a + self.kept_b - 2 * self.both) / self.numel if self.numel else 1.0

    @property
    def a_in_b(self) -> bool:
        """Every weight that A keeps, B keeps: A is nested in B."""
        return self.both == self.kept_a

    @property
    def b_in_a(self) -> bool:
        return self.both == self.kept_b

    def _iou(self, both: float) -> float:
        union = self.kept_a + self.kept_b - both
        return both / union if union else 1.0


@dataclass(frozen=True)
class Comparison:
    per_layer: dict[str, Overlap]
    total: Overlap  # its chance is that of masks which share nothing but the sparsity of each layer
    only_in_a: tuple[str, ...]
    only_in_b: tuple[str, ...]
    shapes_differ: dict[str, tuple[tuple[int, ...], tuple[int, ...]]]

    @property
    def complete(self) -> bool:
        """No mask was left out because the other side has none of its name and shape."""
        return not (self.only_in_a or self.only_in_b or self.shapes_differ)


def compare_masks(a: Masks, b: Masks) -> Comparison:
    """Compare mask by mask, with two in memory at a time. What has no partner is listed, not guessed."""
    with opened(a) as of_a, opened(b) as of_b:
        shared = sorted(set(of_a.names) & set(of_b.names))
        shapes = {name: (of_a.shape(name), of_b.shape(name)) for name in shared}
        alike = [name for name in shared if shapes[name][0] == shapes[name][1]]
        per_layer = {
            name: _overlap(math.prod(of_a.shape(name)), of_a.packed(name), of_b.packed(name))
            for name in alike
        }
        return Comparison(
            per_layer=per_layer,
            total=_total(list(per_layer.values())),
            only_in_a=tuple(sorted(set(of_a.names) - set(shared))),
            only_in_b=tuple(sorted(set(of_b.names) - set(shared))),
            shapes_differ={name: shapes[name] for name in shared if name not in per_layer},
        )


def _overlap(numel: int, a: Bytes, b: Bytes) -> Overlap:
    kept_a, kept_b = count(a), count(b)
    by_chance = kept_a * kept_b / numel if numel else 0.0
    return Overlap(numel, kept_a, kept_b, count(a & b), by_chance)


def _total(parts: list[Overlap]) -> Overlap:
    return Overlap(
        numel=sum(part.numel for part in parts),
        kept_a=sum(part.kept_a for part in parts),
        kept_b=sum(part.kept_b for part in parts),
        both=sum(part.both for part in parts),
        by_chance=math.fsum(part.by_chance for part in parts),
    )
