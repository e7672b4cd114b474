"""Tables that sort and filter, and are plain tables where no script runs."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from experiments.report.markup import Markup, element

STATES = {  # a sign beside the word: not by colour alone
    "finished": "✓",
    "running": "▶",
    "planned": "○",
    "failed": "✗",
    "killed": "✗",
    "interrupted": "‖",
    "lost": "✗",
    "unknown": "?",
}


@dataclass(frozen=True)
class Column:
    head: str
    note: str = ""  # what a pointer on the head is told
    number: bool = False
    width: str = ""  # a class of report.css: wrap, tight, place

    @property
    def kind(self) -> str | None:
        return " ".join(part for part in ("number" if self.number else "", self.width) if part) or None


@dataclass(frozen=True)
class Cell:
    shown: object
    sort: float | str | None = None  # None: last, whichever way the column is sorted


@dataclass(frozen=True)
class Line:
    cells: Sequence[Cell]
    row: int  # the configuration that it is about
    states: Sequence[str]
    first: bool = False  # of its configuration: what links lead to


def grid(name: str, columns: Sequence[Column], lines: Sequence[Line]) -> Markup:
    head = element("tr", *(_head(column) for column in columns))
    body = element("tbody", *(_line(name, columns, line) for line in lines))
    table = element("table", element("thead", head), body, class_="grid", id=name)
    region = element(
        "div", table, class_="wide", tabindex=0, role="region", aria_label=f"Table of {name}, scrollable"
    )
    return element("div", _controls(name, lines), region, class_="gridbox")


def state(word: str, count: int | None = None) -> Markup:
    """With how many of the runs are in it, where there are several."""
    said = f"{STATES.get(word, '?')} {word}"
    return element("span", said if count is None else f"{count} {said}", class_=f"state {word}")


def _controls(name: str, lines: Sequence[Line]) -> Markup:
    states = sorted({word for line in lines for word in line.states})
    options = [element("option", "all", value=""), *(element("option", s, value=s) for s in states)]
    words = element(
        "input", type="search", data_filter=name, placeholder="words, all of which must be in it", size=30
    )
    return element(
        "p",
        element("label", "Filter ", words),
        element("label", "State ", element("select", *options, data_state=name)),
        element("span", f"{len(lines)} of {len(lines)}", role="status", data_count=name),
        class_="controls",
    )


def _head(column: Column) -> Markup:
    button = element("button", column.head, type="button", title=column.note or None)
    return element("th", button, scope="col", class_="number" if column.number else None, aria_sort="none")


def _line(name: str, columns: Sequence[Column], line: Line) -> Markup:
    cells = []
    for column, cell in zip(columns, line.cells, strict=True):
        tag = "th" if column is columns[0] else "td"
        sort = f"{cell.sort:.12g}" if isinstance(cell.sort, int | float) else cell.sort
        if isinstance(cell.sort, float) and not math.isfinite(cell.sort):
            sort = None  # NaN has no order, and an infinity is no result
        cells.append(
            element(
                tag,
                cell.shown,
                class_=column.kind,
                data_v=sort,
                scope="row" if tag == "th" else None,
            )
        )
    identity = f"{name}-{line.row}" if line.first else None
    return element("tr", *cells, data_row=line.row, data_states=" ".join(line.states), id=identity)
