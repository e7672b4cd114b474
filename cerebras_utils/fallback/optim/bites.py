"""Element-wise work in pieces that stay in the cache.

An optimizer passes a dozen times over every weight and its states. Done tensor by tensor, each pass
of a large one goes through memory; small ones cost more in calls than in arithmetic. So tensors are
cut, or packed together, to pieces of about one size. As each operation is element-wise, the numbers
are the same bits.
"""

from collections.abc import Iterator, Sequence
from itertools import chain

import torch
from torch import Tensor

SIZE = 1 << 16  # elements: 256 kB in fp32, a few times that fits the second-level cache
_MANY = 1 << 26  # on an accelerator: 256 MB in fp32, for each of the two copies that a step makes

Tensors = list[Tensor] | tuple[Tensor, ...]  # what the operations over lists of tensors take, and give
Row = tuple[Tensor, ...]  # tensors of one shape: a weight, its gradient, its states


def bites(rows: Sequence[Row], passes: int) -> Iterator[tuple[list[int], list[list[Tensor]]]]:
    """The rows as columns, piece by piece, each with the index of the row that it is cut from.

    The fewer ``passes`` over a piece, the larger it is, for the calls that it costs. On an accelerator
    many come at once: one launch over many tensors is what is fast there.
    """
    limit = SIZE if passes > 8 else 4 * SIZE
    indices: list[int] = []
    pieces: list[Row] = []
    size = 0
    for index, piece in chain.from_iterable(_cut(index, row, limit) for index, row in enumerate(rows)):
        indices.append(index)
        pieces.append(piece)
        size += piece[0].numel()
        if size >= (limit if piece[0].device.type == "cpu" else _MANY):
            yield indices, _columns(pieces)
            indices, pieces, size = [], [], 0
    if pieces:
        yield indices, _columns(pieces)


def _cut(index: int, row: Row, limit: int) -> Iterator[tuple[int, Row]]:
    whole = row[0].numel() <= limit or row[0].device.type != "cpu"
    if whole or not all(tensor.is_contiguous() for tensor in row):
        yield index, row
        return
    for piece in zip(*(torch.split(tensor.view(-1), limit) for tensor in row), strict=True):
        yield index, piece


def _columns(pieces: list[Row]) -> list[list[Tensor]]:
    return [list(column) for column in zip(*pieces, strict=True)]
