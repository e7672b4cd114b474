"""Sparsity per layer: a row for each configuration, a column for each weight, kinds of weights together."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from experiments.compare.table import Row
from experiments.report.chart import figure
from experiments.report.markup import Markup, data, element
from experiments.report.study import Study

_BLOCK = re.compile(r"\.(\d+)\.")
_MOST_CELLS = 60_000
_WIDTH = 760  # of all columns together, where their number lets them be wide enough to see
_SHADES = 48
_CIVIDIS = (
    *("#00224e", "#123570", "#3b496c", "#575d6d", "#707173"),
    *("#8a8678", "#a59c74", "#c3b369", "#e1cc55", "#fee838"),
)
_LABEL = 38  # characters of a configuration that are drawn; the tooltip has them all


@dataclass(frozen=True)
class Column:
    """Usually one weight; the mean over neighbouring blocks where there are too many to draw."""

    kind: str
    first: int | None
    last: int | None
    weights: tuple[str, ...]

    @property
    def name(self) -> str:
        if self.first is None:
            return self.kind
        blocks = f"{self.first}" if self.first == self.last else f"{self.first}–{self.last}, mean"
        return self.kind.replace("*", blocks, 1)


def heatmap(study: Study) -> Markup | None:
    """Of what was counted in checkpoints. None where no run counted."""
    by_row = {number: found for number, row in enumerate(study.rows) if (found := layers_of(row))}
    if not by_row:
        return None
    columns = columns_of([*{weight for found in by_row.values() for weight in found}], len(by_row))
    values = [[_mean(found, column.weights) for column in columns] for found in by_row.values()]
    labels = [study.rows[number].group.label for number in by_row]
    known = [value for line in values for value in line if value is not None]
    low, high = min(known), max(known)
    note = "As counted in the last checkpoint, mean over the seeds that finished. "
    note += "Hatched: not masked, or not counted."
    if any(len(column.weights) > 1 for column in columns):
        note += " Too many weights to draw each: a cell is the mean of neighbouring blocks."
    box = element(
        "div",
        _picture(labels, columns, values, low, high),
        class_="wide",
        role="region",
        aria_label="Sparsity per layer, scrollable",
    )
    plain = {
        "rows": labels,
        "numbers": list(by_row),
        "columns": [column.name for column in columns],
        "values": [[None if v is None else round(v, 6) for v in line] for line in values],
    }
    return figure("Sparsity per layer", note, _legend(low, high), box, data("heat", plain))


def layers_of(row: Row) -> dict[str, float]:
    """Effective sparsity by weight, the mean over the seeds that counted it and found a number."""
    found: dict[str, list[float]] = {}
    for run in row.group.finished:
        for weight, value in run.sparsity.layers.items():
            if math.isfinite(value):
                found.setdefault(weight, []).append(value)
    return {weight: sum(values) / len(values) for weight, values in found.items()}


def columns_of(weights: Sequence[str], rows: int) -> list[Column]:
    """Kinds in the order of their first block, blocks in the order of their numbers."""
    kinds: dict[str, list[tuple[int, str]]] = {}
    for weight in sorted(weights, key=_natural):
        block = _BLOCK.search(weight)
        kind = weight if block is None else f"{weight[: block.start()]}.*.{weight[block.end() :]}"
        kinds.setdefault(kind, []).append((-1 if block is None else int(block[1]), weight))
    merged = 1
    while sum(-(-len(of) // merged) for of in kinds.values()) * rows > _MOST_CELLS and merged < len(weights):
        merged *= 2
    found = []
    for kind, of in kinds.items():
        for start in range(0, len(of), merged):
            part = of[start : start + merged]
            first, last = part[0][0], part[-1][0]
            block_less = first < 0
            found.append(
                Column(
                    kind,
                    None if block_less else first,
                    None if block_less else last,
                    tuple(weight for _, weight in part),
                )
            )
    return found


def _natural(name: str) -> list[tuple[int, int | str]]:
    return [(0, int(part)) if part.isdigit() else (1, part) for part in re.split(r"(\d+)", name)]


def _mean(found: Mapping[str, float], weights: Sequence[str]) -> float | None:
    known = [found[weight] for weight in weights if weight in found]
    return sum(known) / len(known) if known else None


def _picture(
    labels: Sequence[str],
    columns: Sequence[Column],
    values: Sequence[Sequence[float | None]],
    low: float,
    high: float,
) -> Markup:
    width = max(4.0, min(54.0, _WIDTH / len(columns)))
    height = 22 if len(labels) <= 40 else 14
    left = 18 + 8 * max(len(_cut(label)) for label in labels)
    kinds = _kinds(columns)
    names = _short_names([kind for kind, _, _ in kinds])
    top = 20 + int(4.6 * max(map(len, names)))
    parts: list[Markup] = []
    for name, (_, start, count) in zip(names, kinds, strict=True):
        px, end = left + start * width, left + (start + count) * width
        turned = f"translate({(px + end) / 2:.1f} {top - 18}) rotate(-40)"
        parts.append(element("text", name, transform=turned))
        parts += _block_numbers(columns[start : start + count], px, width, top)
        parts.append(element("path", d=f"M{px:.1f} {top}V{top + height * len(labels)}", class_="axis"))
    for number, label in enumerate(labels):
        py = top + number * height + height * 0.7
        parts.append(element("text", _cut(label), x=left - 8, y=f"{py:.1f}", class_="end"))
    cells = _cells(values, left, top, width, height, low, high)
    total_width = left + width * len(columns) + 110  # the last turned name leans out
    total_height = top + height * len(labels) + 8
    hatch = element(
        "pattern",
        element("path", d="M0 6L6 0", class_="hatching"),
        id="hatch",
        width=6,
        height=6,
        patternUnits="userSpaceOnUse",
    )
    return element(
        "svg",
        element("defs", hatch),
        *cells,
        *parts,
        element("rect", class_="cursor", width=f"{width:.2f}", height=height, x=-100, y=-100),
        viewBox=f"0 0 {total_width:.0f} {total_height}",
        width=f"{total_width:.0f}",
        height=total_height,
        class_="heat",
        tabindex=0,
        role="group",
        aria_roledescription="chart",
        aria_label="Sparsity per layer. Arrow keys go from cell to cell.",
        data_kind="heat",
        data_at=f"{left:.1f} {top} {width:.4f} {height}",
    )


def _cells(
    values: Sequence[Sequence[float | None]],
    left: float,
    top: float,
    width: float,
    height: float,
    low: float,
    high: float,
) -> list[Markup]:
    """One path for each shade: twenty thousand cells as rectangles of their own would be slow."""
    of: dict[int, list[str]] = {}
    said: list[Markup] = []
    for row, line in enumerate(values):
        for column, value in enumerate(line):
            px, py = left + column * width, top + row * height
            shade = -1 if value is None else _shade(value, low, high)
            of.setdefault(shade, []).append(f"M{px:.1f} {py:.0f}h{width:.1f}v{height}h-{width:.1f}z")
            if value is not None and width >= 36 and height >= 20:
                light = shade > _SHADES * 0.55
                middle, base = f"{px + width / 2:.1f}", f"{py + height * 0.68:.1f}"
                tone = "onlight" if light else "ondark"
                said.append(
                    element("text", f"{100 * value:.1f}", x=middle, y=base, class_=f"middle small {tone}")
                )
    paths = [
        element("path", d="".join(path), fill="url(#hatch)" if shade < 0 else colour(shade / (_SHADES - 1)))
        for shade, path in sorted(of.items())
    ]
    return [*paths, *said]


def _shade(value: float, low: float, high: float) -> int:
    return round((_SHADES - 1) * (value - low) / (high - low)) if high > low else _SHADES // 2


def colour(position: float) -> str:
    """Of cividis, which reads the same with and without colour vision: 0 dark, 1 light."""
    place = position * (len(_CIVIDIS) - 1)
    index = min(int(place), len(_CIVIDIS) - 2)
    one, other = _CIVIDIS[index], _CIVIDIS[index + 1]
    part = place - index
    channels = (
        round(int(one[i : i + 2], 16) * (1 - part) + int(other[i : i + 2], 16) * part) for i in (1, 3, 5)
    )
    return "#" + "".join(f"{channel:02x}" for channel in channels)


def _legend(low: float, high: float) -> Markup:
    if high <= low:
        return element("p", f"Every masked weight is {100 * low:.2f} % sparse.", class_="scale")
    strip = element("span", class_="strip", style=f"background:linear-gradient(90deg,{','.join(_CIVIDIS)})")
    return element("p", f"{100 * low:.2f} % ", strip, f" {100 * high:.2f} % sparse", class_="scale")


def _kinds(columns: Sequence[Column]) -> list[tuple[str, int, int]]:
    """Each kind with its first column and the number of them."""
    found: list[tuple[str, int, int]] = []
    for index, column in enumerate(columns):
        if found and found[-1][0] == column.kind:
            found[-1] = (column.kind, found[-1][1], found[-1][2] + 1)
        else:
            found.append((column.kind, index, 1))
    return found


def _block_numbers(columns: Sequence[Column], px: float, width: float, top: int) -> list[Markup]:
    """As many numbers of blocks as fit."""
    every = max(1, -(-20 // max(1, int(width))))
    return [
        element("text", column.first, x=f"{px + (i + 0.5) * width:.1f}", y=top - 4, class_="middle small")
        for i, column in enumerate(columns)
        if column.first is not None and i % every == 0
    ]


def _short_names(kinds: Sequence[str]) -> list[str]:
    """The part behind the number of the block, without endings that all of them have."""
    tails = [kind.split(".*.", 1)[-1].removesuffix(".weight") for kind in kinds]
    names = [tail.removesuffix("_dense_layer").removesuffix(".linear_layer") for tail in tails]
    names = names if len(set(names)) == len(set(tails)) else tails
    return [name if len(name) <= 26 else f"…{name[-25:]}" for name in names]


def _cut(label: str) -> str:
    return label if len(label) <= _LABEL else f"{label[: _LABEL - 1]}…"
