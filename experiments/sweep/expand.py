"""From a sweep's spec to its runs: the grid and the points, what is excluded, and the dense baseline."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from experiments.sweep.exclude import left
from experiments.sweep.point import Point, name_of
from experiments.sweep.spec import SweepSpec
from pruning.problems import fail


@dataclass(frozen=True)
class PlannedRun:
    name: str
    point: Point

    @property
    def folder(self) -> str:
        """Below the sweep's directory: seeds are siblings."""
        return f"{self.name}/seed{self.point.seed}"


def expand(spec: SweepSpec, shared: Mapping[str, Any]) -> list[PlannedRun]:
    """Baselines first. ``shared`` is the trainer as all runs of the sweep have it.

    What is one run is one folder, however it is written and however often.
    """
    points = [*spec.axes.grid(), *spec.points]
    if not points:
        fix = "write `axes: {masks: {sparsity: [0.5, 0.75]}}`"
        raise fail(spec.path, "has no masks: there is nothing to compare with the baseline", fix)
    if spec.exclude:
        points = left(points, spec.exclude, spec.path)
    points = [point.canonical(shared) for point in points]
    runs = [PlannedRun(name_of(point), point) for point in [*map(_dense, points), *points]]
    return list({run.folder: run for run in runs}.values())


def _dense(point: Point) -> Point:
    """Same settings, same seed, and nothing of sparsity."""
    return Point(settings=point.settings, seed=point.seed)
