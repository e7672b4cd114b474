"""What a mask file says of itself: strings in its metadata, checked when they are read."""

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from pruning.problems import Problem, ProblemError, fail

FORMAT, VERSION = "wafersparse-masks", "1"
BITS, BOOL = "bits-lsb0", "bool"  # encodings: see pruning.masks.bits; one element per weight

DAMAGED = "copy the file again from where it was made, or make it again"


@dataclass(frozen=True, kw_only=True)
class Receipt:
    shapes: Mapping[str, tuple[int, ...]]
    kept: Mapping[str, int]
    encoding: str = BITS
    spec: Any = None  # what was asked, as JSON values
    checkpoint: str | None = None  # fingerprint of what the masks were computed from
    user: Mapping[str, Any] | None = None  # the metadata that a caller gave
    tool: str | None = None

    def strings(self) -> dict[str, str]:
        strings = {"format": FORMAT, "version": VERSION, "encoding": self.encoding}
        strings["shapes"] = json.dumps(self.shapes)
        strings["kept"] = json.dumps(self.kept)
        optional = {
            "checkpoint": self.checkpoint,
            "tool": self.tool,
            "spec": None if self.spec is None else json.dumps(self.spec),
            "user": None if self.user is None else json.dumps(self.user),
        }
        return strings | {key: value for key, value in optional.items() if value is not None}


def is_receipt(metadata: Mapping[str, Any]) -> bool:
    return metadata.get("format") == FORMAT


def read_receipt(metadata: Mapping[str, Any], where: str) -> Receipt:
    for key, value in metadata.items():
        if not isinstance(value, str):
            raise fail(f"{where}: metadata {key!r}", f"is a {type(value).__name__}, not a string", DAMAGED)
    if (found := metadata.get("version")) != VERSION:
        what = f"is of version {found!r} of this format, and version {VERSION!r} is what this release reads"
        raise fail(where, what, "install the release that wrote it")
    if (encoding := metadata.get("encoding")) not in (BITS, BOOL):
        raise fail(where, f"unknown encoding {encoding!r}", f"known: {BITS}, {BOOL}")
    shapes = _object(metadata, "shapes", where)
    kept = _object(metadata, "kept", where)
    problems = [*_shape_problems(shapes, where)] or [*_kept_problems(kept, shapes, where)]
    if problems:
        raise ProblemError(problems)
    user = _object(metadata, "user", where) if "user" in metadata else None
    return Receipt(
        shapes={name: tuple(shape) for name, shape in shapes.items()},
        kept=kept,
        encoding=str(encoding),
        spec=as_json(metadata.get("spec", "null"), f"{where}: spec"),
        checkpoint=metadata.get("checkpoint"),
        user=user,
        tool=metadata.get("tool"),
    )


def as_json(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:  # thousands of brackets exhaust the stack
        raise fail(where, f"is not JSON: {error}", DAMAGED) from error


def json_problems(value: Any, where: str) -> Iterator[Problem]:
    """What would not come back from a file as it was given."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from json_problems(inner, f"{where}[{key!r}]")
            if not isinstance(key, str):
                yield Problem(f"{where}[{key!r}]", f"the key is of type {type(key).__name__}", "use a str")
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from json_problems(inner, f"{where}[{index}]")
    elif isinstance(value, float) and not math.isfinite(value):
        yield Problem(where, f"is {value}, for which JSON has no number", "leave it out, or store it as text")
    elif not (value is None or isinstance(value, str | int | float)):
        what = f"is of type {type(value).__name__}, and would not come back as it is"
        yield Problem(where, what, "convert it: to str, int, float, bool, None, or a list or dict of them")


def this_tool() -> str:
    try:
        return f"wafersparse {version('wafersparse')}"
    except PackageNotFoundError:
        return "wafersparse, not installed"


def _object(metadata: Mapping[str, str], key: str, where: str) -> dict[str, Any]:
    value = as_json(metadata.get(key, ""), f"{where}: {key}")
    if not isinstance(value, dict):
        raise fail(f"{where}: {key}", f"is a {type(value).__name__}, not an object", DAMAGED)
    return value


def _is_size(value: object) -> bool:
    return type(value) is int and value >= 0  # bool is an int, but no size


def _shape_problems(shapes: Mapping[str, Any], where: str) -> Iterator[Problem]:
    for name, shape in shapes.items():
        if not isinstance(shape, list) or not all(map(_is_size, shape)):
            yield Problem(f"{where}: {name}", f"{shape!r} is not a shape", DAMAGED)


def _kept_problems(kept: Mapping[str, Any], shapes: Mapping[str, Any], where: str) -> Iterator[Problem]:
    for name in sorted(kept.keys() ^ shapes.keys()):
        yield Problem(f"{where}: {name}", "has a shape or a kept count, but not both", DAMAGED)
    for name in kept.keys() & shapes.keys():
        if not _is_size(kept[name]) or kept[name] > math.prod(shapes[name]):
            what = f"{kept[name]!r} is not a count of kept weights in a mask of shape {shapes[name]}"
            yield Problem(f"{where}: {name}", what, DAMAGED)
