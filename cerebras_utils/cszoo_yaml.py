"""A cszoo config, read as cszoo reads it: one trainer, or a list of them that run one after the other."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cerebras_utils.trainer_keys import (
    DATALOADERS,
    INIT,
    SECTIONS,
    no_effect_lines,
    section_problems,
    unknown,
)
from cerebras_utils.vendor_names import OURS, effect_lines, entry_problems
from pruning.problems import Problem, ProblemError, fail
from pruning.registry import suggest
from pruning.strict_yaml import Document, read_yaml

_LEGACY = ("train_input", "eval_input", "model", "optimizer", "runconfig", "sparsity", "wandb")
_EXPONENT = re.compile(
    r"(?P<mantissa>[-+]?(?:[0-9][0-9_]*\.?[0-9_]*|\.[0-9][0-9_]*))[eE](?P<exponent>[-+]?[0-9]+)"
)


@dataclass(frozen=True)
class Phase:
    """One trainer of a config: what is written, unchecked beyond having ``init``, ``model`` and its name."""

    document: Document
    key: str  # where it stands: ``trainer``, or ``trainer[1].trainer``
    params: Mapping[str, Any]  # init, and fit, validate, validate_all where written

    @property
    def init(self) -> Mapping[str, Any]:
        init: Mapping[str, Any] = self.params["init"]
        return init

    def where(self, key: str = "") -> str:
        """``file: key``, for parts of the program that add keys to it; ``located`` adds the lines."""
        return f"{self.document.path}: {self._dotted(key)}"

    def at(self, key: str = "") -> str:
        """``file:line: key``."""
        return self.document.at(self._dotted(key))

    def _dotted(self, key: str) -> str:
        return f"{self.key}.{key}" if key else self.key


def load_config(path: str | Path) -> list[Phase]:
    """The trainers of a file. Raises ``ProblemError`` if it is no YAML, or not of cszoo's form."""
    return phases_of(read_yaml(Path(path)))


def phases_of(document: Document) -> list[Phase]:
    """The trainers of a config that is read already, or was never in a file."""
    entries = _trainers(document)
    problems = [problem for key, entry in entries for problem in _form_problems(document, key, entry)]
    if problems:
        raise ProblemError(problems)
    return [Phase(document, key, entry) for key, entry in entries]


def config_problems(phases: Sequence[Phase], ours: Sequence[str] = OURS) -> list[Problem]:
    """Everything wrong with the keys that a trainer reads itself, in the order of the file.

    What is in ``model``, ``optimizer``, ``schedulers``, ``sparsity`` and below the data loaders is
    for those who build them. ``ours`` names callbacks that are not ModelZoo's.
    """
    problems: list[Problem] = []
    for document in {id(phase.document): phase.document for phase in phases}.values():
        problems += _top_problems(document)
        problems += numbers_that_are_text(document)
    for phase in phases:
        problems += _phase_problems(phase, ours)
    return located(problems, phases)


def located(problems: Sequence[Problem], phases: Sequence[Phase]) -> list[Problem]:
    """The same problems with the lines of the file, in its order. The first of equal ones stays.

    A number that YAML reads as text is told as such, and not once more as a value of the wrong kind.
    """
    found = dict.fromkeys(problems)
    texts: dict[str, Problem] = {}
    for document in {id(phase.document): phase.document for phase in phases}.values():
        found = dict.fromkeys(document.locate(problem) for problem in found)
        texts |= {text.where: text for text in numbers_that_are_text(document) if text in found}
    return sorted((p for p in found if texts.get(p.where, p) == p), key=_line)


def lines_without_effect(phases: Sequence[Phase]) -> list[str]:
    """For each setting that does nothing on plain PyTorch, a line that says so and why.

    Of configs without problems.
    """
    lines: list[str] = []
    for phase in phases:
        lines += no_effect_lines(phase.init, phase.where("init"))
        for kind in ("callback", "logger"):
            entries = phase.init.get(f"{kind}s") or []
            lines += effect_lines(entries, phase.where(f"init.{kind}s"), kind)
    return lines


