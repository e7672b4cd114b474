"""Everything that can be said of a config before anything is built: what is wrong, and what has no effect."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from cerebras_utils.cszoo_yaml import Phase, config_problems, lines_without_effect, located
from cerebras_utils.fallback.callback_checks import callback_problems
from cerebras_utils.fallback.data.loader import data_notes, data_problems
from cerebras_utils.fallback.mdl_tree import unwritable
from cerebras_utils.fallback.models.rules import model_problems, options_without_effect
from cerebras_utils.fallback.optim.build import optimizer_problems, scheduler_problems
from cerebras_utils.fallback.precision import precision_notes, precision_problems
from cerebras_utils.fallback.schedule import limit_problems
from cerebras_utils.fallback.start_checks import checkpoint_problems, directory_problems, start_problems
from cerebras_utils.fallback.states import states_asked
from cerebras_utils.hooks import Hooks
from cerebras_utils.lora_settings import callback_problems as lora_problems
from cerebras_utils.trainer_keys import DATALOADERS, settings
from pruning.problems import Problem, ProblemError


def find_problems(
    phases: Sequence[Phase],
    verb: str,
    ours: Mapping[str, type[Hooks]],
    *,
    checkpoint_path: str | None = None,
    model_dir: str | None = None,
    states: str | None = None,
) -> list[Problem]:
    """Everything that is wrong, in the order of the file. ``ours``: the callbacks that are classes here.

    ``checkpoint_path``, ``model_dir`` and ``states`` are the command line's.
    """
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
        problems += callback_problems(phase, ours)
        problems += lora_problems(init.get("callbacks"), phase.where("init.callbacks"))
        problems += _left_problems(phase, verb)
        problems += _unwritable_problems(phase)
    if not problems:
        for phase in phases:
            problems += start_problems(phase, verb)
            problems += directory_problems(phase, verb, model_dir)
        problems += _start_problems(phases, verb, checkpoint_path, states)
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


def _start_problems(
    phases: Sequence[Phase], verb: str, checkpoint_path: str | None, states: str | None
) -> list[Problem]:
    """What is wrong with the states to load; if nothing, with the checkpoint they are of."""
    problems: list[Problem] = []
    asked = []
    for phase in phases:
        try:
            asked.append(states_asked(phase, states))
        except ProblemError as error:
            problems += error.problems
    return problems or list(checkpoint_problems(phases[0], verb, checkpoint_path, asked[0]))


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
    elif verb == "validate_all" and isinstance(stage := phase.params[verb], Mapping):
        if not stage.get("val_dataloaders"):
            what = "names no data: nothing would be validated"
            yield Problem(
                phase.where("validate_all.val_dataloaders"), what, "write a list of data sets below it"
            )
        if stage.get("ckpt_paths", ...) == []:
            what = "is an empty list: nothing would be validated"
            fix = "name checkpoints, or leave it out: all of the model directory"
            yield Problem(phase.where("validate_all.ckpt_paths"), what, fix)


def _unwritable_problems(phase: Phase) -> Iterator[Problem]:
    """The whole config goes into every checkpoint, so that the first of them would end the run."""
    for place, what in unwritable(dict(phase.params)):
        fix = "write it in quotes, as text" if "is a date" in what else "write text or numbers"
        yield Problem(phase.where(place), what, fix)


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
