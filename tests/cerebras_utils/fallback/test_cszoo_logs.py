"""Everything that a run logs beside what cszoo logs of the same config, on a CPU: tags, steps and values."""

import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

from cerebras_utils.events_file import read_scalars
from cerebras_utils.fallback.run import Overrides
from cerebras_utils.fallback.run import run as run_config
from tests.cerebras_utils.fallback.tiny_runs import config, write_data

_HERE = importlib.util.find_spec("cerebras") and importlib.util.find_spec("cerebras.modelzoo")
pytestmark = [
    pytest.mark.cszoo,
    pytest.mark.skipif(not _HERE, reason="cerebras.modelzoo is not installed"),
]
COMMANDS = Path(__file__).with_name("cszoo_commands.py")
TIMED = ("_per_sec", "time_remaining")
SECTIONS = {
    "bf16": {"precision": {"enabled": True, "fp16_type": "bfloat16", "max_gradient_norm": 0.5}},
    "cbfloat16": {
        "precision": {
            "enabled": True,
            "fp16_type": "cbfloat16",
            "loss_scaling_factor": "dynamic",
            "log_loss_scale": False,
        }
    },
    "accumulated": {"loop": {"max_steps": 7, "grad_accum_steps": 2, "eval_frequency": None}},
    "rounds": {
        "loop": {"num_steps": 7, "eval_frequency": 0.4},
        "logging": {"log_steps": 3},
        "checkpoint": {"steps": 4, "save_initial_checkpoint": True},
    },
    "epochs": {
        "loop": {"num_epochs": 2, "steps_per_epoch": 3, "eval_frequency": 0},
        "logging": {"log_steps": 0},
    },
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """The directories of both sides' runs of each config."""
    place, before, threads = tmp_path_factory.mktemp("logs"), Path.cwd(), torch.get_num_threads()
    os.chdir(place)
    torch.set_num_threads(1)
    try:
        write_data("train", 40)
        write_data("valid", 8, seed=1)
        commands = []
        for name, sections in SECTIONS.items():
            sections = {"model_dir": f"theirs_{name}", "callbacks": [{"ComputeNorm": {}}], **sections}
            params = yaml.safe_load(Path(config(f"{name}.yaml", **sections)).read_text())
            model, fit = params["trainer"]["init"]["model"], params["trainer"]["fit"]
            model |= dict.fromkeys(("dropout_rate", "attention_dropout_rate", "embedding_dropout_rate"), 0.0)
            for loader in (
                fit["train_dataloader"],
                fit["val_dataloader"],
                params["trainer"]["validate"]["val_dataloader"],
            ):
                loader["data_dir"] = str(place / loader["data_dir"])
            if name == "rounds":
                fit["val_dataloader"] = [fit["val_dataloader"], {**fit["val_dataloader"], "batch_size": 2}]
            Path(f"{name}.yaml").write_text(yaml.safe_dump(params))
            commands.append(["fit", f"{name}.yaml", "--target_device", "CPU"])
            run_config(Path(f"{name}.yaml"), "fit", Overrides(device="CPU", model_dir=f"ours_{name}"))
        Path("commands.json").write_text(json.dumps(commands))
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        done = subprocess.run(
            [sys.executable, COMMANDS, "commands.json"], env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr[-3000:]
    finally:
        os.chdir(before)
        torch.set_num_threads(threads)
    return place


def logged(directory):
    (file,) = (path for path in (directory / "events").iterdir() if "tfevents" in path.name)
    return {tag: [(p.step, p.value) for p in points] for tag, points in read_scalars(file).items()}


@pytest.mark.parametrize("name", SECTIONS)
def test_tags_steps_and_values(runs, name):
    ours, theirs = logged(runs / f"ours_{name}"), logged(runs / f"theirs_{name}")
    assert ours.keys() == theirs.keys()
    for tag, points in theirs.items():
        assert [step for step, _ in ours[tag]] == [step for step, _ in points], tag
        if not tag.endswith(TIMED):
            values = [value for _, value in points]
            assert [value for _, value in ours[tag]] == pytest.approx(values, abs=1e-5, rel=1e-5), tag


@pytest.mark.parametrize("name", SECTIONS)
def test_the_same_checkpoints(runs, name):
    def names(side):
        found = (path.name for path in (runs / f"{side}_{name}").glob("*.mdl"))
        return sorted(re.sub(r"\d{8}_\d{6}", "TIME", file) for file in found)

    assert names("ours") == names("theirs")
    assert names("ours")


@pytest.mark.parametrize("name", SECTIONS)
def test_the_same_performance_files(runs, name):
    def files(side):
        stages = sorted((runs / f"{side}_{name}" / "cerebras_logs" / "latest" / "executors").glob("0*"))
        about = [json.loads((stage / "metadata.json").read_text()) for stage in stages]
        rates = [json.loads((stage / "performance.json").read_text()) for stage in stages]
        return [
            (a["stage"], a["num_steps"], r["total_samples"], set(r))
            for a, r in zip(about, rates, strict=True)
        ]

    assert files("ours") == files("theirs")
