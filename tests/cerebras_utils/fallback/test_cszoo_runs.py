"""Whole runs beside cszoo's own, on a CPU in fp32: losses, weights, validation, and resuming each other's.

Both sides start from the seed alone. ModelZoo keeps the masks by a callback of a few lines in
``cszoo_commands.py``, which shares no code with this project's.
"""

import importlib.util
import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
import yaml
from click.testing import CliRunner

from cerebras_utils.events_file import read_scalars
from cerebras_utils.fallback.data.loader import make_loader
from cerebras_utils.fallback.mdl_reader import load_mdl
from cerebras_utils.fallback.models.build import build_model
from experiments.cli import main
from pruning.mask_ops import save_mask

_HERE = importlib.util.find_spec("cerebras") and importlib.util.find_spec("cerebras.modelzoo")
pytestmark = [
    pytest.mark.cszoo,
    pytest.mark.skipif(not _HERE, reason="cerebras.modelzoo is not installed"),
]
COMMANDS = Path(__file__).with_name("cszoo_commands.py")
TOLERANCE = 1e-5  # of losses and of weights; measured are a few units in the last place
STEPS, HALF = 20, 10
LENGTH, VOCABULARY = 16, 61

DROPOUT = {"dropout_rate": 0.0, "attention_dropout_rate": 0.0, "embedding_dropout_rate": 0.0}
LLAMA = {
    "position_embedding_type": "rotary",
    "rotary_dim": 8,
    "share_embedding_weights": False,
    "norm_type": "rmsnorm",
    "attention_module": "multiquery_attention",
    "extra_attention_params": {"num_kv_groups": 2},
    "use_projection_bias_in_attention": False,
    "use_ffn_bias_in_attention": False,
    "use_ffn_bias": False,
    "nonlinearity": "swiglu",
    "filter_size": 48,
}
MODELS = {
    "gpt2": {"nonlinearity": "gelu", "filter_size": 64},
    "gpt3": {
        "nonlinearity": "squared_gelu",
        "filter_size": 64,
        "loss_scaling": "batch_size",
        "loss_weight": 1 / LENGTH,
    },
    "llama": LLAMA,
    "mistral": {**LLAMA, "attention_sliding_window_length": 5},
}
OPTIMIZERS = ("AdamW", "Adam")
MASKED = [f"{model} {optimizer}" for model, optimizer in itertools.product(MODELS, OPTIMIZERS)]
DENSE = "dense gpt2 AdamW"  # without a callback on either side
CASES = [*MASKED, DENSE]
EXCHANGED = [f"{model} AdamW" for model in MODELS] + [DENSE]  # also resumed and validated from the other's


def settings(case):
    """A config, without callbacks."""
    *_, family, optimizer = case.split()
    warm_up = {"initial_learning_rate": 0.0, "end_learning_rate": 0.01, "total_iters": 5}
    decay = {"initial_learning_rate": 0.01, "end_learning_rate": 0.001, "total_iters": STEPS - 5}
    loader = {"data_processor": "GptHDF5MapDataProcessor", "batch_size": 4, "num_workers": 0}
    train = {**loader, "data_dir": "train", "shuffle": True, "shuffle_seed": 7}
    val = {**loader, "data_dir": "valid", "shuffle": False}
    init = {
        "backend": {"backend_type": "CPU"},
        "seed": 3,
        "model": {
            "name": family,
            "vocab_size": VOCABULARY,
            "max_position_embeddings": LENGTH,
            "hidden_size": 32,
            "num_hidden_layers": 2,
            "num_heads": 4,
            **DROPOUT,
            **MODELS[family],
        },
        "optimizer": {optimizer: {"betas": [0.9, 0.95], "weight_decay": 0.1, "correct_bias": True}},
        "schedulers": [{"SequentialLR": {"schedulers": [{"LinearLR": warm_up}, {"CosineDecayLR": decay}]}}],
        "precision": {"enabled": False, "max_gradient_norm": 0.3},
        "loop": {"max_steps": STEPS, "eval_frequency": HALF, "eval_steps": 2},
        "checkpoint": {"steps": HALF},
        "logging": {"log_steps": 1},
    }
    fit = {"train_dataloader": train, "val_dataloader": val}
    return {"trainer": {"init": init, "fit": fit, "validate": {"val_dataloader": dict(val)}}}


def masks_for(model):
    generator = torch.Generator().manual_seed(5)
    return {
        name: torch.rand(weight.shape, generator=generator) > 0.5
        for name, weight in model.named_parameters()
        if weight.ndim == 2 and "embedding" not in name and "lm_head" not in name
    }


