"""LoRA in a checkpoint: which weights have factors, and by how much their product counts.

The shapes say the rank. ``alpha`` is in no tensor: it is read from the config that cszoo and this project
keep in a ``.mdl``, or it is given.
"""

import fnmatch
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cerebras_utils.fallback.mdl_tree import unflatten
from pruning.checkpoint.mdl_file import open_state
from pruning.checkpoint.source import TensorInfo
from pruning.problems import Problem, ProblemError, fail

A, B = ".lora_A", ".lora_B"


@dataclass(frozen=True)
class Factors:
    weight: str
    a: str  # (r, in)
    b: str  # (out, r)
    rank: int
    scaling: float
    transposed: bool  # of an embedding: its weight is (rows, width), the product (width, rows)


@dataclass(frozen=True)
class Recorded:
    """What a checkpoint says about the LoRA that trained it."""

    alphas: tuple[float, ...]
    masked: bool  # SparseLora: the run applied the masks to the update itself


def recorded(params: Mapping[str, Any] | None) -> Recorded:
    """From the config in a checkpoint; nothing where there is none."""
    init = ((params or {}).get("trainer") or {}).get("init") or {}
    entries = [
        (str(name), given or {}) for entry in init.get("callbacks") or [] for name, given in entry.items()
    ]
    found = [(name, given) for name, given in entries if name.lower() in ("lora", "sparselora")]
    alphas = []
    for _, given in found:
        written = given.get("lora_params") or {}
        for one in written if isinstance(written, list) else [written]:
            alphas.append(float(one.get("alpha", 1)))
    return Recorded(tuple(alphas), any(name.lower() == "sparselora" for name, _ in found))


def params_in(path: Path) -> Mapping[str, Any] | None:
    """The config that a ``.mdl`` was written with: ``{"trainer": ...}``. No tensor is read."""
    with open_state(path, str(path)) as source:
        leaves: dict[str, Any] = {**dict.fromkeys(source.objects()), **source.scalars()}
        leaves.update(dict.fromkeys(source.infos))
        tree = unflatten(str(path), source.spec(), leaves)
    metadata = tree.get("__metadata__") if isinstance(tree, dict) else None
    first = metadata[0] if isinstance(metadata, list) and metadata else None
    params = first.get("params") if isinstance(first, dict) else None
    return params if isinstance(params, dict) else None


def find_factors(
    infos: Mapping[str, TensorInfo],
    where: str,
    *,
    said: Recorded,
    alphas: Sequence[tuple[str, float]] = (),
    base: Mapping[str, TensorInfo] | None = None,
) -> dict[str, Factors]:
    """Every weight with factors. ``alphas`` are (glob, value), the first that matches counts; ``base`` holds
    the weights where this file has the factors alone.
    """
    problems: list[Problem] = []
    found = {}
    stems = {name.removesuffix(end) for name in infos for end in (A, B) if name.endswith(end)}
    for stem in sorted(stems):
        weight = f"{stem}.weight"
        owner = infos.get(weight) or (base or {}).get(weight)
        pair = infos.get(stem + A), infos.get(stem + B)
        if owner is None or None in pair:
            lacking = [n for n in (weight, stem + A, stem + B) if n not in infos and n not in (base or {})]
            fix = "use a whole checkpoint of the LoRA run, and its base" if owner is None else "use another"
            problems.append(Problem(f"{where}: {stem}", f"lacks {', '.join(lacking)}", fix))
            continue
        try:
            found[weight] = _pair(stem, owner, pair[0], pair[1], where, said, alphas)  # type: ignore[arg-type]
        except ProblemError as error:
            problems += error.problems
    for pattern, _ in alphas:
        if not any(fnmatch.fnmatchcase(name, pattern) for name in found):
            what = "matches no weight that has factors"
            problems.append(Problem(f"--alpha {pattern}", what, "mend the pattern, or leave it out"))
    if problems:
        raise ProblemError(_merged(problems))
    return found


def _pair(
    stem: str,
    weight: TensorInfo,
    a: TensorInfo,
    b: TensorInfo,
    where: str,
    said: Recorded,
    alphas: Sequence[tuple[str, float]],
) -> Factors:
    shapes = f"{weight.shape}, with lora_A {a.shape} and lora_B {b.shape}"
    fits = len(weight.shape) == len(a.shape) == len(b.shape) == 2 and a.shape[0] == b.shape[1]
    product = (b.shape[0], a.shape[1]) if fits else ()
    embedding = "embed" in stem.rsplit(".", 1)[-1] and product == weight.shape[::-1]
    if not fits or not (embedding or product == weight.shape):
        raise fail(f"{where}: {weight.name}", f"is {shapes}", "use the base that the factors were trained on")
    alpha = next((value for glob, value in alphas if fnmatch.fnmatchcase(weight.name, glob)), None)
    if alpha is None:
        alpha = _alpha(where, said)
    if alpha == 0:
        raise fail(f"{where}: alpha", "is 0, so the factors count for nothing", "give the alpha of the run")
    return Factors(weight.name, a.name, b.name, a.shape[0], alpha / a.shape[0], embedding)


def _alpha(where: str, said: Recorded) -> float:
    distinct = set(said.alphas)
    if len(distinct) == 1:
        return said.alphas[0]
    if not distinct:
        raise fail(f"{where}: alpha", "is not recorded in this checkpoint", "give the run's: --alpha 32")
    what = f"the run had several ({', '.join(f'{a:g}' for a in said.alphas)})"
    raise fail(f"{where}: alpha", what, "say which is whose: --alpha '*.proj_q_dense_layer.weight=32' ...")


def _merged(problems: list[Problem]) -> Iterator[Problem]:
    """Each once: a missing alpha is missing for every layer."""
    yield from dict.fromkeys(problems)
