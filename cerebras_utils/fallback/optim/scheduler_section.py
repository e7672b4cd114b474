"""The ``schedulers:`` section of a YAML: its names and keys, and what is wrong with it."""

from collections.abc import Iterator, Mapping
from itertools import accumulate, combinations
from typing import Any

from cerebras_utils.fallback.optim.fields import (
    RATE,
    Field,
    count,
    field_problems,
    filled,
    flag,
    lookup,
    optional,
    single,
    tags,
)
from cerebras_utils.fallback.optim.schedulers import (
    ConstantLR,
    CosineDecayLR,
    LinearLR,
    ScalePerParamLR,
    Scheduler,
    SequentialLR,
)
from pruning.problems import Problem

_LINE = {
    "initial_learning_rate": Field(RATE, required=True),
    "end_learning_rate": Field(RATE, required=True),
}
_TAGS = {"param_group_tags": Field(tags)}
_SCHEDULERS: dict[str, tuple[type[Scheduler], dict[str, Field]]] = {
    "ConstantLR": (
        ConstantLR,
        {"learning_rate": Field(RATE, required=True), "total_iters": Field(optional(count())), **_TAGS},
    ),
    "LinearLR": (
        LinearLR,
        {**_LINE, "total_iters": Field(count(), required=True), "cycle": Field(flag, False), **_TAGS},
    ),
    # No steps of a cosine would be a division by zero.
    "CosineDecayLR": (CosineDecayLR, {**_LINE, "total_iters": Field(count(1), required=True), **_TAGS}),
    "SequentialLR": (
        SequentialLR,
        {
            "schedulers": Field(
                lambda value: "" if isinstance(value, list) and value else "a list of schedulers",
                required=True,
            ),
            "milestones": Field(
                lambda value: (
                    "" if isinstance(value, list) else "the list of steps at which the schedule changes"
                )
            ),
            **_TAGS,
        },
    ),
    "ScalePerParamLR": (
        ScalePerParamLR,
        {
            "scheduler": Field(
                lambda value: "" if isinstance(value, Mapping) else "a scheduler", required=True
            ),
            **_TAGS,
        },
    ),
}
_OTHER_SCHEDULERS = (
    *("PolynomialLR", "ExponentialLR", "InverseExponentialTimeDecayLR", "InverseSquareRootDecayLR"),
    *("PiecewiseConstantLR", "MultiStepLR", "StepLR", "CosineAnnealingLR", "LambdaLR", "ChainedLR"),
    *("CosineAnnealingWarmRestartsLR", "MultiplicativeLR", "ChainedScheduler", "CyclicLR", "OneCycleLR"),
)
_FORM = "- ConstantLR: {learning_rate: 1.0e-4}"


def read_scheduler(section: Mapping[str, Any]) -> tuple[type[Scheduler], dict[str, Any]]:
    ((name, given),) = section.items()
    cls, fields = next(known for proper, known in _SCHEDULERS.items() if proper.lower() == name.lower())
    return cls, filled(given, fields)


def milestones_of(schedulers: list[Mapping[str, Any]]) -> list[int]:
    return list(accumulate(int(read_scheduler(inner)[1]["total_iters"]) for inner in schedulers[:-1]))


def scheduler_problems(params: Any, where: str) -> list[Problem]:
    """cszoo takes a list alone, so one scheduler that is not in a list is a problem here too."""
    if params is None:
        return []
    if not isinstance(params, list):
        fix = f"write it as a list of one: `{_FORM}`"
        return [Problem(where, "is not a list, and cszoo takes nothing else", fix)]
    problems = [
        p for index, entry in enumerate(params) for p in _scheduler_problems(entry, f"{where}[{index}]")
    ]
    if not problems:
        problems += _overlaps(params, where)
    return problems


def _scheduler_problems(entry: Any, where: str) -> list[Problem]:
    found = single(entry, where, "scheduler", _FORM)
    if isinstance(found, Problem):
        return [found]
    name, given = found
    proper = lookup(name, _SCHEDULERS, _OTHER_SCHEDULERS, f"{where}.{name}", "scheduler")
    if isinstance(proper, Problem):
        return [proper]
    where = f"{where}.{name}"
    problems = list(field_problems(given, _SCHEDULERS[proper][1], where))
    if proper == "SequentialLR" and isinstance(given.get("schedulers"), list):
        nested = list(_nested_problems(given["schedulers"], f"{where}.schedulers"))
        problems += nested
        if not problems and "milestones" in given:
            milestones = milestones_of(given["schedulers"])
            if list(given["milestones"]) != milestones:
                what = f"{given['milestones']}, but the total_iters of the schedulers add up to {milestones}"
                problems.append(Problem(f"{where}.milestones", what, f"remove it, or write {milestones}"))
    if proper == "ScalePerParamLR" and isinstance(given.get("scheduler"), Mapping):
        problems += _scheduler_problems(given["scheduler"], f"{where}.scheduler")
        problems += _nested_tags(given["scheduler"], f"{where}.scheduler")
    return problems


def _nested_problems(schedulers: list[Any], where: str) -> Iterator[Problem]:
    for index, entry in enumerate(schedulers):
        inner = f"{where}[{index}]"
        if problems := _scheduler_problems(entry, inner):
            yield from problems
            continue
        ((name, given),) = entry.items()
        cls, _ = read_scheduler(entry)
        if cls in (SequentialLR, ScalePerParamLR):
            what = "would stay at its first step: cstorch does not advance the schedulers inside of it"
            yield Problem(f"{inner}.{name}", what, "write its schedulers into the outer list")
        elif index < len(schedulers) - 1 and given.get("total_iters") is None:
            what = "is missing: only the last schedule of a SequentialLR may go on for ever"
            yield Problem(f"{inner}.{name}.total_iters", what, "add total_iters, the number of its steps")
        yield from _nested_tags(entry, inner)


def _nested_tags(entry: Mapping[str, Any], where: str) -> Iterator[Problem]:
    for name, given in entry.items():
        if isinstance(given, Mapping) and given.get("param_group_tags") is not None:
            what = "stands in a scheduler inside of another"
            yield Problem(f"{where}.{name}.param_group_tags", what, "write it in the outer one alone")


def _overlaps(params: list[Mapping[str, Any]], where: str) -> Iterator[Problem]:
    """Two schedulers of one learning rate, which ModelZoo refuses."""
    given = [read_scheduler(entry)[1].get("param_group_tags") for entry in params]
    for (i, one), (j, two) in combinations(enumerate(given), 2):
        one, two = (set(t) if isinstance(t, list) else {t} if t is not None else None for t in (one, two))
        if one is None or two is None or one & two:
            yield Problem(
                f"{where}[{j}]",
                f"sets a learning rate that {where}[{i}] sets as well",
                "put them into one SequentialLR, or give them different param_group_tags",
            )
