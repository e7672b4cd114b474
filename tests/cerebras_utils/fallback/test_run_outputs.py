"""The directory of a run: cszoo's names, and a receipt that tells how it ended."""

import json
import logging
import os
import re
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import save_file

from cerebras_utils.events_file import read_scalars
from cerebras_utils.fallback.run_outputs import RunDirectory
from cerebras_utils.run_receipt import State, read_receipt, runs_in
from pruning.problems import ProblemError

PARAMS = {"init": {"model": {"name": "gpt2", "eps": 1e-5}, "seed": 1}, "fit": {"ckpt_path": None}}


@pytest.fixture
def config(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("c.yaml").write_text("trainer: {}\n")
    return Path("c.yaml")


def start(config, model_dir="model", **options):
    options = {"verb": "fit", "params": PARAMS, "device": "cpu"} | options
    return RunDirectory(model_dir, config=config, **options)


def checkpoint(run, step, value=1.0):
    path = run.index.free_path(step)
    save_file({"w": torch.full((4,), value)}, path)
    run.saved(path, step)
    return path


def tree(directory):
    """Every name below a directory, links with their targets, times and processes blotted out."""
    found = {}
    for path in sorted(Path(directory).rglob("*")):
        if path.is_symlink() or not path.is_dir():
            target = str(path.readlink()) if path.is_symlink() else ""
            blot = re.compile(r"\d{8}_\d{6}|(?<=events\.)\d+\..*\.\d+\.\d+$")
            found[blot.sub("T", str(path.relative_to(directory)))] = blot.sub("T", target)
    return found


def test_the_names_are_those_of_cszoo(config):
    with start(config) as run, run.open_events() as events:
        events.scalar("loss", 1.0, 1)
        checkpoint(run, 5)
        run.measured("train", 5, {"rate": 1.0, "global_rate": 2.0})
        run.measured("validate", 2, {"rate": 1.0, "global_rate": 2.0})
    assert tree("model") == {
        "T/run.json": "",
        "T/run.log": "../cerebras_logs/T/run.log",
        "T/tf_events": "../events/events.out.tfevents.T",
        "T/trainer_params.yaml": "",
        "cerebras_logs/T/executors/000001/metadata.json": "",
        "cerebras_logs/T/executors/000001/performance.json": "",
        "cerebras_logs/T/executors/000002/metadata.json": "",
        "cerebras_logs/T/executors/000002/performance.json": "",
        "cerebras_logs/T/executors/latest": "000002",
        "cerebras_logs/T/run.log": "",
        "cerebras_logs/latest": "T",
        "checkpoint_5.mdl": "",
        "checkpoints_index.yaml": "",
        "events/events.out.tfevents.T": "",
        "latest_run.log": "cerebras_logs/T/run.log",
        "run.json": "T/run.json",
    }
    assert read_scalars(run.directory / "tf_events")["loss"][0].value == 1.0
    assert (run.directory / "run.log").read_text() == Path("model/latest_run.log").read_text()
    assert json.loads(Path("model/cerebras_logs/latest/executors/latest/metadata.json").read_text()) == {
        "stage": "validate",
        "num_steps": 2,
    }


def test_the_params_are_those_that_ran(config):
    shared = {"data_dir": "x"}
    with start(config, params=PARAMS | {"validate": shared, "validate_all": shared}) as run:
        pass
    text = (run.directory / "trainer_params.yaml").read_text()
    assert yaml.safe_load(text) == {"trainer": PARAMS | {"validate": shared, "validate_all": shared}}
    assert "&" not in text
    assert text.index("init:") < text.index("fit:")


def test_the_receipt_of_a_finished_run(config):
    save_file({"w": torch.ones(4)}, "start.safetensors")
    save_file({"w": torch.ones(1, dtype=torch.uint8)}, "masks.safetensors")
    with start(config, masks=[Path("masks.safetensors")], phase="trainer[1].trainer") as run:
        run.starts_from(Path("start.safetensors"))
        assert read_receipt(run.directory).state is State.RUNNING
        run.progress(3, {"loss": 2.0, "validate_0/loss": float("nan")})
        assert read_receipt(run.directory).receipt["steps"] == 0
        first = checkpoint(run, 3)
        assert read_receipt(run.directory).receipt["steps"] == 3
        second = checkpoint(run, 5, value=2.0)
        run.progress(5, {"loss": 1.0})
        run.remove(first)
    found = read_receipt(Path("model/run.json"))
    assert found.state is State.FINISHED
    assert found.receipt["steps"] == 5
    assert found.metrics["loss"] == 1.0
    assert found.receipt["metrics"]["validate_0/loss"] == "nan"
    assert found.receipt["error"] is None
    assert found.receipt["verb"] == "fit"
    assert found.receipt["phase"] == "trainer[1].trainer"
    assert found.receipt["config"]["path"] == "c.yaml"
    assert found.receipt["masks"][0]["path"] == "masks.safetensors"
    assert len(found.receipt["start"]["fingerprint"]) == 64
    assert found.receipt["started"] <= found.receipt["ended"] == found.receipt["updated"]
    one, other = found.receipt["checkpoints"]
    assert (one["step"], one["removed"], other["step"], other["removed"]) == (3, True, 5, False)
    assert one["fingerprint"] != other["fingerprint"]
    assert not first.exists()
    assert run.index.checkpoints() == [second]


def test_the_log(config):
    before = logging.getLogger().level
    with start(config, log_level="INFO"):
        logging.getLogger("some.package").info("from elsewhere: %s", "é")
        logging.getLogger("some.package").debug("too much")
    logging.getLogger("some.package").warning("after the end")
    lines = Path("model/latest_run.log").read_text().splitlines()
    form = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} INFO:   "
    assert all(re.match(form, line) for line in lines)
    assert [re.sub(form, "", line) for line in lines] == [
        f"Current Working Directory: {Path.cwd()}",
        f"Running command: {' '.join(sys.argv)}",
        "from elsewhere: é",
    ]
    assert logging.getLogger().level == before


