"""Several processes that torchrun starts give the run of one: DDP, FSDP, with masks and without."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
import yaml

from cerebras_utils.events_file import read_scalars
from cerebras_utils.fallback.distributed import joined
from cerebras_utils.fallback.mdl_reader import load_mdl
from cerebras_utils.fallback.run import Overrides, run
from pruning.mask_generator import compute_masks_for_state_dict
from pruning.mask_ops import save_mask
from pruning.problems import ProblemError

REPOSITORY = Path(__file__).parents[3]
RUNS = Path(__file__).with_name("distributed_runs.py")
SECONDS = 240  # of one launch, on a machine that is busy with others
CLOCKS = ("per_sec", "time_remaining")

slow = pytest.mark.slow
try:
    from torch.distributed.fsdp import fully_shard  # noqa: F401

    NO_FSDP = ""
except ImportError:
    NO_FSDP = f"torch {torch.__version__} has no fully_shard: FSDP needs torch 2.6"
NEEDS_FSDP = pytest.mark.skipif(bool(NO_FSDP), reason=NO_FSDP)
KINDS = ["ddp", pytest.param("fsdp", marks=NEEDS_FSDP)]


def launch(*command, processes=2, timeout=SECONDS, start_only=False):
    """torchrun with processes on this machine, which finds a free port by itself."""
    where = [*("--nnodes", "1"), *("--rdzv_backend", "c10d"), *("--rdzv_endpoint", "127.0.0.1:0")]
    line = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        *where,
        "--nproc_per_node",
        str(processes),
        *map(str, command),
    ]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    if start_only:
        return subprocess.Popen(line, env=environment, stderr=subprocess.PIPE, text=True)
    return subprocess.run(line, env=environment, capture_output=True, text=True, timeout=timeout)


def launched(kind, runs, processes=2):
    Path("runs.json").write_text(json.dumps(runs))
    done = launch(RUNS, kind, "runs.json", processes=processes)
    assert done.returncode == 0, done.stderr
    return done


def alone(config, model_dir, verb="fit", **overrides):
    return run(Path(config), verb, Overrides(device="CPU", model_dir=model_dir, **overrides))


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def place(tmp_path, monkeypatch):
    """Samples in which a few tokens count or none: a third of the sequences has nothing to learn from."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    for name, count in (("train", 40), ("valid", 8)):
        Path(name).mkdir()
        tokens = rng.integers(0, 32, (count, 17), dtype=np.int32)
        counts = (rng.random((count, 16)) < rng.random((count, 1))).astype(np.int32)
        counts[:, 0] = 1
        if name == "train":
            counts[::3] = 0
        with h5py.File(f"{name}/data.h5", "w") as file:
            file["data"] = np.stack([tokens[:, :-1], counts, tokens[:, 1:]], axis=1)
            file.attrs["n_examples"] = count
    return tmp_path


def config(path="c.yaml", *, steps=6, batch_size=4, **init):
    loader = {"data_processor": "GptHDF5MapDataProcessor", "batch_size": batch_size, "num_workers": 0}
    warm_up = {"initial_learning_rate": 0.0, "end_learning_rate": 0.01, "total_iters": 3}
    sections = {
        "backend": {"backend_type": "CPU"},
        "seed": 1,
        "model": {
            "name": "gpt2",
            "vocab_size": 33,  # rows that processes cannot share evenly
            "max_position_embeddings": 16,
            "hidden_size": 16,
            "num_hidden_layers": 2,
            "num_heads": 2,
            "filter_size": 32,
            "dropout_rate": 0.0,
            "attention_dropout_rate": 0.0,
        },
        "optimizer": {"AdamW": {"weight_decay": 0.1, "betas": [0.9, 0.95]}},
        "schedulers": [{"LinearLR": warm_up}],
        "precision": {"enabled": False, "max_gradient_norm": 0.5},
        "loop": {"max_steps": steps, "eval_frequency": 3},
        "checkpoint": {"steps": 3},
        "logging": {"log_steps": 1},
        **init,
    }
    train = {**loader, "data_dir": "train", "shuffle": True, "shuffle_seed": 7}
    valid = {**loader, "data_dir": "valid", "shuffle": False}
    fit = {"train_dataloader": train, "val_dataloader": valid}
    trainer = {"init": sections, "fit": fit, "validate": {"val_dataloader": valid}}
    Path(path).write_text(yaml.safe_dump({"trainer": trainer}))
    return path


def masked(every_step=True):
    mask = {"SparseMaskCallback": {"mask_path": "masks.safetensors", "apply_every_step": every_step}}
    return {"callbacks": [mask, {"ComputeNorm": {}}, {"LogSparsity": {}}]}