def write_data(place):
    """Samples whose losses count differently many tokens."""
    rng = np.random.default_rng(0)
    for name, count in (("train", 26), ("valid", 9)):
        tokens = rng.integers(0, VOCABULARY, (count, LENGTH + 1), dtype=np.int32)
        counted = (np.arange(LENGTH) < rng.integers(LENGTH // 2, LENGTH + 1, (count, 1))).astype(np.int32)
        (place / name).mkdir()
        with h5py.File(place / name / "data.h5", "w") as file:
            file["data"] = np.stack([tokens[:, :-1], counted, tokens[:, 1:]], axis=1)
            file.attrs["n_examples"] = count


def directory(case, what):
    return Path(case.replace(" ", "_"), what)


def write_configs(case, place, **changed):
    """Of one run on both sides."""
    params = settings(case)
    init = params["trainer"]["init"]
    init |= changed
    (place / directory(case, "")).mkdir(exist_ok=True)
    ours, theirs = {}, {}
    if case in MASKED:
        masks, found = directory(case, "masks.safetensors"), masks_for(build_model(init["model"]))
        save_mask(found, place / masks)
        torch.save(found, place / masks.with_suffix(".pt"))
        ours = {"SparseMaskCallback": {"mask_path": str(masks)}}
        logits = str(directory(case, "logits.pt"))
        theirs = {"ByHand": {"masks": str(masks.with_suffix(".pt")), "logits": logits}}
    for name, callback in (("ours.yaml", ours), ("theirs.yaml", theirs)):
        init["callbacks"] = [callback] if callback else []
        (place / directory(case, name)).write_text(yaml.safe_dump(params))


def run_ours(verb, case, out, *options):
    asked = [verb, directory(case, "ours.yaml"), "--backend", "torch", "--target_device", "CPU"]
    asked += ["-o", directory(case, out)]
    done = CliRunner().invoke(main, list(map(str, [*asked, *options])))
    assert done.exit_code == 0, (case, done.output, done.exception)


def of_theirs(verb, case, out, *options):
    asked = [verb, directory(case, "theirs.yaml"), "--target_device", "CPU", "-o", directory(case, out)]
    return list(map(str, [*asked, *options]))


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Every run of every case, in the directory that is given."""
    place, before, threads = tmp_path_factory.mktemp("runs"), Path.cwd(), torch.get_num_threads()
    os.chdir(place)
    torch.set_num_threads(1)  # sums are cut by the number of threads
    write_data(place)
    for case in CASES:
        write_configs(case, place)
        run_ours("fit", case, "ours")
    commands = []
    for case in EXCHANGED:
        half, last = (directory(case, f"ours/checkpoint_{n}.mdl") for n in (HALF, STEPS))
        commands += [
            of_theirs("fit", case, "theirs_from_ours", "--checkpoint_path", half),
            of_theirs("validate", case, "theirs_validate_ours", "--checkpoint_path", last),
        ]
    commands += [of_theirs("fit", case, "theirs") for case in CASES]  # last: the logits that stay are these
    Path("commands.json").write_text(json.dumps(commands))
    done = subprocess.run(
        [sys.executable, COMMANDS, "commands.json"],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-4000:]
    for case in EXCHANGED:
        theirs = directory(case, f"theirs/checkpoint_{HALF}.mdl")
        run_ours("fit", case, "ours_from_theirs", "--checkpoint_path", theirs)
        last = directory(case, f"ours/checkpoint_{STEPS}.mdl")
        run_ours("validate", case, "ours_validate_ours", "--checkpoint_path", last)
    yield place
    os.chdir(before)
    torch.set_num_threads(threads)


def scalars(case, run):
    found = {}
    for file in sorted(directory(case, run).glob("events/*")):
        if file.is_file():
            for tag, points in read_scalars(file).items():
                found.setdefault(tag, {}).update({step: value for step, value, _ in points})
    return found


def losses(case, run):
    return scalars(case, run)["loss"]


def weights(case, run, step=STEPS):
    tree = load_mdl(directory(case, f"{run}/checkpoint_{step}.mdl"))["model"]
    return {name: tensor for name, tensor in tree.items() if not name.endswith("_mask")}


def moments(case, run):
    """Of the optimizer, by the number of the parameter and their name."""
    states = load_mdl(directory(case, f"{run}/checkpoint_{STEPS}.mdl"))["optimizer"]["state"]
    return {(i, n): t for i, state in states.items() for n, t in state.items() if torch.is_tensor(t)}


def furthest(one, other):
    assert one.keys() == other.keys()
    if all(map(torch.is_tensor, one.values())):
        return max((one[k].double() - other[k].double()).abs().max().item() for k in one)
    return max(abs(one[k] - other[k]) for k in one)


@pytest.mark.parametrize("case", CASES)
def test_twenty_steps(runs, case, record_property):
    ours, theirs = losses(case, "ours"), losses(case, "theirs")
    assert list(ours) == list(range(1, STEPS + 1))
    differences = {
        "loss": furthest(ours, theirs),
        "weight": furthest(weights(case, "ours"), weights(case, "theirs")),
        "moment": furthest(moments(case, "ours"), moments(case, "theirs")),
        "rate": furthest(scalars(case, "ours")["lr/0"], scalars(case, "theirs")["lr/0"]),
    }
    for name, value in differences.items():
        record_property(name, value)
    assert all(value <= TOLERANCE for value in differences.values()), differences


@pytest.mark.parametrize("case", MASKED)
def test_the_same_weights_are_zero(runs, case):
    masks = torch.load(directory(case, "masks.pt"), weights_only=True)
    ours, theirs = weights(case, "ours"), weights(case, "theirs")
    for name, mask in masks.items():
        assert not ours[name][~mask].any()
        assert torch.equal(ours[name] == 0, theirs[name] == 0)


@pytest.mark.parametrize("case", CASES)
def test_validation(runs, case):
    """In the run, after either half, and of a checkpoint by itself: one of ours, validated by both."""
    pairs = [("ours", "theirs"), ("ours_validate_ours", "theirs_validate_ours")]
    for one, other in pairs[: 2 if case in EXCHANGED else 1]:
        found, expected = scalars(case, one), scalars(case, other)
        tags = [f"validate_0/{tag}" for tag in ("loss", "eval/lm_perplexity", "eval/accuracy")]
        for tag in tags:
            assert found[tag].keys() == expected[tag].keys()
            bound = TOLERANCE * (found[tag][STEPS] if "perplexity" in tag else 1)  # its change is relative
            assert furthest(found[tag], expected[tag]) <= bound, (one, tag)


@pytest.mark.parametrize("case", MASKED)
def test_logits_of_a_checkpoint(runs, case):
    """ModelZoo's logits of its last validation, from its checkpoint in this project's model."""
    params = settings(case)["trainer"]
    model = build_model(params["init"]["model"])
    model.load_state_dict(weights(case, "theirs"))
    model.eval()
    expected = torch.load(directory(case, "logits.pt"), weights_only=True)
    loader = make_loader(params["fit"]["val_dataloader"], seed=1, where="c.yaml")
    assert len(expected) == 2
    with torch.no_grad():
        for logits, batch in zip(expected, loader, strict=False):
            assert (model(batch).logits - logits).abs().max() <= TOLERANCE


@pytest.mark.parametrize("case", EXCHANGED)
def test_each_resumes_the_other(runs, case):
    """After the other's first half: the losses and weights of the second are the same on both sides."""
    ours, theirs = losses(case, "ours_from_theirs"), losses(case, "theirs_from_ours")
    assert list(ours) == list(range(HALF + 1, STEPS + 1))
    assert furthest(ours, theirs) <= TOLERANCE
    last = [weights(case, run) for run in ("ours_from_theirs", "theirs_from_ours")]
    assert furthest(*last) <= TOLERANCE


@pytest.mark.parametrize("case", ["gpt2 AdamW", "llama Adam"])
def test_the_comparison_sees_clipping_and_masks(runs, case):
    """What the tests above would find if either were not there."""
    expected = losses(case, "theirs")
    params = yaml.safe_load(directory(case, "ours.yaml").read_text())
    for name, value in (("precision", {"enabled": False}), ("callbacks", [])):
        wrong = {"trainer": params["trainer"] | {"init": params["trainer"]["init"] | {name: value}}}
        directory(case, "wrong.yaml").write_text(yaml.safe_dump(wrong))
        out = directory(case, f"without_{name}")
        command = ["fit", str(directory(case, "wrong.yaml")), "--backend", "torch", "-o", str(out)]
        done = CliRunner().invoke(main, command)
        assert done.exit_code == 0, done.output
        assert furthest(losses(case, out.name), expected) > 10 * TOLERANCE