def _trainers(document: Document) -> list[tuple[str, Any]]:
    """Each trainer of a file with its dotted key."""
    top = document.value
    if not isinstance(top, dict):
        what = "is empty" if top is None else f"is a {type(top).__name__}, not a map"
        raise fail(document.path, what, "write a `trainer:` with `init:` and `fit:` below it")
    if "trainer" not in top:
        if any(key in top for key in _LEGACY):
            name = Path(document.path)
            raise fail(
                document.path,
                f"is of the form before trainers: at the top, {', '.join(k for k in _LEGACY if k in top)}",
                f"convert it, where ModelZoo is installed: cszoo config convert_legacy {name} "
                f"-o {name.with_name(f'{name.stem}_v2.yaml')}",
            )
        meant = next((hint for key in top if (hint := suggest(str(key), ["trainer"]))), "")
        what = f"has no `trainer:`, but {', '.join(map(str, top)) or 'nothing'}.{meant}"
        raise fail(document.path, what, "write a `trainer:` with `init:` and `fit:` below it")
    trainers = top["trainer"]
    if not isinstance(trainers, list):
        return [("trainer", trainers)]
    if not trainers:
        raise fail(
            document.at("trainer"), "is an empty list", "write a trainer in it: - trainer: {init: ...}"
        )
    for index, entry in enumerate(trainers):
        if not isinstance(entry, dict) or "trainer" not in entry:
            raise fail(document.at(f"trainer[{index}]"), "has no `trainer:`", "begin it with `- trainer:`")
    return [(f"trainer[{index}].trainer", entry["trainer"]) for index, entry in enumerate(trainers)]


def _form_problems(document: Document, key: str, trainer: Any) -> Iterator[Problem]:
    """Without these, nothing else can be said about a trainer."""
    for parts in ((), ("init",), ("init", "model")):
        dotted = ".".join((key, *parts))
        inner = trainer
        for part in parts:
            inner = inner.get(part)
        if not isinstance(inner, dict):
            what = "is missing" if inner is None else f"is {inner!r}, not a map"
            yield Problem(
                document.at(dotted), what, f"write `{dotted.rpartition('.')[2]}:` with its keys below it"
            )
            return
    if "model_name" in inner:
        yield Problem(
            document.at(f"{dotted}.model_name"), "is the old key of the model's name", "call it `name`"
        )
    elif not isinstance(inner.get("name"), str):
        what = (
            "has no `name`"
            if inner.get("name") is None
            else f"has the name {inner['name']!r}, which is no text"
        )
        yield Problem(document.at(dotted), what, "write a model's name such as gpt2 or llama: `name: gpt2`")


def _top_problems(document: Document) -> Iterator[Problem]:
    """cszoo passes over these without a word."""
    beside = [(str(key), "") for key in document.value if key != "trainer"]
    if isinstance(document.value["trainer"], list):
        for index, entry in enumerate(document.value["trainer"]):
            beside += [(str(key), f"trainer[{index}].") for key in entry if key != "trainer"]
    for key, prefix in beside:
        what = "stands beside `trainer:`, where nothing reads it"
        yield Problem(document.at(f"{prefix}{key}"), what, "move it below `trainer:`, or remove it")


def numbers_that_are_text(document: Document) -> Iterator[Problem]:
    for text in document.plain_texts:
        match = _EXPONENT.fullmatch(text.value)
        if match:
            mantissa, exponent = match["mantissa"], match["exponent"]
            point, sign = "" if "." in mantissa else ".0", "" if exponent[0] in "+-" else "+"
            right = f"{mantissa}{point}e{sign}{exponent}"
            what = f"{text.value} is text in YAML 1.1: a number with an exponent has a point and a sign"
            where = f"{document.path}:{text.line}: {text.key}"
            yield Problem(where, what, f'write {right}, or "{text.value}" if text is meant')


