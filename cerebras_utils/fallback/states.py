"""Which states of a checkpoint are loaded, from the command line and the YAML alike, and what is not."""

from collections.abc import Iterator, Mapping
from typing import Any

from cerebras_utils.cszoo_yaml import Phase
from cerebras_utils.value_kinds import STATES
from cerebras_utils.vendor_names import with_defaults
from pruning.problems import Problem, ProblemError, fail
from pruning.registry import suggest

ALL = "all"
_BEGINS = {  # what a run that trains does without a state of the checkpoint
    "optimizer": "its moments begin at zero",
    "schedulers": "the config's schedule begins at its start",
    "global_step": "steps are counted from 0",
    "dataloader": "data are read from the first sample",
}


def states_named(given: Any, where: str) -> frozenset[str] | None:
    """As ModelZoo reads them: a list, or names between commas. None: all of them."""
    if not STATES.holds(given):
        raise fail(where, f"{given!r} is not {STATES.says}", "write model, optimizer and so on, or all")
    if isinstance(given, str) and given.lower() == ALL:
        return None
    names = frozenset(given.split(",") if isinstance(given, str) else given)
    if "model" not in names:
        meant = next(filter(None, (suggest(name, ["model"]) for name in sorted(names))), "")
        what = f"{', '.join(sorted(names))} without model: the weights would be random.{meant}"
        raise fail(where, what, "mend the name" if meant else "add model to it")
    return names


def states_asked(phase: Phase, given: str | None) -> frozenset[str] | None:
    """Those of the command line, or else of the callback LoadCheckpointStates."""
    if given is not None:
        return states_named(given, "--load_checkpoint_states")
    named = dict(with_defaults(phase.init.get("callbacks") or [], {}))
    asked = named.get("LoadCheckpointStates", {}).get("load_checkpoint_states", ALL)
    return states_named(asked, phase.where("init.callbacks: LoadCheckpointStates"))


def chosen(tree: Mapping[str, Any], states: frozenset[str] | None, where: str) -> dict[str, Any]:
    """The part of a checkpoint that is asked for. A name that it does not have is an error."""
    if states is None:
        return dict(tree)
    known = [name for name in tree if not name.startswith("__")]
    problems = [
        Problem(
            f"{where}: load_checkpoint_states",
            f"the checkpoint has no state {name!r}.{suggest(name, known)}",
            f"use some of {', '.join(known)}",
        )
        for name in sorted(states.difference(tree))
    ]
    if problems:
        raise ProblemError(problems)
    return {name: value for name, value in tree.items() if name in states}


def not_loaded(
    tree: Mapping[str, Any],
    part: Mapping[str, Any],
    where: str,
    *,
    trains: bool,
    schedulers: int,
) -> Iterator[str]:
    """A line for each thing of a checkpoint that does not come into the run, or is not there.

    ``part``: what was chosen of ``tree``; ``schedulers``: how many the config has.
    """
    left = [name for name in tree if name not in part and not name.startswith("__")]
    if left:
        yield f"of {where} are not loaded, as load_checkpoint_states says: {', '.join(sorted(left))}"
    if not trains:
        return
    for name, begins in _BEGINS.items():
        none = name not in tree or (name == "schedulers" and not tree[name])
        if none and (name != "schedulers" or schedulers):
            yield f"{where} has no {name}: {begins}"
    theirs = len(part.get("schedulers", ()))
    if theirs > schedulers:
        what = f"{theirs - schedulers} of its {theirs} schedulers are" if schedulers else "its schedulers are"
        yield f"{where}: {what} dropped, for the config has {schedulers or 'none'}"
    elif theirs and theirs < schedulers:
        yield f"{where} has {theirs} schedulers, the config {schedulers}: the others begin at their start"
