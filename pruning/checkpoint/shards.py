"""A checkpoint in several files, with or without an index, whatever the format of the files."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TypeVar

from pruning.checkpoint.source import Extent, FileSource, TensorInfo
from pruning.problems import Problem, ProblemError, fail
from pruning.registry import suggest

MAX_INDEX = 100_000_000  # bytes


@dataclass(frozen=True)
class Part:
    """The listing of one file."""

    infos: Mapping[str, TensorInfo]
    extents: Mapping[str, Extent]


ReadPart = Callable[[Path], Part]
Source = TypeVar("Source", bound=FileSource)


def open_shards(kind: type[Source], files: Sequence[Path], where: str, read_part: ReadPart) -> Source:
    """Files that together are one checkpoint. A tensor in two of them is an error."""
    parts, problems = _read_all(files, read_part)
    problems += _duplicates(parts)
    return _source(kind, where, parts, problems)


def open_index(kind: type[Source], index: Path, where: str, read_part: ReadPart) -> Source:
    """The files an index names, checked tensor by tensor against what is in them."""
    weight_map = read_index(index)
    shards = sorted(set(weight_map.values()))
    missing = [shard for shard in shards if not (index.parent / shard).is_file()]
    problems = [
        Problem(
            str(index),
            f"names the shard {shard}, which is not there",
            f"download it, or copy it to {index.parent}",
        )
        for shard in missing
    ]
    files = [index.parent / shard for shard in shards if shard not in missing]
    parts, more = _read_all(files, read_part)
    problems += more
    problems += _against(index, weight_map, parts)
    problems += _duplicates(parts)
    return _source(kind, where, parts, problems)


def read_index(index: Path) -> dict[str, str]:
    """Tensor name to shard name. No shard lies outside the directory of the index."""
    if index.stat().st_size > MAX_INDEX:
        raise fail(index, f"is larger than {MAX_INDEX} bytes: this is no index", "name the right file")
    try:
        weight_map = json.loads(index.read_bytes().decode("utf-8"))["weight_map"]
        named = all(isinstance(shard, str) and shard for shard in weight_map.values())
    except (ValueError, RecursionError) as error:
        raise fail(index, f"is not valid JSON: {error}", "download the index again") from None
    except (KeyError, TypeError, AttributeError):
        named = False
    if not named:
        raise fail(
            index, "has no weight_map of tensor names to file names", "name the index of the checkpoint"
        )
    outside = [shard for shard in sorted(set(weight_map.values())) if _leaves(shard)]
    if outside:
        raise ProblemError(
            Problem(
                str(index),
                f"the shard {shard!r} lies outside the directory of the index",
                f"put the file beside the index and name it {PurePosixPath(shard).name!r} there",
            )
            for shard in outside
        )
    return dict(weight_map)


def _leaves(shard: str) -> bool:
    # By name only: the shards of a download cache are links to another directory, and fine.
    return PurePosixPath(shard).is_absolute() or ".." in PurePosixPath(shard).parts or "\0" in shard


def _read_all(files: Sequence[Path], read_part: ReadPart) -> tuple[dict[Path, Part], list[Problem]]:
    parts = {}
    problems: list[Problem] = []
    for file in files:
        try:
            parts[file] = read_part(file)
        except ProblemError as error:
            problems += error.problems
    return parts, problems


def _source(
    kind: type[Source], where: str, parts: Mapping[Path, Part], problems: Sequence[Problem]
) -> Source:
    if problems:
        raise ProblemError(problems)
    infos = {name: info for part in parts.values() for name, info in part.infos.items()}
    extents = {name: extent for part in parts.values() for name, extent in part.extents.items()}
    if not infos:
        raise fail(where, "holds no tensor", "name a checkpoint that holds weights")
    return kind(where, infos, extents)


def _duplicates(parts: Mapping[Path, Part]) -> Iterator[Problem]:
    home: dict[str, Path] = {}
    for file, part in parts.items():
        for name in part.infos:
            if name in home:
                yield Problem(
                    f"{file}: {name}",
                    f"is also in {home[name]}",
                    "keep the shards of one checkpoint only",
                )
            home.setdefault(name, file)


def _against(index: Path, weight_map: Mapping[str, str], parts: Mapping[Path, Part]) -> Iterator[Problem]:
    for name, shard in weight_map.items():
        part = parts.get(index.parent / shard)
        if part is not None and name not in part.infos:
            yield Problem(
                f"{index}: {name}",
                f"is not in {shard}, where the index says it is.{suggest(name, list(part.infos))}",
                "download index and shards again: they are of different checkpoints",
            )
    for file, part in parts.items():
        for name in part.infos:
            if name not in weight_map:
                yield Problem(
                    f"{file}: {name}",
                    f"is not in {index.name}",
                    "download index and shards again: they are of different checkpoints",
                )
