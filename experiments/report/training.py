"""How configurations got there: the loss over the steps, and how quality recovers from pruning."""

from collections.abc import Iterable, Sequence

from experiments.report.binned import Curve, curves_of
from experiments.report.chart import Picture, Scale, across, upwards
from experiments.report.curves import across_said, direction
from experiments.report.levels import levels, reached
from experiments.report.markup import Markup, element
from experiments.report.study import Study
from experiments.report.styles import Shade, outline, shades

_MARKED = 12  # a curve of so few points has a mark on each
_CROWD = 100  # curves: from there on they are drawn thin


def loss_curves(study: Study) -> Picture | None:
    """A line for each configuration that logged its training loss, and for each run that went wrong."""
    curves = curves_of([row.group for row in study.rows], "loss")
    if not curves:
        return None
    return _picture(study, curves, "Loss while training", "training loss", [])


def recovery_curves(study: Study) -> list[Picture]:
    """For each metric that runs validated more than once, beside what the dense runs ended with."""
    found = []
    for metric in study.metrics:
        if not metric.tag.startswith("validate"):
            continue
        curves = curves_of([row.group for row in study.rows], metric.tag)
        if curves:
            dense = [
                (row.group.label, row.cells[metric.name].value.mean)
                for row in study.rows
                if row.group.dense and metric.name in row.cells
            ]
            title = f"Recovery: {metric.name} while training"
            found.append(_picture(study, curves, title, f"{metric.name} ({direction(metric)})", dense))
    return found


def _picture(
    study: Study, curves: Sequence[Curve], title: str, y_title: str, dense: Sequence[tuple[str, float]]
) -> Picture:
    bins = [one for curve in curves for one in curve.bins]
    y = upwards(y_title, [*(one.value for one in bins), *(value for _, value in reached(dense))])
    x = across("step", [one.step for one in bins], beside=y)
    strengths = _strengths(study, {curve.row for curve in curves})
    lines = [_line(study, curve, x, y, strengths.get(curve.row)) for curve in curves]
    content = [
        element("g", *lines, class_="crowd" if len(curves) > _CROWD else None),
        *levels(x, y, dense),
        element("circle", r=4.5, class_="cursor", cx=-20, cy=-20),
    ]
    named = study.legend_of([curve.row for curve in curves])
    shaded: dict[str, dict[str, Shade]] = {}
    for row, shade in sorted(strengths.items(), key=lambda pair: pair[1].strength):
        shaded.setdefault(study.families[row], {})[shade.said] = shade
    return Picture(
        title,
        _note(curves, dense),
        x,
        y,
        content,
        named,
        "lines",
        shades={name: list(of.values()) for name, of in shaded.items()},
    )


def _note(curves: Sequence[Curve], dense: Sequence[tuple[str, float]]) -> str:
    said = [f"{len({curve.row for curve in curves})} configurations"]
    if any(len(curve.runs) > 1 for curve in curves):
        said[0] += ", each the mean over its seeds"
    if any(one.first < one.last for curve in curves for one in curve.bins):
        said.append("Points are means over some steps")
    if alone := sum(curve.stopped for curve in curves):
        said.append(f"⊗: where a run failed or was stopped ({alone}); it is a line of its own")
    going = [curve.row for curve in curves if not curve.stopped]
    if len(set(going)) < len(going):
        said.append("Runs that did not get as far as others of their configuration are lines of their own")
    if reached(dense):
        said.append(f"Dashed across: where {across_said(dense)} ended")
    return f"{'. '.join(said)}."


def _strengths(study: Study, rows: Iterable[int]) -> dict[int, Shade]:
    """How each configuration that is not dense differs from the others of its colour."""
    of: dict[str, dict[int, float]] = {}
    for row in rows:
        known = study.sparsity(row)
        if known is not None and not study.rows[row].group.dense:
            of.setdefault(study.families[row], {})[row] = known
    found: dict[int, Shade] = {}
    for values in of.values():
        by_value = shades(list(values.values()))
        found |= {row: by_value[value] for row, value in values.items()}
    return found


def _line(study: Study, curve: Curve, x: Scale, y: Scale, shade: Shade | None) -> Markup:
    """``data-v`` holds the values themselves, which the positions round."""
    style = study.style(curve.row)
    places = [(x(one.step), y(one.value)) for one in curve.bins]
    turn = list(study.styles).index(study.families[curve.row])
    marks = "".join(_marks(style.shape, places, turn))
    end = outline("circle", *places[-1]) + outline("cross", *places[-1], size=3.2)
    return element(
        "g",
        element(
            "polyline",
            points=" ".join(f"{px:.1f},{py:.1f}" for px, py in places),
            class_="line",
            stroke_dasharray=style.dash,
            style=None if shade is None else shade.css,
        ),
        element("path", d=marks, class_="shape small", style=None if shade is None else shade.css),
        element("path", d=end, class_="end-mark") if curve.stopped else None,
        class_=f"run {style.colour}",
        data_row=curve.row,
        data_said=_said(study, curve),
        data_v=" ".join(one.said for one in curve.bins),
    )


def _said(study: Study, curve: Curve) -> str:
    """What a pointer on the curve is told."""
    if len(curve.runs) > 1:
        return f"{study.rows[curve.row].group.label} · mean of {len(curve.runs)} runs"
    (run,) = curve.runs
    name = study.name_of(run)
    return name if run.state == "finished" else f"{name} · {run.state}"


def _marks(shape: str, places: Sequence[tuple[float, float]], turn: int) -> Iterable[str]:
    """On every point of a short curve, on some of a long one: who sees no colour follows the shape.

    ``turn``: of the family, so that those of two families do not hide each other.
    """
    if len(places) <= _MARKED:
        chosen = range(len(places))
    else:
        begin = len(places) * (1 + turn % 6) // 26
        chosen = range(begin, len(places), max(1, len(places) // 4))
    return [outline(shape, *places[i], size=2.6) for i in chosen]
