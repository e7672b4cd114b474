"""Pictures: scales, grid, ticks and titles, drawn as SVG that needs no script."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from experiments.report.markup import Markup, element
from experiments.report.styles import Style, legend

WIDTH, HEIGHT = 640, 400
LEFT, RIGHT, TOP, BOTTOM = 84, 18, 16, 60  # margins
_MANY = 10.0  # times between the largest and the smallest value: from there on a scale is logarithmic


@dataclass(frozen=True)
class Scale:
    """Values to positions. ``title`` says what and in which unit."""

    title: str
    low: float
    high: float
    start: float
    end: float
    logarithmic: bool = False
    percent: bool = False

    def __call__(self, value: float) -> float:
        of = math.log if self.logarithmic else float
        return self.start + (self.end - self.start) * (of(value) - of(self.low)) / (
            of(self.high) - of(self.low)
        )

    @property
    def ticks(self) -> list[float]:
        if not self.logarithmic:
            return _linear(self.low, self.high)
        return _logarithmic(self.low, self.high)

    def said(self, value: float) -> str:
        return f"{100 * value:.6g} %" if self.percent else f"{value:.6g}"


def across(title: str, values: Sequence[float], *, percent: bool = False) -> Scale:
    return _scale(title, values, LEFT, WIDTH - RIGHT, percent=percent, logarithmic=False)


def upwards(title: str, values: Sequence[float], *, percent: bool = False) -> Scale:
    positive = all(value > 0 for value in values)
    logarithmic = positive and not percent and max(values) / min(values) > _MANY
    title = f"{title}, logarithmic" if logarithmic else title
    return _scale(title, values, HEIGHT - BOTTOM, TOP, percent=percent, logarithmic=logarithmic)


def _scale(
    title: str, values: Sequence[float], start: float, end: float, *, percent: bool, logarithmic: bool
) -> Scale:
    low, high = min(values), max(values)
    if logarithmic:
        room = (high / low) ** 0.04
        return Scale(title, low / room, high * room, start, end, True)
    room = 0.04 * (high - low) or 0.05 * abs(high) or 0.5
    return Scale(title, low - room, high + room, start, end, percent=percent)


def _linear(low: float, high: float) -> list[float]:
    """Four to eight round numbers."""
    rough = (high - low) / 6
    power = 10 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= rough)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [round(number * step, 12) for number in range(first, last + 1)]


def _logarithmic(low: float, high: float) -> list[float]:
    """1, 2, 5 of every power of ten while they are few; then powers alone."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    factors = (1, 2, 5) if last - first <= 3 else (1,)
    every = max(1, math.ceil((last - first) / 8))
    found = [factor * 10.0**power for power in range(first, last + 1, every) for factor in factors]
    return [value for value in found if low <= value <= high]


def svg(x: Scale, y: Scale, label: str, *content: object, kind: str) -> Markup:
    """``kind`` tells the script how to follow the pointer; without a script it is a picture all the same."""
    return element(
        "svg",
        frame(x, y),
        *content,
        viewBox=f"0 0 {WIDTH} {HEIGHT}",
        class_="chart",
        tabindex=0,
        role="group",
        aria_roledescription="chart",
        aria_label=f"{label}. Arrow keys go from one to the next.",
        data_kind=kind,
        data_x=x.title,
        data_y=y.title,
    )


def frame(x: Scale, y: Scale) -> Markup:
    bottom, right = HEIGHT - BOTTOM, WIDTH - RIGHT
    lines, texts = [], []
    for tick in y.ticks:
        lines.append(f"M{LEFT} {y(tick):.1f}H{right}")
        texts.append(element("text", y.said(tick), x=LEFT - 8, y=f"{y(tick) + 5:.1f}", class_="end"))
    for tick in x.ticks:
        lines.append(f"M{x(tick):.1f} {TOP}V{bottom}")
        texts.append(element("text", x.said(tick), x=f"{x(tick):.1f}", y=bottom + 22, class_="middle"))
    middle = (LEFT + right) / 2
    texts.append(element("text", x.title, x=middle, y=HEIGHT - 8, class_="middle title"))
    turned = f"translate(18 {(TOP + bottom) / 2}) rotate(-90)"
    texts.append(element("text", y.title, transform=turned, class_="middle title"))
    return element(
        "g",
        element("path", d="".join(lines), class_="grid"),
        element("path", d=f"M{LEFT} {TOP}V{bottom}H{right}", class_="axis"),
        *texts,
        aria_hidden="true",
    )


def level(y: Scale, value: float, name: str, *, left: bool = False) -> Markup:
    """A dashed line across, with its name above its end: what everything else is read against. Drawn last."""
    at = y(value)
    place, kind = (LEFT + 6, "small") if left else (WIDTH - RIGHT - 4, "end small")
    return element(
        "g",
        element("path", d=f"M{LEFT} {at:.1f}H{WIDTH - RIGHT}", class_="level"),
        element("text", name, x=place, y=f"{max(at - 5, TOP + 12):.1f}", class_=kind),
    )


@dataclass(frozen=True)
class Picture:
    """What is drawn between two scales, for a page or for a file of its own."""

    title: str
    note: str
    x: Scale
    y: Scale
    content: Sequence[object]
    styles: Mapping[str, Style]
    kind: str  # marks or lines: how the page's script follows the pointer
    lines: bool = True  # in the legend
    attributes: Mapping[str, object] = field(default_factory=dict)

    def on_page(self) -> Markup:
        body = svg(self.x, self.y, self.title, *self.content, kind=self.kind)
        return figure(self.title, self.note, body, legend(self.styles, lines=self.lines), **self.attributes)


def figure(title: str, note: object, *content: object, **attributes: object) -> Markup:
    caption = element("figcaption", element("strong", title), " ", element("span", note))
    return element("figure", caption, *content, **attributes)
