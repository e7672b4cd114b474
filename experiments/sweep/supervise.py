"""One run, from claim to end: ``python -m experiments.sweep.supervise RUN ATTEMPT [TURNS]``.

Every executor starts this, one process for each run: it claims the run, starts its command, keeps the
heartbeat, and writes how it ended. It needs nothing of the sweep that started it, which may be killed.
TURNS is a folder: of the runs that name it, one goes on at a time.
Exit codes: 0 done, 1 failed, 3 another process has the run.
"""

import ctypes
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from cerebras_utils.checkpoints_index import CheckpointsIndex
from cerebras_utils.run_receipt import State, now, runs_in
from experiments.sweep.claim import BEAT, STATE, Claim, Clock, claim, holder, next_turn
from experiments.sweep.live import curves_of, seconds_between
from experiments.sweep.states import CONFIG, TODO, RunState, read_plan, status_of, write_once
from pruning.problems import ProblemError

DONE, FAILED, TAKEN = 0, 1, 3
_TAIL = 30  # lines of the log that a failed run keeps with its reason
# A closed terminal, and what Slurm sends before the time limit of a job, among them.
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
_SAID = re.compile(r"^(?:error: |\d+ errors:|interrupted\b|\w*(?:Error|Exception|Interrupt)\b)", re.MULTILINE)


def supervise(run: Path, attempt: int, turns: Path | None = None, *, beat: float = BEAT) -> int:
    """Claim this very attempt and see it through.

    A run that someone else has, or had since the sweep looked, is left alone: it is not run twice.
    """
    plan = read_plan(run)
    with _Signals() as signals:
        while not signals.came:
            status = status_of(run, run.name, Clock(run / STATE))
            if status.state not in TODO or status.attempt + 1 != attempt:
                return TAKEN
            if turns is None:
                return _see_through(run, plan, attempt, None, signals, beat)
            if (turn := next_turn(turns)) is not None:
                try:
                    return _see_through(run, plan, attempt, turn, signals, beat)
                finally:
                    with suppress(OSError):  # as where the sweep was removed
                        turn.end.touch()
            time.sleep(beat)
    return FAILED  # told to end while it waited: the run stays planned


def _see_through(
    run: Path,
    plan: Mapping[str, Any],
    attempt: int,
    turn: Claim | None,
    signals: "_Signals",
    beat: float,
) -> int:
    mine = claim(run / STATE, attempt)
    if mine is None:
        return TAKEN
    if _finished_before(run):
        _write_end(mine, RunState.DONE, "", 0)
        return DONE
    words, notes = command_of(run, plan)
    with mine.log.open("ab") as log:
        log.writelines(f"{line}\n".encode() for line in (*notes, f"$ {' '.join(words)}"))
        log.flush()
        try:
            child = subprocess.Popen(
                words,
                stdout=log,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                cwd=plan["directory"],
                preexec_fn=_die_with_parent(),
                start_new_session=True,  # Ctrl-C reaches it once, through this process
            )
        except OSError as error:
            _write_end(mine, RunState.FAILED, f"cannot be started: {error}", None)
            return FAILED
        signals.pass_on_to(child)
        code = _wait(child, [mine] if turn is None else [mine, turn], beat)
    if code is None:
        return TAKEN
    if code == 0:
        _write_end(mine, RunState.DONE, "", code)
        return DONE
    text = mine.log.read_text(errors="replace")
    _write_end(mine, RunState.FAILED, _reason(text, code), code, tail=text)
    return FAILED


