"""The callback in ModelZoo's own trainer, on its CPU backend, against this project's fallback backend."""

import copy
import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
import yaml
from click.testing import CliRunner

from cerebras_utils.fallback.mdl_reader import load_mdl
from experiments.cli import main
from pruning.mask_ops import load_mask, save_mask

try:
    HERE = importlib.util.find_spec("cerebras.modelzoo") is not None
except ImportError:
    HERE = False

pytestmark = [
    pytest.mark.cszoo,
    pytest.mark.skipif(not HERE, reason="ModelZoo is not importable"),
]
ROOT = Path(__file__).parents[2]
STATIC = {"SparseMaskCallback": {"mask_path": "masks.safetensors", "apply_every_step": True}}
ONCE = {"SparseMaskCallback": {"mask_path": "masks.safetensors", "apply_every_step": False}}


def config(model_dir, steps, *callbacks, start=None, **init):
    loader = {"data_processor": "GptHDF5MapDataProcessor", "batch_size": 4, "num_workers": 0}
    linear = {"initial_learning_rate": 0.0, "end_learning_rate": 0.01, "total_iters": 3}
    cosine = {"initial_learning_rate": 0.01, "end_learning_rate": 0.001, "total_iters": 10}
    model = {
        "name": "gpt2",
        "vocab_size": 32,
        "max_position_embeddings": 16,
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_heads": 2,
        "filter_size": 32,
        "dropout_rate": 0.0,
        "embedding_dropout_rate": 0.0,
        "attention_dropout_rate": 0.0,
    }
    sections = {
        "backend": {"backend_type": "CPU"},
        "model_dir": model_dir,
        "seed": 1,
        "model": model,
        "optimizer": {"AdamW": {"weight_decay": 0.1, "betas": [0.9, 0.95]}},
        "schedulers": [{"SequentialLR": {"schedulers": [{"LinearLR": linear}, {"CosineDecayLR": cosine}]}}],
        "precision": {"enabled": False, "max_gradient_norm": 0.5},
        "loop": {"max_steps": steps, "eval_frequency": None},
        "checkpoint": {"steps": steps},
        "logging": {"log_steps": 1},
        "callbacks": list(callbacks),
        **init,
    }
    fit = {"train_dataloader": {**loader, "data_dir": "train", "shuffle": True, "shuffle_seed": 7}}
    validate = {"val_dataloader": {**loader, "data_dir": "valid", "shuffle": False}}
    if start is not None:
        fit["ckpt_path"] = validate["ckpt_path"] = start
    return copy.deepcopy({"trainer": {"init": sections, "fit": fit, "validate": validate}})


def lora(merge=False):
    params = {"r": 2, "alpha": 4, "merge_weights": merge}
    return {"Lora": {"lora_params": {**params, "target_modules": ["TransformerDecoderLayer", "Linear"]}}}


def environment():
    """The directory of the running Python first on PATH: cstorch calls programs that lie there."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    return {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Data, a dense checkpoint after three steps, masks of twelve sparsities: by the fallback backend."""
    place = tmp_path_factory.mktemp("cszoo")
    before, threads = Path.cwd(), torch.get_num_threads()
    os.chdir(place)
    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    for name, count in (("train", 40), ("valid", 8)):
        Path(name).mkdir()
        tokens = rng.integers(0, 32, (count, 17), dtype=np.int32)
        with h5py.File(f"{name}/data.h5", "w") as file:
            file["data"] = np.stack([tokens[:, :-1], np.ones((count, 16), np.int32), tokens[:, 1:]], axis=1)
            file.attrs["n_examples"] = count
    plain(config("dense", 3), "fit")
    weights = load_mdl(Path("dense/checkpoint_3.mdl"))["model"]
    names = [n for n, w in weights.items() if "layers." in n and w.ndim == 2]
    generator = torch.Generator().manual_seed(0)
    masks = {
        n: torch.rand(weights[n].shape, generator=generator) >= 0.3 + 0.05 * i for i, n in enumerate(names)
    }
    save_mask(masks, "masks.safetensors")
    save_mask({**masks, names[0]: masks[names[0]].flip(0)}, "other.safetensors")
    torch.save({"model": dict(weights)}, "base.pt")
    yield place
    os.chdir(before)
    torch.set_num_threads(threads)


