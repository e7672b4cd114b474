"""CIRH, the text that the compiler of the CS-3 is given: the arguments of its graph.

The graph is one function whose arguments are the model's weights, its masks, the state of the optimizer
and a batch. Sparsity is told by attributes of these arguments alone, so the signature is all that is read.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from pruning.problems import fail

HINTS = ("min_sparsity", "sparsity", "max_sparsity")

_HEAD = re.compile(r"^\s*func(?:\.func)? @\w+\(", re.MULTILINE)
_QUOTED = r'"(?:[^"\\]|\\.)*"'
_ARGUMENT = re.compile(
    r"%arg(?P<index>\d+): tensor<(?P<type>[^<>]*)>"
    rf"(?: \{{(?P<attributes>(?:[^{{}}\"]|{_QUOTED}|\{{(?:[^{{}}\"]|{_QUOTED})*\}})*)\}})?"
)
_STRING = re.compile(rf"(?P<key>[\w.]+) = (?P<value>{_QUOTED})")
_HINT = re.compile(r"cs\.(?P<hint>\w*sparsity) = (?P<value>[^\s,}]+) : f(?:32|64)")
_END = ") -> ("


@dataclass(frozen=True)
class Argument:
    """One argument of the graph. ``hints`` are the sparsities that the compiler is told, if any."""

    name: str  # "state.model...weight", or the name of an input
    shape: tuple[int, ...]
    dtype: str  # as in MLIR: f32, i1
    hints: dict[str, float]

    @property
    def is_mask(self) -> bool:
        return self.dtype == "i1" and self.name.endswith("_mask") and self.name.startswith("state.")


def read_arguments(text: str, where: object = "CIRH") -> list[Argument]:
    """Every argument of the graph, in its order. Text of another form is an error, never fewer arguments."""
    head = _HEAD.search(text)
    if head is None:
        raise fail(
            where, "holds no function with arguments", "trace with the Cerebras release it was made for"
        )
    signature, end, _ = text[head.end() :].partition("\n")[0].partition(_END)
    found = [*_arguments(signature, where)]
    if [index for index, _ in found] != list(range(len(found))) or not end:
        what = f"has a function whose {len(found)} arguments cannot be told apart"
        raise fail(where, what, "trace with the Cerebras release it was made for")
    return [argument for _, argument in found]


def _arguments(signature: str, where: object) -> Iterator[tuple[int, Argument]]:
    for match in _ARGUMENT.finditer(signature):
        attributes = match["attributes"] or ""
        strings = {m["key"]: m["value"][1:-1] for m in _STRING.finditer(attributes)}
        name = strings.get("tf.resource_name") or strings.get("cs.input_name") or f"arg{match['index']}"
        *sizes, dtype = match["type"].split("x")
        hints = {m["hint"]: _number(m["value"], f"{where}: {name}") for m in _HINT.finditer(attributes)}
        yield int(match["index"]), Argument(name, tuple(map(int, sizes)), dtype, hints)


def _number(text: str, where: str) -> float:
    try:
        return float(text)
    except ValueError:
        what = f"carries {text} as a sparsity, which is no number"
        raise fail(where, what, "give each mask a sparsity from 0 up to, not including, 1") from None
