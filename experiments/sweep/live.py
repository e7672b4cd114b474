"""How far each run of a sweep is: steps, loss and the time left, of those that run from their event files."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from experiments.sweep.claim import STATE
from experiments.sweep.states import PLANNED_FILE, RunState, RunStatus, planned_runs, statuses
from pruning.problems import ProblemError, fail

_STARTED = (RunState.RUNNING, RunState.FAILED, RunState.LOST, RunState.DONE)


@dataclass(frozen=True)
class Live:
    status: RunStatus
    steps: int | None = None
    asked: int | None = None
    loss: float | None = None
    seconds_left: float | None = None  # estimated, by the speed so far

    def to_json(self) -> dict[str, Any]:
        status = self.status
        return {
            "run": status.name,
            "state": status.state,
            "reason": status.reason,
            "attempt": status.attempt,
            "host": status.host,
            "submitted": status.submitted,
            "steps": self.steps,
            "steps_asked": self.asked,
            "loss": self.loss,
            "estimated_seconds_left": self.seconds_left,
            "log_tail": status.tail,
        }


def live(out: Path) -> list[Live]:
    """Every run of a sweep's directory; one that is none of a sweep says what to do."""
    if not out.is_dir():
        what = "is no directory" if out.exists() else "does not exist"
        raise fail(out, what, "name the directory of a sweep, as its --out said")
    try:
        found = statuses(out)
    except OSError as error:
        raise fail(out, f"cannot be read: {error.strerror}", "check its permissions") from error
    if not found:
        raise _no_sweep(out)
    return [_live(status) for status in found]


def _no_sweep(out: Path) -> ProblemError:
    """Above or below it there may be one, which the user meant."""
    planned = f"{STATE}/{PLANNED_FILE}"
    if (out / planned).exists():
        return fail(out, "is one run of a sweep", f"name the sweep: {os.path.normpath(out / '../..')}")
    if any(out.glob(f"seed*/{planned}")):
        return fail(out, "is one part of a sweep", f"name the sweep: {os.path.normpath(out / '..')}")
    below = [str(path) for path in sorted(out.iterdir()) if path.is_dir() and any(planned_runs(path))]
    if below:
        return fail(out, "holds sweeps, and is none itself", f"name one of them: {', '.join(below)}")
    what = "holds no planned run" + ("" if any(out.iterdir()) else ": it is empty")
    return fail(out, what, f"start a sweep in it: wafersparse sweep SWEEP.yaml --out {out}")


def seconds_left(runs: Sequence[Live]) -> float | None:
    """Of the whole sweep, if as many go on at a time as now: estimated; None while nothing tells."""
    now = [run for run in runs if run.status.state is RunState.RUNNING]
    known = [run.seconds_left for run in now if run.seconds_left is not None]
    if not now or not known:
        return None
    waiting = [run for run in runs if run.status.state is RunState.PLANNED]
    each = _whole_run(runs)
    if waiting and each is None:
        return None
    return max(known) + len(waiting) * (each or 0.0) / len(now)


def _whole_run(runs: Sequence[Live]) -> float | None:
    spans = [span for run in runs if (span := run.status.end.get("seconds")) and run.status.state == "done"]
    return sum(spans) / len(spans) if spans else None


def _live(status: RunStatus) -> Live:
    asked = status.plan.get("steps")
    if status.state not in _STARTED:
        return Live(status, asked=asked)
    if "steps" in status.end:  # kept when it ended: its event files need not be read again
        return Live(status, status.end["steps"], asked, status.end.get("loss"))
    return _read(status, asked)


def _read(status: RunStatus, asked: int | None) -> Live:
    curves, _ = curves_of(status.path)
    loss = curves.get("loss")
    if loss is None or not len(loss.steps):
        return Live(status, None, asked)
    step, value = int(loss.steps[-1]), float(loss.values[-1])
    left = None
    if status.state is RunState.RUNNING and asked and len(loss.steps) > 1:
        gone = float(loss.times[-1] - loss.times[-2]) / max(1, int(loss.steps[-1] - loss.steps[-2]))
        left = max(0, asked - step) * gone
    return Live(status, step, asked, value, left)


def curves_of(run: Path) -> tuple[Any, list[str]]:
    from experiments.runs.curves import joined

    return joined(file for file in sorted(run.glob("events/events.out.tfevents*")) if file.is_file())


def seconds_between(begun: str, ended: str) -> float:
    return (datetime.fromisoformat(ended) - datetime.fromisoformat(begun)).total_seconds()
