"""Everything that can be said of a config before anything is built: what is wrong, and what has no effect."""

import inspect
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from cerebras_utils.cszoo_yaml import Phase, config_problems, lines_without_effect, located
from cerebras_utils.fallback.data.loader import data_notes, data_problems
from cerebras_utils.fallback.models.rules import model_problems, options_without_effect
from cerebras_utils.fallback.optim.build import optimizer_problems, scheduler_problems
from cerebras_utils.fallback.precision import precision_notes, precision_problems
from cerebras_utils.fallback.schedule import limit_problems
from cerebras_utils.hooks import Hooks
from cerebras_utils.lora_settings import callback_problems as lora_problems
from cerebras_utils.trainer_keys import DATALOADERS, settings
from cerebras_utils.vendor_names import with_defaults
from pruning.problems import Problem
from pruning.registry import suggest


def find_problems(phases: Sequence[Phase], verb: str, ours: Mapping[str, type[Hooks]]) -> list[Problem]:
    """Everything that is wrong, in the order of the file. ``ours``: the callbacks that are classes here."""
    problems = config_problems(phases)
    for phase in phases:
        init, model = phase.init, phase.init.get("model") or {}
        problems += model_problems(model, phase.where("init.model"))
        if verb == "fit":
            problems += optimizer_problems(init.get("optimizer") or {}, phase.where("init.optimizer"))
            problems += scheduler_problems(listed(init.get("schedulers")), phase.where("init.schedulers"))
            problems += limit_problems(init.get("loop"), phase.where("init.loop"))
        for where, section in _data_sections(phase, verb):
            problems += data_problems(section, model, where)
        if isinstance(init.get("precision"), Mapping):
            problems += precision_problems(init, phase.where("init.precision"))
        problems += _argument_problems(phase, ours)
        problems += _mask_problems(phase)
        problems += lora_problems(init.get("callbacks"), phase.where("init.callbacks"))
        problems += _left_problems(phase, verb)
    return located(problems, phases)


def find_notes(phases: Sequence[Phase], verb: str) -> list[str]:
    """Settings that are accepted and mean nothing here, or not what one might think; one line each."""
    lines = lines_without_effect(phases)
    for phase in phases:
        said = options_without_effect(phase.init["model"], phase.where("init.model"))
        lines += [f"{where} has no effect here: {why}" for where, why in said]
        for where, section in _data_sections(phase, verb):
            lines += data_notes(section, where)
        lines += precision_notes(phase.init, phase.where("init.precision"))
        lines += _fit_notes(phase) if verb == "fit" else _validate_notes(phase, verb)
    return lines


def listed(value: Any) -> Any:
    return value if value is None or isinstance(value, list) else [value]


def _left_problems(phase: Phase, verb: str) -> Iterator[Problem]:
    if phase.init.get("sparsity") is not None:
        yield Problem(
            phase.where("init.sparsity"),
            "the vendor's own sparsity algorithms are not run here",
            "compute masks with `wafersparse masks` and add the SparseMaskCallback",
        )
    if phase.params.get(verb) is None:
        fix = f"write `{verb}:` with a {DATALOADERS[verb][0]} below it"
        yield Problem(phase.where(), f"has no {verb!r} section", fix)


def _argument_problems(phase: Phase, ours: Mapping[str, type[Hooks]]) -> Iterator[Problem]:
    """Arguments of our own callbacks: what they are called, not what they are."""
    entries = phase.init.get("callbacks")
    for index, entry in enumerate(entries if isinstance(entries, list) else ()):
        if not isinstance(entry, dict) or len(entry) != 1:
            continue
        ((name, arguments),) = with_defaults([entry], {}) or [("", {})]
        if name not in ours:
            continue
        where = phase.where(f"init.callbacks[{index}].{next(iter(entry))}")
        known = inspect.signature(ours[name]).parameters
        for argument in arguments:
            if argument not in known:
                what = f"is no argument of {name}.{suggest(str(argument), list(known))}"
                yield Problem(f"{where}.{argument}", what, f"remove it; known: {', '.join(known)}")
        for argument, about in known.items():
            if about.default is inspect.Parameter.empty and argument not in arguments:
                yield Problem(where, f"lacks {argument!r}", f"write `{argument}:` below it")