@pytest.mark.parametrize("level", ["debug", "VERBOSE", "TRACE"])
def test_finer_levels(config, level):
    with start(config, log_level=level):
        logging.getLogger("x").log(15, "fine")
    assert Path("model/latest_run.log").read_text().endswith("fine\n")


@pytest.mark.parametrize(
    ("error", "state"),
    [(ValueError("no such luck"), State.FAILED), (KeyboardInterrupt(), State.INTERRUPTED)],
)
def test_an_exception_is_told_and_goes_on(config, error, state):
    run = start(config)
    checkpoint(run, 2)
    with pytest.raises(type(error)), run:
        raise error
    found = read_receipt(run.directory)
    assert found.state is state
    assert found.receipt["error"] == {"type": type(error).__name__, "message": str(error)}
    assert "Traceback" in (run.directory / "run.log").read_text()
    assert run.index.latest().name == "checkpoint_2.mdl"


def test_runs_of_one_second_have_directories_of_their_own(config):
    runs = [start(config, verb="validate") for _ in range(2)]
    for run in runs:
        run.close(State.FINISHED)
    assert [found.path.parent for found in runs_in(Path("model"))] == [run.directory for run in runs]
    assert read_receipt(Path("model/run.json")).receipt == read_receipt(runs[1].directory).receipt


def test_two_do_not_train_in_one_directory(config):
    with start(config):
        with pytest.raises(ProblemError, match="trains in it since"):
            start(config)
        with start(config, verb="validate"):
            pass
    with start(config):
        pass


def killed(config, place):
    """A run that wrote a checkpoint, and was killed while it logged."""
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "import numpy\n"
        "from safetensors.numpy import save_file\n"
        "from cerebras_utils.fallback.run_outputs import RunDirectory\n"
        "run = RunDirectory(sys.argv[1], verb='fit', config=Path('c.yaml'), params={}, device='cpu')\n"
        "events = run.open_events()\n"
        "save_file({'w': numpy.ones(2)}, path := run.index.free_path(7))\n"
        "run.progress(7, {'loss': 0.5})\n"
        "run.saved(path, 7)\n"
        "for step in range(10**9):\n"
        "    run.log.info('line %d', step)\n"
    )
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[3])}
    process = subprocess.Popen([sys.executable, "-c", code, str(place)], env=environment)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None:
        log = place / "latest_run.log"
        if log.exists() and "line 100\n" in log.read_text():
            break
        time.sleep(0.02)
    assert process.poll() is None
    (run,) = runs_in(place)
    assert run.state is State.RUNNING
    with pytest.raises(ProblemError, match=f"process {process.pid} trains in it"):
        start(config, place)
    process.send_signal(signal.SIGKILL)
    process.wait()


def test_a_killed_run_is_known_for_one_and_another_continues(config):
    killed(config, Path("model"))
    (found,) = runs_in(Path("model"))
    assert found.state is State.KILLED
    assert found.receipt["steps"] == 7
    assert found.metrics == {"loss": 0.5}
    assert Path("model/latest_run.log").read_text().endswith("\n")
    read_scalars(found.path.parent / "tf_events")
    with start(config) as run:
        run.starts_from(run.index.latest())
    assert [entry.state for entry in runs_in(Path("model"))] == [State.KILLED, State.FINISHED]
    assert run.index.latest() == Path("model/checkpoint_7.mdl")
    start_of_second = read_receipt(run.directory).receipt["start"]
    assert start_of_second["fingerprint"] == found.receipt["checkpoints"][0]["fingerprint"]


def fill(disk):
    with suppress(OSError), (disk / "filler").open("wb", buffering=0) as stream:
        while True:
            stream.write(bytes(4096))
    assert os.statvfs(disk).f_bavail == 0


def test_a_full_disk_is_told_and_the_run_is_not_finished(config, tiny_disk):
    run = start(config, tiny_disk / "model")
    with pytest.raises(ProblemError, match="No space left"), run:
        fill(tiny_disk)
    assert read_receipt(run.directory).receipt["state"] == "running"


def test_a_full_disk_does_not_hide_the_first_error(config, tiny_disk):
    run = start(config, tiny_disk / "model")
    fill(tiny_disk)
    with pytest.raises(ZeroDivisionError) as caught, run:
        raise ZeroDivisionError
    assert "No space left" in "".join(caught.value.__notes__)


def test_a_log_line_that_does_not_fit_is_an_error(config, tiny_disk):
    run = start(config, tiny_disk / "model")
    fill(tiny_disk)
    with pytest.raises(ProblemError, match=r"run\.log"), run:
        log_until_full(run)


def log_until_full(run):
    for _ in range(10**5):
        run.log.info("%s", "x" * 100)


def test_a_disk_that_is_full_from_the_start(config, tiny_disk):
    fill(tiny_disk)
    with pytest.raises(ProblemError, match="No space left"):
        start(config, tiny_disk / "model")


def test_a_model_dir_that_cannot_be_made(config):
    Path("model").write_text("a file")
    with pytest.raises(ProblemError, match="model"):
        start(config)
