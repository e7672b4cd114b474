"""A tiny run with everything in order: config, checkpoint, masks, data. Tests break one thing at a time."""

import copy
from functools import cache

import h5py
import numpy as np
import pytest
import torch
import yaml

from cerebras_utils.checks.case import Case, Files
from cerebras_utils.checks.registry import CHECKS
from cerebras_utils.checks.weights import weights_of_section
from cerebras_utils.cszoo_yaml import load_config
from cerebras_utils.doctor import entries
from cerebras_utils.fallback.mdl_writer import save_mdl
from pruning.checkpoint.open import open_checkpoint
from pruning.masks.bits import pack
from pruning.masks.writer import MaskWriter

MODEL = {
    "name": "gpt2",
    "vocab_size": 50,
    "hidden_size": 8,
    "num_hidden_layers": 2,
    "num_heads": 2,
    "filter_size": 16,
    "max_position_embeddings": 16,
}
LINEAR = ("proj_q_dense_layer.weight", "linear_layer.weight")


def write_data(folder, rows=8, length=16, tokens=50):
    folder.mkdir(parents=True)
    data = np.arange(rows * 3 * length, dtype=np.int32).reshape(rows, 3, length) % tokens
    with h5py.File(folder / "a.h5", "w") as file:
        file.create_dataset("data", data=data)
    return str(folder)


def make_state(shapes, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}


def write_masks(path, shapes, kept, *, spec=None, checkpoint=None):
    """The first ``kept(numel)`` weights of each tensor are kept."""
    with MaskWriter(path, shapes, spec=spec, checkpoint=checkpoint, overwrite=True) as writer:
        counts = {}
        for name, shape in shapes.items():
            numel = int(np.prod(shape))
            counts[name] = kept(numel)
            writer.write(name, 0, pack(np.arange(numel) < counts[name]))
        writer.finish(counts)
    return str(path)


class Bench:
    """The files of a run, and its config as a dictionary."""

    def __init__(self, folder):
        self.folder = folder
        self.shapes = weights_of_section(MODEL, "model")
        self.linear = {name: shape for name, shape in self.shapes.items() if name.endswith(LINEAR)}
        self.state = make_state(self.shapes)
        self.checkpoint = str(folder / "base.mdl")
        save_mdl(self.checkpoint, {"model": self.state, "global_step": 3})
        with open_checkpoint(self.checkpoint) as source:
            self.fingerprint = source.fingerprint()
        self.spec = {"sparsity": "0.5", "pattern": "unstructured", "include": [], "layers": []}
        self.masks = self.write_masks("masks")
        self.train, self.valid = (write_data(folder / name) for name in ("train", "valid"))
        loader = {"data_processor": "GptHDF5MapDataProcessor", "batch_size": 4}
        self.config = {
            "trainer": {
                "init": {
                    "backend": {"backend_type": "CSX", "cluster_config": {"mount_dirs": [str(folder)]}},
                    "model_dir": str(folder / "out"),
                    "seed": 1,
                    "model": dict(MODEL),
                    "optimizer": {"AdamW": {"weight_decay": 0.1}},
                    "schedulers": [
                        {"SequentialLR": {"schedulers": [linear(0.0, 2e-4, 20), linear(2e-4, 2e-5, 180)]}}
                    ],
                    "loop": {"max_steps": 200, "eval_frequency": 100, "eval_steps": 25},
                    "checkpoint": {"steps": 100},
                    "logging": {"log_steps": 1},
                    "callbacks": [
                        {"SparseMaskCallback": {"mask_path": self.masks, "apply_every_step": True}}
                    ],
                },
                "fit": {
                    "train_dataloader": {**loader, "data_dir": self.train, "shuffle": True},
                    "val_dataloader": {**loader, "data_dir": self.valid},
                    "ckpt_path": self.checkpoint,
                },
            }
        }

    def write_masks(self, name, shapes=None, kept=lambda numel: numel - numel // 2, **given):
        given = {"spec": self.spec, "checkpoint": self.fingerprint} | given
        return write_masks(self.folder / f"{name}.safetensors", shapes or self.linear, kept, **given)

    def save(self, name, tree):
        path = str(self.folder / name)
        save_mdl(path, tree, overwrite=True)
        return path

    def copy(self):
        return Run(self, copy.deepcopy(self.config))


class Run:
    """A copy of the config to break, and the checks to see it."""

    def __init__(self, bench, config):
        self.bench, self.config = bench, config

    @property
    def init(self):
        return self.config["trainer"]["init"]

    @property
    def fit(self):
        return self.config["trainer"]["fit"]

    @property
    def masking(self):
        return self.init["callbacks"][0]["SparseMaskCallback"]

    def add(self, name, **arguments):
        self.init["callbacks"].append({name: arguments})

    def file(self, header=""):
        path = self.bench.folder / "config.yaml"
        path.write_text(header + yaml.safe_dump(self.config, sort_keys=False))
        return path

    def check(self, name, *, header="", **given):
        """What one check finds, in order. ``NotMade`` is for the test to expect."""
        entries()
        phases = phases_of(self.file(header).read_text(), self.bench.folder / "config.yaml")
        files = Files()
        try:
            case = Case(phases[-1], phases, files, **given)
            return list(CHECKS[name].run(case))
        finally:
            files.close()


def linear(first, last, steps):
    rates = {"initial_learning_rate": first, "end_learning_rate": last}
    return {"LinearLR": {**rates, "total_iters": steps}}


@cache
def phases_of(text, path):
    """Many tests look at one config, and PyYAML takes its time."""
    return load_config(path)


@pytest.fixture(scope="session")
def bench(tmp_path_factory):
    return Bench(tmp_path_factory.mktemp("bench"))


@pytest.fixture
def run(bench):
    return bench.copy()
