"""The pictures of a comparison as SVG files of their own, for papers and pages: ``compare --figures DIR``.

Colours are written out and styles are plain, for readers of SVG that are no browsers.
"""

import re
from collections.abc import Iterator
from pathlib import Path

from experiments.report.chart import HEIGHT, LEFT, RIGHT, WIDTH, Picture, frame
from experiments.report.curves import quality_curves
from experiments.report.markup import Markup, element
from experiments.report.pareto import pareto_fronts
from experiments.report.study import Study
from experiments.report.styles import Shade, Style, outline
from experiments.report.training import loss_curves, recovery_curves
from pruning.atomic import Part
from pruning.problems import fail

_LINE = 22  # pixels of the legend
_LETTER = 7.6  # a generous mean width of a letter of 14 pixels, for a legend in two columns
_SHADE = 84  # pixels of a shade and its sparsity
_ROOM = WIDTH - LEFT - RIGHT
_COLOURS = ("#0072b2", "#c84a00", "#00795a", "#a3438b", "#8a6a00", "#40464d")  # those of report.css, in light
_STYLE = """
text{fill:#1b1f24;font:16px "DejaVu Sans",Arial,sans-serif;paint-order:stroke;stroke:#fff;stroke-width:3px}
text.small{font-size:14px;fill:#57606a}text.title{fill:#57606a}.end{text-anchor:end}.middle{text-anchor:middle}
path,polyline,circle{fill:none}.grid{stroke:#d0d7de;opacity:.6}.axis{stroke:#57606a}
.level{stroke:#57606a;stroke-width:1.5;stroke-dasharray:4 4}.front{stroke:#1b1f24;stroke-width:2;opacity:.55}
.line{stroke-width:2}.bar,.shape{stroke-width:1.6}.end-mark{stroke-width:1.8}.off{opacity:.45}
"""


def write_figures(study: Study, folder: Path, *, overwrite: bool) -> list[Path]:
    """Every picture of the page that is a chart, by a name that tells what is in it. All of them or none."""
    drawn = {folder / f"{name}.svg": picture for name, picture in _named(study)}
    if not drawn:
        fix = "wait until two configurations have results"
        raise fail(f"--figures {folder}", "there is nothing to draw: no two points in any picture", fix)
    if taken := [path for path in drawn if path.exists() and not overwrite]:
        what = f"{len(taken)} of the {len(drawn)} pictures are there already, {taken[0].name} first"
        raise fail(f"--figures {folder}", what, "choose another directory, or --overwrite")
    for path, picture in drawn.items():
        with Part(path, overwrite=overwrite) as part:
            part.write(_alone(picture).encode("utf-8", "backslashreplace"))
    return list(drawn)


def _named(study: Study) -> Iterator[tuple[str, Picture]]:
    found = [*quality_curves(study), *pareto_fronts(study), loss_curves(study), *recovery_curves(study)]
    for picture in found:
        if picture is not None:
            yield re.sub(r"[^a-z0-9]+", "-", picture.title.lower()).strip("-"), picture


def _alone(picture: Picture) -> Markup:
    named, rows = _legend(picture)
    height = HEIGHT + 10 + rows * _LINE
    colours = "".join(
        f".c{number} .line,.c{number} .bar,.c{number} .shape,.c{number} .end-mark{{stroke:{colour}}}"
        f".c{number} .shape{{fill:{colour}}}.c{number} .hollow{{fill:#fff}}"
        for number, colour in enumerate(_COLOURS)
    )
    return element(
        "svg",
        element("title", picture.title),
        element("desc", picture.note),
        element("style", Markup(_STYLE + colours)),
        element("rect", width=WIDTH, height=height, fill="#ffffff"),
        frame(picture.x, picture.y),
        *picture.content,
        *named,
        xmlns="http://www.w3.org/2000/svg",
        viewBox=f"0 0 {WIDTH} {height}",
        width=WIDTH,
        height=height,
    )


def _legend(picture: Picture) -> tuple[list[Markup], int]:
    """Entries below the picture, and how many lines they take. Shades follow their name, or stand below."""
    longest = max((len(name) for name in picture.styles), default=0)
    if not picture.shades and 40 + longest * _LETTER < _ROOM / 2:
        rows = -(-len(picture.styles) // 2)
        return [
            _entry(name, style, picture.lines, LEFT + number // rows * _ROOM / 2, _at(number % rows))
            for number, (name, style) in enumerate(picture.styles.items())
        ], rows
    found: list[Markup] = []
    row = 0
    for name, style in picture.styles.items():
        found.append(_entry(name, style, picture.lines, LEFT, _at(row)))
        x = LEFT + 60 + len(name) * _LETTER
        for shade in picture.shades.get(name, ()):
            if x + _SHADE > WIDTH:
                row, x = row + 1, LEFT + 46
            found.append(_shade(shade, style, x, _at(row)))
            x += _SHADE
        row += 1
    return found, row


def _at(row: int) -> float:
    return HEIGHT + 14 + row * _LINE


def _shade(shade: Shade, style: Style, x: float, y: float) -> Markup:
    line = element("path", d=f"M{x:.1f} {y}h22", class_="line", style=shade.css)
    said = element("text", shade.said, x=f"{x + 26:.1f}", y=y + 5, class_="small")
    return element("g", line, said, class_=style.colour)


def _entry(name: str, style: Style, lines: bool, x: float, y: float) -> Markup:
    line = element("path", d=f"M{x} {y}h38", class_="line", stroke_dasharray=style.dash) if lines else None
    mark = element("path", d=outline(style.shape, x + 19, y), class_="shape")
    return element(
        "g", line, mark, element("text", name, x=x + 46, y=y + 5, class_="small"), class_=style.colour
    )
