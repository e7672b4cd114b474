"""How runs got there: the loss of every run over its steps, and how quality recovers from pruning."""

import math
from collections.abc import Iterable, Sequence

import numpy as np

from experiments.report.chart import Picture, Scale, across, level, upwards
from experiments.report.curves import direction
from experiments.report.markup import Markup, element
from experiments.report.study import Study
from experiments.report.styles import outline
from experiments.runs.record import Points

_POINTS = 24_000  # of all curves of a picture together
_FEWEST, _MOST = 60, 300  # of one curve
_MARKED = 40  # a curve of so few points has a mark on each


def loss_curves(study: Study) -> Picture | None:
    """One line for each run that logged its training loss, whatever became of it."""
    curves = _curves(study, "loss", fewest=2)
    if not curves:
        return None
    note = f"{len(curves)} runs, at most {_each(len(curves))} points of each."
    return _picture(study, curves, "Loss while training", "training loss", note, [])


def recovery_curves(study: Study) -> list[Picture]:
    """For each metric that runs validated more than once, beside what the dense runs ended with."""
    found = []
    for metric in study.metrics:
        if not metric.tag.startswith("validate"):
            continue
        curves = _curves(study, metric.tag, fewest=2)
        if curves:
            dense = [
                (row.group.label, row.cells[metric.name].value.mean)
                for row in study.rows
                if row.group.dense and metric.name in row.cells
            ]
            note = f"{len(curves)} runs were validated more than once. Dashed across: where dense runs ended."
            title = f"Recovery: {metric.name} while training"
            found.append(
                _picture(study, curves, title, f"{metric.name} ({direction(metric)})", note, dense[:3])
            )
    return found


def _each(curves: int) -> int:
    return max(_FEWEST, min(_MOST, _POINTS // curves))


def _curves(study: Study, tag: str, *, fewest: int) -> dict[int, Points]:
    """By number of the run; without the points that have no finite value."""
    found = {}
    for number, (_, run) in enumerate(study.runs):
        points = [point for point in run.curves.get(tag, []) if math.isfinite(point[1])]
        if len(points) >= fewest:
            found[number] = points
    return {number: _thinned(points, _each(len(found))) for number, points in found.items()}


def _thinned(points: Points, most: int) -> Points:
    if len(points) <= most:
        return points
    return [points[i] for i in np.unique(np.linspace(0, len(points) - 1, most).round().astype(int))]


def _picture(
    study: Study,
    curves: dict[int, Points],
    title: str,
    y_title: str,
    note: str,
    levels: Sequence[tuple[str, float]],
) -> Picture:
    points = [point for curve in curves.values() for point in curve]
    finite = [(name, value) for name, value in levels if math.isfinite(value)]
    x = across("step", [step for step, _ in points])
    y = upwards(y_title, [*(value for _, value in points), *(value for _, value in finite)])
    lines = [_line(study, number, curve, x, y) for number, curve in curves.items()]
    crowded = "crowd" if len(curves) > 30 else ""
    content = [
        element("g", *lines, class_=crowded or None),
        *(level(y, value, name, left=True) for name, value in finite),
        element("circle", r=4.5, class_="cursor", cx=-20, cy=-20),
    ]
    named = study.legend_of([study.runs[number][0] for number in curves])
    return Picture(title, note, x, y, content, named, "lines")


def _line(study: Study, number: int, points: Points, x: Scale, y: Scale) -> Markup:
    """``data-v`` holds the values themselves, which the positions round."""
    style = study.style(study.runs[number][0])
    places = [(x(step), y(value)) for step, value in points]
    return element(
        "g",
        element(
            "polyline",
            points=" ".join(f"{px:.1f},{py:.1f}" for px, py in places),
            class_="line",
            stroke_dasharray=style.dash,
        ),
        element("path", d="".join(_marks(style.shape, places)), class_="shape small"),
        class_=f"run {style.colour}",
        data_run=number,
        data_row=study.runs[number][0],
        data_v=" ".join(f"{step:.0f}:{value:.6g}" for step, value in points),
    )


def _marks(shape: str, places: Sequence[tuple[float, float]]) -> Iterable[str]:
    """On every point of a short curve, on some of a long one: who sees no colour follows the shape."""
    if len(places) <= _MARKED:
        chosen = range(len(places))
    else:
        chosen = range(len(places) // 8, len(places), max(1, len(places) // 4))
    return [outline(shape, *places[i], size=2.6) for i in chosen]
