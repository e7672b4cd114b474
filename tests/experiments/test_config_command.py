"""``wafersparse config`` as its user meets it."""

import json
from pathlib import Path

import pytest
import torch
import yaml
from click.testing import CliRunner

from cerebras_utils.fallback.mdl_writer import save_mdl
from experiments.cli import main
from pruning.mask_ops import save_mask

BASE = """\
trainer:
  init:
    model: {name: gpt2}  # small
    loop: {max_steps: 5}
  fit:
    train_dataloader: {data_processor: GptHDF5MapDataProcessor}
"""
NAME = "model.a.weight"


@pytest.fixture(autouse=True)
def files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("base.yaml").write_text(BASE)
    save_mask({NAME: torch.arange(64).reshape(8, 8) % 2 == 0}, "m.safetensors")
    save_mdl("c.mdl", {"model": {NAME: torch.randn(8, 8)}})
    save_mdl(
        "trained.mdl",
        {"model": {NAME: torch.randn(8, 8)}, "optimizer": {"state": {0: {"m": torch.ones(8, 8)}}}},
    )


def config(*args, code=0):
    result = CliRunner().invoke(main, ["config", *map(str, args)])
    assert result.exit_code == code, (result.output, result.exception)
    assert "Traceback" not in result.output
    return result


def test_written_then_kept_then_refused():
    result = config("base.yaml", "--masks", "m.safetensors", "--checkpoint", "c.mdl")
    assert result.stdout == "write  sparse_config.yaml\n"
    assert "+    callbacks:\n+    - SparseMaskCallback: {mask_path: " in result.stderr
    text = Path("sparse_config.yaml").read_text()
    assert text.startswith(
        "# wafersparse: wafersparse config base.yaml --masks m.safetensors --mode sparse_to_sparse"
    )
    init, fit = (yaml.safe_load(text)["trainer"][key] for key in ("init", "fit"))
    (entry,) = init["callbacks"]
    assert entry["SparseMaskCallback"]["mask_path"] == str(Path("m.safetensors").absolute())
    assert fit["ckpt_path"] == str(Path("c.mdl").absolute())
    assert config("base.yaml", "--masks", "m.safetensors", "--checkpoint", "c.mdl").stdout.startswith("keep")
    assert "holds something else" in config("base.yaml", "--masks", "m.safetensors", code=1).stderr
    assert Path("sparse_config.yaml").read_text() == text
    assert Path("base.yaml").read_text() == BASE


def test_the_command_in_the_header_makes_the_same_file():
    config(
        "base.yaml",
        "--masks",
        "m.safetensors",
        "--set",
        "init.loop.max_steps=7",
        "--lora",
        "r=2",
        "--mode",
        "sparse_to_dense",
        "--out",
        "a.yaml",
    )
    first = Path("a.yaml").read_text()
    words = first.splitlines()[0].removeprefix("# wafersparse: wafersparse config ").split()
    Path("a.yaml").unlink()
    config(*words)
    assert Path("a.yaml").read_text() == first


def test_dry_run_shows_the_difference_and_writes_nothing():
    before = sorted(Path().iterdir())
    result = config("base.yaml", "--masks", "m.safetensors", "--checkpoint", "c.mdl", "--native", "--dry-run")
    assert result.stdout.startswith("--- base.yaml\n+++ sparse_config.yaml\n@@")
    assert f"+    - {{sparsity: 0.5, init_method: random, param_filter: {NAME}}}" in result.stdout
    assert sorted(Path().iterdir()) == before


def test_json():
    found = json.loads(config("base.yaml", "--masks", "m.safetensors", "--lora", "r=2", "--json").stdout)
    assert found["written"] == {"sparse_config.yaml": "write"}
    assert "target_modules" in found["notes"][0]
    assert any(line.startswith("+") for line in found["diff"])


def test_native():
    result = config(
        "base.yaml", "--masks", "m.safetensors", "--checkpoint", "trained.mdl", "--native", "--out", "n.yaml"
    )
    assert result.stdout == f"write  {Path('n.mdl').absolute()}\nwrite  n.yaml\n"
    trainer = yaml.safe_load(Path("n.yaml").read_text())["trainer"]
    assert "callbacks" not in trainer["init"]
    assert trainer["init"]["sparsity"] == [{"sparsity": 0.5, "init_method": "random", "param_filter": NAME}]
    assert trainer["fit"]["ckpt_path"] == str(Path("n.mdl").absolute())
    again = config(
        "base.yaml", "--masks", "m.safetensors", "--checkpoint", "trained.mdl", "--native", "--out", "n.yaml"
    )
    assert again.stdout.count("keep") == 2


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["none.yaml", "--masks", "m.safetensors"], "cannot be read"),
        (["base.yaml", "--masks", "none.safetensors"], "none.safetensors"),
        (["base.yaml", "--masks", "c.mdl"], "fix:"),
        (["base.yaml", "--masks", "m.safetensors", "--checkpoint", "none.mdl"], "does not exist"),
        (["base.yaml", "--masks", "m.safetensors", "--native"], "add --checkpoint"),
        (
            ["base.yaml", "--masks", "m.safetensors", "--native", "--checkpoint", "c.mdl", "--lora", "r=2"],
            "freezes",
        ),
        (
            ["base.yaml", "--masks", "m.safetensors", "--checkpoint", "trained.mdl", "--lora", "r=2"],
            "state of an optimizer",
        ),
        (["base.yaml", "--masks", "m.safetensors", "--phase", "x"], "is no trainer"),
        (["base.yaml", "--masks", "m.safetensors", "--phase", "1"], "there is no trainer 1"),
        (["base.yaml", "--masks", "m.safetensors", "--set", "init.lop.x=1"], "Did you mean 'loop'"),
        (["base.yaml", "--masks", "foreign.safetensors"], "begin with 'model.'"),
        (["base.yaml", "--masks", "damaged.safetensors"], "damaged.safetensors"),
    ],
)
def test_mistakes_are_told_and_nothing_is_written(arguments, said):
    save_mask({"h.0.weight": torch.ones(2, 2, dtype=torch.bool)}, "foreign.safetensors")
    content = Path("m.safetensors").read_bytes()
    Path("damaged.safetensors").write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    before = sorted(Path().iterdir())
    assert said in config(*arguments, code=1).stderr
    assert sorted(Path().iterdir()) == before


def test_lora_looks_into_the_checkpoint_that_the_config_names():
    Path("base.yaml").write_text(BASE + "    ckpt_path: trained.mdl\n")
    assert (
        "state of an optimizer"
        in config("base.yaml", "--masks", "m.safetensors", "--lora", "r=2", code=1).stderr
    )
    config("base.yaml", "--masks", "m.safetensors")


def test_two_mistakes_at_once():
    said = config(
        "base.yaml", "--masks", "m.safetensors", "--lora", "r=2,r=3", "--checkpoint", "none.mdl", code=1
    ).stderr
    assert said.startswith("2 errors:")


@pytest.mark.parametrize("arguments", [["--set", "x"], ["--lora", "x"], ["--mode", "x"], []])
def test_usage(arguments):
    config("base.yaml", *(["--masks", "m.safetensors"] if arguments else []), *arguments, code=2)
