"""The table: one row per configuration, the same numbers in every format.

Measured, estimated and failed stand in different columns. A row without a finished run has its state and
reason, and no numbers.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from experiments.compare.flops import flop_ratio
from experiments.compare.groups import Group
from experiments.compare.metrics import TOLERANCE, Metric
from experiments.stats import Comparison, Estimate, estimate, holm, paired
from experiments.tables import duration


@dataclass(frozen=True)
class Cell:
    """A metric of a row, over the seeds that finished."""

    value: Estimate  # its n is that of the interval: of samples that have this metric
    change: float | None  # relative to the baseline's mean, positive = worse
    test: Comparison | None  # paired by seed; None for the baseline itself


@dataclass(frozen=True)
class Row:
    group: Group
    cells: Mapping[str, Cell]  # by name of the metric; none where no run has it
    flops: float | None  # of a training step, against dense: estimated
    samples_per_second: float | None  # measured
    seconds: float | None

    @property
    def n(self) -> int:
        """Of the first metric that the row has: where another has fewer, its cell says so."""
        return next((cell.value.n for cell in self.cells.values()), self.group.n)

    @property
    def state(self) -> str:
        counts: dict[str, int] = {}
        for run in self.group.runs:
            counts[run.state] = counts.get(run.state, 0) + 1
        return ", ".join(
            state if count == 1 == len(counts) else f"{count} {state}" for state, count in counts.items()
        )

    @property
    def reason(self) -> str:
        said = dict.fromkeys(" ".join(run.reason.split()) for run in self.group.runs if run.reason)
        return "; ".join(said)


def rows_of(groups: Sequence[Group], metrics: Sequence[Metric]) -> list[Row]:
    tests = {metric.name: _tests(groups, metric) for metric in metrics}
    return [_row(group, metrics, tests) for group in groups]


def _tests(groups: Sequence[Group], metric: Metric) -> dict[str, Comparison]:
    """Every sparse configuration against its baseline, corrected for their number."""
    return holm(
        {
            group.label: paired(group.by_seed(metric.tag), group.baseline.by_seed(metric.tag))
            for group in groups
            if group.baseline is not None and group.values(metric.tag)
        }
    )


def _row(group: Group, metrics: Sequence[Metric], tests: Mapping[str, Mapping[str, Comparison]]) -> Row:
    cells = {}
    for metric in metrics:
        if values := group.values(metric.tag):
            found = estimate(values)
            cells[metric.name] = Cell(
                found, _change(group, metric, found.mean), tests[metric.name].get(group.label)
            )
    finished = group.finished
    return Row(
        group,
        cells,
        _flops(group),
        group.mean([run.samples_per_second for run in finished]),
        group.mean([run.seconds for run in finished]),
    )


def _change(group: Group, metric: Metric, mean: float) -> float | None:
    theirs = [] if group.baseline is None else group.baseline.values(metric.tag)
    if not theirs or not (dense := estimate(theirs).mean):
        return None
    change = (mean - dense) / abs(dense)
    if not math.isfinite(change):
        return None
    return change if metric.lower_is_better else -change


def _flops(group: Group) -> float | None:
    """None where the runs of a row, grouped by another key, differ in it."""
    known = [ratio for run in group.runs if (ratio := flop_ratio(run)) is not None]
    return group.mean(known) if known and max(known) - min(known) <= TOLERANCE else None


def columns(metrics: Sequence[Metric]) -> dict[str, Callable[[Row], str]]:
    """Head and content of every column, as text."""
    found: dict[str, Callable[[Row], str]] = {
        "configuration": lambda row: row.group.label,
        "n": lambda row: str(row.n),
        "sparsity asked": lambda row: _percent(row.group.requested),
        "found": lambda row: _percent(row.group.effective),
    }
    for index, metric in enumerate(metrics):
        arrow = "↓" if metric.lower_is_better else "↑"
        found[f"{metric.name} {arrow}"] = lambda row, m=metric: _cell(row, m)  # type: ignore[misc]
        if index == 0:
            found["worse by"] = lambda row, m=metric: _worse(row, m)  # type: ignore[misc]
            found["vs dense"] = lambda row, m=metric: _verdict(row, m)  # type: ignore[misc]
    return found | {
        "samples/s": lambda row: _number(row.samples_per_second, "{:.4g}"),
        "FLOPs (est.)": lambda row: _number(row.flops, "{:.3f}"),
        "time": lambda row: duration(row.seconds),
        "state": lambda row: row.state,
    }


def _cell(row: Row, metric: Metric) -> str:
    cell = row.cells.get(metric.name)
    if cell is None:
        return ""
    mean = f"{cell.value.mean:.{metric.digits}f}"
    said = mean if cell.value.half is None else f"{mean} ± {cell.value.half:.{metric.digits}f}"
    return said if cell.value.n == row.n else f"{said} (n = {cell.value.n})"


def _worse(row: Row, metric: Metric) -> str:
    cell = row.cells.get(metric.name)
    if cell is None or cell.change is None:
        return ""
    percent = f"{100 * cell.change:+.1f}"
    return "0.0 %" if float(percent) == 0 else f"{percent} %"


def _verdict(row: Row, metric: Metric) -> str:
    cell = row.cells.get(metric.name)
    if cell is None or cell.test is None:
        return "baseline" if row.group.dense and cell is not None else ""
    return cell.test.verdict if cell.test.p_holm is None else f"p = {cell.test.p_holm:.2g}"


def _percent(value: float | None) -> str:
    return "?" if value is None else f"{100 * value:.2f} %"


def _number(value: float | None, form: str) -> str:
    return "" if value is None else form.format(value)
