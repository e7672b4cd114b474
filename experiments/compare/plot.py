"""A small picture for terminals: the metric against sparsity, a letter for each configuration."""

import math
import string
from collections.abc import Sequence

from experiments.compare.metrics import Metric
from experiments.compare.table import Row

_WIDTH, _HEIGHT = 60, 14
_MANY = 10.0  # times between the best and the worst value: from there on the axis is logarithmic


def plot(rows: Sequence[Row], metric: Metric) -> str:
    """Nothing where fewer than two rows have the metric and a known sparsity."""
    points = [
        (sparsity, row.cells[metric.name].value.mean, row)
        for row in rows
        if metric.name in row.cells and (sparsity := _sparsity(row)) is not None
    ]
    points = [point for point in points if math.isfinite(point[1])]
    if len(points) < 2:
        return ""
    xs, ys = [x for x, _, _ in points], [y for _, y, _ in points]
    logarithmic = min(ys) > 0 and max(ys) / min(ys) > _MANY
    scale = math.log if logarithmic else float
    low, high = scale(min(ys)), scale(max(ys))
    left, right = min(xs), max(xs)
    field = [[" "] * _WIDTH for _ in range(_HEIGHT)]
    legend = []
    for number, (x, y, row) in enumerate(points):
        letter = string.ascii_letters[number] if number < len(string.ascii_letters) else "+"
        column = round((_WIDTH - 1) * (x - left) / (right - left or 1))
        line = round((_HEIGHT - 1) * (high - scale(y)) / (high - low or 1))
        field[line][column] = letter if field[line][column] == " " else "*"
        if letter != "+":
            legend.append(f"  {letter}  {row.group.label}")
    if (left_over := len(points) - len(legend)) > 0:
        legend.append(f"  +  {left_over} more: there are no more letters")
    margin = max(len(f"{value:.4g}") for value in (min(ys), max(ys)))
    lines = [f"{metric.name}{' (logarithmic)' if logarithmic else ''}"]
    for number, cells in enumerate(field):
        said = {0: f"{max(ys):.4g}", _HEIGHT - 1: f"{min(ys):.4g}"}.get(number, "")
        lines.append(f"{said:>{margin}} │{''.join(cells)}".rstrip())
    lines.append(f"{'':>{margin}} └{'─' * _WIDTH}")
    ends = f"{100 * left:.0f} %".ljust(_WIDTH - 6) + f"{100 * right:.0f} %".rjust(6)
    lines.append(f"{'':>{margin}}  {ends}")
    lines.append(f"{'':>{margin}}  sparsity of the masked weights (* = several)")
    return "\n".join([*lines, *legend])


def _sparsity(row: Row) -> float | None:
    """Found, where it was counted; 0 for a dense run; asked otherwise."""
    found = row.group.effective
    return row.group.requested if found is None else found
