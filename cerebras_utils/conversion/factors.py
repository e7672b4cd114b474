"""LoRA in a checkpoint: which weights have factors, and what was done with their product in training.

The shapes say the rank. What else there is to know is in no tensor: runs of this project leave a mark with
it, for ModelZoo's own ``Lora`` it is in the config that a ``.mdl`` carries, elsewhere it has to be given.
"""

import fnmatch
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from cerebras_utils.fallback.mdl_tree import unflatten
from cerebras_utils.lora_callbacks import MARK
from cerebras_utils.lora_settings import LORA, SPARSE_LORA
from pruning.checkpoint.mdl_file import open_state
from pruning.checkpoint.source import TensorInfo
from pruning.lora.merge import FactorNames, find_factors, sides
from pruning.problems import Problem, ProblemError, fail

FACTORS = (".lora_A", ".lora_B")
_TRAINED = {"sparse_to_dense": "dense", "sparse_to_sparse": "masked", "multiplicative": "multiplicative"}


@dataclass(frozen=True)
class Factors:
    weight: str
    a: str  # (r, in)
    b: str  # (out, r)
    rank: int
    scaling: float
    trained: str  # of pruning.lora.merge.TRAINED
    embedding: bool | None  # None: the shapes tell


@dataclass(frozen=True)
class Recorded:
    """What a checkpoint says about the LoRA that trained it."""

    params: Mapping[str, Any] = field(default_factory=dict)  # the config: {"trainer": ...}
    marks: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)  # by layer

    @property
    def alphas(self) -> tuple[float, ...]:
        return tuple(float(group.get("alpha", 1)) for group in self._groups(LORA))

    @property
    def sparse(self) -> bool:
        return bool(self._groups(SPARSE_LORA))

    def _groups(self, name: str) -> list[Mapping[str, Any]]:
        init = (self.params.get("trainer") or {}).get("init") or {}
        entries = [entry for entry in init.get("callbacks") or [] if isinstance(entry, Mapping)]
        for key, given in (pair for entry in entries for pair in entry.items()):
            if str(key).lower() == name.lower():
                written = (given or {}).get("lora_params") or {}
                return list(written) if isinstance(written, list) else [written]
        return []


def recorded(path: Path) -> Recorded:
    """Of a ``.mdl``. No tensor is read."""
    with open_state(path, str(path)) as source:
        leaves: dict[str, Any] = {**dict.fromkeys(source.objects()), **source.scalars()}
        leaves.update(dict.fromkeys(source.infos))
        tree = unflatten(str(path), source.spec(), leaves)
    if not isinstance(tree, dict):
        return Recorded()
    metadata, marks = tree.get("__metadata__"), tree.get(MARK)
    first = metadata[0] if isinstance(metadata, list) and metadata else None
    params = first.get("params") if isinstance(first, dict) else None
    return Recorded(params if isinstance(params, dict) else {}, marks if isinstance(marks, dict) else {})


def factors_in(
    infos: Mapping[str, TensorInfo],
    where: str,
    *,
    said: Recorded,
    alphas: Sequence[tuple[str, float]] = (),
    base: Mapping[str, TensorInfo] | None = None,
) -> dict[str, Factors]:
    """By weight; empty where there are none. ``alphas`` are (glob, value), the first that matches counts;
    ``base`` has the weights where this file has the factors alone.
    """
    if not any(name.endswith(FACTORS) for name in infos):
        return {}
    known = {**(base or {}), **infos}
    problems: list[Problem] = []
    found = {}
    for layer, names in find_factors(known, where).items():
        try:
            found[names.weight] = _factors(layer, names, known, where, said, alphas)
        except ProblemError as error:
            problems += error.problems
    for pattern, _ in alphas:
        if not any(fnmatch.fnmatchcase(name, pattern) for name in found):
            what = "matches no weight that has factors"
            problems.append(Problem(f"--alpha {pattern}", what, "mend the pattern, or leave it out"))
    if problems:
        raise ProblemError(_each_once(problems))
    return found


def _factors(
    layer: str,
    names: FactorNames,
    known: Mapping[str, TensorInfo],
    where: str,
    said: Recorded,
    alphas: Sequence[tuple[str, float]],
) -> Factors:
    shape, a, b = (known[name].shape for name in names)
    embedding = True if "embed" in layer.rsplit(".", 1)[-1] else None
    on_meta = [torch.empty(size, device="meta") for size in (a, b)]
    sides(shape, on_meta[0], on_meta[1], f"{where}: {names.weight}", embedding=embedding)
    mark = said.marks.get(layer, {})
    given = next((value for glob, value in alphas if fnmatch.fnmatchcase(names.weight, glob)), None)
    if mark:
        if given is not None and given != mark["alpha"]:
            what = f"is {given:g}, and the run had {mark['alpha']:g}"
            raise fail("--alpha", what, "leave it out: the checkpoint knows it")
        scaling = float(mark["scaling"])
    elif said.sparse:
        what = f"lacks the mark {MARK!r} that a run with {SPARSE_LORA} leaves"
        raise fail(where, what, "use the checkpoint as the run wrote it")
    else:
        scaling = (_alpha(where, said) if given is None else given) / a[0]
    if scaling == 0:
        raise fail(f"{where}: alpha", "is 0, so the factors count for nothing", "give the alpha of the run")
    trained = _TRAINED[str(mark.get("mode", "sparse_to_dense"))]
    return Factors(*names, a[0], scaling, trained, embedding)


def _alpha(where: str, said: Recorded) -> float:
    distinct = set(said.alphas)
    if len(distinct) == 1:
        return said.alphas[0]
    if not distinct:
        raise fail(f"{where}: alpha", "is not recorded in this checkpoint", "give the run's: --alpha 32")
    what = f"the run had several ({', '.join(f'{a:g}' for a in said.alphas)})"
    raise fail(f"{where}: alpha", what, "say which is whose: --alpha '*.proj_q_dense_layer.weight=32' ...")


def _each_once(problems: list[Problem]) -> Iterator[Problem]:
    """An alpha that is not recorded is missing for every layer."""
    yield from dict.fromkeys(problems)
