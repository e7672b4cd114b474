"""Ctrl-C and ``kill``: the step is finished and saved, and the same command goes on from it, bit for bit."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from cerebras_utils.fallback.interruption import InterruptedRunError, Interruption
from cerebras_utils.fallback.mdl_reader import load_mdl
from cerebras_utils.hooks import Hooks
from tests.cerebras_utils.fallback.tiny_runs import (
    config,
    drop_step_counts,
    equal,
    fitted,
    refused,
    run,
    scalars,
)

ROOT = Path(__file__).parents[3]


def process(*args, code="from experiments.cli import main; main()"):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-c", code, *args],
        env=environment,
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    )


def wait_for_step(directory, step, *, seconds=120):
    """Until the log tells of that step."""
    end = time.monotonic() + seconds
    log = Path(directory, "latest_run.log")
    while time.monotonic() < end:
        if log.exists() and f"Step={step}," in log.read_text():
            return
        time.sleep(0.01)
    raise AssertionError("the run does not get on")


def comparable(path):
    tree = load_mdl(path)
    del tree["__metadata__"]  # the params, which differ in max_steps
    for scheduler in tree["schedulers"]:
        drop_step_counts(scheduler)
    return tree


@pytest.mark.slow
def test_ctrl_c_finishes_the_step_saves_and_says_how_to_continue(place):
    path = config(steps=100_000, checkpoint={"steps": 99_999})
    running = process("fit", "--backend", "torch", path)
    wait_for_step("run", 3)
    running.send_signal(signal.SIGINT)
    _, said = running.communicate(timeout=60)
    assert running.returncode == 1
    assert "Traceback" not in said
    (saved,) = Path("run").glob("checkpoint_*.mdl")
    step = load_mdl(saved)["global_step"]
    assert f"interrupted after step {step}; {saved} is saved, and the same command continues from it" in said
    receipt = json.loads(Path("run/run.json").read_text())
    assert (receipt["state"], receipt["steps"]) == ("interrupted", step)
    assert max(scalars()["loss"]) == step

    fitted(config(steps=step + 2))
    fitted(config(steps=step + 2), "-o", "whole")
    last = f"checkpoint_{step + 2}.mdl"
    assert equal(comparable(Path("run", last)), comparable(Path("whole", last)))


class Signals(Hooks):
    """Sends signals to this very process, in the middle of a step. Remembers what is told afterwards."""

    def __init__(self, *numbers, step=2):
        self.numbers, self.step, self.told = numbers, step, []

    def on_before_backward(self, trainer, model, outputs):
        if trainer.global_step + 1 == self.step:
            for number in self.numbers:
                os.kill(os.getpid(), number)
            self.step = 0

    def on_train_exception(self, trainer, exception):
        self.told.append(("train", type(exception)))

    def on_fit_exception(self, trainer, exception):
        self.told.append(("fit", type(exception)))

    def finalize(self):
        self.told.append(("finalize", None))


@pytest.fixture
def signals(monkeypatch):
    """Puts such a callback into every run."""

    def put(*numbers, step=2):
        from cerebras_utils.fallback import run as module

        callback = Signals(*numbers, step=step)
        make = module.make_callbacks
        monkeypatch.setattr(module, "make_callbacks", lambda named: {**make(named), "Signals": callback})
        return callback

    return put


def test_kill_does_as_ctrl_c_and_callbacks_are_told(place, signals):
    callback = signals(signal.SIGTERM)
    result = run("fit", config())
    assert result.exit_code == 1, result.output
    assert callback.told == [("train", InterruptedRunError), ("fit", InterruptedRunError), ("finalize", None)]
    assert load_mdl(Path("run/checkpoint_2.mdl"))["global_step"] == 2
    assert json.loads(Path("run/run.json").read_text())["state"] == "interrupted"
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_a_second_one_ends_at_once(place, signals):
    signals(signal.SIGINT, signal.SIGINT)
    result = run("fit", config())
    assert result.exit_code == 1, result.output
    assert "interrupted at once" in result.stderr
    assert not list(Path("run").glob("*.mdl"))
    assert json.loads(Path("run/run.json").read_text())["state"] == "interrupted"


def test_the_advice_is_one_that_works(place, signals):
    fitted(config(steps=3), "-o", "start")
    signals(signal.SIGINT, step=5)
    options = ("-o", "run", "--checkpoint_path", "start/checkpoint_3.mdl")
    said = run("fit", config(), *options).stderr
    assert "the same command with --checkpoint_path run/checkpoint_5.mdl continues from it" in said
    signals(signal.SIGINT, step=2)
    said = run("fit", config(loop={"num_steps": 6, "eval_frequency": None}), "-o", "other").stderr
    assert "counts num_steps anew: 4 steps are left" in said
    assert "nothing was trained yet" not in said


def test_an_accumulated_step_is_made_whole(place, signals):
    signals(signal.SIGINT, step=2)
    loop = {"max_steps": 12, "eval_frequency": None, "grad_accum_steps": 3}
    assert run("fit", config(loop=loop, checkpoint={"steps": 100})).exit_code == 1
    assert load_mdl(Path("run/checkpoint_2.mdl"))["dataloader"]["samples_streamed"] == 2 * 3 * 4


def test_in_validation_the_weights_of_the_step_are_saved(place, signals, monkeypatch):
    callback = signals(step=-1)
    callback.on_validate_start = lambda *_: os.kill(os.getpid(), signal.SIGINT)
    loop = {"max_steps": 6, "eval_frequency": 2}
    assert run("fit", config(loop=loop)).exit_code == 1
    assert [path.name for path in Path("run").glob("*.mdl")] == ["checkpoint_2.mdl"]
    result = run("validate", config(loop=loop), "-o", "alone")
    assert result.exit_code == 1
    assert "the same command begins this validation again" in result.stderr
    assert not list(Path("alone").glob("*.mdl"))


def test_a_child_leaves_ctrl_c_to_its_parent_and_can_be_ended():
    with Interruption() as interruption:
        child = os.fork()
        if child == 0:
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGTERM)
            os._exit(0)
        _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 128 + signal.SIGTERM
    assert not interruption.asked


def test_outside_the_main_thread_signals_are_left_alone():
    before = signal.getsignal(signal.SIGINT)
    found = []

    def work():
        with Interruption() as interruption:
            found.append((interruption.asked, signal.getsignal(signal.SIGINT)))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [(False, before)]


@pytest.mark.slow  # by default, test_mdl_writer.py kills a writer
def test_kill_9_while_a_checkpoint_is_written(place):
    """The process is gone in the middle of the file: the one before is what the next command goes on from."""
    dying = (
        "import os, signal\n"
        "from cerebras_utils.fallback import mdl_writer\n"
        "def write(fd, tensor, offset, real=mdl_writer._write, done=[]):\n"
        "    done += ['checkpoint_6' in os.readlink(f'/proc/self/fd/{fd}')]\n"
        "    if sum(done) == 50: os.kill(os.getpid(), signal.SIGKILL)\n"
        "    real(fd, tensor, offset)\n"
        "mdl_writer._write = write\n"
        "from experiments.cli import main; main()"
    )
    killed = process("fit", "--backend", "torch", config(), code=dying)
    killed.communicate(timeout=120)
    assert killed.returncode == -signal.SIGKILL
    names = {path.name for path in Path("run").glob("*.mdl")}
    assert names == {"checkpoint_3.mdl"}
    (part,) = Path("run").glob(".checkpoint_6.mdl.*.part")
    assert "is reached" in refused(config(steps=3)), "and that one is whole, and found"
    fitted(config())
    fitted(config(), "-o", "whole")
    assert equal(comparable(Path("run/checkpoint_6.mdl")), comparable(Path("whole/checkpoint_6.mdl")))
    assert not part.exists()
