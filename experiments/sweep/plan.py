"""The plan of a sweep: every run with its name, its state on the disk, and what it is estimated to cost."""

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path
from stat import S_ISDIR
from typing import Any

from cerebras_utils.checks.case import Files, whole
from cerebras_utils.run_receipt import now
from experiments.sweep.claim import STATE, Clock
from experiments.sweep.configs import Base, configured, params_of, read_base, shared_params
from experiments.sweep.cost import Cost, Held, cost_of
from experiments.sweep.expand import PlannedRun, expand
from experiments.sweep.identity import conflicts, device_of, identity
from experiments.sweep.masks import MaskPlans, plan_masks
from experiments.sweep.seeding import is_same_run
from experiments.sweep.spec import SweepSpec
from experiments.sweep.states import (
    CONFIG,
    FORMAT,
    PLANNED_FILE,
    VERSION,
    RunState,
    RunStatus,
    replace_file,
    status_of,
)
from pruning.checkpoint.mdl_file import MdlSource
from pruning.checkpoint.open import open_checkpoint
from pruning.problems import Problem, ProblemError, fail

PLAN = "plan.json"
# This Python, on a machine that sees the same files; -P: not what is called `experiments` where it starts.
FIT = (sys.executable, "-P", "-m", "experiments", "fit")


@dataclass(frozen=True)
class Row:
    run: PlannedRun
    cost: Cost
    status: RunStatus
    chosen: bool  # by --only


@dataclass(frozen=True)
class SweepPlan:
    spec: SweepSpec
    base: Base
    out: Path
    masks: MaskPlans
    fingerprint: str  # of the checkpoint
    shared: Mapping[str, Any]  # the trainer as all runs have it
    rows: tuple[Row, ...]

    @property
    def device(self) -> str:
        return device_of(self.spec.backend, self.spec.device, self.shared)

    @property
    def one_at_a_time(self) -> bool:
        """A CS-3 takes one run."""
        return self.device == "CSX"

    def to_json(self) -> dict[str, Any]:
        return {
            "name": self.spec.name,
            "spec": self.spec.path,
            "out": str(self.out),
            "base": str(self.base.path),
            "checkpoint": {"path": str(self.spec.checkpoint), "fingerprint": self.fingerprint},
            "device": self.device,
            "runs": [
                {
                    "name": row.run.name,
                    "run": row.run.folder,
                    "state": row.status.state,
                    "chosen": row.chosen,
                    **row.run.point.to_json(),
                    "steps": row.cost.steps,
                    **row.cost.to_json(),
                }
                for row in self.rows
            ],
        }


def make_plan(spec: SweepSpec, out: Path, only: str | None = None) -> SweepPlan:
    """From headers alone. Raises with everything that is wrong with the sweep as a whole."""
    is_there = _is_directory(out)
    base = read_base(spec.base)
    shared = shared_params(base, spec)
    runs = expand(spec, shared)
    if only is not None and not any(_chosen(run, only) for run in runs):
        fix = "quote the glob; `--dry-run` lists the names"
        raise fail(f"--only {only}", f"matches none of the {len(runs)} runs", fix)
    with open_checkpoint(spec.checkpoint) as source:
        masks = plan_masks(source, runs)
        fingerprint = source.fingerprint()
        scalars = source.scalars() if isinstance(source, MdlSource) and spec.states == "all" else {}
    if wrong := _wrong_configs(spec, base, runs, masks, out):
        raise ProblemError(wrong)
    if idle := _idle_seeds(spec, base, runs):
        raise ProblemError(idle)
    cost = _costs(spec, base, masks, done=whole(scalars.get("global_step")) or 0)
    clock = Clock(out) if is_there else None
    rows = [Row(run, cost(run), _status(out, run, clock), only is None or _chosen(run, only)) for run in runs]
    plan = SweepPlan(spec, base, out, masks, fingerprint, shared, tuple(rows))
    if problems := conflicts(plan):
        raise ProblemError(problems)
    return plan


def _is_directory(out: Path) -> bool:
    """False: it is still to be made."""
    try:
        mode = out.stat().st_mode
    except FileNotFoundError:
        return False
    except OSError as error:
        raise fail(f"--out {out}", f"cannot be used: {error.strerror}", "choose another") from error
    if not S_ISDIR(mode):
        raise fail(f"--out {out}", "is no directory", "choose another")
    return True