def make_masks(sparsity=0.5):
    """Of a checkpoint of three steps, which is left in ``dense``."""
    alone(config("dense.yaml", steps=3), "dense")
    masks = compute_masks_for_state_dict(load_mdl(Path("dense/checkpoint_3.mdl"))["model"], sparsity)
    save_mask(masks, "masks.safetensors")
    return masks


def scalars(directory):
    found = {}
    for file in sorted(Path(directory, "events").iterdir(), key=os.path.getmtime):
        for tag, points in read_scalars(file).items():
            if not any(part in tag for part in CLOCKS):
                found.setdefault(tag, {}).update({step: value for step, value, _ in points})
    return found


def tensors(value, path=""):
    if isinstance(value, dict | list | tuple):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        return {k: v for key, inner in items for k, v in tensors(inner, f"{path}.{key}").items()}
    return {path: value} if isinstance(value, torch.Tensor) else {}


def assert_same_run(one, other, step, *, first=1):
    """Everything that is logged, and every tensor of the last checkpoint but those of random numbers."""
    logged, theirs = scalars(one), scalars(other)
    assert logged.keys() == theirs.keys()
    assert logged["loss"].keys() >= set(range(first, step + 1))
    for tag, values in logged.items():
        for at, value in values.items():
            if at >= first:
                assert theirs[tag][at] == pytest.approx(value, abs=1e-5, rel=1e-5), (tag, at)
    trees = [load_mdl(Path(d, f"checkpoint_{step}.mdl")) for d in (one, other)]
    for tree in trees:
        del tree["wafersparse"]
    (mine, yours) = (tensors(tree) for tree in trees)
    assert mine.keys() == yours.keys()
    assert len(mine) > 50
    for name, tensor in mine.items():
        assert tensor.dtype == yours[name].dtype
        assert torch.allclose(tensor.double(), yours[name].double(), rtol=0, atol=1e-5), name
    assert trees[0]["dataloader"] == trees[1]["dataloader"]


def assert_masked(directory, step, masks):
    tree = load_mdl(Path(directory, f"checkpoint_{step}.mdl"))
    for name, mask in masks.items():
        assert not tree["model"][name][~mask].any()
        assert torch.equal(tree["model"][f"{name}_mask"], mask)
    (receipt,) = json.loads(Path(directory, "results.json").read_text())[0]["masks"]
    assert (receipt["resurrected"], receipt["newly_dead"]) == (0, 0)
    assert {layer["sparsity"] for layer in receipt["layers"].values()} == {0.5}


@slow
@pytest.mark.parametrize(("kind", "processes"), [("ddp", 2), pytest.param("fsdp", 4, marks=NEEDS_FSDP)])
def test_several_processes_make_the_run_of_one(place, kind, processes):
    masks = make_masks()
    path = config(steps=3, **masked())
    alone(path, "one")
    launched(kind, [(path, "fit", {"model_dir": "several"})], processes)
    assert_same_run("one", "several", 3)
    assert_masked("several", 3, masks)


@slow
@pytest.mark.parametrize("kind", KINDS)
def test_runs_go_on_with_another_number_of_processes(place, kind):
    """Masked, resumed by two from one and by one from two, with all that is logged and saved."""
    masks = make_masks()
    path, half = config(steps=6, **masked()), config("half.yaml", steps=3, **masked())
    start = {"checkpoint_path": "dense/checkpoint_3.mdl"}
    six = config("six.yaml", steps=6, **masked())
    alone(path, "one", **start)
    alone(half, "there")
    launched(
        kind,
        [
            (path, "fit", {"model_dir": "two", **start}),
            (half, "fit", {"model_dir": "back"}),
            (six, "fit", {"model_dir": "there"}),
        ],
    )
    alone(six, "back")
    assert_same_run("one", "two", 6, first=4)
    assert_same_run("there", "back", 6)
    assert_masked("two", 6, masks)
    assert_masked("there", 6, masks)
    receipt = json.loads(Path("two/run.json").read_text())
    assert (receipt["state"], receipt["steps"]) == ("finished", 6)
    assert [entry["step"] for entry in receipt["checkpoints"]] == [6]
    assert len(list(Path("two", "events").iterdir())) == 1


