"""The shape of what a ``.mdl`` file holds: nested containers to leaves by dotted path, and back.

The shape is written twice, as cstorch does it: as plain JSON, for people, and as torch's serialized
``TreeSpec`` (protocol 1), which alone tells a tuple from a list and the key 0 from the key "0".
"""

import json
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from typing import Any

from pruning.problems import fail

_CONTAINERS: dict[type, str] = {
    dict: "builtins.dict",
    OrderedDict: "collections.OrderedDict",
    list: "builtins.list",
    tuple: "builtins.tuple",
    set: "builtins.set",
}
_MAPPINGS = ("builtins.dict", "collections.OrderedDict")
_LEAF: dict[str, Any] = {"type": None, "context": None, "children_spec": []}


def flatten(tree: Mapping[str, Any]) -> tuple[dict[str, Any], str]:
    """The leaves by dotted path, in order, and the text of ``__spec__``."""
    leaves: dict[str, Any] = {}
    plain, schema = _describe(tree, (), leaves)
    try:
        text = json.dumps(plain)
    except TypeError:  # a set, which only the schema can tell; cstorch writes null as well
        text = "null"
    return leaves, f"[{text}, {json.dumps(json.dumps([1, schema]))}]"


def unwritable(value: Any, place: str = "") -> Iterator[tuple[str, str]]:
    """What of a tree of plain values no ``.mdl`` file can hold: its place, as ``a.b[0]``, and why."""
    yield from _unwritable(value, place, "", set())


def unflatten(where: str, spec: str, leaves: Mapping[str, Any]) -> Any:
    """The tree of ``__spec__`` with these leaves in it. Only plain containers, whatever the file says."""
    try:
        protocol, schema = json.loads(json.loads(spec)[1])
        if protocol != 1:
            raise ValueError(f"the protocol {protocol}")
        return _build(schema, (), leaves)
    except (KeyError, TypeError, ValueError, IndexError, RecursionError) as error:
        what = f"the tree cannot be understood: {error!r}"
        raise fail(
            f"{where}: __spec__", what, "load it with cerebras.pytorch.load and save it again"
        ) from None


def leaf_spec(key: str) -> list[Any]:
    """The ``__spec__`` in a leaf's own metadata: a dict of one leaf."""
    return [{key: "*"}, json.dumps([1, _schema("builtins.dict", [key], [_LEAF])])]


def _describe(value: Any, path: tuple[str, ...], leaves: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    kind = _CONTAINERS.get(type(value))
    if kind is None:
        key = ".".join(path)
        assert key not in leaves, f"two leaves have the path {key!r}"
        leaves[key] = value
        return "*", _LEAF
    if kind in _MAPPINGS:
        assert all(type(key) in (str, int) for key in value), f"keys of {'.'.join(path)!r} that JSON changes"
        names, members = list(value), list(value.values())
    else:
        names, members = None, sorted(value, key=repr) if kind == "builtins.set" else list(value)
    parts = [
        _describe(member, (*path, str(name)), leaves)
        for name, member in zip(names or range(len(members)), members, strict=True)
    ]
    inner = [plain for plain, _ in parts]
    plain = dict(zip(names, inner, strict=True)) if names is not None else type(value)(inner or ())
    return plain, _schema(kind, names, [schema for _, schema in parts])


def _unwritable(value: Any, place: str, path: str, taken: set[str]) -> Iterator[tuple[str, str]]:
    """``path``: what the file calls it; ``taken``: the paths that values have."""
    kind = _CONTAINERS.get(type(value))
    if kind in _MAPPINGS:
        for key, inner in value.items():
            here = f"{place}.{key}" if place else str(key)
            if type(key) not in (str, int):
                yield here, f"the key {key!r} is {_article(key)}: a checkpoint takes text and whole numbers"
            elif not _is_name(str(key)):
                yield here, f"the key {key!r} has a character that no name in a checkpoint can have"
            else:
                yield from _unwritable(inner, here, f"{path}.{key}", taken)
    elif kind is not None:
        members = sorted(value, key=repr) if kind == "builtins.set" else value
        for index, inner in enumerate(members):
            yield from _unwritable(inner, f"{place}[{index}]", f"{path}.{index}", taken)
    elif value is not None and type(value) not in (bool, int, float, str):
        yield place, f"{value!r} is {_article(value)}, which a checkpoint cannot hold"
    elif path in taken:
        yield place, "stands twice, with points in a key and below one: a checkpoint has one value for both"
    else:
        taken.add(path)


def _is_name(key: str) -> bool:
    """Neither half a pair of surrogates, which YAML's escapes can write, nor a null, which ends a name."""
    try:
        key.encode()
    except UnicodeEncodeError:
        return False
    return "\0" not in key


def _article(value: Any) -> str:
    name = type(value).__name__
    return f"an {name}" if name[0] in "aeiou" else f"a {name}"


def _schema(kind: str, context: Any, children: list[dict[str, Any]]) -> dict[str, Any]:
    return {"type": kind, "context": json.dumps(context), "children_spec": children}


def _build(schema: Mapping[str, Any], path: tuple[str, ...], leaves: Mapping[str, Any]) -> Any:
    kind, children = schema["type"], schema["children_spec"]
    if kind is None:
        return leaves[".".join(path)]
    container = next((cls for cls, name in _CONTAINERS.items() if name == kind), None)
    if container is None:
        raise ValueError(f"a container of the type {kind}")
    names = json.loads(schema["context"]) if kind in _MAPPINGS else range(len(children))
    members: Iterator[Any] = (
        _build(child, (*path, str(name)), leaves) for name, child in zip(names, children, strict=True)
    )
    return container(zip(names, members, strict=True)) if kind in _MAPPINGS else container(members)