def plain(settings, verb, *words):
    Path("plain.yaml").write_text(yaml.safe_dump(settings))
    result = CliRunner().invoke(main, [verb, "plain.yaml", "--backend", "torch", *words])
    assert result.exit_code == 0, (result.output, result.exception)
    return result


DENSE = "dense/checkpoint_3.mdl"


def scenarios():
    other = {"SparseMaskCallback": {"mask_path": "other.safetensors"}}
    accumulate = {"loop": {"max_steps": 4, "eval_frequency": None, "grad_accum_steps": 2}}
    alone = {"LoadCheckpointStates": {"load_checkpoint_states": "model"}}
    phases = [config("phases", 3 * i, c) for i, c in enumerate((STATIC, STATIC, ONCE), 1)]
    return {
        "static": ("train_and_eval", config("static", 8, STATIC, {"LogSparsity": {}}, start=DENSE)),
        "first half": ("train_and_eval", config("halves", 5, STATIC, start=DENSE)),
        "second half": ("train_and_eval", config("halves", 8, STATIC)),
        "other masks": ("train_and_eval", config("other", 8, other, start="static/checkpoint_8.mdl")),
        "random weights": ("train_and_eval", config("random", 3, STATIC)),
        "accumulation": ("train_and_eval", config("accumulation", 4, STATIC, **accumulate)),
        "both": ("train_and_eval", config("both", 4, STATIC, sparsity=0.5)),
        "validate": ("eval", config("validate", 8, STATIC, start=DENSE)),
        "once": ("train_and_eval", config("once", 8, ONCE, start=DENSE)),
        "once, first half": ("train_and_eval", config("once halves", 5, ONCE, start=DENSE)),
        "once, second half": ("train_and_eval", config("once halves", 8, ONCE)),
        "once, model alone": (
            "train_and_eval",
            config("once alone", 4, alone, ONCE, start="once/checkpoint_8.mdl"),
        ),
        "phases": ("train_and_eval", {"trainer": phases}),
        "lora": ("train_and_eval", config("lora", 3, lora(), STATIC, start="base.pt")),
        "lora, resumed": ("train_and_eval", config("lora", 5, lora(), STATIC)),
        "lora, optimizer": ("train_and_eval", config("lora 2", 3, lora(), STATIC, start=DENSE)),
        "lora, merging": ("train_and_eval", config("lora 3", 3, lora(merge=True), STATIC, start="base.pt")),
        "dense": ("train_and_eval", config("dense again", 5, start=DENSE)),
    }


@pytest.fixture(scope="module")
def results(place):
    listed = [{"name": n, "mode": mode, "config": c} for n, (mode, c) in scenarios().items()]
    (place / "scenarios.json").write_text(json.dumps(listed))
    words = [
        sys.executable,
        str(Path(__file__).with_name("cszoo_scenarios.py")),
        "scenarios.json",
        "results.json",
    ]
    done = subprocess.run(words, cwd=place, env=environment(), capture_output=True, text=True, timeout=1500)
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads((place / "results.json").read_text())


def losses(result):
    return {int(step): value for step, value in result["tags"]["loss"].items()}


def masks():
    return load_mask("masks.safetensors")[0]


def test_a_dense_checkpoint_loads_strictly_and_trains_as_on_the_fallback(results):
    plain(config("static plain", 8, STATIC), "fit", "--checkpoint_path", DENSE)
    from cerebras_utils.events_file import read_scalars

    (file,) = Path("static plain/events").iterdir()
    expected = {step: value for step, value, _ in read_scalars(file)["loss"]}
    assert list(expected) == [4, 5, 6, 7, 8]
    found = losses(results["static"])
    assert found == pytest.approx(expected, abs=1e-5)