@slow
@pytest.mark.parametrize("kind", KINDS)
def test_optimizers_accumulation_validation_once_and_lora(place, kind):
    masks = make_masks()
    loop = {"max_steps": 8, "eval_frequency": None, "grad_accum_steps": 2}
    sgd = {"SGD": {"momentum": 0.9, "weight_decay": 0.1}}
    lora = {"lora_params": {"r": 2, "alpha": 4, "target_modules": ["TransformerDecoderLayer", "Linear"]}}
    clipped = {"enabled": False, "max_gradient_value": 0.01}
    cases = {
        "adam": config("adam.yaml", optimizer={"Adam": {"weight_decay": 0.1}}, **masked()),
        "sgd": config("sgd.yaml", optimizer=sgd, precision=clipped, **masked()),
        "parts": config("parts.yaml", loop=loop, checkpoint={"steps": 8}, **masked()),
        "once": config("once.yaml", **masked(every_step=False)),
        "lora": config("lora.yaml", callbacks=[*masked()["callbacks"], {"SparseLora": lora}]),
    }
    base = {"model": load_mdl(Path("dense/checkpoint_3.mdl"))["model"]}
    torch.save(base, "base.pt")
    start = {"checkpoint_path": "base.pt"}
    for name, path in cases.items():
        alone(path, f"{name}_1", **start)
    (known,) = alone(config("v.yaml"), "validated_1", "validate", **start)
    runs = [(path, "fit", {"model_dir": f"{name}_2", **start}) for name, path in cases.items()]
    launched(kind, [*runs, ("v.yaml", "validate", {"model_dir": "validated_2", **start})])
    for name in cases:
        assert_same_run(f"{name}_1", f"{name}_2", 4 if name == "parts" else 6)
    for name in ("adam", "sgd", "lora"):
        assert_masked(f"{name}_2", 6, masks)
    (found,) = json.loads(Path("validated_2/results.json").read_text())
    assert found["metrics"] == pytest.approx(known["metrics"], abs=1e-5)


@slow
@pytest.mark.parametrize(
    ("fault", "says"),
    [
        ("data", "error: train/data.h5\n   cannot be read any more"),
        ("disk", "error: checkpoint\n   no space left"),
        ("crash", "error: process 1 of 2:\nTraceback"),
        ("memory", "error: process 1 of 2:\nthe memory of cpu\n   is full: MemoryError"),
        ("killed", "error: one of 2 processes\n   has ended; this one waited for it"),
    ],
    ids=lambda value: value.split(":")[0],
)
def test_a_fault_in_one_process_ends_both_with_one_error(place, fault, says):
    path = config(steps=3, callbacks=[{"ComputeNorm": {}}])
    Path("runs.json").write_text(json.dumps([(path, "fit", {"model_dir": "run"})]))
    done = launch(RUNS, "ddp", "runs.json", fault, timeout=120)
    assert done.returncode == 1
    assert says in done.stderr
    assert done.stderr.count("error: ") == (2 if "process 1" in says else 1), done.stderr
    assert not list(Path("run").glob("*.mdl"))
    assert json.loads(Path("run/run.json").read_text())["state"] != "finished"


def fit(*arguments, **options):
    return launch("-m", "experiments", "fit", *arguments, "--target_device", "CPU", **options)


@slow
def test_mistakes_are_told_once(place):
    for path, arguments, says in (
        (config("five.yaml", batch_size=5), (), "is 5: 2 processes cannot share it"),
        (config(), ("--checkpoint_path", "absent.mdl"), "absent.mdl"),
        (config("name.yaml", model={"name": "gtp2"}), (), "Did you mean"),
    ):
        done = fit(path, "-o", "run", *arguments)
        assert done.returncode == 1
        assert says in done.stderr
        assert done.stderr.count("fix: ") == done.stderr.count(says) == 1, done.stderr


@slow
def test_a_loss_that_is_not_finite_ends_both(place):
    make_masks()
    weights = load_mdl(Path("dense/checkpoint_3.mdl"))["model"]
    bad = {
        n: t * float("nan") if n.endswith(("ln_f.weight", "norm.weight")) else t for n, t in weights.items()
    }
    torch.save({"model": bad}, "bad.pt")
    done = fit(config(), "-o", "bad", "--checkpoint_path", "bad.pt")
    assert done.returncode == 1
    assert done.stderr.count("the loss of step 1 is nan") == 1, done.stderr
    assert json.loads(Path("bad/run.json").read_text())["state"] == "failed"


@slow
def test_an_interrupted_run_is_saved_and_goes_on(place):
    path = config(
        steps=100_000, loop={"max_steps": 100_000, "eval_frequency": None}, checkpoint={"steps": 10**6}
    )
    process = fit(path, "-o", "run", start_only=True)
    try:
        for line in process.stderr:
            if line.startswith("step 1 of"):
                break
        process.send_signal(signal.SIGINT)
        said = process.communicate(timeout=120)[1]
    finally:
        process.kill()
    assert process.returncode != 0
    (saved,) = Path("run").glob("*.mdl")
    assert "interrupted after step" in said
    assert json.loads(Path("run/run.json").read_text())["state"] == "interrupted"
    step = load_mdl(saved)["global_step"]
    alone(config(steps=step + 1, loop={"max_steps": step + 1, "eval_frequency": None}), "run")
    assert Path("run", f"checkpoint_{step + 1}.mdl").exists()


def test_without_torchrun_parallel_is_an_error():
    with pytest.raises(ProblemError, match="torchrun did not start this process"), joined("ddp", "fit", {}):
        pass
    with joined(None, "fit", {}) as processes:
        assert (processes.first, processes.world) == (True, 1)
