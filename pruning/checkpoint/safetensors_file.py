"""safetensors files: a header parser that believes nothing before it is checked.

The package of that name is not used: it maps the whole file, and its errors name neither the
file nor a way out. Format: 8 bytes of header length (little-endian), a JSON header, the tensors.
"""

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pruning.checkpoint.shards import Part, open_index, open_shards
from pruning.checkpoint.source import ITEMSIZE, Extent, FileSource, TensorInfo
from pruning.problems import Problem, ProblemError, fail
from pruning.registry import suggest

MAX_HEADER = 100_000_000  # bytes; the limit of the reference implementation
_MAX_RANK, _MAX_DIM = 64, 2**63
_WRITE_AGAIN = "copy or download the file again, or write it again with safetensors"


@dataclass(frozen=True)
class Header:
    """What a file says about itself, checked: every tensor lies inside the file, none overlap."""

    infos: dict[str, TensorInfo]
    offsets: dict[str, int]  # of the first byte, counted from the start of the file
    metadata: dict[str, str]


class SafetensorsSource(FileSource):
    kind = "safetensors"


def open_safetensors(files: Sequence[Path], where: str) -> SafetensorsSource:
    """One file, or the shards of one checkpoint; ``where`` is what messages call it."""
    return open_shards(SafetensorsSource, files, where, read_part)


def open_safetensors_index(index: Path, where: str) -> SafetensorsSource:
    """The shards that a ``*.safetensors.index.json`` names."""
    return open_index(SafetensorsSource, index, where, read_part)


def read_part(file: Path) -> Part:
    header = parse_header(file)
    extents = {name: Extent(file, offset) for name, offset in header.offsets.items()}
    return Part(header.infos, extents)


def parse_header(file: Path) -> Header:
    """Read and check the header of ``file``. Reads the header only, never a tensor."""
    with file.open("rb") as stream:
        size = stream.seek(0, 2)
        stream.seek(0)
        start = _data_start(file, int.from_bytes(stream.read(8), "little"), size)
        table = _json_object(file, stream.read(start - 8))
    metadata = _metadata(file, table.pop("__metadata__", {}))
    infos, spans = {}, {}
    problems: list[Problem] = []
    for name, entry in table.items():
        try:
            infos[name], spans[name] = _entry(file, name, entry)
        except ProblemError as error:
            problems += error.problems
    problems += [] if problems else _layout(file, spans, size - start)
    if problems:
        raise ProblemError(problems)
    return Header(infos, {name: start + begin for name, (begin, _) in spans.items()}, metadata)


def _data_start(file: Path, length: int, size: int) -> int:
    if size < 8:
        raise fail(file, f"{size} bytes is too short for a safetensors file", _WRITE_AGAIN)
    if length > MAX_HEADER:
        raise fail(
            file,
            f"the header claims {length} bytes, the limit is {MAX_HEADER}: this is no safetensors file",
            "check the name and the kind of the file",
        )
    if 8 + length > size:
        raise fail(
            file, f"the header claims {length} bytes in a file of {size}: the file is cut short", _WRITE_AGAIN
        )
    return 8 + length


def _json_object(file: Path, text: bytes) -> dict[str, Any]:
    try:
        table = json.loads(text.decode("utf-8"), object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:  # bad UTF-8, bad JSON, a key twice, nested without end
        raise fail(file, f"the header is not valid JSON: {error}", _WRITE_AGAIN) from None
    if not isinstance(table, dict):
        raise fail(file, f"the header is a JSON {type(table).__name__}, not an object", _WRITE_AGAIN)
    return table


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table: dict[str, Any] = {}
    for key, value in pairs:
        if key in table:
            raise ValueError(f"the key {key!r} is there twice")
        if not key.isprintable():
            raise ValueError(f"the key {key!r} has characters that cannot be printed")
        table[key] = value
    return table


def _metadata(file: Path, metadata: Any) -> dict[str, str]:
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise fail(f"{file}: __metadata__", "is not a table of strings", _WRITE_AGAIN)
    return metadata


def _entry(file: Path, name: str, entry: Any) -> tuple[TensorInfo, tuple[int, int]]:
    where = f"{file}: {name}"
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise fail(where, "is not an object of exactly dtype, shape and data_offsets", _WRITE_AGAIN)
    dtype, shape, span = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in ITEMSIZE:
        raise fail(
            where,
            f"unknown dtype {dtype!r}.{suggest(str(dtype), list(ITEMSIZE))}",
            f"save it as one of {', '.join(ITEMSIZE)}",
        )
    if not _sizes(shape) or len(shape) > _MAX_RANK:
        raise fail(where, f"the shape {shape!r} is not a list of sizes", _WRITE_AGAIN)
    if not _sizes(span) or len(span) != 2 or span[0] > span[1]:
        raise fail(where, f"the data_offsets {span!r} are not [begin, end]", _WRITE_AGAIN)
    nbytes = math.prod(shape) * ITEMSIZE[dtype]
    if span[1] - span[0] != nbytes:
        raise fail(
            where,
            f"{dtype} of shape {shape} takes {nbytes} bytes, its data_offsets {span} another number",
            _WRITE_AGAIN,
        )
    return TensorInfo(name, tuple(shape), dtype), (span[0], span[1])


def _sizes(value: Any) -> bool:
    """A list of non-negative integers; JSON's ``true`` is a bool, which Python counts as 1."""
    return isinstance(value, list) and all(type(item) is int and 0 <= item < _MAX_DIM for item in value)


def _layout(file: Path, spans: dict[str, tuple[int, int]], size: int) -> Iterator[Problem]:
    """The tensors follow one another without a gap and fill the file, as the format demands."""
    position, before = 0, ""
    for name, (begin, end) in sorted(spans.items(), key=lambda item: item[1]):
        if end > size:
            yield Problem(
                f"{file}: {name}",
                f"ends at byte {end} of the data, the file has {size}: it is cut short",
                _WRITE_AGAIN,
            )
        if begin < position:
            yield Problem(f"{file}: {name}", f"overlaps {before}", _WRITE_AGAIN)
        elif begin > position:
            yield Problem(
                f"{file}: {name}", f"{begin - position} bytes before it belong to no tensor", _WRITE_AGAIN
            )
        position, before = max(position, end), name
    if position < size:
        yield Problem(
            str(file), f"{size - position} bytes after the last tensor belong to none", _WRITE_AGAIN
        )
