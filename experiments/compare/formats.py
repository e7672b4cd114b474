"""The table as text, CSV, Markdown, LaTeX and JSON: the same numbers, and why a row has none."""

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from cerebras_utils.run_receipt import as_json_number
from experiments.compare.metrics import Metric
from experiments.compare.table import Cell, Row, columns
from experiments.compare.warned import Warned
from experiments.tables import table


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

    found = {"warnings": [asdict(w) for w in warnings], "rows": [plain(row) for row in rows]}
    return dict(finite(found))


def finite(value: Any) -> Any:
    """The same for JSON, which has no NaN and no infinity: they are text."""
    if isinstance(value, Mapping):
        return {key: finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [finite(inner) for inner in value]
    return as_json_number(value) if isinstance(value, float) else value


def as_text(rows: Sequence[Row], metrics: Sequence[Metric]) -> str:
    heads = columns(metrics)
    lines = [[cell(row) for cell in heads.values()] for row in rows]
    text = table(list(heads), lines, right=range(1, len(heads) - 1))
    reasons = _reasons(rows)
    return "\n".join([text, *(["", *reasons] if reasons else [])])


def _reasons(rows: Sequence[Row]) -> list[str]:
    return [f"{row.group.label}: {row.reason}" for row in rows if row.reason]


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
            f"{metric.name}_n",
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
        line += [row.n, group.requested, group.effective]
        for metric in metrics:
            cell = row.cells.get(metric.name)
            line += (
                [""] * 5
                if cell is None
                else [cell.value.mean, cell.value.half, cell.change, _p(cell), cell.value.n]
            )
        writer.writerow([*line, row.samples_per_second, row.flops, row.seconds])
    return out.getvalue()


def as_markdown(rows: Sequence[Row], metrics: Sequence[Metric]) -> str:
    heads = columns(metrics)
    lines = [heads, ["---", *["---:"] * (len(heads) - 2), "---"]]
    lines += [[cell(row).replace("|", "\\|") for cell in heads.values()] for row in rows]
    listed = [f"- {reason}" for reason in _reasons(rows)]
    table_lines = [f"| {' | '.join(line)} |" for line in lines]
    return "\n".join([*table_lines, *(["", *listed] if listed else [])]) + "\n"


_LATEX = {"\\": r"\textbackslash{}", **{c: f"\\{c}" for c in "&%$#_{}"}}
_LATEX |= {"~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$", "↓": r"$\downarrow$"}
_LATEX |= {"↑": r"$\uparrow$", "<": r"\textless{}", ">": r"\textgreater{}", "…": r"\dots{}"}


def as_latex(rows: Sequence[Row], metrics: Sequence[Metric]) -> str:
    heads = columns(metrics)

    def escaped(text: str) -> str:
        return "".join(_LATEX.get(c, c) for c in text)

    def line(cells: Sequence[str]) -> str:
        return " & ".join(map(escaped, cells)) + r" \\"

    spec = "l" + "r" * (len(heads) - 2) + "l"
    body = [line([cell(row) for cell in heads.values()]) for row in rows]
    parts = [rf"\begin{{tabular}}{{{spec}}}", r"\hline", line(list(heads)), r"\hline", *body, r"\hline"]
    reasons = [rf"\par{{\footnotesize {escaped(reason)}\par}}" for reason in _reasons(rows)]
    return "\n".join([*parts, r"\end{tabular}", *reasons, ""])


def _p(cell: Cell) -> float | None:
    return None if cell.test is None else cell.test.p_holm
