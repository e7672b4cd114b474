"""Writing a mask file: room for all of it first, bits in any order from any thread, the header last.

The layout is a function of names and shapes alone: tensors sorted by name, behind a header that is
padded to the width of the largest counts there can be. So bytes are written straight to their final
place while the counts are still unknown, and the same masks give the same file.
"""

import json
import math
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import accumulate
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import numpy as np

from pruning.atomic import Part, preallocate, refusal
from pruning.masks.archives import WRITE_ARCHIVE
from pruning.masks.bits import Bytes, packed_size
from pruning.masks.containers import METADATA_ENTRY, format_of
from pruning.masks.receipt import Receipt, json_problems, this_tool
from pruning.problems import Problem, ProblemError

_PER_ENTRY = 1024  # more than an archive adds to a tensor of an ordinary name


class MaskWriter:
    """A mask file in the making. Leaving the ``with`` block before ``finish`` leaves nothing.

    ``spec`` and ``user`` are JSON values that come back as they are given; ``checkpoint`` is a
    fingerprint. Several writers may be open at once, say one per sparsity.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        shapes: Mapping[str, Sequence[int]],
        *,
        format: str | None = None,
        spec: Any = None,
        checkpoint: str | None = None,
        user: Mapping[str, Any] | None = None,
        overwrite: bool = False,
    ) -> None:
        self.path = Path(path)
        self.format = format_of(self.path, format)
        user = None if user is None else dict(user)
        problems = [*_name_problems(self.path, shapes)]
        problems += json_problems(spec, f"{self.path}: spec")
        problems += json_problems(user, f"{self.path}: metadata")
        if problems:
            raise ProblemError(problems)
        self.shapes = {name: tuple(map(int, shapes[name])) for name in sorted(shapes)}
        self._numel = {name: math.prod(shape) for name, shape in self.shapes.items()}
        self._size = {name: packed_size(numel) for name, numel in self._numel.items()}
        self._receipt = Receipt(
            shapes=self.shapes,
            kept=self._numel,
            spec=spec,
            checkpoint=checkpoint,
            user=user,
            tool=this_tool(),
        )

        longest = len(self._header(self._receipt))  # a count is never longer than that of all weights
        self._header_size = longest + -longest % 8  # the data begins on a multiple of 8
        *starts, self._total = accumulate(self._size.values(), initial=8 + self._header_size)
        self._start = dict(zip(self._size, starts, strict=True))
        self._part = Part(self.path, overwrite=overwrite)
        self._open = True
        self._scratch: IO[bytes] | None = None
        try:
            self._reserve()
        except BaseException:
            self.abort()
            raise

    def write(self, name: str, byte_offset: int, packed: Bytes) -> None:
        """Put bits where they belong. May be called from any thread, in any order, once per byte."""
        assert packed.dtype == np.uint8, packed.dtype
        assert 0 <= byte_offset <= self._size[name] - len(packed), (name, byte_offset, len(packed))
        self._pwrite(memoryview(np.ascontiguousarray(packed).data), self._start[name] + byte_offset)

    def places(self) -> tuple[Path, dict[str, int]]:
        """For writers of other processes: the unfinished file, and where each mask begins in it."""
        assert self.format == "safetensors", "an archive is made from a file that has no name"
        return self._part.path, dict(self._start)

    def sync(self) -> None:
        """Send what has been written so far to the disk. May be called while others write."""
        try:
            os.fdatasync(self._fd)
        except OSError as error:
            raise refusal(self.path, error) from error

    def finish(self, kept: Mapping[str, int]) -> None:
        """Write the header with the kept count of every mask, and give the file its name."""
        assert kept.keys() == self.shapes.keys(), "a count for every mask"
        assert all(0 <= kept[name] <= numel for name, numel in self._numel.items()), "counts within the masks"
        receipt = replace(self._receipt, kept={name: int(kept[name]) for name in self.shapes})
        header = self._header(receipt).ljust(self._header_size)
        self._pwrite(memoryview(len(header).to_bytes(8, "little") + header), 0)
        if self._scratch is not None:
            self._convert(self._scratch, receipt.strings())
        self._close()
        self._part.commit()

    def abort(self) -> None:
        """Leave nothing. After ``finish`` or a first ``abort`` this does nothing."""
        if self._open:
            self._close()
            self._part.discard()

    def __enter__(self) -> "MaskWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.abort()

    def _header(self, receipt: Receipt) -> bytes:
        header: dict[str, Any] = {"__metadata__": receipt.strings()}
        end = 0
        for name, size in self._size.items():
            header[name] = {"dtype": "U8", "shape": [size], "data_offsets": [end, end + size]}
            end += size
        return json.dumps(header, separators=(",", ":")).encode()

    # Safetensors is written in place. The archives cannot be: their bytes depend on the bits (checksums),
    # so the same layout is filled as an unnamed scratch file, and copied when it is complete.

    def _reserve(self) -> None:
        if self.format == "safetensors":
            self._fd = self._part.fd
            self._part.preallocate(self._total)
        else:
            self._scratch = tempfile.TemporaryFile(dir=self.path.parent)  # noqa: SIM115 (see _close)
            self._fd = self._scratch.fileno()
            preallocate(self._fd, self._total, self.path)
            self._part.preallocate(self._total + self._header_size + _PER_ENTRY * len(self.shapes))

    def _convert(self, scratch: IO[bytes], strings: Mapping[str, str]) -> None:
        # A private mapping: the masks of a large model need not fit into memory to be saved.
        data = np.memmap(scratch, np.uint8, mode="c")
        packed = {name: data[start : start + self._size[name]] for name, start in self._start.items()}
        try:
            with open(self._part.fd, "wb", closefd=False) as stream:
                WRITE_ARCHIVE[self.format](stream, packed, strings)
                stream.truncate()  # what was reserved beyond the end
        except OSError as error:
            raise refusal(self.path, error) from error

    def _close(self) -> None:
        self._open = False
        if self._scratch is not None:
            self._scratch.close()

    def _pwrite(self, data: memoryview, position: int) -> None:
        try:
            while data:
                done = os.pwrite(self._fd, data, position)
                data, position = data[done:], position + done
        except OSError as error:
            raise refusal(self.path, error) from error


def _name_problems(path: Path, names: Iterable[str]) -> Iterator[Problem]:
    if not names:
        yield Problem(str(path), "there are no masks to write", "check what was selected for pruning")
    for name in names:
        if not isinstance(name, str):
            yield Problem(f"{path}: {name!r}", "is no name", "key masks by the full name of their parameter")
        elif name in ("", METADATA_ENTRY) or "\0" in name:
            yield Problem(
                f"{path}: {name!r}", "cannot be the name of a mask", "use the name of the parameter"
            )
