"""Runs as Slurm jobs, by submitit: submitted, not waited for; `wafersparse status` shows them."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.sweep.claim import STATE
from experiments.sweep.local import Todo, run_one
from experiments.sweep.states import note_submitted
from pruning.problems import fail


def installed() -> Any:
    try:
        import submitit
    except ImportError:
        fix = "pip install 'wafersparse[slurm]'"
        raise fail("--executor slurm", "submitit is not installed here", fix) from None
    return submitit


def submit(
    todos: Sequence[Todo],
    parameters: Mapping[str, Any],
    out: Path,
    at_a_time: int | None,
    told: Callable[[str], None],
) -> None:
    """One array job. ``parameters`` are submitit's; ``cluster`` picks its executor: slurm, local, debug."""
    submitit = installed()
    given = dict(parameters)
    cluster = given.pop("cluster", "slurm")
    if at_a_time is not None and cluster == "slurm":
        given["slurm_array_parallelism"] = at_a_time
    try:
        executor = submitit.AutoExecutor(folder=out / STATE / "slurm" / "%j", cluster=cluster)
        executor.update_parameters(**given)
        jobs = executor.map_array(run_one, list(todos))
    except submitit.core.utils.FailedJobError as error:
        what = f"sbatch failed: {' '.join(str(error).split())[:300]}"
        raise fail("--executor slurm", what, "mend `slurm:` in the sweep") from error
    except (RuntimeError, NameError, ValueError, TypeError, AssertionError) as error:
        what = f"submitit refuses: {str(error).partition(chr(10))[0] or repr(error)}"
        fix = "call it where sbatch is, and mend `slurm:` in the sweep"
        raise fail("--executor slurm", what, fix) from error
    for todo, job in zip(todos, jobs, strict=True):
        note_submitted(todo.run, todo.attempt, f"job {job.job_id}")
        told(f"{todo.name}: submitted as job {job.job_id}")
    if cluster == "debug":  # runs here, when it is asked for the result
        for job in jobs:
            job.result()
