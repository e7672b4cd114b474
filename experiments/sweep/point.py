"""One combination of a sweep, and its name: readable, and ending in a digest of what is not default."""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from pruning.planning.spec import MaskSpec

DEFAULT_MODE = "sparse_to_sparse"
_UNSAFE = re.compile(r"[^A-Za-z0-9._=+-]+")
_DIGEST = re.compile(r"-[0-9a-f]{8}$")
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


def name_of(point: Point, base: Mapping[str, Any]) -> str:
    """The seed is no part of it: seeds are siblings below it.

    ``base`` holds the settings as the base config has them: one that changes nothing is no part of the
    name either, so an axis that is added with the old value in it leaves the old names alone.
    """
    settings = {key: value for key, value in point.settings.items() if key not in base or base[key] != value}
    words = ["dense"]
    changed: dict[str, Any] = {}
    if point.masks is not None:
        words = [_DIGEST.sub("", point.masks.name)]
        changed["masks"] = {
            one.name: value
            for one in fields(point.masks)
            if (value := getattr(point.masks, one.name)) != one.default
        }
    if point.mode != DEFAULT_MODE:
        words.append("once" if point.lora is None else "dense-update")
        changed["mode"] = point.mode
    if point.lora is not None:
        words.append(f"lora-r{point.lora.get('r')}")
        changed["lora"] = dict(point.lora)
    if settings:
        words += [f"{key.rpartition('.')[2]}={value}" for key, value in sorted(settings.items())]
        changed["set"] = settings
    digest = hashlib.sha256(json.dumps(changed, sort_keys=True, default=str).encode()).hexdigest()
    readable = _UNSAFE.sub("_", "-".join(words))[:_LONGEST].rstrip("-_.")
    return f"{readable}-{digest[:8]}"
