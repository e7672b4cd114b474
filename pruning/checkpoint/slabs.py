"""A flat range of a tensor as boxes, for readers that are asked for boxes."""

import math
from collections.abc import Iterator

Box = tuple[slice, ...]


def slabs(shape: tuple[int, ...], start: int, stop: int) -> Iterator[tuple[Box, tuple[int, ...]]]:
    """Boxes, and their shapes, that hold the elements ``start`` to ``stop`` (C order), in order.

    Whole rows of the leading dimension come as one box; the partial rows at both ends are cut
    the same way along the next. So there are at most two boxes per dimension, and nothing
    outside the range is read: a row of a large tensor may be larger than memory.
    """
    if start >= stop:
        return
    if not shape:
        yield (), ()
        return
    row = math.prod(shape[1:])
    first, head = divmod(start, row)
    last, tail = divmod(stop, row)
    if first == last:
        yield from _within(first, shape, head, tail)
        return
    if head:
        yield from _within(first, shape, head, row)
        first += 1
    if first < last:
        yield (slice(first, last),), (last - first, *shape[1:])
    if tail:
        yield from _within(last, shape, 0, tail)


def _within(
    index: int, shape: tuple[int, ...], start: int, stop: int
) -> Iterator[tuple[Box, tuple[int, ...]]]:
    for box, size in slabs(shape[1:], start, stop):
        yield (slice(index, index + 1), *box), (1, *size)
