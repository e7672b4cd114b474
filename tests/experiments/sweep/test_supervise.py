"""One run from claim to end: done, failed, killed at any point, resumed, taken over."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from cerebras_utils.checkpoints_index import CheckpointsIndex
from experiments.sweep import claim as claims
from experiments.sweep.claim import STATE, Clock, claim
from experiments.sweep.local import Todo, run_local, supervisor
from experiments.sweep.states import RunState, status_of
from experiments.sweep.supervise import DONE, FAILED, TAKEN, command_of, supervise
from tests.experiments.sweep.sweeps import planned_run


def state(run: Path) -> RunState:
    return status_of(run, run.name, Clock(run)).state


def until(true: Callable[[], bool], seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.02)


def started(run: Path, attempt: int = 1) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(supervisor(Todo(run, run.name, attempt)))


def test_planned_running_done(tmp_path: Path) -> None:
    run = planned_run(tmp_path, code="import time; print('hello'); time.sleep(0.5)")
    assert state(run) is RunState.PLANNED
    process = started(run)
    until(lambda: state(run) is RunState.RUNNING)
    assert process.wait() == DONE
    found = status_of(run, run.name, Clock(run))
    assert (found.state, found.attempt, found.end["exit_code"]) == (RunState.DONE, 1, 0)
    assert "hello" in (run / STATE / "attempt-1.log").read_text()
    assert supervise(run, 2) == TAKEN  # a finished run is left alone


def test_a_failed_run_keeps_its_reason_and_the_tail_of_its_log(tmp_path: Path) -> None:
    run = planned_run(tmp_path, code="print('before'); raise RuntimeError('out of memory')")
    assert supervise(run, 1) == FAILED
    found = status_of(run, run.name, Clock(run))
    assert (found.state, found.reason) == (RunState.FAILED, "RuntimeError: out of memory")
    assert "before" in found.tail


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (
            "import sys; sys.exit('error: c.yaml: x\\n   is wrong\\n   fix: mend it')",
            "c.yaml: x is wrong fix: mend it",
        ),
        (
            "import sys; sys.exit('interrupted after step 5; x is saved')",
            "interrupted after step 5; x is saved",
        ),
        ("import sys; sys.exit(7)", "ended with exit code 7, and its log names no error"),
        ("import os; os.kill(os.getpid(), 9)", "was ended by SIGKILL"),
    ],
)
def test_reasons(tmp_path: Path, code: str, reason: str) -> None:
    run = planned_run(tmp_path, code=code)
    assert supervise(run, 1) == FAILED
    assert status_of(run, run.name, Clock(run)).reason == reason


def test_a_command_that_is_not_there(tmp_path: Path) -> None:
    run = planned_run(tmp_path, command=["/nowhere/python"])
    assert supervise(run, 1) == FAILED
    assert "cannot be started" in status_of(run, run.name, Clock(run)).reason


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux ends a child with its parent")
def test_kill_9_of_the_supervisor_ends_its_run_which_is_lost_and_resumed(tmp_path: Path) -> None:
    code = "import os, time; open('pid', 'w').write(str(os.getpid())); os.path.exists('go') or time.sleep(60)"
    run = planned_run(tmp_path, code=code)
    process = started(run)
    until(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text() != "")
    process.kill()
    process.wait()
    child = int((tmp_path / "pid").read_text())
    until(lambda: not _lives(child))
    assert state(run) is RunState.LOST
    (tmp_path / "go").touch()
    assert supervise(run, 1) == TAKEN  # that attempt is over
    assert supervise(run, 2) == DONE
    assert state(run) is RunState.DONE


def test_kill_after_the_claim_and_before_the_command(tmp_path: Path) -> None:
    run = planned_run(tmp_path)
    code = "import sys, time, pathlib, experiments.sweep.claim as c; c.claim(pathlib.Path(sys.argv[1]), 1)"
    process = subprocess.Popen([sys.executable, "-c", f"{code}; time.sleep(60)", str(run / STATE)])
    until(lambda: state(run) is RunState.RUNNING)
    process.kill()
    process.wait()
    assert state(run) is RunState.LOST
    assert supervise(run, 2) == DONE


def test_kill_after_the_run_ended_well_and_before_it_was_said(tmp_path: Path) -> None:
    """The receipt of the run says that it finished: it is not run again."""
    run = planned_run(tmp_path, code="raise SystemExit(1)")
    mine = claim(run / STATE, 1)
    assert mine is not None
    _forget(mine.path)
    (run / "20260101_000000").mkdir()
    receipt = {"format": "wafersparse-run", "version": 1, "state": "finished", "verb": "fit"}
    (run / "20260101_000000/run.json").write_text(json.dumps(receipt))
    assert supervise(run, 2) == DONE
    assert not (run / STATE / "attempt-2.log").exists()


def test_it_goes_on_from_the_last_good_checkpoint(tmp_path: Path) -> None:
    import torch

    run = planned_run(tmp_path, start=["--checkpoint_path", "dense.pt"])
    plan = {"command": ["fit"], "start": ["--checkpoint_path", "dense.pt"], "steps": 8}
    assert command_of(run, plan) == ["fit", "--checkpoint_path", "dense.pt"]
    index = CheckpointsIndex(run, "checkpoint_{step}.mdl")
    for step in (2, 4, 6, 8):
        torch.save({"model": {"model.w": torch.zeros(2)}}, run / f"checkpoint_{step}.mdl")
        index.append(run / f"checkpoint_{step}.mdl")
    (run / "checkpoint_6.mdl").write_bytes(b"cut short")
    _, _, path = command_of(run, plan)
    # 8 is the end: what failed after it is the validation, which needs a step to come to
    assert Path(path) == run / "checkpoint_4.mdl"


def test_a_run_that_was_taken_over_stops(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = planned_run(tmp_path, code="import time; time.sleep(60)")
    made = claims.Claim.beat

    def slept(self: claims.Claim) -> None:
        made(self)
        claim(run / STATE, 2)  # another machine took this one for dead

    monkeypatch.setattr(claims.Claim, "beat", slept)
    assert supervise(run, 1, beat=0.1) == TAKEN
    assert not (run / STATE / "attempt-1.end.json").exists()


def test_a_run_that_was_removed_stops(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = planned_run(tmp_path, code="import time; time.sleep(60)")

    def removed(self: claims.Claim) -> None:
        raise FileNotFoundError

    monkeypatch.setattr(claims.Claim, "beat", removed)
    assert supervise(run, 1, beat=0.1) == TAKEN


def test_sigterm_reaches_the_run_which_ends_by_itself(tmp_path: Path) -> None:
    code = (
        "import signal, sys, time\n"
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit('error: interrupted; a checkpoint is saved'))\n"
        "open('ready', 'w').close(); time.sleep(60)"
    )
    run = planned_run(tmp_path, code=code)
    process = started(run)
    until(lambda: (tmp_path / "ready").exists())
    process.send_signal(signal.SIGTERM)
    assert process.wait() == FAILED
    assert status_of(run, run.name, Clock(run)).reason == "interrupted; a checkpoint is saved"


def test_two_sweeps_on_one_folder_run_each_once(tmp_path: Path) -> None:
    """Both saw the same planned runs, and each starts all of them."""
    code = "import time; open('count', 'a').write('x'); time.sleep(0.2)"
    todos = [Todo(planned_run(tmp_path, f"dense-00000000/seed{n}", code), f"seed{n}", 1) for n in range(2)]
    both = [todo for todo in todos for _ in range(2)]
    told: list[str] = []
    run_local(both, 2, told.append)
    assert (tmp_path / "count").read_text() == "xx"
    assert sum("left to the process that has it" in line for line in told) == 2
    assert told[-1].endswith(" (4 of 4)")
    assert {state(todo.run) for todo in todos} == {RunState.DONE}


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"


def _forget(path: Path) -> None:
    about = json.loads(path.read_text())
    about["process"]["started"] = 1
    path.write_text(json.dumps(about))
