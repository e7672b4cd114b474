"""What is asked of a mask: frozen, comparable, and the source of its file's name."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from decimal import Decimal
from typing import Any

from pruning.importance import SCORES, accepts
from pruning.planning.allocation import ALLOCATIONS
from pruning.planning.amount import parse_sparsity
from pruning.planning.patterns import NOfM, Unstructured, parse_pattern

LayerMap = tuple[tuple[str, Decimal], ...]


@dataclass(frozen=True, kw_only=True)
class MaskSpec:
    """One mask file. Equal specs on equal checkpoints give equal bits, whatever machine or release."""

    sparsity: Decimal | None = None  # None where the pattern, or the layer map alone, says it
    score: str = "magnitude"
    pattern: str = "unstructured"
    allocation: str = "uniform"
    layers: LayerMap = ()  # glob → sparsity, first match wins; what it does not name follows `sparsity`
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    seed: int = 0
    nan_as_pruned: bool = False
    plugin: str = ""  # SHA-256 of the file that registers the score: another file, another question

    def __post_init__(self) -> None:
        pattern = parse_pattern(self.pattern)
        SCORES[self.score]
        ALLOCATIONS[self.allocation]
        if self.sparsity is not None and not isinstance(self.sparsity, Decimal):
            raise TypeError(
                f"sparsity is a Decimal, see pruning.planning.amount.parse_sparsity; got {self.sparsity!r}"
            )
        if isinstance(pattern, NOfM):
            if self.sparsity is not None and self.sparsity * pattern.m != pattern.m - pattern.n:
                raise ValueError(
                    f"pattern {self.pattern} drops {pattern.m - pattern.n} of every {pattern.m} weights: "
                    f"it cannot have sparsity {self.sparsity}; leave --sparsity out"
                )
            if self.allocation != "uniform" or self.layers:
                raise ValueError(
                    f"pattern {self.pattern} fixes the sparsity of every group: there is nothing to allocate"
                )
            object.__setattr__(self, "sparsity", None)
        elif self.sparsity is None and not self.layers:
            raise ValueError("how sparse? give --sparsity, a --layer map, or an N:M pattern")
        if self.pattern.startswith("head") and self.allocation == "erk":
            raise ValueError(
                "ERK weighs the shapes of matrices, and heads have none; choose uniform or global"
            )
        if self.nan_as_pruned and not isinstance(pattern, NOfM | Unstructured):
            raise ValueError(
                f"pattern {self.pattern} keeps and drops weights together, so it cannot drop just the NaN"
            )
        if self.nan_as_pruned and self.score not in ("magnitude", "l2", "random"):
            raise ValueError(f"score {self.score!r} is a function of its own: it must deal with NaN itself")
        if self.seed and not accepts(self.score, "seed"):
            raise ValueError(f"seed {self.seed} has no effect on score {self.score!r}")

    @property
    def level(self) -> str:
        """The sparsity as text: of tables and file names."""
        return f"s{self.sparsity}" if self.sparsity is not None else ("layers" if self.layers else "")

    @property
    def name(self) -> str:
        """Readable prefix plus content hash.

        Defaults are left out of the hash, so a new field whose default changes nothing leaves
        the names of finished masks alone.
        """
        parts = [self.score]
        if self.pattern != "unstructured":
            parts.append(self.pattern.replace("block:", "block").replace("head:", "head").replace(":", "of"))
        if self.allocation != "uniform":
            parts.append(self.allocation)
        if self.level:
            parts.append(self.level)
        if self.score == "random":
            parts.append(f"seed{self.seed}")
        changed = {f.name: v for f in fields(self) if (v := getattr(self, f.name)) != f.default}
        digest = hashlib.sha256(json.dumps(changed, sort_keys=True, default=str).encode()).hexdigest()
        return "-".join([*parts, digest[:8]])

    def to_json(self) -> dict[str, Any]:
        """Plain values, all fields: what a mask file carries."""
        plain: dict[str, Any] = {f.name: getattr(self, f.name) for f in fields(self)}
        plain["sparsity"] = None if self.sparsity is None else str(self.sparsity)
        plain["layers"] = [[glob, str(value)] for glob, value in self.layers]
        plain["include"], plain["exclude"] = list(self.include), list(self.exclude)
        return plain

    @classmethod
    def from_json(cls, plain: Mapping[str, Any]) -> "MaskSpec":
        known = {f.name for f in fields(cls)}
        if unknown := sorted(set(plain) - known):
            raise ValueError(
                f"spec has unknown fields {', '.join(unknown)}: it was written by a newer release"
            )
        values = dict(plain)
        if values.get("sparsity") is not None:
            values["sparsity"] = parse_sparsity(values["sparsity"])
        values["layers"] = tuple((glob, parse_sparsity(value)) for glob, value in values.get("layers", ()))
        for name in ("include", "exclude"):
            values[name] = tuple(values.get(name, ()))
        return cls(**values)
