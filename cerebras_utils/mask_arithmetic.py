"""A mask on a tensor, after every step: multiplied, cleared, compared.

A mask is a byte for each value, 1 = keep. For fp32 on a CPU each of these is one compiled pass, which makes
them cheap beside a step; everywhere else they are torch's own operations, with the same result.
"""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pruning.compiled import compiled

if TYPE_CHECKING:
    from torch import Tensor

Values = NDArray[np.float32]
Bits = NDArray[np.uint32]
Mask = NDArray[np.uint8]
_ANY_SIGN = np.uint32(0x7FFFFFFF)


def multiply(tensor: "Tensor", keep: "Tensor") -> None:
    """In place. A NaN stays one, and a zero keeps its sign, as in a product of torch's."""
    if _is_plain(tensor, keep):
        _multiply(_flat(tensor), _flat(keep))
    else:
        tensor.mul_(keep)


def clear(tensor: "Tensor", keep: "Tensor") -> None:
    """In place: zero under the mask, whatever was there."""
    if _is_plain(tensor, keep):
        _clear(_flat(tensor), _flat(keep))
    else:
        tensor.masked_fill_(keep == 0, 0)


def are_zero(pairs: "Iterable[tuple[Tensor, Tensor]]") -> bool:
    """Whether all that is not kept is zero, of whatever sign. A device is waited for once."""
    import torch

    asked = []
    for tensor, keep in pairs:
        if not _is_plain(tensor, keep):
            asked.append(((tensor == 0) | (keep != 0)).all())
        elif _bits_under(_flat(tensor).view(np.uint32), _flat(keep)):
            return False
    return not asked or bool(torch.stack(asked).all())


def _is_plain(tensor: "Tensor", keep: "Tensor") -> bool:
    import torch

    return (
        tensor.device.type == "cpu"
        and tensor.dtype == torch.float32
        and tensor.is_contiguous()
        and keep.is_contiguous()
    )


def _flat(tensor: "Tensor") -> Any:
    return tensor.detach().numpy().reshape(-1)


@compiled
def _multiply(values: Values, keep: Mask) -> None:
    for i in range(values.size):
        values[i] *= np.float32(keep[i])


@compiled
def _clear(values: Values, keep: Mask) -> None:
    for i in range(values.size):
        values[i] = values[i] if keep[i] else np.float32(0)


@compiled
def _bits_under(bits: Bits, keep: Mask) -> np.uint32:
    found = np.uint32(0)
    for i in range(bits.size):
        found |= (bits[i] & _ANY_SIGN) * np.uint32(np.uint8(1) - keep[i])
    return found
