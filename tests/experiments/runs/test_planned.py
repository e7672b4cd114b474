"""Runs of a sweep that never trained are rows of a comparison, with their state and reason."""

import json
from pathlib import Path

import pytest
import yaml

from experiments.runs.cache import read_runs
from experiments.runs.callbacks import callbacks_of
from experiments.runs.find import run_directories
from experiments.runs.read import read_run
from experiments.sweep.claim import STATE, claim
from experiments.sweep.states import write_once
from tests.experiments.runs_on_disk import params, write_run
from tests.experiments.sweep.sweeps import planned_run


def test_planned_failed_and_lost_runs_are_found_and_told(tmp_path: Path) -> None:
    out = tmp_path / "out"
    for name in ("planned", "failed", "lost", "unreadable"):
        planned_run(out, f"{name}-00000000/seed1")
    failed = claim(out / "failed-00000000/seed1" / STATE, 1)
    assert failed is not None
    write_once(failed.end, {"state": "failed", "reason": "no such data"})
    lost = claim(out / "lost-00000000/seed1" / STATE, 1)
    assert lost is not None
    about = json.loads(lost.path.read_text())
    about["process"]["started"] = 1
    lost.path.write_text(json.dumps(about))
    (out / "unreadable-00000000/seed1" / STATE / "planned.json").write_text("[]")
    runs = read_runs(run_directories([out]), cache=tmp_path / "cache")
    found = {Path(run.path).parent.name.partition("-")[0]: (run.state, run.reason) for run in runs}
    assert found["planned"] == ("planned", "")
    assert found["failed"] == ("failed", "no such data")
    assert found["lost"][0] == "lost"
    assert "no heartbeat" in found["lost"][1]
    assert found["unreadable"][0] == "unreadable"
    assert all(run.seed == 1 and run.params for run in runs)  # of the config that was written for it


def test_a_state_is_read_anew_when_the_sweep_goes_on(tmp_path: Path) -> None:
    run = planned_run(tmp_path / "out")

    def state() -> str:
        (found,) = read_runs([run], cache=tmp_path / "cache")
        return found.state

    assert state() == "planned"
    mine = claim(run / STATE, 1)
    assert mine is not None
    assert state() == "running"
    write_once(mine.end, {"state": "failed", "reason": "x"})
    assert state() == "failed"


@pytest.mark.parametrize(("receipt", "expected"), [("finished", "finished"), ("running", "lost")])
def test_of_a_run_that_trained_its_own_receipt_counts_unless_it_is_not_sure(
    tmp_path: Path, receipt: str, expected: str
) -> None:
    """A receipt of another machine that says "running" tells nothing: the heartbeat does."""
    run = planned_run(tmp_path)
    mine = claim(run / STATE, 1)
    assert mine is not None
    about = json.loads(mine.path.read_text())
    about["process"]["started"] = 1
    mine.path.write_text(json.dumps(about))
    write_run(run, params(), state=receipt)
    (found,) = read_runs([run], cache=tmp_path / "cache")
    assert found.state == expected


def test_a_run_that_is_planned_has_the_config_of_one_that_has_begun(tmp_path: Path) -> None:
    """Also of what its command says: they are of one row."""
    words = ["--load_checkpoint_states", "model"]
    runs = [planned_run(tmp_path, f"dense-00000000/seed{n}", start=words) for n in (1, 2)]
    trainer = yaml.safe_load((runs[0] / "config.yaml").read_text())["trainer"]
    file = next(write_run(runs[0], trainer).glob("*/run.json"))
    receipt = json.loads(file.read_text())
    file.write_text(json.dumps({**receipt, "environment": {"command": ["fit", *words]}}))
    begun, planned = map(read_run, runs)
    assert begun.params == planned.params
    assert callbacks_of(planned.params["init"]).keys() == {"LoadCheckpointStates"}
