"""What the root attributes of a ``.mdl`` file say: one record a leaf, links resolved.

A leaf that was saved is a tensor in a dataset of its own, a tensor that is one value repeated, a
link to another leaf (the writer saves each Python object once, small integers included), or a
scalar that lives in its record alone.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pruning.problems import Problem, ProblemError, fail

FORMAT = 0.5
GRAPH = "DeferredGraphTensor"
RTFX = {
    1: "torch.bool", 3: "torch.int16", 4: "torch.int32", 5: "torch.int64", 6: "torch.uint8",
    10: "torch.float16", 11: "torch.float32", 12: "torch.float64", 15: "torch.bfloat16",
}  # fmt: skip
_SUFFIX = ".__metadata__"
_SCALARS = {"ScalarSerializer": "scalar_value", "StringSerializer": "string_value", "NoneSerializer": ""}
_COPY_AGAIN = "copy the checkpoint again, or use the one before it"


@dataclass(frozen=True)
class Record:
    key: str  # of the leaf, or of the leaf that a link leads to
    kind: str  # data, fill, scalar, foreign (what only the vendor can read), object (of no interest)
    shape: tuple[int, ...] = ()
    dtype: str = ""  # as torch prints it
    fill: float | None = None
    value: object = None  # of a scalar; for foreign, the class it is stored as

    @property
    def is_tensor(self) -> bool:
        return self.kind in ("data", "fill", "foreign")


def read_records(where: str, file: Any) -> tuple[dict[str, Any], dict[str, Record]]:
    """The saved tree and its leaves by dotted path. Refuses what is no finished checkpoint."""
    attrs = dict(file.attrs)
    if not all(isinstance(attribute, str) for attribute in attrs):  # h5py gives bytes for bad UTF-8
        raise fail(where, "the name of an attribute is not text: the file is damaged", _COPY_AGAIN)
    _check_format(where, file, attrs)
    spec = _json(where, "__spec__", attrs.get("__spec__"))
    tree = spec[0] if isinstance(spec, list) and spec else None
    if tree is None and isinstance(spec, list) and len(spec) > 1:
        tree = _outline(_json(where, "__spec__", spec[1]))
    if not isinstance(tree, dict):
        raise fail(f"{where}: __spec__", "the checkpoint is not a dict", "save the state as a dict")
    leaves: dict[str, Record | str] = {}
    problems: list[Problem] = []
    for attribute in attrs:
        if attribute.endswith(_SUFFIX):
            key = attribute.removesuffix(_SUFFIX)
            try:
                leaves[key] = _leaf(key, _json(where, attribute, attrs[attribute]))
            except ProblemError as error:
                problems += error.problems
            except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
                problems.append(
                    Problem(f"{where}: {key}", f"its metadata cannot be understood: {error!r}", _COPY_AGAIN)
                )
    if problems:
        raise ProblemError(problems)
    return tree, _resolve(where, leaves)


def _check_format(where: str, file: Any, attrs: Mapping[str, Any]) -> None:
    version = attrs.get("__version__")
    if not isinstance(version, int | float) or version < FORMAT:
        if isinstance(version, int | float) or _is_legacy(file):
            raise fail(
                where,
                f"is a checkpoint of an old Cerebras release (format before {FORMAT})",
                "load it with cerebras.pytorch.load and save it again with cerebras.pytorch.save",
            )
        raise fail(where, "is an HDF5 file, but no Cerebras checkpoint", "name a .mdl checkpoint")
    if version > FORMAT:
        raise fail(
            where, f"is of format {version}, this reader knows {FORMAT}", "save it with cerebras-pytorch 2.10"
        )
    if not attrs.get("__SUCCESS__"):
        raise fail(
            where,
            "is incomplete: the run that wrote it ended before the end of the file (no __SUCCESS__)",
            "use the checkpoint before it",
        )


def _outline(schema: Any) -> dict[str, Any] | None:
    """The upper two levels of a tree with a set in it, which the vendor writes as a schema alone."""
    try:
        _, root = schema
        names = json.loads(root["context"])
        kinds = [child["type"] for child in root["children_spec"]]
        mapping = ("builtins.dict", "collections.OrderedDict")
        if root["type"] not in mapping:
            return None
        return {name: {} if kind in mapping else "*" for name, kind in zip(names, kinds, strict=True)}
    except (KeyError, TypeError, ValueError):
        return None


def _is_legacy(file: Any) -> bool:
    import h5py

    own = [key for key in file if isinstance(file.get(key, getlink=True), h5py.HardLink)]
    return any("__H5_TYPE__" in file[key].attrs for key in own)


def _json(where: str, attribute: str, text: object) -> Any:
    try:
        return json.loads(str(text))
    except (ValueError, RecursionError) as error:
        raise fail(f"{where}: {attribute}", f"is not valid JSON: {error}", _COPY_AGAIN) from None


def _leaf(key: str, saved: dict[str, Any]) -> Record | str:
    """The record, or for a link the key it leads to."""
    parts = {name.removesuffix(_SUFFIX): value for name, value in saved.items() if name.endswith(_SUFFIX)}
    # A lazy tensor comes as two parts: what it is made from, under ".0", and the tensor it stands for.
    meta = parts[key] if key in parts else parts.get(f"{key}.0", {})
    kind = meta.get("__TYPE__")
    types = {part["__TYPE__"] for part in parts.values()}
    if kind == "LinkedObject":
        return str(meta["key"])
    if kind in _SCALARS:
        return Record(key, "scalar", value=meta[_SCALARS[kind]] if _SCALARS[kind] else None)
    if kind == "TorchTensorSerializer":
        dtype = meta["dtypes"][0] if "dtypes" in meta else RTFX[meta["rtfx_dtypes"][0]]
        return Record(key, "data", _shape(meta["shapes"][0]), str(dtype))
    if kind == "DeferredFullTensor":
        value = meta["fill_value"]
        if value is not None and not isinstance(value, int | float):
            raise TypeError(f"the fill value {value!r}")
        return Record(key, "fill", _shape(meta["shape"]), str(meta["dtype"]), value)
    tensors = sorted(name for name in types if name.startswith("Deferred") and name.endswith("Tensor"))
    if tensors or "TorchTensorSerializer" in types:
        return Record(key, "foreign", value=(tensors or ["an unknown object"])[0])
    return Record(key, "object")


def _shape(value: list[int]) -> tuple[int, ...]:
    if any(type(size) is not int or size < 0 for size in value):
        raise ValueError(f"the shape {value!r}")
    return tuple(value)


def _resolve(where: str, leaves: Mapping[str, Record | str]) -> dict[str, Record]:
    records, problems = {}, []
    for key in leaves:
        leaf, seen = leaves[key], {key}
        while isinstance(leaf, str):
            if leaf in seen or leaf not in leaves:
                what = "runs in a circle" if leaf in seen else "leads nowhere"
                problems.append(Problem(f"{where}: {key}", f"its link to {leaf} {what}", _COPY_AGAIN))
                break
            seen.add(leaf)
            leaf = leaves[leaf]
        else:
            records[key] = leaf
    if problems:
        raise ProblemError(problems)
    return records
