"""What the traced graph carries, held against what the config asks for.

Every mask must be an argument of one bit per weight, hold the bits of its file, and its weight and each
tensor of the optimizer's state of that weight must carry the mask's own sparsity as a hint. No other tensor
may carry one. A difference is a problem, never a remark: the compiler believes the hints.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from cerebras_utils.trace.asked import CALLBACK, Asked
from cerebras_utils.trace.cirh import HINTS, Argument, read_arguments
from pruning.masks.collection import resolve_names
from pruning.masks.file import MaskFile
from pruning.problems import Problem

_STATE = "state.model."
_MEND = f"set sparsity in one place only, {CALLBACK} or `sparsity:`, and trace again"


@dataclass(frozen=True)
class Parameter:
    names: tuple[str, ...]  # several of a tied one
    argument: str
    state: tuple[str, ...]  # arguments of the optimizer's tensors of its shape
    trained: bool


@dataclass(frozen=True)
class Trace:
    """What was seen: the graph's arguments, the model's parameters, and what would be sent."""

    arguments: Sequence[Argument]
    parameters: Sequence[Parameter]
    sent: Mapping[str, Mapping[str, Any]]

    @classmethod
    def read(cls, text: str, seen: Mapping[str, Any]) -> "Trace":
        """From the graph's text, and what the process that made it says of parameters and of sending."""
        parameters = [
            Parameter(tuple(p["names"]), p["argument"], tuple(p["state"]), p["trained"])
            for p in seen["parameters"]
        ]
        return cls(read_arguments(text), parameters, seen["sent"])

    @property
    def hints(self) -> int:
        return sum("sparsity" in argument.hints for argument in self.arguments)

    @property
    def masks(self) -> int:
        return sum(argument.is_mask for argument in self.arguments)


@dataclass(frozen=True)
class Mask:
    """A mask as it should be. ``slack``: by how much a hint of it may differ."""

    sparsity: float
    shape: tuple[int, ...]
    sha256: str | None = None  # of the packed bits, where a file says them
    slack: float = 0.0


@dataclass
class Row:
    """One masked weight as it was found."""

    weight: str
    sparsity: float | None
    trained: bool
    hint: float | None = None
    state: int = 0
    state_hinted: int = 0
    mask: str = ""  # the element type of the mask's argument
    mask_sent: str = ""
    weight_sent: str = ""
    wrong: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Report:
    rows: Sequence[Row]
    problems: Sequence[Problem]


def judge(trace: Trace, asked: Asked) -> Report:
    """Every masked weight, and everything about it and about the others that was not asked for."""
    by_name = {argument.name: argument for argument in trace.arguments}
    if asked.mask_path is not None and not asked.every_step:
        rows, allowed = [*_rows_of_once(trace, asked.mask_path)], set[str]()
    else:
        wanted = _of_file(trace, asked.mask_path) if asked.mask_path else {}
        wanted = _of_vendor(trace) if asked.native else wanted
        rows = [_row(trace, by_name, index, mask) for index, mask in wanted.items()]
        allowed = {name for index in wanted for name in _arguments_of(trace.parameters[index])}
    problems = [Problem(row.weight, what, _MEND) for row in rows for what in row.wrong]
    if asked.native and not rows:
        what = "the config has a `sparsity:` section, and the graph holds no mask"
        problems.append(Problem("sparsity", what, "mend its param_filter: it matches no parameter"))
    return Report(rows, [*problems, *_extra(trace, allowed)])


def _row(trace: Trace, arguments: Mapping[str, Argument], index: int, mask: Mask) -> Row:
    parameter = trace.parameters[index]
    row = Row(parameter.names[0], mask.sparsity, parameter.trained, state=len(parameter.state))
    row.wrong += _wrong_hints(arguments.get(parameter.argument), "the weight", mask)
    if parameter.argument in arguments:
        row.hint = arguments[parameter.argument].hints.get("sparsity")
    for name in parameter.state:
        wrong = [*_wrong_hints(arguments.get(name), f"the optimizer's {name.rpartition('.')[2]}", mask)]
        row.wrong += wrong
        row.state_hinted += not wrong
    if parameter.trained and not parameter.state:
        row.wrong.append("is trained, and the optimizer has no state of its shape to hint")
    row.weight_sent = _kind(trace, parameter.argument)
    if not row.weight_sent:
        row.wrong.append("is not among the tensors that would be sent")
    name = next((name for name in _masks_of(parameter) if name in arguments), "")
    if not name:
        row.wrong.append("its mask is no argument of the graph")
        return row
    row.mask, row.mask_sent = arguments[name].dtype, _kind(trace, name)
    if (row.mask, arguments[name].shape) != ("i1", mask.shape):
        row.wrong.append(
            f"its mask is {arguments[name].dtype} of {arguments[name].shape}, not i1 of {mask.shape}"
        )
    seen = trace.sent.get(name)
    if seen is None:
        row.wrong.append("its mask is not among the tensors that would be sent")
    elif mask.sha256 not in (None, seen.get("sha256")):
        row.wrong.append(
            f"the mask that would be sent keeps {seen.get('kept'):,} weights, and not those of the file"
        )
    return row


