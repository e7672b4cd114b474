"""The configs that come with the project, given to cszoo itself: validated as they are, and begun."""

import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
import yaml

ROOT = Path(__file__).parents[3]
NAMES = [p.stem for p in sorted((ROOT / "configs").glob("*.yaml")) if "trainer:" in p.read_text()]
COMMANDS = Path(__file__).with_name("cszoo_commands.py")
_HERE = importlib.util.find_spec("cerebras") and importlib.util.find_spec("cerebras.modelzoo")
pytestmark = [
    pytest.mark.cszoo,
    pytest.mark.skipif(not _HERE, reason="cerebras.modelzoo is not installed"),
]


def test_cszoo_takes_the_configs(tmp_path):
    """Two steps of each: all that is changed for them is their number, and that of the samples in a batch."""
    rng = np.random.default_rng(0)
    for name in ("train", "valid"):
        tokens = rng.integers(0, 257, (16, 129), dtype=np.int32)
        (tmp_path / "data/stdlib" / name).mkdir(parents=True)
        with h5py.File(tmp_path / f"data/stdlib/{name}/0000.h5", "w") as file:
            file["data"] = np.stack([tokens[:, :-1], np.ones((16, 128), np.int32), tokens[:, 1:]], axis=1)
            file.attrs["n_examples"] = 16
    commands = []
    for name in NAMES:
        config = ROOT / "configs" / f"{name}.yaml"
        params = yaml.safe_load(config.read_text())
        params["trainer"]["init"]["loop"] |= {"max_steps": 2, "eval_frequency": 2}
        for loader in params["trainer"]["fit"].values():
            loader["batch_size"] = 4
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(params))
        commands += [["config", "validate", str(config)], ["fit", f"{name}.yaml", "--target_device", "CPU"]]
    (tmp_path / "commands.json").write_text(json.dumps(commands))
    done = subprocess.run(
        [sys.executable, COMMANDS, "commands.json"],
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-4000:]
    for name in NAMES:
        (checkpoint,) = (tmp_path / "runs" / name).glob("checkpoint_*.mdl")
        assert checkpoint.name == "checkpoint_2.mdl"
    perplexities = [float(value) for value in re.findall(r"lm_perplexity = ([\d.]+)", done.stdout)]
    assert len(perplexities) == len(NAMES)
    assert all(100 < value < 1000 for value in perplexities)  # 257 symbols, hardly trained
