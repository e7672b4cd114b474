"""Curves over steps for pictures: means over bins of steps, and over the seeds of a configuration.

A training loss is noise around a line. Some of its points show the noise; their means show the line.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from experiments.compare.groups import Group
from experiments.report.chart import drawable
from experiments.runs.record import Points, RunRecord

_BINS = 60  # of a picture: more would show noise again
_FEWEST = 20
_EACH = 4  # points in a bin, where there are that many
_TOGETHER = 24_000  # points of a picture
_STOPPED = ("failed", "killed", "lost", "interrupted")


@dataclass(frozen=True)
class Bin:
    first: int  # the steps that it covers
    last: int
    value: float

    @property
    def step(self) -> float:
        return (self.first + self.last) / 2

    @property
    def said(self) -> str:
        steps = f"{self.first}" if self.first == self.last else f"{self.first}–{self.last}"
        return f"{steps}:{self.value:.6g}"


@dataclass(frozen=True)
class Curve:
    """The mean of runs of a configuration that got equally far, or one run that did not."""

    row: int
    runs: tuple[RunRecord, ...]
    bins: tuple[Bin, ...]

    @property
    def stopped(self) -> bool:
        """It ends where something went wrong."""
        return self.runs[0].state in _STOPPED


def curves_of(groups: Sequence[Group], tag: str) -> list[Curve]:
    """For each configuration the mean of its seeds. Runs that failed, or are not yet so far, stand alone:
    a mean over fewer seeds from some step on would jump there.
    """
    found = [(row, run, points) for row, group in enumerate(groups) for run, points in _known(group, tag)]
    if not found:
        return []
    steps = [step for _, _, points in found for step, _ in points]
    low, high = min(steps), max(steps)
    most = max(len(points) for _, _, points in found)
    count = max(_FEWEST, min(_BINS, most // _EACH, _TOGETHER // len(found)))
    width = (high - low) / count or 1.0

    def place(step: float) -> int:
        return min(count - 1, int((step - low) / width))

    alike: dict[tuple[int, int, str], list[tuple[RunRecord, Points]]] = {}
    for row, run, points in found:
        alone = run.path if run.state in _STOPPED else ""
        alike.setdefault((row, place(points[-1][0]), alone), []).append((run, points))
    curves = []
    for (row, _, _), of in alike.items():
        binned: dict[int, list[Points]] = {}
        for _, points in of:
            mine: dict[int, Points] = {}
            for point in points:
                mine.setdefault(place(point[0]), []).append(point)
            for number, inside in mine.items():
                binned.setdefault(number, []).append(inside)
        bins = tuple(_mean(binned[number]) for number in sorted(binned))
        curves.append(Curve(row, tuple(run for run, _ in of), bins))
    return curves


def _known(group: Group, tag: str) -> Iterable[tuple[RunRecord, Points]]:
    """Runs with two points at least that can be drawn; as in the table, of a repeated seed the first."""
    samples = {id(run) for run in group.samples}
    for run in group.runs:
        points = [point for point in run.curves.get(tag, []) if drawable(point[1])]
        if len(points) > 1 and (run.state != "finished" or id(run) in samples):
            yield run, sorted(points)


def _mean(seeds: Sequence[Points]) -> Bin:
    """Every seed counts the same, however many points it has."""
    steps = [step for points in seeds for step, _ in points]
    means = [sum(value for _, value in points) / len(points) for points in seeds]
    return Bin(int(min(steps)), int(max(steps)), sum(means) / len(means))
