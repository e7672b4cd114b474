"""LoRA runs in cszoo beside the fallback's, on a CPU in fp32, from one base and from each other's."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from cerebras_utils.events_file import read_scalars
from cerebras_utils.fallback.mdl_reader import load_mdl
from cerebras_utils.fallback.mdl_writer import save_mdl
from cerebras_utils.fallback.models.build import build_model
from pruning.mask_ops import save_mask
from tests.cerebras_utils.fallback.tiny_runs import config, fitted, write_data

_HERE = importlib.util.find_spec("cerebras") and importlib.util.find_spec("cerebras.modelzoo")
pytestmark = [
    pytest.mark.cszoo,
    pytest.mark.skipif(not _HERE, reason="cerebras.modelzoo is not installed"),
]
COMMANDS = Path(__file__).with_name("cszoo_with_callbacks.py")
TOLERANCE = 1e-5
MODEL = {
    "name": "gpt2",
    "vocab_size": 32,
    "max_position_embeddings": 16,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_heads": 2,
    "filter_size": 32,
    "dropout_rate": 0.0,
    "attention_dropout_rate": 0.0,
    "embedding_dropout_rate": 0.0,
}
PARAMS = {"r": 4, "alpha": 32, "target_modules": ["TransformerDecoderLayer", "Linear"]}
CALLBACKS = {
    "lora": {"Lora": {"lora_params": {**PARAMS, "dropout": 0.0}}},
    "sparse": {"SparseLora": {"lora_params": {**PARAMS, "rank_stabilized": True, "ranks": {"*proj_q*": 2}}}},
    "multiplicative": {"SparseLora": {"lora_params": {**PARAMS, "sparsity_mode": "multiplicative"}}},
}


def written(case):
    masks = {"SparseMaskCallback": {"mask_path": "masks.safetensors"}}
    return config(f"{case}.yaml", model=MODEL, callbacks=[masks, CALLBACKS[case]])


def fit(case, start, out):
    return [written(case), "--checkpoint_path", start, "-o", out]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    place, before, threads = tmp_path_factory.mktemp("runs"), Path.cwd(), torch.get_num_threads()
    os.chdir(place)
    torch.set_num_threads(1)  # sums are cut by the number of threads
    write_data("train", 40)
    write_data("valid", 8, seed=1)
    torch.manual_seed(5)
    weights = build_model(MODEL).state_dict()
    save_mdl(Path("base.mdl"), {"model": weights})
    of_layers = {name: w for name, w in weights.items() if ".layers." in name and w.ndim == 2}
    save_mask({name: torch.rand(w.shape) > 0.5 for name, w in of_layers.items()}, "masks.safetensors")
    commands = ["REGISTER"]
    for case in CALLBACKS:
        fitted(*fit(case, "base.mdl", f"{case}/ours"), "--backend", "torch")
        on_cpu = ("--target_device", "CPU")
        commands.append(["fit", *fit(case, "base.mdl", f"{case}/theirs"), *on_cpu])
        half = f"{case}/ours/checkpoint_3.mdl"
        commands.append(["fit", *fit(case, half, f"{case}/theirs_from_ours"), *on_cpu])
    Path("commands.json").write_text(json.dumps(commands))
    done = subprocess.run(
        [sys.executable, COMMANDS, "run", "commands.json"],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-4000:]
    for case in CALLBACKS:
        half = f"{case}/theirs/checkpoint_3.mdl"
        fitted(*fit(case, half, f"{case}/ours_from_theirs"), "--backend", "torch")
    yield place
    os.chdir(before)
    torch.set_num_threads(threads)


def losses(directory):
    """By step. A run of cszoo leaves directories beside its event files."""
    files = [file for file in Path(directory, "events").iterdir() if file.is_file()]
    return {step: value for file in files for step, value, _ in read_scalars(file).get("loss", ())}


def weights(directory):
    tree = load_mdl(Path(directory, "checkpoint_6.mdl"))["model"]
    return {name: tensor for name, tensor in tree.items() if not name.endswith("_mask")}


@pytest.mark.parametrize("case", CALLBACKS)
def test_losses_and_weights_from_one_base(runs, case):
    ours, theirs = losses(f"{case}/ours"), losses(f"{case}/theirs")
    assert list(ours) == list(theirs) == list(range(1, 7))
    assert max(abs(ours[step] - theirs[step]) for step in ours) <= TOLERANCE
    one, other = weights(f"{case}/ours"), weights(f"{case}/theirs")
    assert list(one) == list(other)
    assert max((one[name] - other[name]).abs().max() for name in one) <= TOLERANCE
    assert len([name for name in one if "lora_" in name and one[name].any()]) == 24


@pytest.mark.parametrize("case", CALLBACKS)
def test_each_goes_on_from_the_others_checkpoint(runs, case):
    whole = losses(f"{case}/theirs")
    for resumed in ("theirs_from_ours", "ours_from_theirs"):
        found = losses(f"{case}/{resumed}")
        assert list(found) == [4, 5, 6]
        assert max(abs(found[step] - whole[step]) for step in found) <= TOLERANCE, resumed
        one, other = weights(f"{case}/theirs"), weights(f"{case}/{resumed}")
        assert max((one[name] - other[name]).abs().max() for name in one) <= TOLERANCE, resumed
