"""The state of each run of a sweep, from files alone: planned, running, done, failed, lost."""

import json
import os
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from experiments.sweep.claim import STATE, Claim, Clock, attempts, held, holder, is_alive
from pruning.atomic import Part
from pruning.problems import ProblemError, fail

PLANNED_FILE, CONFIG = "planned.json", "config.yaml"
FORMAT, VERSION = "wafersparse-planned-run", 1


class RunState(StrEnum):
    PLANNED = "planned"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    LOST = "lost"
    UNREADABLE = "unreadable"


TODO = (RunState.PLANNED, RunState.FAILED, RunState.LOST)


@dataclass(frozen=True, kw_only=True)
class RunStatus:
    path: Path
    name: str  # with the seed: what --only matches
    state: RunState
    reason: str = ""
    attempt: int = 0
    host: str = ""
    tail: str = ""  # of the log, of a failed run
    submitted: str = ""  # the job that its next attempt waits in
    plan: Mapping[str, Any] = field(default_factory=dict)
    end: Mapping[str, Any] = field(default_factory=dict)


def status_of(run: Path, name: str, clock: Clock) -> RunStatus:
    """Never raises for what is in the run's folder: a damaged one is a state too."""
    folder = run / STATE
    try:
        plan = read_plan(run)
        attempt = attempts(folder)
        submitted = _submitted(folder, attempt + 1)
        if attempt == 0:
            state = RunState.PLANNED
            return RunStatus(path=run, name=name, state=state, plan=plan, submitted=submitted)
        last = held(folder, attempt)
        end = _read_json(last.end) if last.end.exists() else {}
        if end:
            return RunStatus(
                path=run,
                name=name,
                state=RunState(end["state"]),
                reason=str(end.get("reason", "")),
                attempt=attempt,
                host=_host(last),
                tail=str(end.get("tail", "")),
                submitted=submitted,
                plan=plan,
                end=end,
            )
        alive = is_alive(last, clock)
        return RunStatus(
            path=run,
            name=name,
            state=RunState.RUNNING if alive else RunState.LOST,
            reason="" if alive else f"no heartbeat of its process any more (attempt {attempt})",
            attempt=attempt,
            host=_host(last),
            submitted=submitted,
            plan=plan,
        )
    except (ProblemError, OSError, ValueError, KeyError, TypeError) as error:
        said = (
            error.problems[0].what if isinstance(error, ProblemError) else f"{type(error).__name__}: {error}"
        )
        return RunStatus(path=run, name=name, state=RunState.UNREADABLE, reason=said)


def statuses(out: Path) -> list[RunStatus]:
    """Every run below a sweep's directory, sorted by name."""
    clock = Clock(out)
    return [status_of(out / name, name, clock) for name in sorted(planned_runs(out))]


def planned_runs(out: Path) -> Iterator[str]:
    """By what lies on the disk: runs of an earlier form of the sweep are there, too."""
    with os.scandir(out) as entries:
        names = [e.name for e in entries if e.is_dir() and e.name not in ("masks", STATE)]
    for name in names:
        with os.scandir(out / name) as entries:
            for entry in entries:
                if entry.name.startswith("seed") and os.path.isfile(f"{entry.path}/{STATE}/{PLANNED_FILE}"):
                    yield f"{name}/{entry.name}"


def read_plan(run: Path) -> dict[str, Any]:
    file = run / STATE / PLANNED_FILE
    try:
        plan = _read_json(file)
    except OSError as error:
        raise fail(file, f"cannot be read: {error.strerror}", "start the sweep again") from error
    except ValueError as error:
        raise fail(file, f"is damaged: {error}", "remove this run, and start the sweep again") from None
    if plan.get("format") != FORMAT or plan.get("version") != VERSION:
        raise fail(file, "is no plan of a run that this release knows", "use the release that wrote it")
    return plan


def write_once(path: Path, plain: Mapping[str, Any]) -> None:
    with Part(path) as part:
        part.write(_text(plain))


def replace_file(path: Path, plain: Mapping[str, Any]) -> None:
    with Part(path, overwrite=True) as part:
        part.write(_text(plain))


def _text(plain: Mapping[str, Any]) -> bytes:
    return (json.dumps(plain, indent=1) + "\n").encode()


def _read_json(path: Path) -> dict[str, Any]:
    found = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(found, dict):
        raise ValueError("it holds no map")
    return found


def _host(last: Claim) -> str:
    try:
        return str(holder(last)["process"]["host"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def note_submitted(run: Path, attempt: int, job: str) -> None:
    replace_file(run / STATE / "submitted.json", {"job": job, "attempt": attempt})


def _submitted(folder: Path, attempt: int) -> str:
    try:
        found = _read_json(folder / "submitted.json")
    except (OSError, ValueError):
        return ""
    return str(found.get("job", "")) if found.get("attempt", 1) == attempt else ""


def resume_command(spec: str, out: Path) -> str:
    return f"wafersparse sweep {shlex.quote(spec)} --out {shlex.quote(str(out))} --resume"
