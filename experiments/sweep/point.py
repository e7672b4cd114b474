"""One combination of a sweep, and its name: readable, and ending in a digest of what is not default."""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

from pruning.planning.spec import MaskSpec

DEFAULT_MODE = "sparse_to_sparse"
_UNSAFE = re.compile(r"[^A-Za-z0-9._=+-]+")
_DIGEST = re.compile(r"-[0-9a-f]{8}$")
_INDEX = re.compile(r"\[(\d+)\]")
_LONGEST = 80  # of the readable part: the rest of a path has to fit, too


@dataclass(frozen=True, kw_only=True)
class Point:
    """What one run is: all that the sweep chose. Without masks it is a baseline."""

    masks: MaskSpec | None = None
    lora: Mapping[str, Any] | None = None
    mode: str = DEFAULT_MODE
    settings: Mapping[str, Any] = field(default_factory=dict)  # dotted path below `trainer`: value
    seed: int

    def to_json(self) -> dict[str, Any]:
        return {
            "masks": None if self.masks is None else self.masks.to_json(),
            "lora": None if self.lora is None else dict(self.lora),
            "mode": self.mode,
            "set": dict(self.settings),
            "seed": self.seed,
        }

    @classmethod
    def from_json(cls, plain: Mapping[str, Any]) -> "Point":
        """Fields that an older release did not know have their defaults; one of a newer is a ValueError."""
        values = dict(plain)
        settings = values.pop("set", {})
        if unknown := sorted(set(values) - {one.name for one in fields(cls)}):
            raise ValueError(f"a point has unknown fields {', '.join(unknown)}: a newer release wrote it")
        if values.get("masks") is not None:
            values["masks"] = MaskSpec.from_json(values["masks"])
        return cls(**values, settings=settings)

    @property
    def changed(self) -> dict[str, Any]:
        """What is not default: what the name digests, and all that makes two points different.

        A field that a later release adds changes neither, where its default changes nothing.
        """
        changed: dict[str, Any] = {}
        if self.masks is not None:
            changed["masks"] = {
                one.name: value
                for one in fields(self.masks)
                if (value := getattr(self.masks, one.name)) != one.default
            }
        if self.mode != DEFAULT_MODE:
            changed["mode"] = self.mode
        if self.lora is not None:
            changed["lora"] = dict(self.lora)
        if self.settings:
            changed["set"] = dict(self.settings)
        return changed

    def canonical(self, shared: Mapping[str, Any]) -> "Point":
        """The same run, written in the one way that counts.

        ``shared`` is the trainer as every run has it. A setting that changes nothing of it is left out, so
        an axis that is added with the old value in it leaves the old names alone.
        """
        settings = {
            key: value for key, value in sorted(self.settings.items()) if not _has(shared, key, value)
        }
        lora = None if self.lora is None else dict(sorted(self.lora.items()))
        return replace(self, settings=settings, lora=lora)


def name_of(point: Point) -> str:
    """The seed is no part of it: seeds are siblings below it."""
    changed = point.changed
    words = ["dense"]
    if point.masks is not None:
        words = [_DIGEST.sub("", point.masks.name)]
    if point.mode != DEFAULT_MODE:
        words.append("once" if point.lora is None else "dense-update")
    if point.lora is not None:
        words.append(f"lora-r{point.lora.get('r')}")
    words += [f"{key.rpartition('.')[2]}={value}" for key, value in sorted(point.settings.items())]
    digest = hashlib.sha256(json.dumps(changed, sort_keys=True, default=str).encode()).hexdigest()
    readable = _UNSAFE.sub("_", "-".join(words))[:_LONGEST].rstrip("-_.")
    return f"{readable}-{digest[:8]}"


def _has(params: Mapping[str, Any], path: str, value: Any) -> bool:
    """Whether this very value is there already."""
    found: Any = params
    for step in plain_path(path).split("."):
        if isinstance(found, Mapping) and step in found:
            found = found[step]
        elif isinstance(found, Sequence) and not isinstance(found, str) and step.isdigit():
            if int(step) >= len(found):
                return False
            found = found[int(step)]
        else:
            return False
    return bool(found == value)


def plain_path(path: str) -> str:
    """``a[0].b`` is ``a.0.b``: both are taken."""
    return _INDEX.sub(r".\1", path)
