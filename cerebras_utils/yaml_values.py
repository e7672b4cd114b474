"""Values compared strictly, and written on one line of YAML."""

import sys
from collections.abc import Hashable, Sequence
from typing import Any

import yaml

from cerebras_utils.yaml_tree import LINE_BREAK, Path


def same(one: Any, other: Any) -> bool:
    """Equal, and of equal types: 1 is neither 1.0 nor true. NaN is NaN."""
    if type(one) is not type(other):
        return False
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(value, other[key]) for key, value in one.items())
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other) or (one != one and other != other)


def differences(one: Any, other: Any, path: Path = ()) -> list[Path]:
    """Where two values differ, at the deepest."""
    if same(one, other):
        return []
    inner: Sequence[Hashable] = ()
    if isinstance(one, dict) and isinstance(other, dict) and one.keys() == other.keys():
        inner = list(one)
    elif isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        inner = range(len(one))
    found = [place for name in inner for place in differences(one[name], other[name], (*path, name))]
    return found or [path]


def dotted(path: Path) -> str:
    """``a.b[0].c``, as in messages."""
    text = "".join(f"[{step}]" if type(step) is int else f".{step}" for step in path)
    return text.removeprefix(".")


def in_flow(value: Any) -> str:
    """A value on one line, right both among brackets and outside them."""
    return _dump([value])[1:-1]


class _Dumper(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:
        return True


def _text(dumper: _Dumper, value: str) -> yaml.Node:
    # A text of several lines, or one that a reader of YAML 1.2 takes for a number.
    looks_like_number = value[:1] in "+-.0123456789" and value[:1] != ""
    style = '"' if LINE_BREAK.search(value) or looks_like_number else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=style)


_Dumper.add_representer(str, _text)


def _dump(value: Any) -> str:
    return yaml.dump(
        value,
        Dumper=_Dumper,
        default_flow_style=True,
        allow_unicode=True,
        sort_keys=False,
        width=sys.maxsize,
    ).strip()


def in_flow_pair(name: Hashable, value: Any) -> str:
    return _dump({name: value})[1:-1]


def as_item(value: Any) -> str:
    """Behind the dash of a list: a map of one key needs no braces."""
    return (
        in_flow_pair(*next(iter(value.items())))
        if isinstance(value, dict) and len(value) == 1
        else in_flow(value)
    )
