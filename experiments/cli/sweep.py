"""``wafersparse sweep``: plan, check, start and resume many runs."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from experiments.sweep.local import Todo
    from experiments.sweep.plan import SweepPlan
    from experiments.sweep.spec import SweepSpec


@click.command(
    "sweep",
    epilog="Examples:\n\n"
    "\b\n"
    "  wafersparse sweep configs/sweeps/demo.yaml --dry-run\n"
    "  wafersparse sweep configs/sweeps/demo.yaml --jobs 2\n"
    "  wafersparse sweep configs/sweeps/demo.yaml --resume --only '*s0.9*'",
)
@click.argument("spec", metavar="SWEEP.yaml", type=click.Path(path_type=Path))
@click.option("--dry-run", is_flag=True, help="Show the plan, write nothing.")
@click.option("--resume", is_flag=True, help="Failed and lost runs too, from their last good checkpoint.")
@click.option("--only", metavar="GLOB", help="Of the runs, those whose name, or NAME/seedN, matches.")
@click.option("--jobs", type=click.IntRange(1), help="Runs at a time. On a CS-3: one, always.")
@click.option(
    "--executor",
    type=click.Choice(["local", "slurm", "dask"]),
    default="local",
    show_default=True,
    help="Where runs start: here; as Slurm jobs (extra `slurm`); on a Dask cluster (extra `dask`).",
)
@click.option("--out", type=click.Path(path_type=Path), metavar="DIR", help="Default: runs/NAME.")
@click.option("--json", "as_json", is_flag=True, help="The plan and the states as JSON on stdout.")
def command(
    spec: Path,
    dry_run: bool,
    resume: bool,
    only: str | None,
    jobs: int | None,
    executor: str,
    out: Path | None,
    as_json: bool,
) -> None:
    """Run every combination that SWEEP.yaml asks for, and the dense baseline.

    All masks are computed and all configs checked before the first run starts. Called again, it
    starts what is not started yet; finished runs are left alone.
    """
    from experiments.sweep.plan import make_plan, with_states
    from experiments.sweep.prepare import prepare
    from experiments.sweep.spec import read_spec
    from pruning.problems import fail

    asked = read_spec(spec)
    _refuse_executor(asked, executor)
    plan = make_plan(asked, out or Path("runs") / asked.name, only)
    if plan.one_at_a_time and (jobs or 1) > 1:
        raise fail(f"--jobs {jobs}", "a CS-3 takes one run at a time", "leave --jobs out")
    if dry_run:
        click.echo(json.dumps(plan.to_json(), indent=1) if as_json else _table(plan))
        return
    prepare(plan, _told, here=executor == "local")
    plan = with_states(plan)
    todos = _todos(plan, resume)
    if todos:
        try:
            _execute(plan, todos, executor, jobs)
        except KeyboardInterrupt:
            sys.exit(1)
    plan = with_states(plan)
    if as_json:
        click.echo(json.dumps(plan.to_json(), indent=1))
    else:
        click.echo(_summary(plan, resume))
    states = [row.status for row in plan.rows if row.chosen]
    if any(one.state not in ("done", "running") and not one.submitted for one in states):
        sys.exit(1)


def _refuse_executor(asked: "SweepSpec", executor: str) -> None:
    """One whose package is not here: said before masks are computed for hours."""
    if executor == "slurm":
        from experiments.sweep import slurm

        slurm.installed()
    elif executor == "dask":
        from experiments.sweep import dask_cluster

        dask_cluster.installed(asked.dask)


def _told(line: str) -> None:
    click.echo(line, err=True)


def _todos(plan: "SweepPlan", resume: bool) -> "list[Todo]":
    from experiments.sweep.claim import STATE
    from experiments.sweep.local import Todo

    states = ("planned", "failed", "lost") if resume else ("planned",)
    turns = (plan.out / STATE / "turns").absolute() if plan.one_at_a_time else None
    return [
        Todo((plan.out / row.run.folder).absolute(), row.run.folder, row.status.attempt + 1, turns)
        for row in plan.rows
        if row.chosen and row.status.state in states and (resume or not row.status.submitted)
    ]


def _execute(plan: "SweepPlan", todos: "list[Todo]", executor: str, jobs: int | None) -> None:
    if executor == "local":
        from experiments.sweep.local import run_local

        run_local(todos, jobs or 1, _told)
    elif executor == "slurm":
        from experiments.sweep.slurm import submit

        submit(todos, plan.spec.slurm, plan.out, 1 if plan.one_at_a_time else jobs, _told)
    else:
        from experiments.sweep.dask_cluster import run_on_dask

        run_on_dask(todos, plan.spec.dask, 1 if plan.one_at_a_time else jobs, _told)


def _table(plan: "SweepPlan") -> str:
    from experiments.sweep.plan import total
    from experiments.tables import table

    rows: list[list[Any]] = [
        [
            row.run.folder,
            row.status.state,
            "?" if row.cost.steps is None else row.cost.steps,
            _flops(row.cost.flops),
            _size(row.cost.bytes),
        ]
        for row in plan.rows
        if row.chosen
    ]
    chosen = [row for row in plan.rows if row.chosen]
    flops, disk = total(chosen)
    rows.append([f"{len(chosen)} runs", "", "", _flops(flops), _size(disk)])
    text = table(["run", "state", "steps", "FLOPs (est.)", "disk (est.)"], rows, right=(2, 3, 4))
    specs = {row.run.point.masks for row in plan.rows} - {None}
    times = "once" if plan.masks.reads == 1 else f"for {plan.masks.reads} questions"
    reads = f"{len(specs)} mask files, the checkpoint read {times}"
    place = "strictly one after the other" if plan.one_at_a_time else "as many at a time as --jobs says"
    return f"{text}\n\n{reads}; on {plan.device}, {place}; in {plan.out}"


def _summary(plan: "SweepPlan", resume: bool) -> str:
    from experiments.sweep.states import resume_command

    states = [row.status.state for row in plan.rows if row.chosen]
    counts = {state: states.count(state) for state in dict.fromkeys(states)}
    lines = [f"{plan.out}: " + ", ".join(f"{count} {state}" for state, count in counts.items())]
    for row in plan.rows:
        if row.chosen and row.status.reason:
            lines.append(f"  {row.run.folder}: {row.status.state}: {row.status.reason}")
    again = resume_command(plan.spec.path, plan.out)
    if not resume and set(counts) & {"failed", "lost"}:
        lines.append(f"  failed and lost runs start again, from their last good checkpoint, by:\n  {again}")
    if jobs := [row.status.submitted for row in plan.rows if row.chosen and row.status.submitted]:
        more = f" and {len(jobs) - 3} more" if len(jobs) > 3 else ""
        lines.append(f"  {len(jobs)} of them wait in {', '.join(jobs[:3])}{more}; where a job is gone:")
        lines.append(f"  {again} --executor slurm")
    if "done" in counts:
        lines.append(f"  wafersparse compare {plan.out}")
    return "\n".join(lines)


def _flops(value: float | None) -> str:
    return "?" if value is None else f"{value:.2e}"


def _size(value: int | None) -> str:
    from experiments.progress import size

    return "?" if value is None else size(value)
