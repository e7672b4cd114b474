"""Quality against sparsity: a curve for each way of pruning, with 95 % intervals, beside the dense runs."""

from collections.abc import Sequence
from itertools import groupby

from experiments.compare.metrics import Metric
from experiments.compare.table import Row
from experiments.report.chart import Picture, Scale, across, drawable, upwards
from experiments.report.levels import levels, reached
from experiments.report.markup import Markup, element
from experiments.report.study import Study, sparsity_of
from experiments.report.styles import outline

_FEW = 8  # families that are drawn aside of each other
_ASIDE = 2.5  # pixels between families at the same sparsity, so that intervals do not hide each other


def quality_curves(study: Study) -> list[Picture]:
    return [curve for metric in study.metrics if (curve := _curve(study, metric)) is not None]


def _curve(study: Study, metric: Metric) -> Picture | None:
    """None where fewer than two rows have the metric and a sparsity that is known."""
    points = [
        (number, value, row)
        for number, row in enumerate(study.rows)
        if (value := study.sparsity(number)) is not None
        and metric.name in row.cells
        and drawable(row.cells[metric.name].value.mean)
    ]
    if len({value for _, value, _ in points}) < 2:
        return None
    ends = [end for _, _, row in points for end in interval(row, metric)]
    y = upwards(f"{metric.name} ({direction(metric)})", ends)
    values = [value for _, value, _ in points]
    x = across("sparsity of the masked weights", values, beside=y, percent=True)
    drawn: list[Markup] = []
    families = sorted({study.families[number] for number, _, row in points if not row.group.dense})
    families = families if len(families) <= _FEW else []
    for family, of in groupby(
        sorted(points, key=lambda p: (study.families[p[0]], p[1])), key=lambda p: study.families[p[0]]
    ):
        aside = (families.index(family) - (len(families) - 1) / 2) * _ASIDE if family in families else 0.0
        drawn.append(_family(study, metric, x, y, aside, list(of)))
    dense = [(row.group.label, row.cells[metric.name].value.mean) for _, _, row in points if row.group.dense]
    title = f"{metric.name} against sparsity"
    note = "Bars: 95 % interval over seeds. Hollow: sparsity asked for, not counted."
    left = len(study.rows) - len(points)
    if left:
        note += f" {left} of {len(study.rows)} configurations have no result or no known sparsity: not drawn."
    named = study.legend_of([n for n, _, _ in points])
    if dense:
        note += f" Dashed across: {across_said(dense)}."
    return Picture(title, note, x, y, [*drawn, *levels(x, y, dense)], named, "marks")


def _family(
    study: Study, metric: Metric, x: Scale, y: Scale, aside: float, points: Sequence[tuple[int, float, Row]]
) -> Markup:
    style = study.style(points[0][0])
    places = [(x(value) + aside, y(row.cells[metric.name].value.mean)) for _, value, row in points]
    line = element(
        "path",
        d="M" + "L".join(f"{px:.1f} {py:.1f}" for px, py in places),
        class_="line",
        stroke_dasharray=style.dash,
    )
    marks = []
    for (number, _, row), (px, py) in zip(points, places, strict=True):
        low, high = interval(row, metric)
        bar = (
            f"M{px:.1f} {y(low):.1f}V{y(high):.1f}m-4 0h8M{px - 4:.1f} {y(low):.1f}h8" if high > low else None
        )
        known = sparsity_of(row.group)
        hollow = known is not None and not known[1]
        marks.append(
            element(
                "g",
                element("path", d=bar, class_="bar") if bar else None,
                element("path", d=outline(style.shape, px, py), class_="shape hollow" if hollow else "shape"),
                class_="mark",
                data_row=number,
            )
        )
    return element("g", line if len(points) > 1 else None, *marks, class_=f"family {style.colour}")


def interval(row: Row, metric: Metric) -> tuple[float, float]:
    value = row.cells[metric.name].value
    half = value.half if value.half is not None and drawable(value.half) else 0.0
    return value.mean - half, value.mean + half


def across_said(dense: Sequence[tuple[str, float]]) -> str:
    """What the lines across are; some of them where they are more than a picture holds."""
    count, drawn = len(dense), len(reached(dense))
    if count == 1:
        return "dense"
    return f"the {count} dense ones" if drawn == count else f"{drawn} of the {count} dense ones"


def direction(metric: Metric) -> str:
    return "lower is better" if metric.lower_is_better else "higher is better"
