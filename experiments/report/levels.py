"""Dashed lines across a picture, with their names beside them: what everything else is read against."""

from collections.abc import Iterable, Sequence

from experiments.report.chart import RIGHT, TOP, WIDTH, Scale, drawable
from experiments.report.markup import Markup, element

_LINE = 18  # pixels of a name
_ASIDE = 34  # from the axis: behind the marks of dense rows, before those of sparse ones
_LONGEST = 52  # letters of a name
_MOST = 3  # more lines than that are no reference


def levels(x: Scale, y: Scale, named: Sequence[tuple[str, float]]) -> list[Markup]:
    """The first few; drawn last. Names of lines close to each other are a stack, in the lines' order."""
    drawn = [(y(value), name) for name, value in reached(named)]
    place = x.start + _ASIDE
    lines = [
        element("path", d=f"M{x.start:.1f} {at:.1f}H{WIDTH - RIGHT}", class_="level")
        for at in dict.fromkeys(at for at, _ in drawn)
    ]
    names = [
        element("text", _cut(name), x=f"{place:.1f}", y=f"{base:.1f}", class_="small")
        for name, base in placed(drawn)
    ]
    return [element("g", *lines), element("g", *names)]


def reached(named: Sequence[tuple[str, float]]) -> list[tuple[str, float]]:
    """Those that ``levels`` draws."""
    return [(name, value) for name, value in named if drawable(value)][:_MOST]


def placed(lines: Iterable[tuple[float, str]]) -> list[tuple[str, float]]:
    """A base line for each name, so that no name lies on another or on a line.

    A name stands above its line; where there is no room up to the frame, it stands below. Lines that are too
    close for a name between them share a place.
    """
    stacks: list[list[tuple[float, str]]] = []
    for line in sorted(lines):
        stacks.append([line])
        while len(stacks) > 1 and _above(stacks[-1]) < _below(stacks[-2]):
            stacks[-2:] = [stacks[-2] + stacks[-1]]
    found = []
    for stack in stacks:
        base = _above(stack) + _LINE - 5 if _above(stack) >= TOP else stack[-1][0] + _LINE - 3
        found += [(name, base + _LINE * number) for number, (_, name) in enumerate(stack)]
    return found


def _above(stack: Sequence[tuple[float, str]]) -> float:
    return stack[0][0] - _LINE * len(stack)


def _below(stack: Sequence[tuple[float, str]]) -> float:
    """Where the next stack may begin."""
    under = _LINE * len(stack) if _above(stack) < TOP else 0
    return stack[-1][0] + under


def _cut(name: str) -> str:
    return name if len(name) <= _LONGEST else f"{name[: _LONGEST - 1]}…"
