"""What a sweep leaves out: partial combinations, checked like the axes that they cut."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from experiments.sweep.axes import (
    collected,
    mask_options,
    mode_problems,
    parse_settings,
    seeds_of,
    unknown_axes,
    values_of,
)
from experiments.sweep.point import Point, plain_path
from pruning.planning.patterns import NOfM, parse_pattern
from pruning.planning.spec import MaskSpec
from pruning.problems import Problem, ProblemError, fail
from pruning.strict_yaml import Document


@dataclass(frozen=True)
class Exclusion:
    """Each axis that it names has the values of which one has to be a point's; None is an axis not named."""

    where: str
    written: Mapping[str, Any]
    masks: tuple[Mapping[str, Any], ...] | None
    lora: tuple[Mapping[str, Any] | None, ...] | None
    modes: tuple[Any, ...] | None
    settings: Mapping[str, Any]
    seeds: tuple[int, ...] | None

    def matches(self, point: Point) -> bool:
        settings = {plain_path(key): value for key, value in point.settings.items()}
        return (
            (self.masks is None or any(_has(point.masks, options) for options in self.masks))
            and (self.lora is None or any(_has_lora(point.lora, lora) for lora in self.lora))
            and (self.modes is None or point.mode in self.modes)
            and (self.seeds is None or point.seed in self.seeds)
            and all(
                key in settings and (settings[key] == value or settings[key] in values_of(value))
                for key, value in self.settings.items()
            )
        )


def parse_exclude(document: Document, entries: Sequence[Any]) -> list[Exclusion]:
    found: list[Exclusion] = []
    problems: list[Problem] = []
    for index, entry in enumerate(entries):
        try:
            found.append(_exclusion(document, f"exclude[{index}]", entry))
        except ProblemError as error:
            problems += error.problems
    if problems:
        raise ProblemError(problems)
    return found


def left(points: Sequence[Point], exclude: Sequence[Exclusion], path: str) -> list[Point]:
    """Those that none of them names. One that names nothing at all is a mistake."""
    problems = [
        Problem(
            one.where,
            f"{dict(one.written)} matches none of the {len(points)} combinations, and has no effect",
            "remove it, or mend it",
        )
        for one in exclude
        if not any(map(one.matches, points))
    ]
    remaining = [point for point in points if not any(one.matches(point) for one in exclude)]
    if not remaining:
        problems.append(Problem(f"{path}: exclude", "leaves nothing", "exclude less"))
    if problems:
        raise ProblemError(problems)
    return remaining


def _exclusion(document: Document, key: str, entry: Any) -> Exclusion:
    if not isinstance(entry, dict) or not entry:
        raise fail(document.at(key), f"{entry!r} is no part of a combination", "write `masks: {...}`")
    problems = [*unknown_axes(document, key, entry)]
    masks = lora = modes = seeds = None
    if "masks" in entry:
        masks = collected(problems, lambda: tuple(_masks(document, f"{key}.masks", entry["masks"])))
    if "lora" in entry:
        lora = tuple(values_of(entry["lora"]))
        if not all(one is None or isinstance(one, dict) for one in lora):
            what = f"{entry['lora']!r} is no part of lora_params"
            problems.append(Problem(document.at(f"{key}.lora"), what, "write null, or a map such as {r: 8}"))
    if "mode" in entry:
        modes = tuple(values_of(entry["mode"]))
        problems += mode_problems(document, f"{key}.mode", modes)
    settings = collected(problems, lambda: parse_settings(document, f"{key}.set", entry.get("set")))
    if "seed" in entry:
        seeds = collected(problems, lambda: tuple(seeds_of(document, f"{key}.seed", entry["seed"])))
    if problems:
        raise ProblemError(problems)
    plain = {plain_path(name): value for name, value in settings.items()}
    return Exclusion(document.at(key), entry, masks, lora, modes, plain, seeds)


def _masks(document: Document, key: str, given: Any) -> Iterator[Mapping[str, Any]]:
    options = mask_options(document, key, given)
    for values in product(*options.values()):
        asked = dict(zip(options, values, strict=True))
        try:
            if "sparsity" in asked and isinstance(parse_pattern(asked.get("pattern", "unstructured")), NOfM):
                # The pattern says it: masks of it carry none, whether it was written or not.
                asked["sparsity"] = MaskSpec(pattern=asked["pattern"], sparsity=asked["sparsity"]).sparsity
        except (ValueError, LookupError) as error:
            raise fail(document.at(key), str(error), "mend it, or write two entries") from None
        yield asked


def _has(masks: MaskSpec | None, options: Mapping[str, Any]) -> bool:
    return masks is not None and all(getattr(masks, name) == value for name, value in options.items())


def _has_lora(lora: Mapping[str, Any] | None, asked: Mapping[str, Any] | None) -> bool:
    if asked is None or lora is None:
        return asked is None and lora is None
    return all(name in lora and lora[name] == value for name, value in asked.items())
