"""The configs that come with the project: each runs by the command in its first line."""

import re
import shlex
from pathlib import Path

import h5py
import numpy as np
import pytest
import yaml
from click.testing import CliRunner

from cerebras_utils.events_file import read_scalars
from cerebras_utils.fallback.models.build import build_model
from experiments.cli import main

ROOT = Path(__file__).parents[1]
CONFIGS = {p.stem: p for p in sorted((ROOT / "configs").glob("*.yaml")) if "trainer:" in p.read_text()}


@pytest.fixture
def place(tmp_path, monkeypatch):
    """The configs, and data of their names: 16 samples of 128 bytes each."""
    monkeypatch.chdir(tmp_path)
    Path("configs").symlink_to(ROOT / "configs")
    rng = np.random.default_rng(0)
    for name, count in (("train", 16), ("valid", 16)):
        tokens = rng.integers(0, 257, (count, 129), dtype=np.int32)
        Path("data/stdlib", name).mkdir(parents=True)
        with h5py.File(f"data/stdlib/{name}/0000.h5", "w") as file:
            file["data"] = np.stack([tokens[:, :-1], np.ones((count, 128), np.int32), tokens[:, 1:]], axis=1)
            file.attrs["n_examples"] = count
    return tmp_path


def command(name):
    first = CONFIGS[name].read_text().splitlines()[0]
    program, *words = shlex.split(first.removeprefix("# "))
    assert program == "wafersparse"
    return words


def init(name):
    return yaml.safe_load(CONFIGS[name].read_text())["trainer"]["init"]


def test_there_are_the_models_to_start_from():
    assert {"gpt2_1m", "gpt2_10m", "llama_1m"} <= set(CONFIGS)
    attention = init("llama_1m")["model"]
    assert attention["extra_attention_params"]["num_kv_groups"] < attention["num_heads"]


@pytest.mark.parametrize("name", CONFIGS)
def test_the_command_of_the_first_line_finds_nothing_wrong(place, name):
    words = command(name)
    assert f"configs/{name}.yaml" in words
    done = CliRunner().invoke(main, [*words, "--dry-run"])
    assert done.exit_code == 0, done.output
    assert "nothing found that is wrong" in done.stdout


@pytest.mark.parametrize("name", ["gpt2_1m", "gpt2_10m", "llama_1m"])
def test_the_parameters_are_as_many_as_it_says(name):
    said = re.search(r"of ([\d,]+) parameters", CONFIGS[name].read_text())[1]
    assert sum(p.numel() for p in build_model(init(name)["model"]).parameters()) == int(said.replace(",", ""))


@pytest.mark.parametrize("name", CONFIGS)
def test_the_schedule_ends_with_the_run(name):
    (sequence,) = (entry["SequentialLR"]["schedulers"] for entry in init(name)["schedulers"])
    total = sum(settings["total_iters"] for part in sequence for settings in part.values())
    assert total == init(name)["loop"]["max_steps"]


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.slow) if name.endswith(("10m", "short")) else name
        for name in CONFIGS
    ],
)
def test_two_steps(place, name):
    params = yaml.safe_load(CONFIGS[name].read_text())
    params["trainer"]["init"]["loop"] |= {"max_steps": 2, "eval_frequency": 2}
    params["trainer"]["init"]["checkpoint"]["steps"] = None
    for loader in params["trainer"]["fit"].values():
        loader["batch_size"] = 2
    Path("short.yaml").write_text(yaml.safe_dump(params))
    done = CliRunner().invoke(main, ["fit", "short.yaml", "--target_device", "CPU", "-o", "run"])
    assert done.exit_code == 0, (done.output, done.exception)
    (events,) = Path("run/events").iterdir()
    found = read_scalars(events)
    assert [step for step, *_ in found["loss"]] == [2]
    assert 4 < found["loss"][0][1] < 7  # ln 257 is 5.5


def test_the_dense_baseline_of_make_is_the_last_checkpoint_of_its_config():
    (checkpoint,) = re.findall(r"DENSE := .*/(checkpoint_\d+\.mdl)", (ROOT / "Makefile").read_text())
    loop = init("gpt2_1m")["loop"]
    assert checkpoint == f"checkpoint_{loop['max_steps']}.mdl"
    assert loop["eval_frequency"] == loop["max_steps"]
    assert "eval_steps" not in loop  # the whole validation set
