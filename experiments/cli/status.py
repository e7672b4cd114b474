"""``wafersparse status``: how the runs of a sweep go."""

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from experiments.sweep.live import Live

_EVERY = 5.0  # seconds between two looks
_PATIENCE = 6  # looks at which nothing runs, while runs are planned: as between two runs of a sweep


@click.command(
    "status",
    epilog="Examples:\n\n\b\n  wafersparse status runs/demo\n  wafersparse status runs/demo --watch",
)
@click.argument("directory", metavar="DIR", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Everything as JSON on stdout, log tails too.")
@click.option(
    "--watch", is_flag=True, help="Look again every few seconds, until no run goes on or waits in a job."
)
def command(directory: Path, as_json: bool, watch: bool) -> None:
    """Show every run of the sweep in DIR: state, steps, loss, time left.

    Read from files alone, on any machine that sees them. A run whose process shows no heartbeat any
    more is lost.
    """
    from experiments.sweep.live import live, seconds_left

    idle = 0
    while True:
        runs = live(directory)
        states = {str(run.status.state) for run in runs}
        goes_on = "running" in states or any(run.status.submitted for run in runs)
        idle = 0 if goes_on else idle + 1
        left = seconds_left(runs)
        if as_json:
            counts = _counts(runs)
            found = {"states": counts, "estimated_seconds_left": left, "runs": [r.to_json() for r in runs]}
            click.echo(json.dumps(found, indent=1))
        else:
            if watch:
                click.clear()
            click.echo(_text(directory, runs, left))
        if not watch or (idle and "planned" not in states) or idle > _PATIENCE:
            return
        time.sleep(_EVERY)


def _text(directory: Path, runs: "list[Live]", left: float | None) -> str:
    from experiments.tables import duration, table

    rows = [
        [
            run.status.name,
            run.status.state,
            f"{'-' if run.steps is None else run.steps}/{'?' if run.asked is None else run.asked}",
            "" if run.loss is None else f"{run.loss:.4f}",
            duration(run.seconds_left),
            run.status.submitted or run.status.host,
        ]
        for run in runs
    ]
    lines = [table(["run", "state", "step", "loss", "left (est.)", "on"], rows, right=(2, 3, 4)), ""]
    for run in runs:
        if run.status.reason:
            lines.append(f"{run.status.name}: {run.status.state}: {run.status.reason}")
    counts = ", ".join(f"{count} {state}" for state, count in _counts(runs).items())
    lines.append(f"{directory}: {counts}" + (f"; about {duration(left)} left (estimated)" if left else ""))
    resume = _resume(directory)
    if any(run.status.state in ("failed", "lost") for run in runs):
        lines.append(f"failed and lost runs go on by: {resume}")
    if any(run.status.submitted for run in runs):
        lines.append(f"a run whose job is gone is submitted again by: {resume} --executor slurm")
    return "\n".join(lines)


def _resume(directory: Path) -> str:
    from experiments.sweep.states import resume_command

    try:
        spec = json.loads((directory / "plan.json").read_text(encoding="utf-8"))["spec"]
    except (OSError, ValueError, KeyError, TypeError):
        spec = "SWEEP.yaml"
    return resume_command(str(spec), directory)


def _counts(runs: "list[Live]") -> dict[str, int]:
    states = [str(run.status.state) for run in runs]
    return {state: states.count(state) for state in dict.fromkeys(states)}