def _wrong_hints(argument: Argument | None, what: str, mask: Mask) -> Iterator[str]:
    if argument is None:
        yield f"{what} is no argument of the graph"
    elif not argument.hints:
        yield f"{what} carries no hint: it would be dense on the wafer"
    else:
        lowest, hint, highest = (argument.hints.get(name) for name in HINTS)
        if lowest is None or highest is None or hint is None:
            missing = ", ".join(name for name in HINTS if name not in argument.hints)
            yield f"{what} carries no {missing}"
        elif not (_reaches(lowest, mask, 1) and _reaches(highest, mask, -1)):
            yield f"{what} is hinted {_said(lowest, hint, highest)}, where its mask has {mask.sparsity:.7g}"
        elif lowest == highest and hint != lowest:
            yield f"{what} is hinted {_said(lowest, hint, highest)}: the three differ"


def _reaches(bound: float, mask: Mask, sign: int) -> bool:
    """Hints are fp32: without slack the mask's sparsity must round to the very number."""
    return np.float32(bound) == np.float32(mask.sparsity) or (
        mask.slack > 0 and sign * (mask.sparsity - bound) >= -mask.slack
    )


def _said(lowest: float, hint: float, highest: float) -> str:
    return f"{hint:.7g}" if lowest == hint == highest else f"{lowest:.7g} to {highest:.7g} ({hint:.7g})"


def _of_file(trace: Trace, path: str) -> dict[int, Mask]:
    """The parameter (its place) of each mask of the file."""
    places = {name: index for index, parameter in enumerate(trace.parameters) for name in parameter.names}
    found = {}
    with MaskFile(path) as file:
        for mask, parameter in resolve_names(file.names, places).items():
            digest = hashlib.sha256(file.packed(mask).tobytes()).hexdigest()
            found[places[parameter]] = Mask(file.sparsity(mask), file.shape(mask), digest)
    return found


def _of_vendor(trace: Trace) -> dict[int, Mask]:
    """The masks in the graph are what they are; their hints must say so, to within a weight.

    The vendor's hint is the number of the config, while a mask drops a whole number of weights.
    """
    owners = {name: i for i, parameter in enumerate(trace.parameters) for name in _masks_of(parameter)}
    found = {}
    for argument in trace.arguments:
        seen = trace.sent.get(argument.name, {})
        if argument.is_mask and argument.name in owners and "kept" in seen:
            sparsity = 1 - seen["kept"] / seen["numel"]
            slack = 1 / seen["numel"] + 2**-24
            found[owners[argument.name]] = Mask(sparsity, argument.shape, slack=slack)
    return found


def _rows_of_once(trace: Trace, path: str) -> Iterator[Row]:
    """No mask and no hint, and weights that would be sent with zeros under the mask."""
    places = {name: parameter for parameter in trace.parameters for name in parameter.names}
    with MaskFile(path) as file:
        for mask, name in resolve_names(file.names, places).items():
            parameter = places[name]
            row = Row(parameter.names[0], file.sparsity(mask), parameter.trained, state=len(parameter.state))
            seen = trace.sent.get(parameter.argument, {})
            row.weight_sent = seen.get("kind", "")
            revived = seen.get("under_mask")
            if revived is None:
                row.wrong.append("is not among the tensors that would be sent")
            elif revived:
                row.wrong.append(f"would be sent with {revived:,} weights under its mask that are not zero")
            yield row


def _extra(trace: Trace, allowed: set[str]) -> Iterator[Problem]:
    for argument in trace.arguments:
        if argument.name in allowed:
            continue
        if argument.hints:
            hints = ", ".join(f"{name} {value:.7g}" for name, value in argument.hints.items())
            yield Problem(argument.name, f"carries a hint that nothing asks for: {hints}", _MEND)
        if argument.is_mask:
            yield Problem(argument.name, "is a mask that nothing asks for", _MEND)


def _arguments_of(parameter: Parameter) -> list[str]:
    return [parameter.argument, *parameter.state, *_masks_of(parameter)]


def _masks_of(parameter: Parameter) -> list[str]:
    return [f"{_STATE}{name}_mask" for name in parameter.names]


def _kind(trace: Trace, argument: str) -> str:
    return str(trace.sent.get(argument, {}).get("kind", ""))
