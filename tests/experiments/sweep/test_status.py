"""`wafersparse status`: from files alone, of any number of runs, damaged ones too."""

import errno
import json
import os
import time
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from experiments.cli import main
from experiments.runs.read import read_run
from experiments.sweep import states as states_module
from experiments.sweep.claim import LOST, STATE, claim, held
from experiments.sweep.live import live, seconds_left
from experiments.sweep.states import PLANNED_FILE, note_submitted, write_once
from tests.experiments.runs_on_disk import params, write_run
from tests.experiments.sweep.sweeps import planned_run


def status(*words: Any) -> Result:
    return CliRunner().invoke(main, ["status", *map(str, words)])


def states(out: Path) -> dict[str, str]:
    found = json.loads(status(out, "--json").stdout)
    return {run["run"].partition("/")[0]: run["state"] for run in found["runs"]}


def ended(run: Path, state: str, **more: Any) -> None:
    mine = claim(run / STATE, 1)
    assert mine is not None
    write_once(mine.end, {"state": state, "reason": "", "exit_code": 0, "tail": "", **more})


def test_every_state_in_one_folder_that_two_machines_write(tmp_path: Path) -> None:
    for name in ("planned", "running", "elsewhere", "done", "failed", "lost", "unreadable", "strange"):
        planned_run(tmp_path, f"{name}-00000000/seed1")
    folder = {path.name.partition("-")[0]: path / "seed1" for path in tmp_path.iterdir()}
    assert claim(folder["running"] / STATE, 1)
    for name, age in (("elsewhere", 0.0), ("lost", LOST + 60)):
        other = claim(folder[name] / STATE, 1)
        assert other is not None
        about = json.loads(other.path.read_text())
        about["process"] |= {"host": "another-machine", "boot": "another", "pid": 1}
        other.path.write_text(json.dumps(about))
        now = other.path.stat().st_mtime
        os.utime(other.path, (now - age, now - age))
    ended(folder["done"], "done", steps=4, loss=1.25, seconds=10)
    ended(folder["failed"], "failed", reason="RuntimeError: out of memory", tail="the log")
    (folder["unreadable"] / STATE / PLANNED_FILE).write_text("{")
    ended(folder["strange"], "won")
    found = states(tmp_path)
    assert found == {
        **{"planned-00000000": "planned", "running-00000000": "running", "elsewhere-00000000": "running"},
        **{"done-00000000": "done", "failed-00000000": "failed", "lost-00000000": "lost"},
        **{"unreadable-00000000": "unreadable", "strange-00000000": "unreadable"},
    }
    text = status(tmp_path).stdout
    for said in ("RuntimeError: out of memory", "another-machine", "no heartbeat", "1.2500", "--resume"):
        assert said in text
    assert "2 running" in text.replace("\n", " ")


def test_steps_loss_and_time_left_of_a_run_that_goes_on(tmp_path: Path) -> None:
    run = planned_run(tmp_path, steps=20)
    assert claim(run / STATE, 1)
    write_run(run, params(), steps=15, state="running")
    (found,) = live(tmp_path)
    assert (found.steps, found.asked, found.loss) == (15, 20, pytest.approx(3.0 / 15))
    assert found.seconds_left == pytest.approx(5.0)  # a second each
    done = planned_run(tmp_path, "dense-11111111/seed1", steps=20)
    ended(done, "done", steps=20, loss=0.1, seconds=100.0)
    planned_run(tmp_path, "dense-22222222/seed1", steps=20)
    assert seconds_left(live(tmp_path)) == pytest.approx(5.0 + 100.0)


@pytest.mark.parametrize(("make", "said"), [(False, "does not exist"), (True, "it is empty")])
def test_a_folder_without_runs_says_what_to_do(tmp_path: Path, make: bool, said: str) -> None:
    out = tmp_path / "out"
    if make:
        out.mkdir()
    result = status(out)
    assert result.exit_code == 1
    assert said in result.stderr
    assert "fix: " in result.stderr


def test_nothing_stays_behind_of_a_look(tmp_path: Path) -> None:
    run = planned_run(tmp_path)
    assert claim(run / STATE, 1)
    before = sorted(tmp_path.rglob("*"))
    assert status(tmp_path).exit_code == 0
    assert sorted(tmp_path.rglob("*")) == before


def test_a_thousand_runs(tmp_path: Path) -> None:
    for number in range(1000):
        folder = tmp_path / f"magnitude-s0.{number:03}-00000000/seed1/{STATE}"
        folder.mkdir(parents=True)
        plan = {"format": "wafersparse-planned-run", "version": 1, "steps": 4}
        (folder / PLANNED_FILE).write_text(json.dumps(plan))
        if number % 2:
            (folder / "attempt-1.claim").write_text('{"process": {"host": "a"}}')
            (folder / "attempt-1.end.json").write_text('{"state": "done", "steps": 4, "loss": 1.0}')
    begun = time.process_time()
    result = status(tmp_path)
    took = time.process_time() - begun
    assert result.stdout.endswith("500 planned, 500 done\n")
    assert took < 2


