"""What is bought with what: the rows that no other row beats in both, knowing which way each is better."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from experiments.compare.metrics import Metric, rounded
from experiments.compare.table import Row
from experiments.report.chart import (
    BOTTOM,
    HEIGHT,
    RIGHT,
    TOP,
    WIDTH,
    Picture,
    Scale,
    across,
    drawable,
    upwards,
)
from experiments.report.curves import direction
from experiments.report.markup import Markup, element
from experiments.report.study import Study, sparsity_of
from experiments.report.styles import outline


@dataclass(frozen=True)
class Cost:
    """What a configuration costs or saves: the horizontal axis."""

    title: str
    of: Callable[[Row], float | None]
    lower_is_better: bool
    percent: bool = False


def _counted(row: Row) -> float | None:
    found = sparsity_of(row.group)
    return rounded(found[0]) if found is not None and found[1] and math.isfinite(found[0]) else None


COSTS: Mapping[str, Cost] = {
    "sparsity": Cost("sparsity found", _counted, False, percent=True),
    "flops": Cost("FLOPs of a step against dense, estimated", lambda row: row.flops, True),
    "speed": Cost("samples per second, measured", lambda row: row.samples_per_second, False),
    "time": Cost("wall time in seconds, measured", lambda row: row.seconds, True),
}


def front(points: Sequence[tuple[float, float]], *, lower_x: bool, lower_y: bool) -> list[int]:
    """Positions of the points that none beats: as good in both and better in one. From the best x on.

    Equal points stand on it together.
    """
    sign_x, sign_y = (1 if lower_x else -1), (1 if lower_y else -1)
    turned = [(sign_x * x, sign_y * y) for x, y in points]
    order = sorted(range(len(points)), key=lambda i: turned[i])
    found: list[int] = []
    best = math.inf
    for i in order:
        x, y = turned[i]
        if y < best or (found and turned[found[-1]] == (x, y)):
            found.append(i)
            best = y
    return found


def pareto_fronts(study: Study) -> list[Picture]:
    """A picture for each cost and metric that two rows at least have; the page shows one at a time."""
    found: list[Picture] = []
    for metric in study.metrics:
        for name, cost in COSTS.items():
            drawn = _drawn(study, metric, name, cost, shown=not found)
            if drawn is not None:
                found.append(drawn)
    return found


def _drawn(study: Study, metric: Metric, name: str, cost: Cost, *, shown: bool) -> Picture | None:
    points = [
        (number, value, row.cells[metric.name].value.mean)
        for number, row in enumerate(study.rows)
        if (value := cost.of(row)) is not None
        and metric.name in row.cells
        and drawable(value)
        and drawable(row.cells[metric.name].value.mean)
    ]
    if len({value for _, value, _ in points}) < 2:
        return None
    best = front([(x, y) for _, x, y in points], lower_x=cost.lower_is_better, lower_y=metric.lower_is_better)
    way = "lower is better" if cost.lower_is_better else "higher is better"
    y = upwards(f"{metric.name} ({direction(metric)})", [value for _, _, value in points])
    x = across(f"{cost.title} ({way})", [value for _, value, _ in points], beside=y, percent=cost.percent)
    marks = []
    for position, (number, value, quality) in enumerate(points):
        style = study.style(number)
        where = "on" if position in best else "off"
        shape = element("path", d=outline(style.shape, x(value), y(quality)), class_="shape")
        marks.append(element("g", shape, class_=f"mark {style.colour} {where}", data_row=number))
    line = element("path", d=_steps([(x(points[i][1]), y(points[i][2])) for i in best]), class_="front")
    title = f"{metric.name} against {cost.title}"
    on = ", ".join(dict.fromkeys(study.rows[points[i][0]].group.label for i in best))
    note = f"On the front, beaten by none in both: {on}."
    return Picture(
        title,
        note,
        x,
        y,
        [_corner(cost, metric, x), line, *marks],
        study.legend_of([number for number, _, _ in points]),
        "marks",
        lines=False,
        attributes={
            "data_cost": name,
            "data_cost_title": cost.title,
            "data_metric": metric.name,
            "hidden": not shown,
        },
    )


def _steps(places: Sequence[tuple[float, float]]) -> str:
    """Between two points of the front nothing is known to be better than the worse value of the two."""
    path = [f"M{places[0][0]:.1f} {places[0][1]:.1f}"]
    for px, py in places[1:]:
        path.append(f"H{px:.1f}V{py:.1f}")
    return "".join(path)


def _corner(cost: Cost, metric: Metric, x: Scale) -> Markup:
    """Which corner is the good one."""
    left, low = cost.lower_is_better, metric.lower_is_better
    arrow = {(True, True): "↙", (True, False): "↖", (False, True): "↘", (False, False): "↗"}[left, low]
    px = x.start + 8 if left else WIDTH - RIGHT - 8
    py = HEIGHT - BOTTOM - 8 if low else TOP + 16
    return element("text", f"better {arrow}", x=px, y=py, class_=f"small {'' if left else 'end'}".strip())
