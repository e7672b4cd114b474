"""Rewritten configs in ModelZoo itself: accepted where the base was, and native runs equal to masked ones."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from click.testing import CliRunner

from cerebras_utils.config_rewriter import rewrite
from cerebras_utils.events_file import read_scalars
from cerebras_utils.fallback.mdl_reader import load_mdl
from cerebras_utils.rewriting.request import Request, read_masks
from experiments.cli import main
from pruning.mask_ops import save_mask
from tests.cerebras_utils.fallback.tiny_runs import config, fitted, masks_of, write_data

REAL = Path(__file__).parents[2].parent / "shared/cszoo_configs"
_HERE = importlib.util.find_spec("cerebras") and importlib.util.find_spec("cerebras.modelzoo")
pytestmark = [
    pytest.mark.cszoo,
    pytest.mark.skipif(not _HERE, reason="cerebras.modelzoo is not installed"),
]


def in_modelzoo(*arguments):
    done = subprocess.run(
        [sys.executable, Path(__file__).with_name("cszoo_with_callbacks.py"), *arguments],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2])},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-4000:]


def losses(directory):
    """Of training, by step."""
    (file,) = Path(directory, "events").glob("*tfevents*")
    return {point.step: point.value for point in read_scalars(file)["loss"]}


def test_native_runs_of_a_stock_cszoo_are_the_masked_runs(tmp_path, monkeypatch):
    """From weights and optimizer state, with another sparsity for each weight, tied weights among them."""
    monkeypatch.chdir(tmp_path)
    write_data("train", 40)
    write_data("valid", 8, seed=1)
    fitted(config(steps=3))
    start = "run/checkpoint_3.mdl"
    masks = masks_of(start)
    levels = torch.linspace(0.3, 0.8, len(masks))
    generator = torch.Generator().manual_seed(0)
    masks = {
        n: torch.rand(m.shape, generator=generator) > s
        for (n, m), s in zip(masks.items(), levels, strict=True)
    }
    weights = load_mdl(start)["model"]
    head = torch.rand(weights["model.lm_head.weight"].shape, generator=generator) > 0.4
    save_mask({**masks, "model.lm_head.weight": head}, "tied.safetensors")
    shared = ["--masks", "tied.safetensors", "--checkpoint", start, "--set", "init.loop.max_steps=8"]
    shared += ["--set", "init.model.dropout_rate=0.0", "--set", "init.loop.eval_frequency=8"]
    for name, more in (("native", ["--native"]), ("masked", [])):
        result = CliRunner().invoke(main, ["config", "c.yaml", *shared, *more, "--out", f"{name}.yaml"])
        assert result.exit_code == 0, result.output
    assert "SparseMaskCallback" not in Path("native.yaml").read_text()
    groups = yaml.safe_load(Path("native.yaml").read_text())["trainer"]["init"]["sparsity"]
    assert len({group["sparsity"] for group in groups}) > 10
    commands = [
        ["config", "validate", "native.yaml"],
        ["fit", "native.yaml", "--target_device", "CPU", "-o", "native"],
        "REGISTER",
        ["fit", "masked.yaml", "--target_device", "CPU", "-o", "masked"],
    ]
    Path("commands.json").write_text(json.dumps(commands))
    in_modelzoo("run", "commands.json")
    native, masked = losses("native"), losses("masked")
    assert sorted(native) == [4, 5, 6, 7, 8]
    assert native == masked
    ends = [load_mdl(f"{name}/checkpoint_8.mdl")["model"] for name in ("native", "masked")]
    for name, mask in {**masks, "model.lm_head.weight": head}.items():
        assert all(not end[name][~mask].any() for end in ends)
        assert torch.equal(ends[0][name], ends[1][name])


@pytest.mark.skipif(not REAL.is_dir(), reason="../shared/cszoo_configs is not here")
def test_configs_that_were_valid_still_are(tmp_path):
    save_mask({"model.a.weight": torch.rand(8, 8) > 0.5}, tmp_path / "masks.safetensors")
    masks = read_masks(tmp_path / "masks.safetensors")
    request = Request(
        masks=masks,
        mode="sparse_to_dense",
        lora={"r": 16, "target_modules": ["Linear"]},
        replace_sparsity=True,
    )
    pairs = []
    for index, path in enumerate(sorted(REAL.rglob("*.yaml"))):
        text = path.read_bytes().decode()
        if "trainer:" not in text:
            continue
        target = tmp_path / f"{index}.yaml"
        target.write_bytes(rewrite(path, text, request, "x").text.encode())
        pairs.append([str(path), str(target)])
    (tmp_path / "pairs.json").write_text(json.dumps(pairs))
    in_modelzoo("validate", tmp_path / "pairs.json", tmp_path / "said.json")
    said = json.loads((tmp_path / "said.json").read_text())
    worse = {
        pair[0]: after for pair, (before, after) in zip(pairs, said, strict=True) if after and not before
    }
    assert not worse
    assert sum(not after for _, after in said) > 50, [after for _, after in said if after][:3]
