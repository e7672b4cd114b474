"""How configurations are told apart in pictures: by colour, and by shape and dash for who sees no colour."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from experiments.report.markup import Markup, element

COLOURS = 6  # in report.css, after Okabe and Ito, each with enough contrast on light and on dark
_SHAPES = ("circle", "square", "triangle", "diamond", "cross", "down")
_DASHES = (None, "7 3", "2 3", "9 3 2 3", "5 2 1 2 1 2", "12 4")


@dataclass(frozen=True)
class Style:
    colour: str  # the class
    shape: str
    dash: str | None


@dataclass(frozen=True)
class Shade:
    """One of several lines of a style: the stronger, the sparser."""

    said: str
    strength: float  # 0 to 1

    @property
    def css(self) -> str:
        """Both in one picture: who does not see how faint a line is, sees how thin."""
        return f"opacity:{0.5 + 0.45 * self.strength:.2f};stroke-width:{1.4 + 1.4 * self.strength:.2f}"


def shades(values: Sequence[float]) -> dict[float, Shade]:
    """Of the sparsities within a family, evenly from faint to strong; one alone is strong."""
    order = sorted(set(values))
    steps = max(1, len(order) - 1)
    return {
        value: Shade(f"{100 * value:.4g} %", (number / steps) if len(order) > 1 else 1.0)
        for number, value in enumerate(order)
    }


def styles(names: Sequence[str]) -> dict[str, Style]:
    """One for each; the first six differ in colour, shape and dash, the first 36 in a pair of them."""
    return {name: _style(number) for number, name in enumerate(dict.fromkeys(names))}


def _style(number: int) -> Style:
    turn = (number + number // COLOURS) % len(_SHAPES)
    return Style(f"c{number % COLOURS}", _SHAPES[turn], _DASHES[turn])


def outline(shape: str, x: float, y: float, size: float = 5.0) -> str:
    """The path of a mark around a point."""
    if shape == "circle":
        return f"M{x - size:.2f} {y:.2f}a{size} {size} 0 1 0 {2 * size} 0a{size} {size} 0 1 0 {-2 * size} 0z"
    if shape == "cross":
        arm = size * 1.1
        return f"M{x - arm:.2f} {y - arm:.2f}l{2 * arm} {2 * arm}m0 {-2 * arm}l{-2 * arm} {2 * arm}"
    corners = {"square": (4, 45), "triangle": (3, -90), "diamond": (4, 0), "down": (3, 90)}[shape]
    count, turn = corners
    radius = size * (1.35 if count == 3 else 1.3)
    points = [
        (x + radius * math.cos(angle), y + radius * math.sin(angle))
        for angle in (math.radians(turn + 360 * i / count) for i in range(count))
    ]
    return "M" + "L".join(f"{px:.2f} {py:.2f}" for px, py in points) + "z"


def legend(
    named: Mapping[str, Style], shaded: Mapping[str, Sequence[Shade]], *, lines: bool = True
) -> Markup:
    """A list beside a picture; each entry shows the line and the mark of its name, and its shades."""
    entries = []
    for name, style in named.items():
        line = element("path", d="M1 8H39", class_="line", stroke_dasharray=style.dash) if lines else None
        mark = element("path", d=outline(style.shape, 20, 8), class_="shape")
        levels = [
            element("span", _sample(style, element("path", d="M1 8H23", class_="line", style=s.css)), s.said)
            for s in shaded.get(name, ())
        ]
        said = element("span", element("span", name), *levels, class_="shades") if levels else None
        entries.append(element("li", _sample(style, line, mark, width=40), said or element("span", name)))
    return element("ul", *entries, class_="legend")


def swatch(style: Style) -> Markup:
    """Colour and shape, in front of a name."""
    return _sample(
        style, element("path", d=outline(style.shape, 8, 8), class_="shape"), width=16, more="swatch"
    )


def _sample(style: Style, *drawn: object, width: int = 24, more: str = "") -> Markup:
    return element(
        "svg",
        *drawn,
        viewBox=f"0 0 {width} 16",
        width=width,
        height=16,
        class_=f"{style.colour} {more}".strip(),
        aria_hidden="true",
    )
