"""One run from claim to end: done, failed, killed at any point, resumed, taken over."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from cerebras_utils.checkpoints_index import CheckpointsIndex
from experiments.sweep import claim as claims
from experiments.sweep.claim import STATE, Clock, claim
from experiments.sweep.local import Todo, run_local, supervisor
from experiments.sweep.states import CONFIG, RunState, status_of
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
            "interrupted after step 5; it goes on from x",
        ),
        ("import sys; sys.exit(7)", "ended with exit code 7, and its log names no error"),
        ("import os; os.kill(os.getpid(), 9)", "was ended by SIGKILL"),
        ("import os; os.kill(os.getpid(), 35)", "was ended by signal 35"),
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
    run = planned_run(tmp_path)
    plan = {"command": ["fit"], "start": ["--checkpoint_path", "dense.pt"], "steps": 8}
    words, notes = command_of(run, plan)
    assert words == ["fit", "--checkpoint_path", "dense.pt"]
    assert notes == ["# starts from its beginning: there is no checkpoint to go on from"]
    checkpoints(run, "checkpoint_{step}.mdl", 2, 4, 6, 8)
    (run / "checkpoint_6.mdl").write_bytes(b"cut short")
    (_, _, path), notes = command_of(run, plan)
    # 8 is the end: what failed after it is the validation, which needs a step to come to
    assert Path(path) == run / "checkpoint_4.mdl"
    assert notes[0].startswith("# checkpoint_6.mdl is passed over: it ")
    assert notes[1:] == ["# starts from checkpoint_4.mdl"]


def test_it_goes_on_from_checkpoints_of_the_name_in_its_config(tmp_path: Path) -> None:
    run = planned_run(tmp_path)
    config = yaml.safe_load((run / CONFIG).read_text())
    config["trainer"]["init"]["checkpoint"] = {"checkpoint_name": "my_{step}.mdl"}
    (run / CONFIG).write_text(yaml.safe_dump(config))
    checkpoints(run, "my_{step}.mdl", 2)
    words, _ = command_of(run, {"command": ["fit"], "start": [], "steps": 8})
    assert words == ["fit", "--checkpoint_path", str(run / "my_2.mdl")]


def test_a_damaged_list_of_checkpoints_is_told_in_the_log(tmp_path: Path) -> None:
    run = planned_run(tmp_path)
    (run / "checkpoints_index.yaml").write_text("{a: 1}")
    assert supervise(run, 1) == DONE
    log = (run / STATE / "attempt-1.log").read_text()
    assert "checkpoints_index.yaml is not a list of paths\n# starts from its beginning" in log


def checkpoints(run: Path, name: str, *steps: int) -> None:
    import torch

    index = CheckpointsIndex(run, name)
    for step in steps:
        path = run / name.format(step=step)
        torch.save({"model": {"model.w": torch.zeros(2)}}, path)
        index.append(path)


def test_a_run_that_was_taken_over_stops_with_what_it_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = (
        "import subprocess, sys, time\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
        "open('made', 'w').write(str(child.pid)); import os; os.rename('made', 'pid'); time.sleep(60)"
    )
    run = planned_run(tmp_path, code=code)
    made = claims.Claim.beat

    def slept(self: claims.Claim) -> None:
        made(self)
        if (tmp_path / "pid").exists():
            claim(run / STATE, 2)  # another machine took this one for dead

    monkeypatch.setattr(claims.Claim, "beat", slept)
    assert supervise(run, 1, beat=0.1) == TAKEN
    assert not (run / STATE / "attempt-1.end.json").exists()
    until(lambda: not _lives(int((tmp_path / "pid").read_text())))


def test_a_run_that_was_removed_stops(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = planned_run(tmp_path, code="import time; time.sleep(60)")

    def removed(self: claims.Claim) -> None:
        raise FileNotFoundError

    monkeypatch.setattr(claims.Claim, "beat", removed)
    assert supervise(run, 1, beat=0.1) == TAKEN


_SAVES = (
    "import signal, sys, time\n"
    "signal.signal(signal.SIGINT, lambda *_: sys.exit('error: interrupted; a checkpoint is saved'))\n"
    "open('ready', 'w').close(); time.sleep(60)"
)


def reason(run: Path) -> str:
    return status_of(run, run.name, Clock(run)).reason


@pytest.mark.parametrize("name", ["SIGHUP", "SIGUSR2"])
def test_what_would_end_its_supervisor_reaches_the_run_which_ends_by_itself(
    tmp_path: Path, name: str
) -> None:
    run = planned_run(tmp_path, code=_SAVES)
    process = started(run)
    until(lambda: (tmp_path / "ready").exists())
    process.send_signal(signal.Signals[name])
    assert process.wait() == FAILED
    assert reason(run) == "interrupted; a checkpoint is saved"


def test_a_job_that_is_told_of_its_time_limit_waits_for_its_run_to_save(tmp_path: Path) -> None:
    """submitit raises in the middle of what it runs."""
    run = planned_run(tmp_path, code=_SAVES)
    code = (
        "import signal, sys, pathlib; from experiments.sweep.local import Todo, run_one\n"
        "def limit(*_): raise RuntimeError('timed-out')\n"
        "signal.signal(signal.SIGUSR2, limit); run_one(Todo(pathlib.Path(sys.argv[1]), 'a', 1))"
    )
    job = subprocess.Popen([sys.executable, "-c", code, str(run)], stderr=subprocess.PIPE, text=True)
    until(lambda: (tmp_path / "ready").exists())
    job.send_signal(signal.SIGUSR2)
    assert "RuntimeError: timed-out" in job.communicate()[1]
    assert reason(run) == "interrupted; a checkpoint is saved"


_SWEEP = """
import sys, pathlib
from experiments.sweep.local import Todo, run_local
todos = [Todo(pathlib.Path(run), run[-1], 1) for run in sys.argv[1:]]
run_local(todos, 1, lambda line: print(line, flush=True))
"""


def _sweep(*runs: Path) -> "subprocess.Popen[str]":
    """In a session of its own, as in a terminal of its own."""
    words = [sys.executable, "-c", _SWEEP, *map(str, runs)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    return subprocess.Popen(words, text=True, start_new_session=True, **pipes)  # type: ignore[call-overload,no-any-return]


def test_ctrl_c_of_a_sweep_is_passed_on_and_nothing_else_starts(tmp_path: Path) -> None:
    first, second = (planned_run(tmp_path, f"dense-00000000/seed{n}", _SAVES) for n in (1, 2))
    process = _sweep(first, second)
    until(lambda: (tmp_path / "ready").exists())
    os.killpg(process.pid, signal.SIGINT)
    assert "interrupted: runs that go on" in process.communicate()[0]
    assert reason(first) == "interrupted; a checkpoint is saved"
    assert state(second) is RunState.PLANNED


def test_a_closed_terminal_leaves_the_run_to_its_supervisor(tmp_path: Path) -> None:
    code = (
        "import os, time; open('ready', 'w').close(); end = time.monotonic() + 60\n"
        "while not os.path.exists('go') and time.monotonic() < end: time.sleep(0.02)"
    )
    run = planned_run(tmp_path, code=code)
    process = _sweep(run)
    until(lambda: (tmp_path / "ready").exists())
    os.killpg(process.pid, signal.SIGHUP)
    process.wait()
    assert process.stdout is not None
    process.stdout.close()
    assert state(run) is RunState.RUNNING
    (tmp_path / "go").touch()
    until(lambda: state(run) is RunState.DONE)


def test_a_folder_of_the_users_named_as_this_package_is_not_taken_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "experiments").mkdir()
    (tmp_path / "experiments/__init__.py").touch()
    monkeypatch.chdir(tmp_path)
    run = planned_run(tmp_path)
    assert started(run).wait() == DONE
    assert state(run) is RunState.DONE


def test_of_runs_that_take_turns_one_goes_on_at_a_time(tmp_path: Path) -> None:
    """As on a CS-3, also where two sweeps, with different runs, are at it."""
    code = (
        "import os, time; os.mkdir('busy'); time.sleep(0.2); os.rmdir('busy')"  # fails where another has it
    )
    runs = [planned_run(tmp_path, f"dense-00000000/seed{n}", code) for n in (1, 2)]
    words = "import sys, pathlib as p; from experiments.sweep.supervise import supervise as s\n"
    words += "sys.exit(s(p.Path(sys.argv[1]), 1, p.Path(sys.argv[2]), beat=0.02))"
    both = [
        subprocess.Popen([sys.executable, "-c", words, str(run), str(tmp_path / "turns")]) for run in runs
    ]
    assert [process.wait() for process in both] == [DONE, DONE]


def test_a_run_that_waits_for_its_turn_can_be_interrupted(tmp_path: Path) -> None:
    assert claims.next_turn(tmp_path / "turns") is not None
    run = planned_run(tmp_path)
    killer = threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGTERM))
    killer.start()
    assert supervise(run, 1, tmp_path / "turns", beat=0.05) == FAILED
    killer.join()
    assert state(run) is RunState.PLANNED


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
