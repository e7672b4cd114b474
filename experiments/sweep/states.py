"""The state of each run of a sweep, from files alone: planned, running, done, failed, lost."""

import json
import os
import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from stat import S_ISREG
from typing import Any

from experiments.sweep.claim import STATE, Claim, Clock, attempts, held, holder, is_alive
from pruning.atomic import Part
from pruning.problems import ProblemError, fail

PLANNED_FILE, CONFIG = "planned.json", "config.yaml"
_INTERRUPTED = re.compile(
    r"(?P<when>.*\binterrupted after step \d+); (?:(?P<saved>.+?) is saved\b|nothing was trained\b)",
    re.DOTALL,
)
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
                reason=reason_in_sweep(str(end.get("reason", "")), run),
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


def reason_in_sweep(reason: str, run: Path) -> str:
    """Without what a run of its own is advised: one of a sweep is continued by `--resume` alone.

    A run that was interrupted before its first step names the checkpoint that it began with.
    """
    found = _INTERRUPTED.match(reason)
    if found is None:
        return reason
    if found["saved"] is None:
        return f"{found['when']}; it trained no step"
    saved = Path(found["saved"])
    own = saved.parts[-3:-1] == run.absolute().parts[-2:]
    return f"{found['when']}; {saved.name} is saved" if own else f"{found['when']}; it goes on from {saved}"


def statuses(out: Path) -> list[RunStatus]:
    """Every run below a sweep's directory, sorted by name."""
    clock = Clock(out)
    return [status_of(out / name, name, clock) for name in sorted(planned_runs(out))]


def planned_runs(out: Path) -> Iterator[str]:
    """By what lies on the disk: runs of an earlier form of the sweep are there, too.

    What cannot be looked into may be one, and is told as one that cannot be read.
    """
    with os.scandir(out) as entries:
        names = [e.name for e in entries if e.is_dir() and e.name not in ("masks", STATE)]
    for name in names:
        try:
            with os.scandir(out / name) as entries:
                seeds = [entry.name for entry in entries if entry.name.startswith("seed")]
        except PermissionError:
            yield name
            continue
        yield from (f"{name}/{seed}" for seed in seeds if _may_be_planned(out / name / seed))


def _may_be_planned(run: Path) -> bool:
    try:
        return S_ISREG(os.stat(run / STATE / PLANNED_FILE).st_mode)
    except PermissionError:
        return True
    except OSError:
        return False


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
