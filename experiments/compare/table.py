"""The table: one row per configuration, the same numbers in every format.

Measured, estimated and failed stand in different columns. A row without a finished run has its state and
reason, and no numbers.
"""

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from experiments.compare.findings import Warned
from experiments.compare.flops import flop_ratio
from experiments.compare.groups import Group
from experiments.compare.metrics import Metric
from experiments.stats import Comparison, Estimate, estimate, holm, paired
from experiments.tables import duration, table


@dataclass(frozen=True)
class Cell:
    """A metric of a row, over the seeds that finished."""

    value: Estimate
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
    def state(self) -> str:
        counts: dict[str, int] = {}
        for run in self.group.runs:
            counts[run.state] = counts.get(run.state, 0) + 1
        return ", ".join(
            state if count == 1 == len(counts) else f"{count} {state}" for state, count in counts.items()
        )

    @property
    def reason(self) -> str:
        return "; ".join(dict.fromkeys(run.reason for run in self.group.runs if run.reason))


def rows_of(groups: Sequence[Group], metrics: Sequence[Metric]) -> list[Row]:
    tests = {metric.name: _tests(groups, metric) for metric in metrics}
    return [_row(group, metrics, tests) for group in groups]


def _tests(groups: Sequence[Group], metric: Metric) -> dict[str, Comparison]:
    """Every sparse configuration against its baseline, corrected for their number."""
    return holm(
        {
            group.label: paired(group.values(metric.tag), group.baseline.values(metric.tag))
            for group in groups
            if group.baseline is not None and group.values(metric.tag)
        }
    )


def _row(group: Group, metrics: Sequence[Metric], tests: Mapping[str, Mapping[str, Comparison]]) -> Row:
    cells = {}
    for metric in metrics:
        values = list(group.values(metric.tag).values())
        if values:
            found = estimate(values)
            cells[metric.name] = Cell(
                found, _change(group, metric, found.mean), tests[metric.name].get(group.label)
            )
    finished = group.finished
    return Row(
        group,
        cells,
        flop_ratio(group.runs[0]),
        group.mean([run.samples_per_second for run in finished]),
        group.mean([run.seconds for run in finished]),
    )


def _change(group: Group, metric: Metric, mean: float) -> float | None:
    theirs = [] if group.baseline is None else list(group.baseline.values(metric.tag).values())
    if not theirs or not (dense := estimate(theirs).mean):
        return None
    change = (mean - dense) / abs(dense)
    return change if metric.lower_is_better else -change


# Formats


def as_json(rows: Sequence[Row], warnings: Sequence[Warned]) -> dict[str, Any]:
    def plain(row: Row) -> dict[str, Any]:
        group = row.group
        return {
            "label": group.label,
            "baseline": None if group.baseline is None else group.baseline.label,
            "state": row.state,
            "reason": row.reason,
            "requested_sparsity": group.requested,
            "effective_sparsity": group.effective,
            "metrics": {
                name: {
                    **asdict(cell.value),
                    "worse_by": cell.change,
                    "test": None
                    if cell.test is None
                    else {**asdict(cell.test), "verdict": cell.test.verdict},
                }
                for name, cell in row.cells.items()
            },
            "flop_ratio_estimated": row.flops,
            "samples_per_second": row.samples_per_second,
            "seconds": row.seconds,
            "runs": [
                {"path": run.path, "seed": run.seed, "state": run.state, "steps": run.steps}
                for run in group.runs
            ],
        }

    return {"warnings": [asdict(w) for w in warnings], "rows": [plain(row) for row in rows]}


def columns(metrics: Sequence[Metric]) -> dict[str, Callable[[Row], str]]:
    """Head and content of every column, as text."""
    found: dict[str, Callable[[Row], str]] = {
        "configuration": lambda row: row.group.label,
        "n": lambda row: str(row.group.n),
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


def as_text(rows: Sequence[Row], metrics: Sequence[Metric]) -> str:
    heads = columns(metrics)
    lines = [[cell(row) for cell in heads.values()] for row in rows]
    text = table(list(heads), lines, right=range(1, len(heads) - 1))
    reasons = [f"{row.group.label}: {row.reason}" for row in rows if row.reason]
    return "\n".join([text, *(["", *reasons] if reasons else [])])


def as_csv(rows: Sequence[Row], metrics: Sequence[Metric]) -> str:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    heads = ["configuration", "baseline", "state", "reason", "n", "requested_sparsity", "effective_sparsity"]
    for metric in metrics:
        heads += [
            metric.name,
            f"{metric.name}_half_interval",
            f"{metric.name}_worse_by",
            f"{metric.name}_p_holm",
        ]
    writer.writerow([*heads, "samples_per_second", "flop_ratio_estimated", "seconds"])
    for row in rows:
        group = row.group
        line: list[object] = [
            group.label,
            group.baseline.label if group.baseline else "",
            row.state,
            row.reason,
        ]
        line += [group.n, group.requested, group.effective]
        for metric in metrics:
            cell = row.cells.get(metric.name)
            line += (
                ["", "", "", ""]
                if cell is None
                else [cell.value.mean, cell.value.half, cell.change, _p(cell)]
            )
        writer.writerow([*line, row.samples_per_second, row.flops, row.seconds])
    return out.getvalue()


def as_markdown(rows: Sequence[Row], metrics: Sequence[Metric]) -> str:
    heads = columns(metrics)
    lines = [heads, ["---", *["---:"] * (len(heads) - 2), "---"]]
    lines += [[cell(row).replace("|", "\\|") for cell in heads.values()] for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


_LATEX = {"\\": r"\textbackslash{}", **{c: f"\\{c}" for c in "&%$#_{}"}}
_LATEX |= {"~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$", "↓": r"$\downarrow$"}
_LATEX |= {"↑": r"$\uparrow$"}


def as_latex(rows: Sequence[Row], metrics: Sequence[Metric]) -> str:
    heads = columns(metrics)

    def line(cells: Sequence[str]) -> str:
        return " & ".join("".join(_LATEX.get(c, c) for c in cell) for cell in cells) + r" \\"

    spec = "l" + "r" * (len(heads) - 2) + "l"
    body = [line([cell(row) for cell in heads.values()]) for row in rows]
    parts = [rf"\begin{{tabular}}{{{spec}}}", r"\hline", line(list(heads)), r"\hline", *body, r"\hline"]
    return "\n".join([*parts, r"\end{tabular}", ""])


def _p(cell: Cell) -> float | None:
    return None if cell.test is None else cell.test.p_holm


def _cell(row: Row, metric: Metric) -> str:
    cell = row.cells.get(metric.name)
    if cell is None:
        return ""
    mean = f"{cell.value.mean:.{metric.digits}f}"
    return mean if cell.value.half is None else f"{mean} ± {cell.value.half:.{metric.digits}f}"


def _worse(row: Row, metric: Metric) -> str:
    cell = row.cells.get(metric.name)
    return "" if cell is None or cell.change is None else f"{100 * cell.change:+.1f} %"


def _verdict(row: Row, metric: Metric) -> str:
    cell = row.cells.get(metric.name)
    if cell is None or cell.test is None:
        return "baseline" if row.group.dense and cell is not None else ""
    return cell.test.verdict if cell.test.p_holm is None else f"p = {cell.test.p_holm:.2g}"


def _percent(value: float | None) -> str:
    return "?" if value is None else f"{100 * value:.2f} %"


def _number(value: float | None, form: str) -> str:
    return "" if value is None else form.format(value)
