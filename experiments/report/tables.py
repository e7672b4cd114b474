"""The two tables of the page: a line for each configuration, and one for each run."""

from collections.abc import Callable
from datetime import UTC, datetime

from experiments.compare.metrics import Metric
from experiments.compare.table import Row, columns
from experiments.report.grid import Cell, Column, Line, grid, state
from experiments.report.markup import Markup, element, join
from experiments.report.study import Study
from experiments.report.styles import swatch
from experiments.runs.record import RunRecord

_NOTES = {
    "n": "seeds that finished",
    "sparsity asked": "of the masked weights, by the mask file or the native algorithm",
    "found": "zeros counted in the last checkpoint, over the same weights",
    "worse by": "against the mean of the baseline; + is worse, whichever way the metric goes",
    "vs dense": "paired by seed, Holm's correction over all rows",
    "samples/s": "measured, while training",
    "FLOPs (est.)": "of a training step against a dense one, estimated from the config",
    "time": "wall time of all launches, measured",
}


def configurations(study: Study) -> Markup:
    texts, sorts = columns(study.metrics), sort_values(study)
    heads = [head for head in texts if head not in ("configuration", "state")]
    described = [
        Column(head, _NOTES.get(head, ""), True, "wrap" if head == "vs dense" else "") for head in heads
    ]
    lines = []
    for number, row in enumerate(study.rows):
        words = list(dict.fromkeys(run.state for run in row.group.runs))
        sign = swatch(study.style(number))
        cells = [Cell(join([sign, row.group.label]), row.group.label), Cell(_states(row), row.state)]
        cells += [Cell(texts[head](row), sorts[head](row)) for head in heads]
        lines.append(Line(cells, number, words, first=True))
    return grid("configurations", [Column("configuration"), Column("state"), *described], lines)


def sort_values(study: Study) -> dict[str, Callable[[Row], float | str | None]]:
    """By what each column of numbers sorts."""
    found: dict[str, Callable[[Row], float | str | None]] = {
        "n": lambda row: row.group.n,
        "sparsity asked": lambda row: row.group.requested,
        "found": lambda row: row.group.effective,
        "samples/s": lambda row: row.samples_per_second,
        "FLOPs (est.)": lambda row: row.flops,
        "time": lambda row: row.seconds,
    }
    for index, metric in enumerate(study.metrics):
        arrow = "↓" if metric.lower_is_better else "↑"
        found[f"{metric.name} {arrow}"] = lambda row, m=metric: (  # type: ignore[misc]
            row.cells[m.name].value.mean if m.name in row.cells else None
        )
        if index == 0:
            found["worse by"] = lambda row, m=metric: (  # type: ignore[misc]
                row.cells[m.name].change if m.name in row.cells else None
            )
            found["vs dense"] = lambda row, m=metric: _p(row, m.name)  # type: ignore[misc]
    return found


def every_run(study: Study) -> Markup:
    described = [
        Column("configuration"),
        Column("state"),
        Column("seed", number=True),
        *(Column(metric.name, f"last value of {metric.tag}", True) for metric in study.metrics),
        Column("steps", "reached, of those asked for", True),
        Column("started", "UTC", width="tight"),
        Column("machine", width="tight"),
        Column("directory", width="place"),
    ]
    lines = []
    for (number, run), place in zip(study.runs, study.places, strict=True):
        label = study.rows[number].group.label
        asked = "" if run.steps_asked is None else f" of {run.steps_asked:,}"
        started = "" if run.started is None else f"{datetime.fromtimestamp(run.started, UTC):%Y-%m-%d %H:%M}"
        machine = " on ".join(part for part in (run.backend, run.device) if part)
        reason = element("small", run.reason, class_="reason") if run.reason else None
        cells = [
            Cell(label, label),
            Cell(join([state(run.state), reason]), run.state),
            Cell("" if run.seed is None else run.seed, run.seed),
            *(_last(run, metric) for metric in study.metrics),
            Cell(f"{run.steps:,}{asked}", run.steps),
            Cell(started, started or None),
            Cell(machine, machine),
            Cell(element("span", place, title=run.path), place),
        ]
        lines.append(Line(cells, number, [run.state]))
    return grid("runs", described, lines)


def _last(run: RunRecord, metric: Metric) -> Cell:
    """Of a run that is not finished, with the step that it is from: it is no result."""
    if metric.tag not in run.last:
        return Cell("")
    step, value = run.last[metric.tag]
    said = f"{value:.{metric.digits}f}"
    if run.state != "finished":
        return Cell(join([said, element("small", f" at step {step:,}")]), value)
    return Cell(said, value)


def _states(row: Row) -> Markup:
    counts: dict[str, int] = {}
    for run in row.group.runs:
        counts[run.state] = counts.get(run.state, 0) + 1
    words = [state(word, count if len(row.group.runs) > 1 else None) for word, count in counts.items()]
    reason = element("small", row.reason, class_="reason") if row.reason else None
    return join([join(words, ", "), reason])


def _p(row: Row, metric: str) -> float | None:
    cell = row.cells.get(metric)
    return None if cell is None or cell.test is None else cell.test.p_holm
