"""``--compile`` changes no name, little in the numbers, and says so where it cannot be done."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
import yaml

from cerebras_utils.events_file import read_scalars
from cerebras_utils.fallback.compiled import compile_errors, compile_model
from cerebras_utils.fallback.mdl_reader import load_mdl
from cerebras_utils.fallback.models.build import build_model
from pruning.mask_generator import compute_masks_for_state_dict
from pruning.mask_ops import save_mask
from pruning.problems import ProblemError

CPU = torch.device("cpu")
MODEL = {
    "name": "gpt2",
    "vocab_size": 32,
    "max_position_embeddings": 8,
    "hidden_size": 8,
    "num_hidden_layers": 1,
    "num_heads": 2,
    "filter_size": 16,
    "dropout_rate": 0.0,
    "attention_dropout_rate": 0.0,
}


def test_without_a_compiler_it_is_an_error(monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(ProblemError, match="there is no no-such-compiler"):
        compile_model(build_model(MODEL), CPU)


def test_what_the_compiler_says_is_told():
    from torch._dynamo.exc import TorchDynamoException

    says = r"cannot be compiled here: no headers[\s\S]*leave --compile out"
    with pytest.raises(ProblemError, match=says), compile_errors():
        raise TorchDynamoException("no headers\nand more")
    with pytest.raises(RuntimeError, match="ours"), compile_errors():
        raise RuntimeError("ours")


@pytest.mark.slow  # imports the compiler
@pytest.mark.filterwarnings("ignore:.torch.jit.script_method. is deprecated:DeprecationWarning")
def test_names_stay_what_they_are(monkeypatch):
    monkeypatch.setenv("CXX", sys.executable)  # is there; nothing is compiled before the first step
    model = build_model(MODEL)
    names = list(model.state_dict()), [name for name, _ in model.named_parameters()]
    compile_model(model, CPU)
    assert (list(model.state_dict()), [name for name, _ in model.named_parameters()]) == names


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which(os.environ.get("CXX", "g++")), reason="there is no C++ compiler")
def test_a_compiled_run_is_the_run(tmp_path):
    tokens = np.random.default_rng(0).integers(0, 32, (12, 9), dtype=np.int32)
    (tmp_path / "data").mkdir()
    with h5py.File(tmp_path / "data/data.h5", "w") as file:
        file["data"] = np.stack([tokens[:, :-1], np.ones((12, 8), np.int32), tokens[:, 1:]], axis=1)
        file.attrs["n_examples"] = 12
    torch.manual_seed(0)
    masks = compute_masks_for_state_dict(build_model(MODEL).state_dict(), 0.5)
    save_mask(masks, tmp_path / "masks.safetensors")
    loader = {"data_processor": "GptHDF5MapDataProcessor", "batch_size": 4, "data_dir": "data"}
    init = {
        "backend": {"backend_type": "CPU"},
        "seed": 1,
        "model": MODEL,
        "optimizer": {"AdamW": {"weight_decay": 0.1}},
        "schedulers": [{"ConstantLR": {"learning_rate": 0.01}}],
        "loop": {"max_steps": 3, "eval_frequency": None},
        "checkpoint": {"steps": 3},
        "logging": {"log_steps": 1},
        "callbacks": [{"SparseMaskCallback": {"mask_path": "masks.safetensors"}}],
    }
    config = {"trainer": {"init": init, "fit": {"train_dataloader": loader}}}
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(config))
    environment = {
        **os.environ,
        "PYTHONPATH": str(Path(__file__).parents[3]),
        "OMP_NUM_THREADS": "1",
        "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "cache"),
    }
    losses, trees = [], []
    for directory, more in (("plain", ()), ("compiled", ("--compile",))):
        fit = [sys.executable, "-m", "experiments", "fit", "c.yaml", "--backend", "torch"]
        done = subprocess.run(
            [*fit, "-o", directory, *more],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=540,
        )
        assert done.returncode == 0, done.stderr
        (events,) = (tmp_path / directory / "events").iterdir()
        losses.append([value for _, value, _ in read_scalars(events)["loss"]])
        trees.append(load_mdl(tmp_path / directory / "checkpoint_3.mdl")["model"])
    assert len(losses[0]) == 3
    assert losses[1] == pytest.approx(losses[0], abs=1e-5)
    assert trees[0].keys() == trees[1].keys()
    for name, mask in masks.items():
        assert not trees[1][name][~mask].any()
