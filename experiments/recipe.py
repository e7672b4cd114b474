"""Mask recipes: the options of ``masks`` as a YAML file, checked like the options themselves."""

from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

from pruning.planning.amount import parse_sparsity
from pruning.planning.spec import MaskSpec
from pruning.problems import Problem, ProblemError, fail
from pruning.registry import suggest
from pruning.strict_yaml import read_yaml

KEYS = {
    "sparsity": "a decimal such as 0.5, or a list of them",
    "score": "a name such as magnitude",
    "pattern": "unstructured, N:M, block:BHxBW, row, column or head:H (quote it)",
    "allocation": "uniform, global or erk",
    "layers": "a map from glob to sparsity; the first glob that matches a layer counts",
    "include": "a glob, or a list of them",
    "exclude": "a glob, or a list of them",
    "seed": "a whole number",
    "nan_as_pruned": "true or false",
}

_PLAIN = {"score": str, "pattern": str, "allocation": str, "seed": int, "nan_as_pruned": bool}


def read_recipe(path: Path) -> dict[str, Any]:
    """Checked values by key: lists where several are allowed. Raises with all problems at once."""
    document = read_yaml(path)
    loaded = document.value
    if not isinstance(loaded, dict):
        raise fail(
            path, "is not a map of options", f"write lines such as `sparsity: 0.5`; known: {', '.join(KEYS)}"
        )
    problems: list[Problem] = []
    values: dict[str, Any] = {}
    for key, value in loaded.items():
        if key not in KEYS:
            meant = suggest(str(key), KEYS).strip() or f"known: {', '.join(KEYS)}"
            problems.append(Problem(document.at(str(key)), "is no option of masks", meant))
            continue
        try:
            values[key] = checked_option(key, value, document.at(key))
        except ProblemError as error:
            problems.extend(error.problems)
    if problems:
        raise ProblemError(problems)
    return values


def checked_option(key: str, value: Any, where: str) -> Any:
    if key == "sparsity":
        return [parse_sparsity(v, where) for v in (value if isinstance(value, list) else [value])]
    if key == "layers" and isinstance(value, dict):
        return tuple((str(glob), parse_sparsity(v, f"{where}: {glob}")) for glob, v in value.items())
    if key in ("include", "exclude"):
        globs = value if isinstance(value, list) else [value]
        if all(isinstance(glob, str) for glob in globs):
            return tuple(globs)
    elif type(value) is _PLAIN.get(key):
        return value
    raise fail(where, f"{value!r} is not {KEYS[key]}", "mend the value")


def parse_layer(text: str) -> tuple[str, Decimal]:
    """``GLOB=S``, from the right: a glob may hold a '='."""
    glob, equals, value = text.rpartition("=")
    if not (glob and equals):
        raise fail(f"--layer {text}", "is not GLOB=SPARSITY", "write it as --layer '*q_proj*=0.5'")
    return glob, parse_sparsity(value, f"--layer {text}")


def make_specs(levels: Sequence[Decimal], **rest: Any) -> list[MaskSpec]:
    """One spec per level, lowest first; a level that is written twice is one."""
    if not levels:
        return [MaskSpec(**rest)]
    return [MaskSpec(sparsity=level, **rest) for level in sorted(set(levels))]