def test_the_saved_checkpoint_is_sparse_in_weights_masks_and_state(results):
    tree = load_mdl(Path("static/checkpoint_8.mdl"))
    for name, mask in masks().items():
        assert not tree["model"][name][~mask].any()
        assert tree["model"][name][mask].all()
        assert torch.equal(tree["model"][f"{name}_mask"], mask)
    two = [v for s in tree["optimizer"]["state"].values() for v in s.values() if v.ndim == 2]
    assert sum(bool((value == 0).float().mean() > 0.2) for value in two) >= 2 * 12


def test_the_receipt_lies_beside_the_run_and_says_what_the_checkpoint_holds(results):
    receipt = results["static"]["receipt"]
    (found,) = receipt["mask_receipts"]
    assert (receipt["state"], receipt["backend"], receipt["steps"]) == ("finished", "cszoo", 8)
    assert found["found_in"].endswith("checkpoint_8.mdl")
    assert (found["resurrected"], found["newly_dead"]) == (0, 0)
    assert receipt["start"]["path"] == DENSE
    for name, mask in masks().items():
        assert found["layers"][name]["sparsity"] == int((~mask).sum()) / mask.numel()
    assert results["dense"]["receipt"]["masks"] == []


def test_log_sparsity_tells_each_layer(results):
    tags = results["static"]["tags"]
    for name, mask in masks().items():
        level = int((~mask).sum()) / mask.numel()
        for kind in ("target", "actual"):
            values = list(tags[f"sparsity/{name}/{kind}"].values())
            assert values == pytest.approx([level] * 5, rel=1e-6)


@pytest.mark.parametrize(("whole", "second"), [("static", "second half"), ("once", "once, second half")])
def test_resumed_is_uninterrupted(results, whole, second):
    assert losses(results[whole]) == pytest.approx(losses(results[second]), abs=1e-6)
    directories = {"static": "halves", "once": "once halves"}
    one, other = (load_mdl(Path(d, "checkpoint_8.mdl"))["model"] for d in (whole, directories[whole]))
    assert one.keys() == other.keys()
    assert all(torch.allclose(one[n].float(), other[n].float(), atol=1e-6) for n in one)


def test_other_masks_are_refused_with_the_number_of_bits(results):
    other = load_mask("other.safetensors")[0]
    ((differ, numel),) = [
        (int((mask != other[name]).sum()), mask.numel())
        for name, mask in masks().items()
        if not torch.equal(mask, other[name])
    ]
    assert results["other masks"]["ours"]
    assert f"in {differ} of {numel} weights" in results["other masks"]["error"]


@pytest.mark.parametrize("name", ["random weights", "accumulation", "lora", "lora, resumed"])
def test_zeros_hold(results, name):
    (found,) = results[name]["receipt"]["mask_receipts"]
    assert (found["resurrected"], found["newly_dead"]) == (0, 0)
    assert len(found["layers"]) == 12


def test_validation_is_of_the_masked_weights(results):
    plain(config("validate plain", 8, STATIC), "validate", "--checkpoint_path", DENSE)
    from cerebras_utils.events_file import read_scalars

    (file,) = Path("validate plain/events").iterdir()
    ((_, expected, _),) = read_scalars(file)["validate_0/loss"]
    (found,) = results["validate"]["tags"]["validate_0/loss"].values()
    assert found == pytest.approx(expected, abs=1e-5)


def test_once_prunes_the_start_and_never_again(results):
    assert losses(results["once"])[4] == pytest.approx(losses(results["static"])[4], abs=1e-6)
    model = load_mdl(Path("once/checkpoint_8.mdl"))["model"]
    assert not [name for name in model if name.endswith("_mask")]
    assert all(model[name][~mask].any() for name, mask in masks().items())
    first = losses(results["once, model alone"])[1]
    plain(config("once end", 1, start="once/checkpoint_8.mdl"), "fit", "--load_checkpoint_states", "model")
    from cerebras_utils.events_file import read_scalars

    (file,) = Path("once end/events").iterdir()
    assert first == pytest.approx(read_scalars(file)["loss"][0][1], abs=1e-5), "it was pruned again"


