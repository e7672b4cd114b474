"""A tiny gpt2 on random tokens, its config, and the real command on it: for tests of whole runs."""

import atexit
import json
import os
import shutil
from pathlib import Path
from tempfile import mkdtemp

import h5py
import numpy as np
import torch
import yaml
from click.testing import CliRunner

from cerebras_utils.data_digest import data_digest
from cerebras_utils.events_file import read_scalars
from cerebras_utils.fallback.mdl_reader import load_mdl
from experiments.cli import main
from pruning.mask_generator import compute_masks_for_state_dict
from pruning.mask_ops import save_mask

LAYER = "model.transformer_decoder.layers.0"


def write_data(name, count, *, length=16, vocabulary=32, seed=0):
    """``count`` samples of ``length`` tokens each."""
    Path(name).mkdir(exist_ok=True)
    tokens = np.random.default_rng(seed).integers(0, vocabulary, (count, length + 1), dtype=np.int32)
    sample = np.stack([tokens[:, :-1], np.ones((count, length), np.int32), tokens[:, 1:]], axis=1)
    with h5py.File(f"{name}/data.h5", "w") as file:
        file["data"] = sample
        file.attrs["n_examples"] = count


def config(path="c.yaml", *, steps=6, **init):
    """A tiny gpt2; ``init`` replaces sections of trainer.init."""
    loader = {"data_processor": "GptHDF5MapDataProcessor", "batch_size": 4, "num_workers": 0}
    linear = {"initial_learning_rate": 0.0, "end_learning_rate": 0.01, "total_iters": 3}
    cosine = {"initial_learning_rate": 0.01, "end_learning_rate": 0.001, "total_iters": 10}
    sections = {
        "backend": {"backend_type": "CPU"},
        "model_dir": "run",
        "seed": 1,
        "model": {
            "name": "gpt2",
            "vocab_size": 32,
            "max_position_embeddings": 16,
            "hidden_size": 16,
            "num_hidden_layers": 2,
            "num_heads": 2,
            "filter_size": 32,
            "dropout_rate": 0.1,
        },
        "optimizer": {"AdamW": {"weight_decay": 0.1, "betas": [0.9, 0.95]}},
        "schedulers": [{"SequentialLR": {"schedulers": [{"LinearLR": linear}, {"CosineDecayLR": cosine}]}}],
        "precision": {"enabled": False, "max_gradient_norm": 0.5},
        "loop": {"max_steps": steps, "eval_frequency": None},
        "checkpoint": {"steps": 3},
        "logging": {"log_steps": 1},
        **init,
    }
    fit = {
        "train_dataloader": {**loader, "data_dir": "train", "shuffle": True, "shuffle_seed": 7},
        "val_dataloader": {**loader, "data_dir": "valid", "shuffle": False},
    }
    validate = {"val_dataloader": dict(fit["val_dataloader"])}
    Path(path).write_text(yaml.safe_dump({"trainer": {"init": sections, "fit": fit, "validate": validate}}))
    return path


def edited(path, change):
    """The same file after ``change`` of its trainer."""
    params = yaml.safe_load(Path(path).read_text())
    change(params["trainer"])
    Path(path).write_text(yaml.safe_dump(params))
    return path


def run(verb, *args):
    """On plain PyTorch, also where ModelZoo is importable."""
    return CliRunner().invoke(main, [verb, "--backend", "torch", *map(str, args)])


def fitted(*args):
    result = run("fit", *args)
    assert result.exit_code == 0, (result.output, result.exception)
    return result


def scalars(directory="run"):
    found = {}
    for file in sorted(Path(directory, "events").iterdir(), key=os.path.getmtime):
        for tag, points in read_scalars(file).items():
            found.setdefault(tag, {}).update({step: value for step, value, _ in points})
    return found


def masks_of(checkpoint, sparsity=0.5, path="masks.safetensors"):
    weights = load_mdl(Path(checkpoint))["model"]
    masks = compute_masks_for_state_dict(weights, sparsity)
    save_mask(masks, path)
    return masks


_dense: dict[str, Path] = {}  # by config and data: many tests begin with the same run


def dense(**init):
    """A checkpoint after three steps, with optimizer state, in the directory of the run that made it."""
    path = config(steps=3, **init)
    params = yaml.safe_load(Path(path).read_text())["trainer"]
    key = json.dumps([params, data_digest(params, "fit")])
    if key not in _dense:
        assert not Path("run").exists()
        fitted(path)
        kept = Path(mkdtemp(prefix="tiny-run-"), "run")
        atexit.register(shutil.rmtree, kept.parent)
        shutil.copytree("run", kept, symlinks=True)
        _dense[key] = kept
    else:
        shutil.copytree(_dense[key], "run", symlinks=True)
    return "run/checkpoint_3.mdl"


def with_masks(every_step=True):
    return [{"SparseMaskCallback": {"mask_path": "masks.safetensors", "apply_every_step": every_step}}]


def drop_step_counts(state):
    """cstorch counts the steps of a process there, and computes nothing from them."""
    del state["_step_count"]
    for nested in state.get("_schedulers", ()):
        drop_step_counts(nested)


def equal(one, other):
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(equal(one[k], other[k]) for k in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(equal, one, other))
    return torch.equal(one, other) if isinstance(one, torch.Tensor) else one == other


def refused(*args):
    result = run("fit", *args)
    assert result.exit_code == 1, result.output
    assert isinstance(result.exception, SystemExit), result.exception
    assert "Traceback" not in result.stderr
    assert "fix: " in result.stderr
    return result.stderr
