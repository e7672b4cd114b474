"""The vendor's own sparsity algorithms: what they are told, and what ``LogSparsity`` found beside them."""

import json
import math
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from cerebras_utils.checks.case import Shapes, number, section
from experiments.runs.model_sizes import model_sizes
from experiments.runs.record import Sparsity

if TYPE_CHECKING:
    from cerebras_utils.checks.sparsity import Group

_ENDING = "/actual"


def native_sparsity(init: Mapping[str, Any], last: Mapping[str, tuple[int, float]]) -> Sparsity:
    """``requested`` is over all weights that are taken; None where a schedule changes one."""
    layers = {
        tag.removeprefix("sparsity/").removesuffix(_ENDING): value
        for tag, (_, value) in last.items()
        if tag.startswith("sparsity/") and tag.endswith(_ENDING)
    }
    model = section(init, "model")
    shapes = _shapes(json.dumps(model, sort_keys=True, default=str))
    sizes = {name: math.prod(shape) for name, shape in shapes.items()}
    groups = _groups(init["sparsity"])
    notes = ["native sparsity"]
    requested, masked = None, 0
    if groups is None:
        notes.append("written in a form that is not known")
    elif not groups:
        return Sparsity(requested=0.0, note="dense: its `sparsity:` is empty")
    elif shapes:
        asked = _asked(groups, shapes)
        requested, masked = _mean(asked, sizes), sum(sizes[name] for name in asked)
    else:
        requested, masked = _of_unknown_model(groups, model)
        notes += [] if requested is not None else ["how many weights it takes is not known"]
    effective = _mean(layers, sizes)
    if not layers:
        notes.append("not counted: add the callback LogSparsity")
    elif effective is None:
        notes.append("counted by layer, of sizes that are not known")
    return Sparsity(
        requested=requested,
        effective=effective,
        masked=masked,
        layers=layers,
        mask="native",
        note=", ".join(notes),
    )


def _groups(written: Any) -> list["Group"] | None:
    """Those that are not null, which is dense; None where one is no sparsity at all."""
    from cerebras_utils.checks.sparsity import Group

    if isinstance(written, Mapping) and "groups" in written:
        written = written["groups"]
    groups = []
    for entry in written if isinstance(written, list) else [written]:
        entry = {"sparsity": entry} if type(entry) in (int, float) else entry
        if not isinstance(entry, Mapping):
            return None
        groups.append(Group("", {**entry, **section(entry, "params")}))
    return [group for group in groups if group.level is not None]


@lru_cache(maxsize=64)
def _shapes(model: str) -> Shapes:
    """Once for all the runs of a model; {} for one that is not known."""
    from cerebras_utils.checks.weights import weights_of_section

    return weights_of_section(json.loads(model), "model") or {}


def _asked(groups: Sequence["Group"], shapes: Shapes) -> dict[str, float | None]:
    """By weight, of the first group that takes it; None for what is no constant."""
    first = {
        name: next((group for group in groups if group.matches(name, shape)), None)
        for name, shape in shapes.items()
    }
    return {name: number(group.level) for name, group in first.items() if group is not None}


def _of_unknown_model(groups: Sequence["Group"], model: Mapping[str, Any]) -> tuple[float | None, int]:
    """By the vendor's default filter, all linear layers of a decoder; with names in it, nobody knows."""
    levels = {number(group.level) for group in groups}
    sizes = model_sizes(model)
    if len(levels) != 1 or (sizes is not None and any(group.filters is not None for group in groups)):
        return None, 0
    return levels.pop(), 0 if sizes is None else round(sizes[0])


def _mean(levels: Mapping[str, float | None], sizes: Mapping[str, int]) -> float | None:
    """Over weights; where their sizes are not known, what they all have."""
    known = [level for level in levels.values() if level is not None]
    if not known or len(known) < len(levels):
        return None
    if len(set(known)) == 1:
        return known[0]
    if not levels.keys() <= sizes.keys():
        return None
    total = sum(sizes[name] for name in levels)
    return sum(level * sizes[name] for level, name in zip(known, levels, strict=True)) / total
