"""Reading mask files: one tensor at a time, and nothing unchecked."""

import math
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np

from pruning.masks.archives import NpzContainer, TorchContainer
from pruning.masks.bits import Bytes, count, pack, packed_size, padding_is_zero, to_bool, unpack
from pruning.masks.containers import (
    ELEMENTS,
    Container,
    Entry,
    SafetensorsContainer,
    check_readable,
    format_of,
)
from pruning.masks.receipt import BITS, BOOL, DAMAGED, Receipt, is_receipt, read_receipt
from pruning.problems import Problem, ProblemError, fail
from pruning.registry import suggest

if TYPE_CHECKING:
    from torch import Tensor

_CONTAINERS: dict[str, Callable[[Path], Container]] = {
    "safetensors": SafetensorsContainer,
    "npz": NpzContainer,
    "pt": TorchContainer,
}
_STEP = 1 << 20  # elements or bytes read at once; a multiple of 8


class MaskFile:
    """A mask file of this project, or plain 0-1 masks made elsewhere, opened lazily.

    Opening reads names, shapes and metadata. A mask is read when it is asked for, and then its padding
    and its kept count are checked, so that whatever is returned is what the file says of itself.
    """

    def __init__(self, path: str | os.PathLike[str], format: str | None = None) -> None:
        self.path = Path(path)
        check_readable(self.path)
        self.format = format_of(self.path, format)
        self._container = _CONTAINERS[self.format](self.path)
        try:
            self._open()
        except BaseException:
            self.close()
            raise

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self._shapes)

    def shape(self, name: str) -> tuple[int, ...]:
        if name not in self._shapes:
            what = f"has no mask {name!r}.{suggest(name, list(self._shapes))}"
            raise fail(self.path, what, "use a name that is in the file")
        return self._shapes[name]

    def numel(self, name: str) -> int:
        return math.prod(self.shape(name))

    def kept(self, name: str) -> int:
        """As the file says; counted where it says nothing, which reads the mask once."""
        if name not in self._kept:
            self._kept[name] = count(self.packed(name))
        return self._kept[name]

    def sparsity(self, name: str) -> float:
        numel = self.numel(name)
        return 1 - self.kept(name) / numel if numel else 0.0

    def packed(self, name: str) -> Bytes:
        numel = math.prod(self.shape(name))
        where = f"{self.path}: {name}"
        pieces = self._container.pieces(name, _STEP)
        packed = np.empty(packed_size(numel), np.uint8)
        end = 0
        for values in pieces:
            piece = values if self.encoding == BITS else pack(to_bool(values, where, 8 * end))
            packed[end : end + len(piece)] = piece
            end += len(piece)
        assert end == len(packed), (name, end, len(packed))
        if not padding_is_zero(packed, numel):
            raise fail(where, f"bits are set behind the last of {numel:,} weights", DAMAGED)
        if name in self._kept and (counted := count(packed)) != self._kept[name]:
            raise fail(where, f"keeps {counted:,} weights, where its file says {self._kept[name]:,}", DAMAGED)
        return packed

    def mask(self, name: str) -> "Tensor":
        """A bool tensor of the parameter's shape; True = keep."""
        import torch

        return torch.from_numpy(unpack(self.packed(name), self.numel(name))).reshape(self.shape(name))

    def verify(self) -> None:
        """Read every mask; raise all that is wrong at once."""
        problems: list[Problem] = []
        for name in self.names:
            try:
                self.packed(name)
            except ProblemError as error:
                problems += error.problems
        if problems:
            raise ProblemError(problems)

    def close(self) -> None:
        self._container.close()

    def __enter__(self) -> "MaskFile":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _open(self) -> None:
        entries, metadata = self._container.entries, self._container.metadata
        if not entries:
            raise fail(self.path, "holds no masks", "check which file this is")
        self.receipt = read_receipt(metadata, str(self.path)) if is_receipt(metadata) else None
        plain = Receipt(shapes={name: entry.shape for name, entry in entries.items()}, kept={}, encoding=BOOL)
        receipt = self.receipt or plain
        if problems := [*self._disagreements(receipt)]:
            raise ProblemError(problems)
        self.encoding, self.spec, self.checkpoint = receipt.encoding, receipt.spec, receipt.checkpoint
        self.metadata: dict[str, Any] = dict((self.receipt.user if self.receipt else metadata) or {})
        self._shapes = {name: receipt.shapes[name] for name in sorted(receipt.shapes)}
        self._kept = dict(receipt.kept)

    def _disagreements(self, receipt: Receipt) -> Iterator[Problem]:
        """Between what the file says and the sizes of the tensors in it."""
        entries = self._container.entries
        for name in sorted(entries.keys() ^ receipt.shapes.keys()):
            missing = "tensor" if name in receipt.shapes else "shape in the metadata"
            yield Problem(f"{self.path}: {name}", f"has no {missing}", DAMAGED)
        for name in sorted(entries.keys() & receipt.shapes.keys()):
            found, shape = entries[name], receipt.shapes[name]
            if receipt.encoding == BITS:
                expected = Entry((packed_size(math.prod(shape)),), "uint8")
            else:
                expected = Entry(shape, found.dtype)
            if found != expected:
                what = f"is {found}, where a mask of shape {shape} in {receipt.encoding} is {expected}"
                yield Problem(f"{self.path}: {name}", what, DAMAGED)
            elif found.dtype not in ELEMENTS:
                what = f"has elements of type {found.dtype}"
                yield Problem(f"{self.path}: {name}", what, "store the mask as bool: True = keep")
