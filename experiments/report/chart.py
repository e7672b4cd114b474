"""Pictures: scales, grid, ticks and titles, drawn as SVG that needs no script."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from experiments.report.markup import Markup, element
from experiments.report.styles import Shade, Style, legend

WIDTH, HEIGHT = 640, 400
LEFT, RIGHT, TOP, BOTTOM = 84, 18, 16, 60  # margins; the left one grows with the texts that stand in it
_BESIDE = 36  # of the left margin: the turned title, and room between it, the ticks and the axis
_DIGIT = 10.2  # width of a digit of 16 pixels in DejaVu Sans, the widest of the fonts
_LARGEST = 1e150  # what a scale can hold with all of its arithmetic
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

    def said(self, value: float, digits: int = 6) -> str:
        """As short as it tells the value: 1.2e6, not 1.2e+06."""
        text = f"{100 * value if self.percent else value:.{digits}g}"
        text = re.sub(r"e\+?(-?)0*", r"e\1", text)
        return f"{text} %" if self.percent else text

    @property
    def texts(self) -> list[str]:
        """Of the ticks, with as many digits as tell them apart."""
        for digits in range(6, 16):
            said = [self.said(tick, digits) for tick in self.ticks]
            if len(set(said)) == len(said):
                break
        return said

    @property
    def margin(self) -> float:
        """What the ticks of a scale upwards need to the left of the axis."""
        return max(float(LEFT), _BESIDE + _DIGIT * max(map(len, self.texts), default=0))


def drawable(value: float) -> bool:
    """Infinities, NaN and what overflows on a scale have no place in a picture."""
    return math.isfinite(value) and abs(value) < _LARGEST


def across(
    title: str, values: Sequence[float], *, beside: Scale | None = None, percent: bool = False
) -> Scale:
    """``beside``: the scale upwards, whose ticks it leaves room for."""
    start = LEFT if beside is None else beside.margin
    return _scale(title, values, start, WIDTH - RIGHT, percent=percent, logarithmic=False)


def upwards(title: str, values: Sequence[float], *, percent: bool = False) -> Scale:
    positive = min(values) > 1 / _LARGEST
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
    apart = high - low > 1e-9 * max(abs(low), abs(high))  # closer ones have no round numbers between them
    room = 0.04 * (high - low) if apart else 0.05 * abs(high) or 0.5
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
    bottom, left, right = HEIGHT - BOTTOM, x.start, WIDTH - RIGHT
    lines, texts = [], []
    for tick, said in zip(y.ticks, y.texts, strict=True):
        lines.append(f"M{left:.1f} {y(tick):.1f}H{right}")
        texts.append(element("text", said, x=f"{left - 8:.1f}", y=f"{y(tick) + 5:.1f}", class_="end"))
    room = (right - left) / max(1, len(x.ticks))
    every = math.ceil(_DIGIT * (1 + max(map(len, x.texts), default=0)) / room)
    for number, (tick, said) in enumerate(zip(x.ticks, x.texts, strict=True)):
        lines.append(f"M{x(tick):.1f} {TOP}V{bottom}")
        if number % every == 0:
            texts.append(element("text", said, x=f"{x(tick):.1f}", y=bottom + 22, class_="middle"))
    middle = (left + right) / 2
    texts.append(element("text", x.title, x=middle, y=HEIGHT - 8, class_="middle title"))
    turned = f"translate(18 {(TOP + bottom) / 2}) rotate(-90)"
    texts.append(element("text", y.title, transform=turned, class_="middle title"))
    return element(
        "g",
        element("path", d="".join(lines), class_="grid"),
        element("path", d=f"M{left:.1f} {TOP}V{bottom}H{right}", class_="axis"),
        *texts,
        aria_hidden="true",
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
    shades: Mapping[str, Sequence[Shade]] = field(default_factory=dict)  # by name, as the legend shows them
    attributes: Mapping[str, object] = field(default_factory=dict)

    def on_page(self) -> Markup:
        body = svg(self.x, self.y, self.title, *self.content, kind=self.kind)
        named = legend(self.styles, self.shades, lines=self.lines)
        return figure(self.title, self.note, body, named, **self.attributes)


def figure(title: str, note: object, *content: object, **attributes: object) -> Markup:
    caption = element("figcaption", element("strong", title), " ", element("span", note))
    return element("figure", caption, *content, **attributes)
