"""Before the first run starts: masks, configs, and the doctor on every one of them, all problems at once."""

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from cerebras_utils.checks.case import Files
from cerebras_utils.doctor import Report, examine
from experiments.sweep.claim import STATE
from experiments.sweep.configs import config_of
from experiments.sweep.masks import compute_masks
from experiments.sweep.plan import Row, SweepPlan, planned, write_plan
from experiments.sweep.states import CONFIG, PLANNED_FILE, write_once
from pruning.atomic import Part, TargetExistsError
from pruning.checkpoint.open import open_checkpoint
from pruning.problems import Problem, ProblemError

Told = Callable[[str], None]
# With the model alone loaded, neither the optimizer's state nor the step of the checkpoint is looked at.
_MOOT = ("checkpoint.optimizer_state", "checkpoint.steps_left")
_DIRECTORY = "paths.model_dir"  # of the base: each run has one of its own


def prepare(plan: SweepPlan, told: Told) -> None:
    """Write what the runs need. Nothing is planned for good unless every config is sound."""
    write_plan(plan)
    with open_checkpoint(plan.spec.checkpoint) as source:
        if written := compute_masks(source, plan.masks, plan.out):
            told(f"masks: {written} written to {plan.out / 'masks'}")
    new = [row for row in plan.rows if not _is_planned(plan, row)]
    notes: dict[str, int] = {}
    problems: list[Problem] = []
    for row in new:
        try:
            text, lines = config_of(row.run, plan.base, plan.spec, plan.out)
        except ProblemError as error:
            problems += [Problem(f"{row.run.folder}: {p.where}", p.what, p.fix) for p in error.problems]
            continue
        with Part(_folder(plan, row) / CONFIG, overwrite=True) as part:
            part.write(text.encode())
        for line in lines:
            notes[line] = notes.get(line, 0) + 1
    if problems:
        raise ProblemError(_once(problems))
    _say(notes, told)
    _check(plan, new, told)
    for row in new:
        _accept(plan, row)


def _check(plan: SweepPlan, rows: list[Row], told: Told) -> None:
    problems: list[Problem] = []
    warnings: dict[str, int] = {}
    opened, start = Files(), str(plan.spec.checkpoint)  # every run has the same start: it is opened once
    try:
        for row in rows:
            config = _folder(plan, row) / CONFIG
            report = examine(config, checkpoint=start, device=plan.spec.device, opened=opened)
            problems += _problems(plan, report)
            for name, doubt in report.warnings:
                if name == _DIRECTORY:
                    continue
                line = f"warning: {_short(doubt.where)}: {doubt.what}; {doubt.fix}"
                warnings[line] = warnings.get(line, 0) + 1
    finally:
        opened.close()
    if problems:
        raise ProblemError(_once(problems))
    _say(warnings, told)


def _problems(plan: SweepPlan, report: Report) -> list[Problem]:
    moot = (_DIRECTORY, *(_MOOT if plan.spec.states == "model" else ()))
    return [problem for name, problem in report.problems if name not in moot]


def _once(problems: list[Problem]) -> list[Problem]:
    """A mistake of the base is one of every run: told once, with how many have it."""
    first: dict[tuple[str, str], Problem] = {}
    count: dict[tuple[str, str], int] = {}
    for problem in problems:
        key = (problem.what, problem.fix)
        first.setdefault(key, problem)
        count[key] = count.get(key, 0) + 1
    return [Problem(p.where + _more(count[key] - 1), p.what, p.fix) for key, p in first.items()]


def _more(others: int) -> str:
    return f" (and {others} more run{'s' * (others != 1)})" if others else ""


def _say(lines: dict[str, int], told: Told) -> None:
    for line, count in lines.items():
        told(f"{line} ({count} runs)" if count > 1 else line)


def _short(where: str) -> str:
    """Without the run, so that the same of many runs is one line."""
    return where.rpartition(f"{CONFIG}:")[2].lstrip("0123456789: ") if CONFIG in where else where


def _folder(plan: SweepPlan, row: Row) -> Path:
    return plan.out / row.run.folder


def _is_planned(plan: SweepPlan, row: Row) -> bool:
    return (_folder(plan, row) / STATE / PLANNED_FILE).exists()


def _accept(plan: SweepPlan, row: Row) -> None:
    with suppress(TargetExistsError):  # another sweep on this directory was faster with the same plan
        write_once(_folder(plan, row) / STATE / PLANNED_FILE, planned(plan, row))
