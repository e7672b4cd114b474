"""What goes wrong in whole runs, with the real command: it is said with a fix, and nothing is lost."""

import json
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import h5py
import pytest
import torch

from cerebras_utils.fallback.checkpoint_reading import check_version
from cerebras_utils.fallback.mdl_reader import load_mdl
from cerebras_utils.fallback.mdl_writer import save_mdl
from cerebras_utils.fallback.not_finite import advice
from pruning.problems import ProblemError
from tests.cerebras_utils.fallback.tiny_runs import (
    LAYER,
    config,
    dense,
    edited,
    fitted,
    masks_of,
    refused,
    run,
    scalars,
    write_data,
)


def receipt(directory="run"):
    return json.loads(Path(directory, "run.json").read_text())


def test_a_full_disk_when_a_checkpoint_is_saved(place, tiny_disk):
    """Its name is not taken, the run is failed, and what to free is said."""
    said = refused(config(logging={"log_steps": 0}), "-o", tiny_disk)
    assert "checkpoint_3.mdl" in said
    assert "No space left on device" in said
    assert "bytes are needed" in said
    assert not list(tiny_disk.glob("*.mdl"))
    assert not list(tiny_disk.glob(".*.part"))
    assert receipt(tiny_disk)["state"] == "failed"


def test_data_that_is_not_there(place):
    def without(key, value):
        return edited(config(), lambda t: t["fit"]["train_dataloader"].update({key: value}))

    assert "absent" in refused(without("data_dir", "absent"))
    Path("empty").mkdir()
    assert "empty" in refused(without("data_dir", "empty"))
    write_data("small", 3)
    said = refused(without("data_dir", "small"))
    assert "batch_size" in said
    assert not Path("run").exists()


def test_data_of_another_length_or_vocabulary(place):
    """An id beyond the table never wraps, nor ends in an error of an index."""
    write_data("train", 40, length=24)
    said = refused(config())
    assert "24" in said
    assert "16" in said
    write_data("train", 40, vocabulary=64)
    assert "vocab" in refused(config())


@pytest.mark.parametrize(("feature", "value"), [(0, 32), (0, -1), (2, 1000), (2, -1), (2, -100)])
def test_a_foreign_token_that_no_sample_of_the_data_showed(place, monkeypatch, feature, value):
    """Before a run, a part of large data is looked at; on a GPU such an id ends the process."""
    with h5py.File("train/data.h5", "a") as file:
        file["data"][3, feature, 5] = value
    monkeypatch.setattr("cerebras_utils.fallback.data.checks._foreign_tokens", lambda *_: iter(()))
    path = config(steps=12)
    if value == -100:
        fitted(path)
        return
    said = refused(path)
    assert f"have the token id {value} among the {'input_ids' if feature == 0 else 'labels'}" in said
    assert "prepare the data" in said


def test_a_nan_keeps_the_last_good_checkpoint_and_names_the_step(place, monkeypatch):
    from cerebras_utils.fallback.trainer import Trainer

    forward = Trainer._forward

    def poisoned(self, batch, parts=1):
        outputs = forward(self, batch, parts)
        return {**outputs, "loss": outputs["loss"] * (float("nan") if self.global_step == 4 else 1)}

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_forward", poisoned)
        result = run("fit", config())
    assert result.exit_code == 1
    assert "the loss of step 5 is nan" in result.stderr
    assert "Traceback" not in result.stderr
    assert [path.name for path in Path("run").glob("*.mdl")] == ["checkpoint_3.mdl"]
    assert (receipt()["state"], receipt()["steps"]) == ("failed", 4)
    assert max(scalars()["loss"]) == 4
    fitted("c.yaml")
    assert receipt()["steps"] == 6, "the same command goes on from step 3"


def out_of_memory():
    raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB. GPU 0 has 1 GiB")


@pytest.mark.parametrize(
    ("allocate", "said"),
    [
        (lambda: torch.empty(1 << 50), "is full: can't allocate memory: you tried"),
        (out_of_memory, "full: CUDA out of memory"),
        (lambda: bytearray(1 << 60), "is full: MemoryError"),
    ],
)
def test_full_memory_is_no_traceback(place, monkeypatch, allocate, said):
    monkeypatch.setattr("cerebras_utils.fallback.trainer.Trainer._forward", lambda *_: allocate())
    told = refused(config())
    assert "error: the memory of " in told
    assert said in told
    assert "lower batch_size" in told
    assert receipt()["state"] == "failed"


def test_a_nan_in_validation_ends_the_run_too(place):
    start = dense()
    tree = load_mdl(Path(start))
    for name in ("model.ln_f.weight", "model.transformer_decoder.norm.weight"):
        tree["model"][name] = torch.full_like(tree["model"][name], float("inf"))
    save_mdl(Path("bad.mdl"), tree)
    result = run("validate", config(), "-o", "alone", "--checkpoint_path", "bad.mdl")
    assert result.exit_code == 1
    assert "the validation loss in validate_0 of step 3 is nan" in result.stderr


