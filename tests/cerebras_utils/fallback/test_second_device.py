"""Runs on a device that is not the CPU: nothing is left behind on it, and the numbers are the same.

What is checked of a GPU on a machine that has none. The tests of runs are run again, in a process of their
own, since torch then has that device for good.
"""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from cerebras_utils.fallback import run as run_module
from tests import second_device
from tests.cerebras_utils.fallback.tiny_runs import config, fitted

HERE = Path(__file__).parent


@pytest.mark.slow
def test_all_runs_on_a_second_device():
    if why := second_device.missing():
        pytest.skip(why)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "--device", "second", "-m", "not slow and not cszoo", str(HERE)],
        cwd=HERE.parents[2],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    assert int(re.search(r"(\d+) passed", done.stdout)[1]) > 500


def test_what_is_left_on_the_cpu_is_an_error(device):
    """Or those tests would show nothing."""
    if device == "cpu":
        pytest.skip("for --device second")
    left, moved = torch.ones(2), torch.ones(2, device=device)
    with pytest.raises(RuntimeError, match="device"):
        torch.stack([moved, left])
    assert (moved.mul_(2) + torch.tensor(1)).tolist() == [3, 3]


def test_weights_and_states_are_on_the_device_before_the_first_step(place, monkeypatch):
    """Also without a checkpoint, whose states torch would move."""
    trainers = []
    monkeypatch.setattr(run_module, "device_of", lambda init, asked: torch.device("meta"))
    monkeypatch.setattr(run_module.Trainer, "fit", lambda trainer, *_: trainers.append(trainer))
    fitted(config())
    (trainer,) = trainers
    parameters = list(trainer.model.parameters())
    assert {id(p) for group in trainer.optimizer.param_groups for p in group["params"]} == set(
        map(id, parameters)
    )
    states = [state for parameter in parameters for state in trainer.optimizer.state[parameter].values()]
    assert {tensor.device.type for tensor in parameters} == {"meta"}
    assert {state.device.type for state in states if state.dim()} == {"meta"}