def test_a_list_of_trainers_goes_from_sparse_to_dense(results):
    assert "error" not in results["phases"]
    assert load_mdl(Path("phases/checkpoint_6.mdl"))["model"].keys() > {f"{n}_mask" for n in masks()}
    last = load_mdl(Path("phases/checkpoint_9.mdl"))["model"]
    assert not [name for name in last if name.endswith("_mask")]


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("both", "is set together with SparseMaskCallback"),
        ("lora, optimizer", "start from its weights alone"),
        ("lora, merging", "set merge_weights: false"),
    ],
)
def test_what_cannot_be_is_refused_in_our_words(results, name, says):
    assert results[name]["ours"], results[name]
    assert says in results[name]["error"]


def command(place, *words, hook=False):
    """The stock cszoo, or this project's command, each in a process of its own."""
    code = "import sys; from cerebras.modelzoo.cli.main import main; sys.argv[0] = 'cszoo'; main()"
    if hook:
        from cerebras_utils.register import pth_line

        folder = place / "site"
        folder.mkdir(exist_ok=True)
        # sitecustomize stands for the .pth file: it reaches spawned processes as well
        (folder / "sitecustomize.py").write_text(pth_line())
        arguments = [sys.executable, "-c", code, *words]
        paths = str(folder)
    else:
        arguments, paths = [sys.executable, "-m", "experiments", *words], str(ROOT)
    given = {**environment(), "PYTHONPATH": paths}
    return subprocess.run(arguments, cwd=place, env=given, capture_output=True, text=True, timeout=900)


def test_by_either_registration_from_the_command_line_with_autorestart(place, results):
    restart = {"autorestart": {"max_num_restarts": 1}}
    for name, hook in (("launcher", False), ("hook", True)):
        settings = config(name, 8, STATIC, start=DENSE, **restart)
        (place / f"{name}.yaml").write_text(yaml.safe_dump(settings))
        done = command(place, "fit", f"{name}.yaml", "--target_device", "CPU", "-o", name, hook=hook)
        assert done.returncode == 0, done.stderr[-3000:]
        if not hook:
            assert done.stderr.startswith("backend: cszoo (ModelZoo ")
        receipt = json.loads((place / name / "run.json").read_text())
        assert receipt["mask_receipts"][0]["resurrected"] == 0
        trained = load_mdl(place / name / "checkpoint_8.mdl")["model"]
        reference = load_mdl(place / "static/checkpoint_8.mdl")["model"]
        assert all(torch.allclose(trained[n].float(), reference[n].float(), atol=1e-6) for n in reference)


def test_the_stock_validator_knows_it_with_the_hook_alone(place):
    (place / "known.yaml").write_text(yaml.safe_dump(config("known", 8, STATIC)))
    assert command(place, "config", "validate", "known.yaml", hook=True).returncode == 0
    dry = command(place, "fit", "known.yaml", "--dry-run")
    assert dry.returncode == 0, dry.stderr[-3000:]
    assert "ModelZoo finds nothing that is wrong" in dry.stdout
    assert not (place / "known").exists()


def test_ctrl_c_is_in_the_receipt(place):
    settings = config("long", 100_000, STATIC, start=DENSE, checkpoint={"steps": 5})
    (place / "long.yaml").write_text(yaml.safe_dump(settings))
    words = [sys.executable, "-m", "experiments", "fit", "long.yaml", "--target_device", "CPU", "-o", "long"]
    process = subprocess.Popen(
        words, cwd=place, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        ends = time.monotonic() + 120
        while not (place / "long/checkpoint_5.mdl").exists() and time.monotonic() < ends:
            time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=60) != 0
    finally:
        process.kill()
        process.wait()
    receipt = json.loads((place / "long/run.json").read_text())
    assert receipt["state"] == "interrupted"
    assert receipt["ended"] is not None
    assert receipt["steps"] >= 5
    assert [mask["resurrected"] for mask in receipt["mask_receipts"]] == [0]
