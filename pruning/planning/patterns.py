"""Which weights are dropped together. A pattern knows shapes and names, never scores.

Weights are (out, in), as in every Linear. Except for N:M and unstructured masks, the units of a
pattern form a grid of equal cells over the matrix, so one piece of code scores and packs them all.
"""

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

from pruning.checkpoint.source import TensorInfo
from pruning.registry import Registry

Cell = tuple[int, int]  # rows and columns of one unit


class PatternError(ValueError):
    """A tensor that a pattern does not fit. ``args``: what, fix."""


@dataclass(frozen=True)
class Unstructured:
    """Every weight for itself."""

    text: str = "unstructured"

    def units(self, info: TensorInfo) -> int:
        return info.numel


@dataclass(frozen=True)
class NOfM:
    """``n`` kept of every ``m`` consecutive weights along the input dimension."""

    n: int
    m: int

    @property
    def text(self) -> str:
        return f"{self.n}:{self.m}"

    def units(self, info: TensorInfo) -> int:
        _matrix(info, self.text)
        if info.shape[1] % self.m:
            raise PatternError(
                f"its input dimension {info.shape[1]} is not divisible by {self.m}: "
                f"{self.n} of {self.m} cannot be kept",
                f"exclude it, or choose an M that divides {info.shape[1]}",
            )
        return info.numel


@dataclass(frozen=True)
class Grid:
    """Equal cells over the matrix; a cell is kept or dropped as a whole."""

    text: ClassVar[str]

    def cell(self, info: TensorInfo) -> Cell:
        raise NotImplementedError

    def units(self, info: TensorInfo) -> int:
        rows, columns = matrix_shape(info)
        high, wide = self.cell(info)
        return rows // high * (columns // wide)


@dataclass(frozen=True)
class Row(Grid):
    """Output channels; for more than two dimensions, filters."""

    text: ClassVar[str] = "row"

    def cell(self, info: TensorInfo) -> Cell:
        _not_transposed(info, self.text)
        return 1, matrix_shape(info)[1]


@dataclass(frozen=True)
class Column(Grid):
    """Input channels."""

    text: ClassVar[str] = "column"

    def cell(self, info: TensorInfo) -> Cell:
        _matrix(info, self.text)
        return info.shape[0], 1


@dataclass(frozen=True)
class Block(Grid):
    high: int
    wide: int

    @property
    def text(self) -> str:  # type: ignore[override]
        return f"block:{self.high}x{self.wide}"

    def cell(self, info: TensorInfo) -> Cell:
        _two_dimensional(info, self.text)
        for size, part, side in ((info.shape[0], self.high, "out"), (info.shape[1], self.wide, "in")):
            if size % part:
                raise PatternError(
                    f"its {side} dimension {size} is not divisible by {part}: blocks of "
                    f"{self.high}x{self.wide} do not tile it",
                    "exclude it, or choose a block that divides its shape",
                )
        return self.high, self.wide


@dataclass(frozen=True)
class Head(Grid):
    """Attention heads: one unit is a head's slice of q, k, v (rows) and of the output projection (columns).

    All of an attention module's projections lose the same heads. With grouped queries, k and v
    have fewer heads: one of theirs goes when all query heads that read it go.
    """

    heads: int

    @property
    def text(self) -> str:  # type: ignore[override]
        return f"head:{self.heads}"

    def cell(self, info: TensorInfo) -> Cell:
        raise AssertionError("the cells of a head depend on each other: see head_cells")