@pytest.mark.parametrize("version", ["2.9.0", "2.11", "2.10.3", "2.9.0+local", "", None])
def test_a_checkpoint_of_another_release(version):
    """As in ModelZoo: major and minor count, and a version with a local part is not looked at."""
    said = []
    report = SimpleNamespace(say=said.append)
    tree = {"__metadata__": [{"version": version} if version is not None else {}]}
    other = version in ("2.9.0", "2.11")
    with pytest.raises(ProblemError, match=f"ModelZoo {version}") if other else nullcontext():
        check_version(tree, Path("old.mdl"), report, strict=True)
    check_version(tree, Path("old.mdl"), report, strict=False)
    assert len(said) == other


def test_one_key_without_model_in_front(place):
    tree = load_mdl(Path(dense()))
    name = f"{LAYER}.self_attn.proj_q_dense_layer.weight"
    model = dict(tree["model"])
    model[name.removeprefix("model.")] = model.pop(name)
    save_mdl(Path("foreign.mdl"), {**tree, "model": model})
    for lenient in (False, True):
        path = config(checkpoint={"steps": 3, "disable_strict_checkpoint_loading": lenient})
        said = refused(path, "-o", "other", "--checkpoint_path", "foreign.mdl")
        assert "do not begin with 'model.'" in said
        assert f"'{name}'" in said
    assert not list(Path("other").glob("*.mdl"))


def test_arguments_of_our_callbacks_are_checked_before_anything_is_written(place):
    said = refused(config(callbacks=[{"SparseMaskCallback": {"mask_pth": "m", "apply_every_step": True}}]))
    assert "is no argument of SparseMaskCallback. Did you mean 'mask_path'?" in said
    assert "lacks 'mask_path'" in said
    assert not Path("run").exists()


def test_what_the_mask_callback_is_given_is_checked_with_everything_else(place):
    """Text in the place of a truth value would count as true, and of two callbacks only one would be told."""
    Path("folder").mkdir()
    masks_of(dense())
    given = [{"mask_path": 5}, {"mask_path": "absent.st"}, {"mask_path": "folder"}]
    for arguments, what in zip(given, ("5 is no path", "no such file", "is no file"), strict=True):
        assert what in refused(config(callbacks=[{"SparseMaskCallback": arguments}]), "-o", "n", "--dry-run")
    good = {"SparseMaskCallback": {"mask_path": "masks.safetensors"}}
    other = {"SparseMaskCallback": {"mask_path": "masks.safetensors", "apply_every_step": "no"}}
    said = refused(config(callbacks=[good, other]), "-o", "n")
    assert "SparseMaskCallback is there already" in said
    assert "'no' is neither true nor false" in said
    assert not Path("n").exists()


@pytest.mark.parametrize(
    ("saved", "what"),
    [(torch.nn.Linear(2, 2), "is code and is not run"), ({"a": torch.ones(1)}, "(a)"), (None, "cannot read")],
)
def test_a_pickle_that_is_no_checkpoint(place, saved, what):
    torch.save(saved, "foreign.pt")
    if saved is None:
        Path("foreign.pt").write_bytes(Path("foreign.pt").read_bytes()[:100])
    assert what in refused(config(), "--checkpoint_path", "foreign.pt")


def test_a_dry_run_with_json_is_json(place):
    result = run("fit", config(), "--dry-run", "--json")
    assert json.loads(result.stdout) == {"config": "c.yaml", "problems": []}
    assert not Path("run").exists()


def test_a_callback_in_other_letters_is_the_same_callback(place):
    """cszoo compares names lower-cased. One that was passed over would train a dense model."""
    masks = masks_of(dense())
    fitted(config(callbacks=[{"sparsemaskcallback": {"mask_path": "masks.safetensors"}}]), "-o", "sparse")
    trained = load_mdl(Path("sparse/checkpoint_6.mdl"))["model"]
    assert not any(trained[name][~mask].any() for name, mask in masks.items())


def test_a_corpus_file_that_was_cut_off(place):
    data = Path("train/data.h5").read_bytes()
    Path("train/data.h5").write_bytes(data[: len(data) // 2])
    assert "data.h5" in refused(config())


def test_tokens_are_checked_where_only_some_are_too_large(place):
    with h5py.File("train/data.h5", "r+") as file:
        values = file["data"][...]
        values[37, 0, 3] = 32
        file["data"][...] = values
    result = run("fit", config())
    assert result.exit_code == 1
    assert isinstance(result.exception, SystemExit), result.exception
    assert "32" in result.stderr


def test_what_is_advised_of_a_loss_that_is_not_finite():
    """Neither weights nor a batch of nothing get better by a lower learning rate."""
    model, batch = torch.nn.Linear(2, 2), {"attention_mask": torch.tensor([[1, 0]])}
    assert "learning rate" in advice(model, batch, begun=True)
    assert "counts no token" in advice(model, {"attention_mask": torch.zeros(1, 2)}, begun=True)
    with torch.no_grad():
        model.weight[0, 0] = float("inf")
    assert "before this step" in advice(model, batch, begun=True)
    assert "in what it starts from" in advice(model, batch, begun=False)
