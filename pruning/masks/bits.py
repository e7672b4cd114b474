"""One bit per weight: flat C order, least significant bit first, padding bits zero."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pruning.problems import fail

Bytes = NDArray[np.uint8]
Bools = NDArray[np.bool_]

_PIECE = 1 << 20  # bytes whose counts are held at once


def packed_size(numel: int) -> int:
    return -(-numel // 8)


def pack(mask: Bools) -> Bytes:
    return np.packbits(mask.reshape(-1), bitorder="little")


def unpack(packed: Bytes, numel: int) -> Bools:
    """The flat mask of ``numel`` weights."""
    assert len(packed) == packed_size(numel), f"{len(packed)} bytes for {numel} weights"
    return np.unpackbits(packed, count=numel, bitorder="little").view(np.bool_)


def count(packed: Bytes) -> int:
    """The number of bits that are set, i.e. of kept weights."""
    whole = len(packed) // 8 * 8
    total = sum(int(byte).bit_count() for byte in packed[whole:])
    for start in range(0, whole, _PIECE):
        total += int(_popcount(packed[start : min(start + _PIECE, whole)]).sum(dtype=np.int64))
    return total


def padding_is_zero(packed: Bytes, numel: int) -> bool:
    return numel % 8 == 0 or int(packed[-1]) >> numel % 8 == 0


def to_bool(values: NDArray[Any], where: str, start: int = 0) -> Bools:
    """Values that are 0 and 1, of any number type, as a mask. Anything else is not a mask.

    ``start`` is the flat index of the first value, for the message.
    """
    if values.dtype == np.bool_:
        values = values.view(np.uint8)  # a file may hold other bytes than 0 and 1 under this name
    if values.dtype.kind not in "iuf":
        raise fail(where, f"has elements of type {values.dtype}", "store the mask as bool: True = keep")
    ones = values == 1
    strange = np.flatnonzero(~(ones | (values == 0)))
    if len(strange):
        first = int(strange[0])
        what = (
            f"holds {values.reshape(-1)[first]} at flat index {start + first}: neither 0 (drop) nor 1 (keep)"
        )
        raise fail(
            where, what, "store the mask itself, not scores or masked weights: say, score >= threshold"
        )
    return np.asarray(ones)


if hasattr(np, "bitwise_count"):  # numpy 2

    def _popcount(piece: Bytes) -> NDArray[Any]:
        return np.asarray(np.bitwise_count(np.ascontiguousarray(piece).view(np.uint64)))

else:
    _OF_PAIR = np.unpackbits(np.arange(1 << 16, dtype=np.uint16).view(np.uint8).reshape(-1, 2), axis=1)
    _OF_PAIR = _OF_PAIR.sum(axis=1, dtype=np.uint8)

    def _popcount(piece: Bytes) -> NDArray[Any]:
        return np.asarray(_OF_PAIR[np.ascontiguousarray(piece).view(np.uint16)])