def head_cells(pattern: Head, infos: Sequence[TensorInfo]) -> dict[str, Cell]:
    """The cells of one attention module's projections. k and v are cut to the width of q's heads."""
    widths, heads = {}, pattern.heads
    for info in infos:
        _matrix(info, pattern.text)
        role = attention_role(info.name)
        if role in "qo":
            side, size = ("in", info.shape[1]) if role == "o" else ("out", info.shape[0])
            if size % heads:
                raise PatternError(
                    f"its {side} dimension {size} is not divisible by {heads} heads",
                    "give the model's own number of query heads",
                )
            widths[role] = size // heads
    if len(set(widths.values())) != 1:
        raise PatternError(
            "the width of a head cannot be told: "
            + (
                f"q has {widths['q']}, the output {widths['o']}"
                if widths
                else "neither q nor the output projection is included"
            ),
            "include q or the output projection, of one attention module",
        )
    width = next(iter(widths.values()))
    cells = {}
    for info in infos:
        role = attention_role(info.name)
        if role in "kv" and (info.shape[0] % width or heads % (info.shape[0] // width)):
            raise PatternError(
                f"{info.name} has {info.shape[0]} rows: no whole groups of {heads} heads of {width}",
                "give the model's own number of query heads",
            )
        cells[info.name] = (info.shape[0], width) if role == "o" else (width, info.shape[1])
    return cells


Pattern = Unstructured | NOfM | Grid
PATTERNS: Registry[Callable[[str], Pattern]] = Registry("pattern")


@PATTERNS.register("unstructured")
def _unstructured(argument: str) -> Pattern:
    return _plain(Unstructured(), argument)


@PATTERNS.register("row")
def _row(argument: str) -> Pattern:
    return _plain(Row(), argument)


@PATTERNS.register("column")
def _column(argument: str) -> Pattern:
    return _plain(Column(), argument)


@PATTERNS.register("block")
def _block(argument: str) -> Pattern:
    found = re.fullmatch(r"([1-9]\d*)x([1-9]\d*)", argument)
    if not found:
        raise ValueError(f"block:{argument} is not a block; write block:HEIGHTxWIDTH, such as block:16x16")
    return Block(int(found[1]), int(found[2]))


@PATTERNS.register("head")
def _head(argument: str) -> Pattern:
    if not re.fullmatch(r"[1-9]\d*", argument):
        raise ValueError(f"head:{argument} does not say how many heads; write head:NUMBER, such as head:32")
    return Head(int(argument))


def parse_pattern(text: str) -> Pattern:
    """``unstructured``, ``2:4``, ``block:16x16``, ``row``, ``column``, ``head:32``."""
    found = re.fullmatch(r"(\d+):(\d+)", text)
    if found:
        n, m = int(found[1]), int(found[2])
        if not 0 < n < m:
            raise ValueError(
                f"pattern {text}: N of every M weights are kept, so 0 < N < M; 2:4 keeps two of four"
            )
        return NOfM(n, m)
    name, _, argument = text.partition(":")
    try:
        return PATTERNS[name](argument)
    except LookupError as error:
        raise ValueError(f"{str(error).rstrip('.')}, N:M.") from None


def matrix_shape(info: TensorInfo) -> tuple[int, int]:
    """(out, everything else)."""
    return info.shape[0], math.prod(info.shape[1:])


_ROLES = {
    "q": ("q_proj", "proj_q_dense_layer", "query", "wq"),
    "k": ("k_proj", "proj_k_dense_layer", "key", "wk"),
    "v": ("v_proj", "proj_v_dense_layer", "value", "wv"),
    "o": ("o_proj", "out_proj", "proj_output_dense_layer", "wo"),
}


def attention_role(name: str) -> str:
    """q, k, v or o for attention projections, as ModelZoo or HuggingFace name them; or ''."""
    layer = name.split(".")[-2] if "." in name else ""
    return next((role for role, names in _ROLES.items() if layer in names), "")


def _plain(pattern: Pattern, argument: str) -> Pattern:
    if argument:
        raise ValueError(f"pattern {pattern.text} takes no argument, got {argument!r}")
    return pattern


def _matrix(info: TensorInfo, pattern: str) -> None:
    """Two dimensions, and known to be (out, in)."""
    _two_dimensional(info, pattern)
    _not_transposed(info, pattern)


def _two_dimensional(info: TensorInfo, pattern: str) -> None:
    if len(info.shape) != 2:
        raise PatternError(
            f"pattern {pattern} is defined for (out, in) matrices; this has {len(info.shape)} dimensions",
            "exclude it, or use the unstructured pattern",
        )


def _not_transposed(info: TensorInfo, pattern: str) -> None:
    """HuggingFace's GPT-2 stores its Conv1D weights as (in, out), the other way round."""
    if re.search(r"(^|\.)h\.\d+\.(attn|mlp)\.(c_attn|c_proj|c_fc)\.weight$", info.name):
        raise PatternError(
            f"GPT-2 of HuggingFace stores it as (in, out), and pattern {pattern} needs (out, in)",
            "convert the checkpoint to ModelZoo's layout first, or use the unstructured pattern",
        )