def test_a_hint_that_can_be_copied(tmp_path: Path) -> None:
    ended(planned_run(tmp_path / "out"), "failed", reason="no room")
    (tmp_path / "out/plan.json").write_text(json.dumps({"spec": "my sweep.yaml"}))
    assert (
        f"wafersparse sweep 'my sweep.yaml' --out {tmp_path / 'out'} --resume"
        in status(tmp_path / "out").stdout
    )


def test_a_folder_above_or_below_a_sweep_names_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = planned_run(tmp_path / "runs/demo")
    monkeypatch.chdir(tmp_path)
    assert "name one of them: runs/demo" in status("runs").stderr
    for folder in ("runs/demo/dense-00000000/seed1", "runs/demo/dense-00000000"):
        assert "name the sweep: runs/demo\n" in status(folder).stderr
    monkeypatch.chdir(run)
    assert "name the sweep: ../..\n" in status(".").stderr


def test_watching_ends_with_the_last_run_and_not_between_two(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended(planned_run(tmp_path), "done")
    run = planned_run(tmp_path, "dense-11111111/seed1")
    looks = 0

    def sleep(seconds: float) -> None:
        nonlocal looks
        looks += 1
        if looks == 3:  # the next run has started
            assert claim(run / STATE, 1)
        if looks == 5:
            write_once(held(run / STATE, 1).end, {"state": "done"})

    monkeypatch.setattr(time, "sleep", sleep)
    assert "2 done" in status(tmp_path, "--watch").stdout
    assert looks == 5


def test_watching_what_waits_in_a_job_goes_on_and_what_nobody_starts_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = planned_run(tmp_path)
    note_submitted(run, 1, "job 7")
    looks = 0

    def sleep(seconds: float) -> None:
        nonlocal looks
        looks += 1
        if looks == 100:
            (run / STATE / "submitted.json").unlink()

    monkeypatch.setattr(time, "sleep", sleep)
    text = status(tmp_path, "--watch").stdout
    assert 100 < looks < 120
    assert "job 7" in text
    assert "--resume --executor slurm" in text


@pytest.mark.parametrize("closed", ["closed-00000000", "closed-00000000/seed1"])
def test_a_folder_that_may_not_be_read_hides_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, closed: str
) -> None:
    """As for users who are not root."""
    for name in ("closed-00000000/seed1", "open-00000000/seed1"):
        planned_run(tmp_path, name)

    def refusing(real: Any) -> Any:
        def call(path: Any = ".", *args: Any, **more: Any) -> Any:
            inside = isinstance(path, str | Path) and tmp_path / closed in Path(path).parents
            if inside or (real is listing and Path(path) == tmp_path / closed):
                raise PermissionError(errno.EACCES, "Permission denied", str(path))
            return real(path, *args, **more)

        return call

    listing = os.scandir
    monkeypatch.setattr(os, "scandir", refusing(os.scandir))
    monkeypatch.setattr(os, "stat", refusing(os.stat))
    monkeypatch.setattr(states_module, "_read_json", refusing(states_module._read_json))
    result = status(tmp_path)
    assert result.exit_code == 0, result.output
    assert f"{closed}: unreadable: cannot be read: Permission denied" in result.stdout
    assert "1 planned" in result.stdout


def test_a_sweep_that_may_not_be_read_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def scandir(path: Any = ".") -> Any:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(os, "scandir", scandir)
    result = status(tmp_path)
    assert result.exit_code == 1
    assert result.stderr.startswith(f"error: {tmp_path}")
    assert "cannot be read: Permission denied" in result.stderr


ADVICE = "is saved, and the same command with --checkpoint_path {0} continues from it"


@pytest.mark.parametrize(
    ("step", "checkpoint", "said"),
    [
        (0, "/models/dense/model.mdl", "interrupted after step 0; it goes on from /models/dense/model.mdl"),
        (
            100,
            "/models/dense/checkpoint_100.mdl",
            "interrupted after step 100; it goes on from /models/dense/checkpoint_100.mdl",
        ),
        (16, "{run}/checkpoint_16.mdl", "interrupted after step 16; checkpoint_16.mdl is saved"),
    ],
)
def test_an_interrupted_run_of_a_sweep_is_resumed_by_the_sweep(
    tmp_path: Path, step: int, checkpoint: str, said: str
) -> None:
    """Its own words are for whoever called `fit`, and name what it began with where it saved nothing."""
    run = planned_run(tmp_path)
    path = checkpoint.format(run=run)
    words = f"interrupted after step {step}; {path} {ADVICE.format(path)}"
    ended(run, "failed", reason=words)
    text = status(tmp_path).stdout
    assert f"failed: {said}\n" in text
    assert "--checkpoint_path" not in text
    assert "--resume" in text
    write_run(run, params(), steps=step, state="interrupted", error={"type": "X", "message": words})
    assert read_run(run).reason == f"X: {said}"
