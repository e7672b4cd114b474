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


def legend(named: Mapping[str, Style], *, lines: bool = True) -> Markup:
    """A list beside a picture; each entry shows the line and the mark of its name."""
    entries = []
    for name, style in named.items():
        line = element("path", d="M1 8H39", class_="line", stroke_dasharray=style.dash) if lines else None
        mark = element("path", d=outline(style.shape, 20, 8), class_="shape")
        sample = element(
            "svg",
            line,
            mark,
            viewBox="0 0 40 16",
            width=40,
            height=16,
            class_=style.colour,
            aria_hidden="true",
        )
        entries.append(element("li", sample, element("span", name)))
    return element("ul", *entries, class_="legend")
