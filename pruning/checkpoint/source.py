"""``TensorSource``: a checkpoint as a list of tensors that can be read in pieces.

Listing reads headers alone. Reading fills a buffer that the caller owns and reuses, so a
checkpoint of any size is streamed in the memory of a few buffers. Values are delivered as raw
little-endian bytes: the engine works on bit patterns, for which numpy has no bfloat16.
"""

import hashlib
import json
import math
import os
from abc import ABC, abstractmethod
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from pruning.problems import fail

Bytes = NDArray[np.uint8]

ITEMSIZE = {
    "F64": 8, "F32": 4, "F16": 2, "BF16": 2,
    "I64": 8, "I32": 4, "I16": 2, "I8": 1,
    "U64": 8, "U32": 4, "U16": 2, "U8": 1,
    "BOOL": 1, "F8_E4M3": 1, "F8_E5M2": 1, "F8_E8M0": 1, "C64": 8,
}  # fmt: skip
FLOATS = ("F64", "F32", "F16", "BF16")  # what can be masked

_BLOCK, BLOCKS = 4096, 64  # of the fingerprint


@dataclass(frozen=True)
class TensorInfo:
    """One line of a checkpoint's listing."""

    name: str
    shape: tuple[int, ...]
    dtype: str  # a key of ITEMSIZE
    storage: Hashable = None  # equal and not None: the same memory, i.e. tied
    module: str = ""  # class name of the owning module, where there is one

    @property
    def numel(self) -> int:
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        return self.numel * ITEMSIZE[self.dtype]


class TensorSource(ABC):
    """Open by ``open_checkpoint``; a context manager, because it holds file descriptors."""

    kind: ClassVar[str]  # "safetensors", "torch", "mdl", "memory"

    def __init__(self, where: str, infos: Mapping[str, TensorInfo]) -> None:
        self.where = where  # for messages: the path as the user wrote it
        self.infos = {name: infos[name] for name in sorted(infos)}

    @abstractmethod
    def read(self, name: str, start: int, out: Bytes) -> None:
        """Fill ``out`` with the elements from flat (C order) index ``start`` on.

        ``len(out)`` is a multiple of the item size and ends within the tensor. May be called
        from several threads at once.
        """

    @abstractmethod
    def fingerprint(self) -> str:
        """SHA-256 (hex) that is cheap on 800 GB: what the masks were computed from."""

    def quantum(self, name: str) -> int:
        """Elements that are best read together: a chunk row of HDF5; 1 where it does not matter."""
        return 1

    def context(self, name: str) -> dict[str, Any]:
        """What a score may ask for by keyword beside the weight: ``grad`` of a live module."""
        return {}

    def array(self, name: str) -> Bytes:
        """The whole tensor as bytes. For small tensors, and scores that need all of it."""
        out = np.empty(self.infos[name].nbytes, np.uint8)
        if out.size:
            self.read(name, 0, out)
        return out

    def close(self) -> None:  # noqa: B027  (most sources of memory have nothing to close)
        pass

    def __enter__(self) -> "TensorSource":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


@dataclass(frozen=True)
class Extent:
    """Where a tensor lies: contiguous little-endian bytes of one file."""

    file: Path
    offset: int


class FileSource(TensorSource):
    """Tensors that lie as plain bytes in files: read by ``pread``, never mapped.

    A mapping would count every page of the checkpoint as memory of the process.
    """

    def __init__(self, where: str, infos: Mapping[str, TensorInfo], extents: Mapping[str, Extent]) -> None:
        super().__init__(where, infos)
        self._extents = dict(extents)
        self.files = tuple(sorted({extent.file for extent in extents.values()}))
        self._fds = {file: os.open(file, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0)) for file in self.files}

    def read(self, name: str, start: int, out: Bytes) -> None:
        extent = self._extents[name]
        position = extent.offset + start * ITEMSIZE[self.infos[name].dtype]
        fd, done = self._fds[extent.file], 0
        while done < len(out):
            try:
                got = os.preadv(fd, [out.data[done:]], position + done)
            except OSError as error:
                what, fix = f"cannot be read: {error.strerror}", "copy the checkpoint to another disk"
                raise fail(f"{extent.file}: {name}", what, fix) from error
            if got == 0:
                raise fail(
                    f"{extent.file}: {name}",
                    f"the file ends at byte {position + done}: it was cut short after it was opened",
                    "copy the checkpoint again, and let nothing write to it meanwhile",
                )
            done += got

    def fingerprint(self) -> str:
        return fingerprint_of_files(self.infos, self.files)

    def close(self) -> None:
        for fd in self._fds.values():
            os.close(fd)
        self._fds = {}


def fingerprint_of_files(infos: Mapping[str, TensorInfo], files: tuple[Path, ...]) -> str:
    """Names, shapes, dtypes, file sizes and 64 evenly spaced 4 KiB blocks of each file.

    File names are left out: a checkpoint that was renamed or moved is the same checkpoint.
    """
    digest = listing_digest(infos)
    for part in sorted(sample_digest(file) for file in files):
        digest.update(part)
    return digest.hexdigest()


def listing_digest(infos: Mapping[str, TensorInfo]) -> "hashlib._Hash":
    listing = [[info.name, info.dtype, list(info.shape)] for info in infos.values()]
    return hashlib.sha256(json.dumps(listing).encode())


def sample_digest(file: Path, blocks: int = BLOCKS) -> bytes:
    """Of the size and of evenly spaced blocks, the first and the last among them."""
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        size = os.fstat(stream.fileno()).st_size
        digest.update(size.to_bytes(8, "little"))
        for i in range(blocks):
            stream.seek(max(0, size - _BLOCK) * i // (blocks - 1))
            digest.update(stream.read(_BLOCK))
    return digest.digest()