def _mask_problems(phase: Phase) -> Iterator[Problem]:
    """What the SparseMaskCallback is given, and that it stands once: two would prune by both, and log one."""
    entries = phase.init.get("callbacks")
    first = True
    for index, entry in enumerate(entries if isinstance(entries, list) else ()):
        if not isinstance(entry, dict) or len(entry) != 1:
            continue
        ((name, arguments),) = with_defaults([entry], {}) or [("", {})]
        if name != "SparseMaskCallback":
            continue
        where = phase.where(f"init.callbacks[{index}].{next(iter(entry))}")
        if not first:
            yield Problem(where, f"{name} is there already, and cszoo takes each once", "keep one of them")
        first = False
        path, every = arguments.get("mask_path", ...), arguments.get("apply_every_step", True)
        if path is not ... and not (isinstance(path, str) and path):
            yield Problem(f"{where}.mask_path", f"{path!r} is no path", "write `mask_path: FILE`")
        elif path is not ... and not Path(path).is_file():
            what = "is no file" if Path(path).exists() else "there is no such file"
            fix = f"name a mask file; relative paths begin at {Path.cwd()}, where the command runs"
            yield Problem(f"{where}.mask_path: {path}", what, fix)
        if not isinstance(every, bool):  # any text would count as true
            what = f"{every!r} is neither true nor false"
            yield Problem(f"{where}.apply_every_step", what, "write true or false, without quotes")


def _fit_notes(phase: Phase) -> Iterator[str]:
    if isinstance(phase.init.get("schedulers"), Mapping):
        where = phase.where("init.schedulers")
        yield f"{where} is one schedule, which cszoo refuses: write it as a list, `- Name: ...`"
    loop, checkpoint = settings(phase.init, "loop") or {}, settings(phase.init, "checkpoint") or {}
    parts = loop["grad_accum_steps"]
    if parts == 1:
        return
    where = phase.where("init.loop.grad_accum_steps")
    steps = loop["max_steps"] or loop["num_steps"] or 2 * parts
    yield (
        f"{where}: steps of the loop and of checkpoints count batches here, as in ModelZoo without a CS-3: "
        f"{steps} of them are {steps // parts} steps of the optimizer, where a CS-3 makes {steps}"
    )
    every = {"eval_frequency": loop["eval_frequency"], "checkpoint.steps": checkpoint["steps"]}
    for key, value in every.items():
        if isinstance(value, int) and value % parts:
            yield f"{where}: {key} {value} is no multiple of {parts}: it cuts an accumulation in two"


def _validate_notes(phase: Phase, verb: str) -> Iterator[str]:
    written, key = phase.params.get(verb) or {}, DATALOADERS[verb][1]
    if (phase.params.get("fit") or {}).get("ckpt_path") and key not in written:
        where = phase.where("fit.ckpt_path")
        yield f"{where} is not what {verb} loads, in cszoo neither: write {verb}.{key}, or --checkpoint_path"
    if (settings(phase.init, "checkpoint") or {})["save_initial_checkpoint"]:
        where = phase.where("init.checkpoint.save_initial_checkpoint")
        yield f"{where} has no effect here: {verb} writes no checkpoint"


def _data_sections(phase: Phase, verb: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    stage = phase.params.get(verb) or {}
    if not isinstance(stage, Mapping):
        return
    for key in ("train_dataloader", "val_dataloader", "val_dataloaders"):
        written = stage.get(key)
        for index, section in enumerate(listed(written) or []):
            place = f"{verb}.{key}[{index}]" if isinstance(written, list) else f"{verb}.{key}"
            yield phase.where(place), section
