"""The three kinds of file a mask can come in, seen alike: strings of metadata, and flat arrays by name.

A container knows nothing of masks. It distrusts its file: sizes are checked before anything is
allocated, nothing is unpickled, and a tensor is read in pieces, so that its size in memory is
that of its bits even where the file spends four bytes on each.
"""

import os
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pruning.checkpoint.safetensors_file import parse_header
from pruning.checkpoint.source import Extent, FileSource
from pruning.problems import fail
from pruning.registry import suggest

METADATA_ENTRY = "__metadata__"
# What 0 and 1 may be written in. Eight-bit floats are left out: nobody stores a mask so.
_SAFETENSORS = {
    **{"BOOL": "bool", "U8": "uint8", "U16": "uint16", "U32": "uint32", "U64": "uint64"},
    **{"I8": "int8", "I16": "int16", "I32": "int32", "I64": "int64"},
    **{"F16": "float16", "BF16": "bfloat16", "F32": "float32", "F64": "float64"},
}
ELEMENTS = tuple(_SAFETENSORS.values())
SUFFIXES = {".safetensors": "safetensors", ".npz": "npz", ".pt": "pt", ".pth": "pt"}

Values = NDArray[Any]


def format_of(path: Path, format: str | None) -> str:
    """The format that was asked for, or else that of the suffix. They must not disagree."""
    formats = sorted(set(SUFFIXES.values()))
    if format is not None and format not in formats:
        raise fail(
            path, f"unknown format {format!r}.{suggest(format, formats)}", f"use {' or '.join(formats)}"
        )
    of_suffix = SUFFIXES.get(path.suffix)
    if of_suffix is None and format is None:
        raise fail(
            path,
            f"the suffix {path.suffix!r} says nothing about the format",
            f"end the name in {' or '.join(SUFFIXES)}, or give the format",
        )
    if of_suffix and format and of_suffix != format:
        raise fail(
            path,
            f"the suffix stands for {of_suffix!r}, but the format {format!r} is asked for",
            f"leave out the format, or end the name in .{format}",
        )
    return format or str(of_suffix)


@dataclass(frozen=True)
class Entry:
    shape: tuple[int, ...]
    dtype: str  # numpy's name, or the file's own where numpy has none

    @property
    def numel(self) -> int:
        return prod(self.shape)


class Container(ABC):
    entries: Mapping[str, Entry]
    metadata: Mapping[str, Any]  # strings in what this project writes; anything JSON-like elsewhere

    @abstractmethod
    def pieces(self, name: str, step: int) -> Iterator[Values]:
        """The elements in flat C order, ``step`` at a time."""

    @abstractmethod
    def close(self) -> None: ...


class SafetensorsContainer(Container):
    def __init__(self, path: Path) -> None:
        header = parse_header(path)
        extents = {name: Extent(path, offset) for name, offset in header.offsets.items()}
        self._source = FileSource(str(path), header.infos, extents)
        self.metadata = header.metadata
        self.entries = {
            name: Entry(info.shape, _SAFETENSORS.get(info.dtype, info.dtype))
            for name, info in self._source.infos.items()
        }

    def pieces(self, name: str, step: int) -> Iterator[Values]:
        info, dtype = self._source.infos[name], self.entries[name].dtype
        for start in range(0, info.numel, step):
            number = min(step, info.numel - start)
            raw = np.empty(number * (info.nbytes // info.numel), np.uint8)
            self._source.read(name, start, raw)
            if dtype == "bfloat16":  # the upper half of a float32, which numpy does not know by itself
                yield (raw.view("<u2").astype("<u4") << 16).view("<f4")
            else:
                yield raw.view(np.dtype(dtype).newbyteorder("<"))

    def close(self) -> None:
        self._source.close()


def check_readable(path: Path) -> None:
    if os.path.isdir(path):
        raise fail(path, "cannot be read: it is a directory", "name a mask file in it, with its suffix")
    if os.path.exists(path) and not os.path.isfile(path):
        raise fail(path, "cannot be read: it is no ordinary file", "give the path of a mask file")
    try:
        with path.open("rb"):
            return
    except FileNotFoundError as error:
        try:
            near = os.listdir(path.parent)
        except OSError:  # not there, or not to be listed: no name is close
            near = []
        raise fail(
            path, f"does not exist.{suggest(path.name, near)}", "check the name of the mask file"
        ) from error
    except OSError as error:
        raise fail(
            path, f"cannot be read: {error.strerror}", "give the path of a file you may read"
        ) from error
