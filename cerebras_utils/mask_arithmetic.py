"""A mask on a tensor, after every step: multiplied, cleared, compared.

A mask is a byte for each value, 1 = keep. For fp32 on a CPU each of these is one compiled pass, which makes
them cheap beside a step; everywhere else they are torch's own operations, with the same result.
"""

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pruning.compiled import compiled

Values = NDArray[np.float32]
Bits = NDArray[np.uint32]
Bytes = NDArray[np.uint8]
_ANY_SIGN = np.uint32(0x7FFFFFFF)


class Mask:
    """Made once, for it is asked for its numbers three times in a step."""

    def __init__(self, keep: Tensor) -> None:
        self.keep = keep.view(torch.uint8)
        plain = keep.device.type == "cpu" and keep.is_contiguous()
        self._flat: Bytes | None = self.keep.numpy().reshape(-1) if plain else None

    def multiply(self, tensor: Tensor) -> None:
        """In place. A NaN stays one, and a zero keeps its sign, as in a product of torch's."""
        if (values := self._values(tensor)) is not None:
            _multiply(values, self._flat)
        else:
            tensor.mul_(self.keep)

    def clear(self, tensor: Tensor) -> None:
        """In place: zero under the mask, whatever was there."""
        if (values := self._values(tensor)) is not None:
            _clear(values, self._flat)
        else:
            tensor.masked_fill_(self.keep == 0, 0)

    def leaves_zero(self, tensor: Tensor) -> bool | Tensor:
        """Whether all that is not kept is zero, of whatever sign. Of a device, a tensor to wait for."""
        if (values := self._values(tensor)) is not None:
            return not _bits_under(values.view(np.uint32), self._flat)
        return ((tensor == 0) | (self.keep != 0)).all()

    def _values(self, tensor: Tensor) -> Any:
        if self._flat is None or tensor.dtype != torch.float32 or not tensor.is_contiguous():
            return None
        return tensor.detach().numpy().reshape(-1)


def are_zero(pairs: Iterable[tuple[Tensor, Mask]]) -> bool:
    """Under every mask. A device is waited for once."""
    asked = []
    for tensor, mask in pairs:
        found = mask.leaves_zero(tensor)
        if isinstance(found, Tensor):
            asked.append(found)
        elif not found:
            return False
    return not asked or bool(torch.stack(asked).all())


@compiled
def _multiply(values: Values, keep: Bytes) -> None:
    for i in range(values.size):
        values[i] *= np.float32(keep[i])


@compiled
def _clear(values: Values, keep: Bytes) -> None:
    for i in range(values.size):
        values[i] = values[i] if keep[i] else np.float32(0)


@compiled
def _bits_under(bits: Bits, keep: Bytes) -> np.uint32:
    found = np.uint32(0)
    for i in range(bits.size):
        found |= (bits[i] & _ANY_SIGN) * np.uint32(np.uint8(1) - keep[i])
    return found