def command_of(run: Path, plan: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    """What to start, from the last checkpoint that can be read, or as the plan begins; and lines for the
    log that say which, and why."""
    found, notes = last_good_checkpoint(run, plan.get("steps"))
    start = plan["start"] if found is None else ["--checkpoint_path", str(found.absolute())]
    origin = "its beginning: there is no checkpoint to go on from" if found is None else found.name
    return [*plan["command"], *start], [f"# {line}" for line in (*notes, f"starts from {origin}")]


def last_good_checkpoint(run: Path, steps: int | None) -> tuple[Path | None, list[str]]:
    """With it, why others, or all, are passed over. One of the last step is, too: the run was killed in
    the validation that follows."""
    from pruning.checkpoint.open import open_checkpoint

    try:
        index = CheckpointsIndex(run, _checkpoint_name(run))
        listed = index.checkpoints()
    except ProblemError as error:
        return None, [f"{problem.where} {problem.what}" for problem in error.problems]
    notes: list[str] = []
    for path in reversed(listed):
        step = index.step_of(path)
        if step is None or (steps is not None and step >= steps):
            continue
        try:
            with open_checkpoint(path):
                return path, notes
        except ProblemError as error:  # cut short: the one before it is whole
            notes.append(f"{path.name} is passed over: it {error.problems[0].what}")
    return None, notes


def _checkpoint_name(run: Path) -> str:
    from cerebras_utils.cszoo_yaml import load_config

    (phase,) = load_config(run / CONFIG)
    return (phase.init.get("checkpoint") or {}).get("checkpoint_name") or "checkpoint_{step}.mdl"


def _finished_before(run: Path) -> bool:
    """The run ended well, and its supervisor was killed before it could say so."""
    try:
        trained = [one for one in runs_in(run) if one.receipt["verb"] == "fit"]
    except (ProblemError, KeyError):
        return False
    return bool(trained) and trained[-1].state is State.FINISHED


class _Signals:
    """While it is entered, what would end this process is passed on to the run instead, as Ctrl-C of a
    terminal: to all of its processes, since autorestart trains in one of its own, and as SIGINT, since
    cszoo ends in order by no other. What comes before there is a run reaches it when it is there."""

    def __init__(self) -> None:
        self.came = False
        self._child: subprocess.Popen[bytes] | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "_Signals":
        self._before = {number: signal.signal(number, self._received) for number in _SIGNALS}
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def pass_on_to(self, child: "subprocess.Popen[bytes]") -> None:
        self._child = child
        if self.came:
            self._interrupt()

    def _received(self, number: int, frame: Any) -> None:
        self.came = True
        self._interrupt()

    def _interrupt(self) -> None:
        if self._child is not None and self._child.poll() is None:
            os.killpg(self._child.pid, signal.SIGINT)


def _wait(child: "subprocess.Popen[bytes]", claims: list[Claim], beat: float) -> int | None:
    """Its exit code; None where the run, or its turn, was taken over, and the child is stopped."""
    while True:
        try:
            return child.wait(beat)
        except subprocess.TimeoutExpired:
            try:
                for held in claims:
                    held.beat()
            except FileNotFoundError:
                break
            except OSError:
                pass  # the file system is away for a while; the next beat may get through
            if any(held.superseded for held in claims):
                break
    with suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)  # what it started, too
    child.wait()
    return None


def _write_end(mine: Claim, state: RunState, reason: str, code: int | None, tail: str = "") -> None:
    if mine.superseded:
        return
    lines = tail.splitlines()[-_TAIL:]
    end: dict[str, Any] = {
        "state": state,
        "reason": reason,
        "exit_code": code,
        "ended": now(),
        "tail": "\n".join(lines),
    }
    curves, _ = curves_of(mine.path.parents[1])
    if (loss := curves.get("loss")) is not None and len(loss.steps):
        end |= {"steps": int(loss.steps[-1]), "loss": float(loss.values[-1])}
    write_once(mine.end, end | {"seconds": seconds_between(holder(mine)["since"], end["ended"])})


def _reason(log: str, code: int) -> str:
    """What it said last, in a few lines; else how it ended."""
    if code < 0:
        names = {int(number): number.name for number in signal.Signals}  # those of real time have none
        return f"was ended by {names.get(-code, f'signal {-code}')}"
    found = list(_SAID.finditer(log))
    if not found:
        return f"ended with exit code {code}, and its log names no error"
    lines = [line.strip() for line in log[found[-1].start() :].splitlines()]
    return " ".join(line for line in lines[:3] if line).removeprefix("error: ")[:400]


def _die_with_parent() -> Callable[[], None] | None:
    """Of a supervisor that is killed with -9, no child goes on writing. Linux has this, others do not:
    there, `fit` itself refuses a second run in one directory."""
    if not sys.platform.startswith("linux"):
        return None
    libc, parent = ctypes.CDLL(None), os.getpid()

    def before_exec() -> None:
        libc.prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
        if os.getppid() != parent:  # it died in between
            os.kill(os.getpid(), signal.SIGKILL)

    return before_exec


def main() -> None:
    try:
        run, attempt, *turns = sys.argv[1:]
        sys.exit(supervise(Path(run), int(attempt), *map(Path, turns)))
    except ProblemError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(FAILED)


if __name__ == "__main__":
    main()