def _phase_problems(phase: Phase, ours: Sequence[str]) -> Iterator[Problem]:
    for key in phase.params:
        if key not in ("init", *DATALOADERS):
            yield unknown(key, ["init", *DATALOADERS], phase.where(), "trainer")
    for key in phase.init:
        if key not in INIT:
            yield unknown(key, list(INIT), phase.where("init"), "trainer.init")
    yield from _value_problems(phase)
    for section in SECTIONS:
        yield from section_problems(phase.init.get(section), section, phase.where(f"init.{section}"))
    for kind in ("callback", "logger"):
        if f"{kind}s" in phase.init:
            yield from entry_problems(phase.init[f"{kind}s"], phase.where(f"init.{kind}s"), kind, ours)
    for stage in DATALOADERS:
        if phase.params.get(stage) is not None:
            yield from _stage_problems(phase, stage, phase.params[stage])


def _value_problems(phase: Phase) -> Iterator[Problem]:
    """``device``, ``model_dir`` and ``seed``."""
    init = phase.init
    device, backend = init.get("device"), init.get("backend")
    kind = SECTIONS["backend"]["backend_type"].kind
    if not kind.holds(device):
        yield Problem(phase.where("init.device"), f"{device!r} is not {kind.says}", "mend the value")
    elif (
        device
        and isinstance(backend, dict)
        and str(backend.get("backend_type") or device).upper() != device.upper()
    ):
        what = f"is {device}, but backend_type is {backend['backend_type']}, which wins"
        yield Problem(phase.where("init.device"), what, "remove one of them")
    if not isinstance(init.get("model_dir", "."), str):
        what = f"{init['model_dir']!r} is not a directory"
        yield Problem(phase.where("init.model_dir"), what, "mend the value, or leave it out: ./model_dir")
    seed = init.get("seed")
    if seed is not None and (type(seed) is not int or not -(2**63) <= seed < 2**64):
        what = f"{seed!r} is not a whole number that torch takes, from -2^63 to 2^64 - 1"
        yield Problem(phase.where("init.seed"), what, "write a smaller one")


def _stage_problems(phase: Phase, stage: str, written: Any) -> Iterator[Problem]:
    data, checkpoint = DATALOADERS[stage]
    known = [data, "val_dataloader", checkpoint] if stage == "fit" else [data, checkpoint]
    if not isinstance(written, dict):
        yield Problem(phase.where(stage), f"is {written!r}, not a map", f"write `{data}:` below it")
        return
    for key, value in written.items():
        where = phase.where(f"{stage}.{key}")
        if key not in known:
            yield unknown(key, known, phase.where(stage), f"trainer.{stage}")
        elif key == checkpoint:
            several = isinstance(value, list) and stage == "validate_all"
            if not all(isinstance(name, str) and name for name in (value if several else [value or "none"])):
                yield Problem(
                    where, f"{value!r} is not a checkpoint's path", "mend the value, or leave it out"
                )
        elif value is None and key == data and stage != "validate_all":
            yield Problem(where, "is empty", "write the data processor and its settings below it")
        else:
            yield from _loader_problems(
                value, where, several=key != "train_dataloader" and stage != "validate"
            )
    if data not in written and stage != "validate_all":
        yield Problem(
            phase.where(stage), f"lacks {data!r}", f"write `{data}:` below it, or remove `{stage}:`"
        )


def _loader_problems(value: Any, where: str, *, several: bool) -> Iterator[Problem]:
    """A map of settings; where several data sets are allowed, a list of them too."""
    for index, loader in enumerate(value if several and isinstance(value, list) else [value]):
        here = f"{where}[{index}]" if isinstance(value, list) and several else where
        if not isinstance(loader, dict) and loader is not None:
            what = f"is a {type(loader).__name__}, not a map"
            yield Problem(here, what, "write the data processor and its settings below it")


def _line(problem: Problem) -> int:
    match = re.match(r".*?:([0-9]+)(?:: |$)", problem.where)
    return int(match[1]) if match else 0
