"""How a sparsity is shared out: which tensors compete with each other, and how many units each pool drops.

A unit is what a pattern drops as a whole: one weight, a block, a row, a head. An allocation
sees numbers of units and shapes, never weights or patterns.
"""

import heapq
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction

from pruning.planning.amount import drop_count
from pruning.registry import Registry


@dataclass(frozen=True)
class Layer:
    """One competitor, usually a tensor."""

    name: str
    shape: tuple[int, ...]
    units: int


@dataclass(frozen=True)
class Pool:
    """Layers that compete with each other, in the order that breaks ties, for ``drop`` places to lose."""

    layers: tuple[Layer, ...]
    drop: int

    @property
    def units(self) -> int:
        return sum(layer.units for layer in self.layers)


Allocation = Callable[[Sequence[Layer], Decimal], list[Pool]]
ALLOCATIONS: Registry[Allocation] = Registry("allocation")


@ALLOCATIONS.register("uniform")
def uniform(layers: Sequence[Layer], sparsity: Decimal) -> list[Pool]:
    """The same sparsity in every layer, each rounded by itself."""
    return [Pool((layer,), drop_count(sparsity, layer.units)) for layer in layers]


@ALLOCATIONS.register("global")
def one_pool(layers: Sequence[Layer], sparsity: Decimal) -> list[Pool]:
    """One threshold for all layers."""
    return [Pool(tuple(layers), drop_count(sparsity, sum(layer.units for layer in layers)))] if layers else []


@ALLOCATIONS.register("erk")
def erk(layers: Sequence[Layer], sparsity: Decimal) -> list[Pool]:
    """Erdős–Rényi kernel: density in proportion to the sum over the product of the shape (arXiv:1911.11134).

    Layers that would have to be more than dense are dense. The whole number of weights that is
    kept is handed out one by one to the layer that is furthest behind its share (the divisor
    method of Webster), so the total is exact, and a layer never loses a weight when the total
    grows: masks of two sparsities are nested.
    """
    total = sum(layer.units for layer in layers)
    keep = total - drop_count(sparsity, total)
    # Units are as large as numel / units weights; the share of a layer in units shrinks with it.
    weight = [Fraction(sum(x.shape) * x.units, max(1, math.prod(x.shape))) for x in layers]
    kept = _apportion(weight, [layer.units for layer in layers], keep)
    return [Pool((layer,), layer.units - k) for layer, k in zip(layers, kept, strict=True)]


def _apportion(weights: list[Fraction], limits: list[int], seats: int) -> list[int]:
    """Whole numbers in proportion to ``weights``, none over its limit, with the sum ``seats``.

    Seat j (from 1) of member i comes in the order of (2j - 1) / (2 * weight), then of the list.
    """

    def ahead(ratio: Fraction) -> list[int]:
        """Seats whose turn comes strictly before ``ratio``: (2j - 1) / 2w < ratio."""
        return [
            min(limit, max(0, math.ceil(ratio * w + Fraction(1, 2)) - 1))
            for w, limit in zip(weights, limits, strict=True)
        ]

    given = ahead(_fill_level(weights, limits, seats) if weights else Fraction(0))
    step = Fraction(1)
    while sum(given) > seats:  # rounding up overshot: start a little lower
        given = ahead(max(Fraction(0), _fill_level(weights, limits, seats) - step / max(weights)))
        step *= 2
    queue = [
        (Fraction(2 * given[i] + 1) / (2 * weights[i]), i)
        for i in range(len(weights))
        if given[i] < limits[i]
    ]
    heapq.heapify(queue)
    for _ in range(seats - sum(given)):
        _, i = heapq.heappop(queue)
        given[i] += 1
        if given[i] < limits[i]:
            heapq.heappush(queue, (Fraction(2 * given[i] + 1) / (2 * weights[i]), i))
    return given


def _fill_level(weights: list[Fraction], limits: list[int], seats: int) -> Fraction:
    """The ratio r with sum(min(limit, r * weight)) = seats: the shares before they are rounded."""
    order = sorted(range(len(weights)), key=lambda i: limits[i] / weights[i])
    left, open_weight = Fraction(seats), sum(weights, Fraction(0))
    for i in order:
        level = left / open_weight
        if level * weights[i] <= limits[i]:
            return level
        left -= limits[i]
        open_weight -= weights[i]
    return Fraction(0)
