"""The ``optimizer:`` section of a YAML: its names, keys and defaults, and what is wrong with it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cerebras_utils.fallback.optim.adam import Adam, AdamW
from cerebras_utils.fallback.optim.base import Optimizer
from cerebras_utils.fallback.optim.fields import (
    RATE,
    Field,
    field_problems,
    filled,
    flag,
    lookup,
    number,
    pair_of,
    single,
)
from cerebras_utils.fallback.optim.sgd import SGD
from pruning.problems import Problem

_BETA = number(0.0, below=1.0)


def _tagged(value: Any) -> str:
    entries = value if isinstance(value, list) else [value]
    for entry in entries:
        globs = entry.get("params") if isinstance(entry, Mapping) else None
        globs = [globs] if isinstance(globs, str) else globs
        fine = isinstance(globs, list) and globs and all(isinstance(glob, str) for glob in globs)
        if not fine or set(entry) != {"params", "tag"} or not isinstance(entry["tag"], str):
            return "a list of {params: GLOB or list of them, tag: NAME}"
    return ""


def _scales(value: Any) -> str:
    check = number(0.0, 1e6)
    fine = isinstance(value, Mapping) and not any(map(check, value.values()))
    return "" if fine else "a factor for each group of parameters, as {decoder_kernel: 0.25}"


_COMMON = {"params": Field(_tagged, ()), "adjust_learning_rate": Field(_scales)}
_ADAM = {
    "learning_rate": Field(RATE, 1e-3),
    "lr": Field(RATE, 1e-3),
    "betas": Field(pair_of(_BETA), (0.9, 0.999)),
    "eps": Field(number(0.0, 1.0), 1e-6),
    "weight_decay": Field(RATE, 0.0),
    "amsgrad": Field(flag, False),
    "correct_bias": Field(flag, True),
    **_COMMON,
}
_OPTIMIZERS: dict[str, tuple[type[Optimizer], dict[str, Field]]] = {
    "Adam": (Adam, _ADAM),
    "AdamW": (AdamW, _ADAM),
    "SGD": (
        SGD,
        {
            "learning_rate": Field(RATE, 0.1),
            "lr": Field(RATE, 0.1),
            "momentum": Field(_BETA, 0.0),
            "dampening": Field(number(0.0, 1.0), 0.0),
            "weight_decay": Field(RATE, 0.0),
            "nesterov": Field(flag, False),
            "maximize": Field(flag, False),
            **_COMMON,
        },
    ),
}
_OTHER_OPTIMIZERS = (  # cstorch's, which are not implemented here
    *("Adadelta", "Adafactor", "Adagrad", "Adamax", "ASGD", "Lamb", "Lion"),
    *("Muon", "NAdam", "RAdam", "RMSprop", "Rprop"),
)

_FORM = "{AdamW: {weight_decay: 0.1}}"


@dataclass(frozen=True)
class OptimizerSection:
    name: str  # as it was written
    cls: type[Optimizer]
    settings: dict[str, Any]  # what the class takes
    tagged: Sequence[Mapping[str, Any]]
    scales: Mapping[str, float]


def read_optimizer(params: Mapping[str, Any]) -> OptimizerSection:
    """The section without problems as what it asks for, defaults filled in."""
    ((name, given),) = params.items()
    cls, fields = next(known for proper, known in _OPTIMIZERS.items() if proper.lower() == name.lower())
    values = filled(given, fields)
    rate = given.get("learning_rate", values["lr"])
    tagged, scales = values["params"], values["adjust_learning_rate"]
    settings = {key: _plain(values[key]) for key in fields if key not in (*_COMMON, "learning_rate", "lr")}
    if cls is Adam:
        del settings["correct_bias"]  # which it always does
    return OptimizerSection(
        name=name,
        cls=cls,
        settings={**settings, "lr": float(rate)},
        tagged=[tagged] if isinstance(tagged, Mapping) else tagged,
        scales=scales or {},
    )


def _plain(value: Any) -> Any:
    """As cszoo converts it, and so as checkpoints have it: numbers are floats, the betas a tuple."""
    if isinstance(value, list | tuple):
        return tuple(map(float, value))
    return value if isinstance(value, bool) else float(value)


def optimizer_problems(params: Any, where: str) -> list[Problem]:
    found = single(params, where, "optimizer", _FORM)
    if isinstance(found, Problem):
        return [found]
    name, given = found
    proper = lookup(name, _OPTIMIZERS, _OTHER_OPTIMIZERS, f"{where}.{name}", "optimizer")
    if isinstance(proper, Problem):
        return [proper]
    where = f"{where}.{name}"
    problems = list(field_problems(given, _OPTIMIZERS[proper][1], where))
    if "lr" in given and "learning_rate" in given:
        problems.append(Problem(f"{where}.lr", "is another name of learning_rate, given too", "keep one"))
    if proper == "Adam" and given.get("correct_bias") is False:
        what = "is false, which Adam ignores: it always corrects the bias"
        problems.append(Problem(f"{where}.correct_bias", what, "remove it, or use AdamW"))
    ahead = proper == "SGD" and not problems and given.get("nesterov")
    if ahead and (not given.get("momentum") or given.get("dampening")):
        what = "needs a momentum above 0 and no dampening"
        problems.append(Problem(f"{where}.nesterov", what, "set momentum: 0.9 and dampening: 0.0"))
    return problems
