"""One run, from claim to end: ``python -m experiments.sweep.supervise RUN ATTEMPT``.

Every executor starts this, one process for each run: it claims the run, starts its command, keeps the
heartbeat, and writes how it ended. It needs nothing of the sweep that started it, which may be killed.
Exit codes: 0 done, 1 failed, 3 another process has the run.
"""

import ctypes
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from cerebras_utils.checkpoints_index import CheckpointsIndex
from cerebras_utils.run_receipt import State, now, runs_in
from experiments.sweep.claim import BEAT, STATE, Claim, Clock, claim, holder
from experiments.sweep.live import curves_of, seconds_between
from experiments.sweep.states import TODO, RunState, read_plan, status_of, write_once
from pruning.problems import ProblemError

DONE, FAILED, TAKEN = 0, 1, 3
_TAIL = 30  # lines of the log that a failed run keeps with its reason
_SAID = re.compile(r"^(?:error: |\d+ errors:|interrupted\b|\w*(?:Error|Exception|Interrupt)\b)", re.MULTILINE)


def supervise(run: Path, attempt: int, *, beat: float = BEAT) -> int:
    """Claim this very attempt and see it through.

    A run that someone else has, or had since the sweep looked, is left alone: it is not run twice.
    """
    folder = run / STATE
    plan = read_plan(run)
    status = status_of(run, run.name, Clock(folder))
    if status.state not in TODO or status.attempt + 1 != attempt:
        return TAKEN
    mine = claim(folder, attempt)
    if mine is None:
        return TAKEN
    if _finished_before(run):
        _write_end(mine, RunState.DONE, "", 0)
        return DONE
    words = command_of(run, plan)
    with mine.log.open("ab") as log:
        log.write(f"$ {' '.join(words)}\n".encode())
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
        code = _wait(child, mine, beat)
    if code is None:
        return TAKEN
    if code == 0:
        _write_end(mine, RunState.DONE, "", code)
        return DONE
    text = mine.log.read_text(errors="replace")
    _write_end(mine, RunState.FAILED, _reason(text, code), code, tail=text)
    return FAILED


def command_of(run: Path, plan: Mapping[str, Any]) -> list[str]:
    """What to start: from the last checkpoint that can be read, or as the plan begins."""
    found = last_good_checkpoint(run, plan.get("steps"))
    start = plan["start"] if found is None else ["--checkpoint_path", str(found.absolute())]
    return [*plan["command"], *start]


def last_good_checkpoint(run: Path, steps: int | None) -> Path | None:
    """A checkpoint of the last step is passed over: the run was killed in the validation that follows."""
    from pruning.checkpoint.open import open_checkpoint

    index = CheckpointsIndex(run)
    try:
        listed = index.checkpoints()
    except ProblemError:
        return None
    for path in reversed(listed):
        step = index.step_of(path)
        if step is None or (steps is not None and step >= steps):
            continue
        try:
            with open_checkpoint(path):
                return path
        except ProblemError:
            continue  # cut short: the one before it is whole
    return None


def _finished_before(run: Path) -> bool:
    """The run ended well, and its supervisor was killed before it could say so."""
    try:
        trained = [one for one in runs_in(run) if one.receipt["verb"] == "fit"]
    except (ProblemError, KeyError):
        return False
    return bool(trained) and trained[-1].state is State.FINISHED


def _wait(child: "subprocess.Popen[bytes]", mine: Claim, beat: float) -> int | None:
    """Its exit code; None where the run was taken over, and the child is stopped."""

    def pass_on(number: int, frame: Any) -> None:
        child.send_signal(number)  # it saves a checkpoint, and ends

    before = {number: signal.signal(number, pass_on) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        while True:
            try:
                return child.wait(beat)
            except subprocess.TimeoutExpired:
                try:
                    mine.beat()
                except FileNotFoundError:
                    break
                except OSError:
                    pass  # the file system is away for a while; the next beat may get through
                if mine.superseded:
                    break
        child.kill()
        child.wait()
        return None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


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
        return f"was ended by {signal.Signals(-code).name}"
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
        sys.exit(supervise(Path(sys.argv[1]), int(sys.argv[2])))
    except ProblemError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(FAILED)


if __name__ == "__main__":
    main()
