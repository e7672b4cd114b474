"""From a sweep's spec to its runs: the grid and the points, what is excluded, and the dense baseline."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from experiments.sweep.point import Point, name_of
from experiments.sweep.spec import SweepSpec
from pruning.planning.amount import parse_sparsity
from pruning.planning.spec import MaskSpec
from pruning.problems import Problem, ProblemError, fail


@dataclass(frozen=True)
class PlannedRun:
    name: str
    point: Point

    @property
    def folder(self) -> str:
        """Below the sweep's directory: seeds are siblings."""
        return f"{self.name}/seed{self.point.seed}"


def expand(spec: SweepSpec, base: Mapping[str, Any]) -> list[PlannedRun]:
    """Baselines first. ``base`` is the ``trainer`` of the base config."""
    points = list({repr(point): point for point in [*spec.axes.grid(), *spec.points]}.values())
    if not points:
        fix = "write `axes: {masks: {sparsity: [0.5, 0.75]}}`"
        raise fail(spec.path, "has no masks: there is nothing to compare with the baseline", fix)
    problems = []
    for index, partial in enumerate(spec.exclude):
        left = [point for point in points if not _matches(point, partial)]
        if len(left) == len(points):
            what = f"{partial} matches none of the {len(points)} combinations left, and has no effect"
            problems.append(Problem(f"{spec.path}: exclude[{index}]", what, "remove it, or mend it"))
        points = left
    if not points and not problems:
        problems.append(Problem(f"{spec.path}: exclude", "leaves nothing", "exclude less"))
    if problems:
        raise ProblemError(problems)
    dense = {repr(one): one for one in map(_dense, points)}
    in_base = {key: found for point in points for key in point.settings if (found := _at(base, key)) != ()}
    in_base |= spec.settings
    return [PlannedRun(name_of(point, in_base), point) for point in [*dense.values(), *points]]


def _dense(point: Point) -> Point:
    """Same settings, same seed, and nothing of sparsity."""
    return Point(settings=point.settings, seed=point.seed)


def _matches(point: Point, partial: Mapping[str, Any]) -> bool:
    for axis, wanted in partial.items():
        if axis == "masks":
            if point.masks is None or not _mask_matches(point.masks, wanted):
                return False
        elif axis == "set":
            if any(point.settings.get(key, ()) != value for key, value in dict(wanted).items()):
                return False
        elif axis == "lora" and isinstance(wanted, Mapping):
            if point.lora is None or any(point.lora.get(key) != value for key, value in wanted.items()):
                return False
        elif getattr(point, axis) != wanted:
            return False
    return True


def _mask_matches(masks: MaskSpec, wanted: Any) -> bool:
    if not isinstance(wanted, Mapping):
        raise fail("exclude", f"masks: {wanted!r} is no map", "write `masks: {sparsity: 0.9}`")
    if unknown := set(wanted) - {one.name for one in fields(masks)}:
        raise fail("exclude", f"masks has no {', '.join(map(str, unknown))}", "name options of masks")
    asked = dict(wanted)
    if asked.get("sparsity") is not None:
        asked["sparsity"] = parse_sparsity(asked["sparsity"], "exclude: sparsity")
    return all(getattr(masks, key) == value for key, value in asked.items())


def _at(params: Mapping[str, Any], path: str) -> Any:
    """() where there is nothing: None is a value."""
    found: Any = params
    for step in path.split("."):
        if isinstance(found, Mapping) and step in found:
            found = found[step]
        elif isinstance(found, Sequence) and not isinstance(found, str) and step.isdigit():
            found = found[int(step)] if int(step) < len(found) else ()
        else:
            return ()
    return found