def _wrong_configs(
    spec: SweepSpec, base: Base, runs: Sequence[PlannedRun], masks: MaskPlans, out: Path
) -> list[Problem]:
    """What the masks' bits have no part in is found before hours are spent on them."""
    asked: set[str] = set()
    found: dict[Problem, Problem] = {}
    for run in runs:
        point = run.point
        kind = repr((point.masks is None, point.mode, point.lora, point.settings))
        if kind in asked:
            continue
        asked.add(kind)
        try:
            configured(run, base, spec, None if point.masks is None else masks.summary(point.masks, out))
        except ProblemError as error:
            for problem in error.problems:
                of_spec = problem.where.startswith(spec.path)
                where = problem.where if of_spec else f"{run.folder}: {problem.where}"
                found.setdefault(problem, Problem(where, problem.what, problem.fix))
    return list(found.values())


def _idle_seeds(spec: SweepSpec, base: Base, runs: Sequence[PlannedRun]) -> list[Problem]:
    """Seeds that would be one run several times over: an interval of them says nothing."""
    first: dict[str, PlannedRun] = {}
    found: set[str] = set()
    for run in runs:
        other = first.setdefault(run.name, run)
        if other is run or run.name in found or run.point.lora is not None:
            continue
        if is_same_run(*(params_of(one.point, base, spec) for one in (other, run))):
            found.add(run.name)
    if not found:
        return []
    what = (
        f"{_listed(sorted(found))} would be the same run with every seed: it starts from the checkpoint, "
        "has no dropout, and reads its data in one order"
    )
    fix = (
        "write `shuffle: true` into the base's train_dataloader, and no shuffle_seed into `set`; "
        "or name one seed"
    )
    return [Problem(f"{spec.path}: axes.seed", what, fix)]


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def write_plan(plan: SweepPlan) -> None:
    """The latest form of the sweep: states are in the runs, not here."""
    plain = plan.to_json()
    for run in plain["runs"]:
        del run["state"], run["chosen"]
    replace_file(plan.out / PLAN, {"format": "wafersparse-sweep", "version": 1, "written": now(), **plain})


def planned(plan: SweepPlan, row: Row) -> dict[str, Any]:
    """What a run's folder says of it: all that starts it, on whatever machine."""
    spec, run = plan.spec, row.run
    folder = (plan.out / run.folder).absolute()
    words = [*FIT, str(folder / CONFIG), "-o", str(folder)]
    words += ["--backend", spec.backend] if spec.backend else []
    words += ["--target_device", spec.device] if spec.device else []
    start = ["--checkpoint_path", str(spec.checkpoint)]
    start += ["--load_checkpoint_states", spec.states] if spec.states != "all" else []
    return {
        "format": FORMAT,
        "version": VERSION,
        "sweep": spec.name,
        "name": run.name,
        **identity(plan, run),
        "command": words,
        "start": start,
        "directory": os.getcwd(),
        "steps": row.cost.steps,
        **row.cost.to_json(),
    }


def with_states(plan: SweepPlan) -> SweepPlan:
    """The same plan, with the states as they are now."""
    clock = Clock(plan.out)
    rows = [replace(row, status=_status(plan.out, row.run, clock)) for row in plan.rows]
    return replace(plan, rows=tuple(rows))


def _status(out: Path, run: PlannedRun, clock: Clock | None) -> RunStatus:
    path = out / run.folder
    if clock is None or not (path / STATE / PLANNED_FILE).exists():
        return RunStatus(path=path, name=run.folder, state=RunState.PLANNED)
    return status_of(path, run.folder, clock)


def _chosen(run: PlannedRun, only: str) -> bool:
    return fnmatchcase(run.name, only) or fnmatchcase(run.folder, only)


def _costs(spec: SweepSpec, base: Base, masks: MaskPlans, done: int) -> Callable[[PlannedRun], Cost]:
    """Seeds cost the same: each configuration is reckoned once."""
    known: dict[str, Cost] = {}
    files = Files()

    def cost(run: PlannedRun) -> Cost:
        if run.name not in known:
            asked = run.point.masks
            held = Held({}, 0.0) if asked is None else Held(masks.weights(asked), masks.sparsity(asked))
            params = params_of(run.point, base, spec)
            known[run.name] = cost_of(run.point, params, held, str(spec.checkpoint), files, done)
        return known[run.name]

    return cost


def total(rows: Sequence[Row]) -> tuple[float | None, int | None]:
    """FLOPs and bytes of all of them; None where one is not known."""
    flops = [row.cost.flops for row in rows]
    sizes = [row.cost.bytes for row in rows]
    return (
        None if None in flops else sum(value for value in flops if value is not None),
        None if None in sizes else sum(value for value in sizes if value is not None),
    )
