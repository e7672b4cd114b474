"""``wafersparse doctor``: what is shown, and how it ends."""

import json
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from experiments.cli import main

BASE = Path(__file__).parents[2] / "configs/gpt2_1m.yaml"


def doctor(*args):
    return CliRunner().invoke(main, ["doctor", *map(str, args), "--no-modelzoo"])


@pytest.fixture
def config(tmp_path, monkeypatch):
    """A dense config without a problem, and one warning: few sequences to validate on."""
    monkeypatch.chdir(tmp_path)
    loaded = yaml.safe_load(BASE.read_text())
    for key in ("train_dataloader", "val_dataloader"):
        loaded["trainer"]["fit"][key] = {"data_processor": "DummyDataProcessor", "batch_size": 4}
    del loaded["trainer"]["validate"]
    loaded["trainer"]["init"]["loop"]["eval_steps"] = 2

    def write(**changes):
        loaded["trainer"]["init"] |= changes
        (tmp_path / "config.yaml").write_text(yaml.safe_dump(loaded, sort_keys=False))
        return tmp_path / "config.yaml"

    return write


def test_warnings_do_not_fail_unless_asked(config):
    result = doctor(config())
    assert result.exit_code == 0, result.output
    assert "0 problems, 1 warning; " in result.stdout.splitlines()[-1]
    assert doctor(config(), "--strict").exit_code == 1


def test_problems_are_grouped_by_subject_and_fail(config):
    warm_up = {"initial_learning_rate": 0.0, "end_learning_rate": 2e-4, "total_iters": 4768}
    loop = {"max_steps": 200}
    result = doctor(config(schedulers=[{"LinearLR": warm_up}], loop=loop))
    assert result.exit_code == 1
    lines = result.stdout.splitlines()
    start = lines.index("schedule")
    assert lines[start + 1].strip().startswith("problem  ")
    assert lines[start + 1].endswith("config.yaml:32: trainer.init.schedulers[0].LinearLR.total_iters")
    assert lines[start + 2].strip() == (
        "warm-up of 4768 steps in a run of 200: the learning rate peaks at 8.4e-06, not 2.0e-04"
    )
    assert lines[start + 3].strip().startswith("fix: set total_iters to at most 200")
    assert "estimated  1.000 of the dense run's operations" in result.stdout
    made = lines[-1].split("; ")[1]
    assert made.endswith(" not made")
    assert "  autorestart is off\n      config.autorestart" in result.stdout


def test_json(config):
    result = doctor(config(), "--json")
    found = json.loads(result.stdout)
    assert found.keys() == {"problems", "warnings", "not_made", "estimates", "made"}
    (warning,) = found["warnings"]
    assert warning["check"] == "loop.eval_steps"
    assert warning.keys() == {"check", "where", "what", "fix"}
    assert all(entry["reason"] for entry in found["not_made"])


def test_the_device_of_the_command_line_wins(config):
    path = config(backend={"backend_type": "CPU", "cluster_config": {"num_csx": 3}})
    assert doctor(path).exit_code == 0
    result = doctor(path, "--target_device", "CSX")
    assert "is 4, which 3 machines cannot share evenly" in result.stdout


def test_a_checkpoint_of_the_command_line_is_looked_at(config, tmp_path):
    (tmp_path / "c.mdl").write_bytes(b"\x89HDF\r\n\x1a\n")
    result = doctor(config(), "--checkpoint", tmp_path / "c.mdl")
    assert result.exit_code == 1
    assert "HDF5 cannot open it" in result.stdout
    absent = doctor(config(), "--checkpoint", tmp_path / "absent.mdl")
    assert absent.exit_code == 1
    assert "absent.mdl" in absent.stdout


def test_a_config_that_is_not_there(tmp_path):
    result = doctor(tmp_path / "absent.yaml")
    assert result.exit_code == 1
    assert "cannot be read: No such file" in result.stdout
    assert doctor("--unknown").exit_code == 2
