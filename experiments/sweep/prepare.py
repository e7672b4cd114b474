"""Before the first run starts: masks, configs, and the doctor on every one of them, all problems at once."""

import sys
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from cerebras_utils.checks.case import Files
from cerebras_utils.cszoo_yaml import phases_of
from cerebras_utils.doctor import Report, examine
from experiments.sweep.claim import STATE, Clock
from experiments.sweep.configs import config_of
from experiments.sweep.identity import conflict, conflicts, flag
from experiments.sweep.masks import compute_masks
from experiments.sweep.plan import Row, SweepPlan, planned, with_states, write_plan
from experiments.sweep.states import CONFIG, PLANNED_FILE, TODO, replace_file, status_of, write_once
from pruning.atomic import Part, TargetExistsError
from pruning.checkpoint.open import open_checkpoint
from pruning.problems import Problem, ProblemError
from pruning.strict_yaml import parse_yaml

Told = Callable[[str], None]
# With the model alone loaded, neither the optimizer's state nor the step of the checkpoint is looked at.
_MOOT = ("checkpoint.optimizer_state", "checkpoint.steps_left")
_START = "--checkpoint_path"
_DIRECTORY = "paths.model_dir"  # of the base: each run has one of its own


def prepare(plan: SweepPlan, told: Told, *, here: bool = True) -> None:
    """Write what the runs need. Nothing is planned for good unless every config is sound.

    ``here`` says that the runs start on this machine: what it cannot run is found now.
    """
    if here and (problems := _refused_here(plan)):
        raise ProblemError(problems)
    write_plan(plan)
    with open_checkpoint(plan.spec.checkpoint) as source:
        if written := compute_masks(source, plan.masks, plan.out):
            told(f"masks: {written} written to {plan.out / 'masks'}")
    plan = with_states(plan)  # masks take hours, and another sweep may have planned its runs here meanwhile
    if problems := conflicts(plan):
        raise ProblemError(problems)
    new = [row for row in plan.rows if not _is_ready(row)]
    texts: list[str] = []
    notes: dict[str, int] = {}
    problems = []
    for row in new:
        try:
            text, lines = config_of(row.run, plan.base, plan.spec, plan.out)
        except ProblemError as error:
            problems += [Problem(f"{row.run.folder}: {p.where}", p.what, p.fix) for p in error.problems]
            continue
        texts.append(text)
        for line in lines:
            notes[line] = notes.get(line, 0) + 1
    if problems:
        raise ProblemError(_once(problems))
    _say(notes, told)
    _check(plan, new, texts, told)
    for row, text in zip(new, texts, strict=True):
        if problem := _accept(plan, row, text):
            problems.append(problem)
    if problems:
        raise ProblemError(problems)
    for row in plan.rows:
        _follow_checkpoint(plan, row)


def _refused_here(plan: SweepPlan) -> list[Problem]:
    """What `fit` itself would say of every run, on the first baseline."""
    from cerebras_utils import register

    backend, modelzoo = plan.spec.backend, register.modelzoo_is_here()
    where = f"{plan.spec.path}: backend"
    if backend == "cszoo" and not modelzoo:
        what = f"is cszoo, and ModelZoo is not importable by {sys.executable}"
        return [Problem(where, what, "run the Python it is installed in, or write `backend: torch`")]
    if backend == "cszoo" or (backend is None and modelzoo):
        return []
    if plan.spec.device == "CSX":
        what = f"is left out, ModelZoo is not importable by {sys.executable}, and PyTorch uses no CS-3"
        return [
            Problem(where, what, "run the Python that ModelZoo is installed in, or choose another device")
        ]
    from cerebras_utils.fallback.devices import devices_of
    from cerebras_utils.fallback.run import check

    first = plan.rows[0].run
    text, _ = config_of(first, plan.base, plan.spec, plan.out)
    phases = phases_of(parse_yaml(text, first.folder))
    problems = check(phases, "fit")
    try:
        devices_of(phases, plan.spec.device)
    except ProblemError as error:
        where = f"{plan.spec.path}: device"
        problems += [Problem(where, problem.what, "write `device: CPU`") for problem in error.problems]
    return problems


def _check(plan: SweepPlan, rows: list[Row], texts: list[str], told: Told) -> None:
    """On a file of our own: what is in a run's folder may be another sweep's by now."""
    problems: list[Problem] = []
    warnings: dict[str, int] = {}
    opened, start = Files(), str(plan.spec.checkpoint)  # every run has the same start: it is opened once
    with TemporaryDirectory(prefix="wafersparse-") as scratch, closing(opened):
        config = Path(scratch) / CONFIG
        for row, text in zip(rows, texts, strict=True):
            config.write_text(text, encoding="utf-8")
            report = examine(config, checkpoint=start, device=plan.spec.device, opened=opened)
            for problem in _problems(plan, report):
                where = f"{row.run.folder}: {_short(problem.where)}"
                problems.append(Problem(where, problem.what, problem.fix))
            for name, doubt in report.warnings:
                if name == _DIRECTORY:
                    continue
                line = f"warning: {_short(doubt.where)}: {doubt.what}; {doubt.fix}"
                warnings[line] = warnings.get(line, 0) + 1
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


def _is_ready(row: Row) -> bool:
    folder, left = row.status.path, row.status.state in TODO
    return (folder / STATE / PLANNED_FILE).exists() and ((folder / CONFIG).exists() or not left)


def _accept(plan: SweepPlan, row: Row, text: str) -> Problem | None:
    """Whoever writes the plan of a run has the run, and its config is the one that belongs to it."""
    folder = row.status.path
    try:
        write_once(folder / STATE / PLANNED_FILE, planned(plan, row))
    except TargetExistsError:
        now = replace(row, status=status_of(folder, row.run.folder, Clock(plan.out)))
        if (problem := conflict(plan, now)) is not None or (folder / CONFIG).exists():
            return problem
    with Part(folder / CONFIG, overwrite=True) as part:
        part.write(text.encode())
    return None


def _follow_checkpoint(plan: SweepPlan, row: Row) -> None:
    """A checkpoint that was moved since the run was planned is the same one, in its new place."""
    held = row.status.plan
    before, after = flag(held.get("start", []), _START), str(plan.spec.checkpoint)
    if before not in (None, after) and row.status.state in TODO and not Path(str(before)).exists():
        start = [after if word == before else word for word in held["start"]]
        replace_file(row.status.path / STATE / PLANNED_FILE, {**held, "start": start})
