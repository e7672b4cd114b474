"""What would end a run, or spoil it, after it has begun: refused by ``--dry-run`` already."""

import errno
import os
from datetime import date
from pathlib import Path

import pytest
import torch
import yaml

from cerebras_utils.fallback.mdl_reader import load_mdl
from cerebras_utils.fallback.mdl_tree import unwritable
from cerebras_utils.fallback.mdl_writer import save_mdl
from cerebras_utils.fallback.models.build import build_model
from pruning.mask_ops import save_mask
from tests.cerebras_utils.fallback.tiny_runs import LAYER, config, edited, refused, run, with_masks


def dry(path, *args, verb="fit"):
    """What --dry-run refuses, without a directory for the run."""
    result = run(verb, path, "--dry-run", *args)
    assert result.exit_code == 1, result.output
    assert isinstance(result.exception, SystemExit), result.exception
    assert "fix: " in result.stderr
    assert not Path("run").exists()
    return result.stderr


def loop(**values):
    return config(loop={"eval_frequency": None, **values})


@pytest.mark.parametrize(
    ("kind", "entry", "says"),
    [
        ("callbacks", {"KeepNCheckpoints": {"n": 0}}, "KeepNCheckpoints.n"),
        ("callbacks", {"LoadCheckpointStates": {"load_checkpoint_states": 3}}, 'not "all", or names'),
        ("loggers", {"TensorBoardLogger": {"legacy_event_dirs": "no"}}, "'no' is not true or false"),
    ],
)
def test_arguments_of_vendor_callbacks(place, kind, entry, says):
    assert says in dry(config(**{kind: [entry]}))


def test_two_of_which_one_would_count(place):
    several = [{"KeepNCheckpoints": {"n": 1}}, {"keepncheckpoints": {"n": 3}}]
    said = dry(config(callbacks=several, loggers=[{"TensorBoardLogger": {}}, {"TensorBoardLogger": {}}]))
    assert said.count("is there already, and one alone would count") == 2


def test_what_can_be_told_of_cannot_be_saved_and_the_rest_can(tmp_path):
    """Both ways: ``save_mdl`` is what the check is about."""
    good = {"a": {"b.c": 1, 2: "\ud800\0", "d": [None, -(2**70), 0.5, True, {"x", "y"}, ()]}, "e/f": {}}
    assert list(unwritable(good)) == []
    save_mdl(tmp_path / "good.mdl", good)
    assert load_mdl(tmp_path / "good.mdl") == good
    for number, bad in enumerate(
        [{"a": b"x"}, {"a": date(2026, 1, 1)}, {True: 1}, {1.5: 1}, {"a.b": 1, "a": {"b": 1}}, {"\ud800": 1}]
    ):
        ((place, _),) = unwritable({"top": bad})
        assert place.startswith("top.")
        with pytest.raises((AssertionError, UnicodeError)):
            save_mdl(tmp_path / f"{number}.mdl", {"top": bad})


def test_what_no_checkpoint_can_hold(place):
    """Every checkpoint has the config in it: the first one would end the run."""
    path = config(callbacks=[{"GlobalFlags": {}}], loggers=[{"WandbLogger": {}}])
    text = Path(path).read_text()
    text = text.replace("GlobalFlags: {}", "GlobalFlags: {csx.debug: 1, csx: {debug: 2}, on: 3}")
    text = text.replace("WandbLogger: {}", "WandbLogger: {project: !!binary aGk=, run_name: 2026-11-21}")
    Path(path).write_text(text)
    said = dry(path)
    assert "WandbLogger.run_name" in said
    assert "write it in quotes" in said
    assert "b'hi' is a bytes" in said
    assert "the key True is a bool" in said
    assert "GlobalFlags.csx.debug\n   stands twice" in said


@pytest.mark.parametrize("seed", [2**64, -(2**63) - 1])
def test_a_seed_that_torch_does_not_take(place, seed):
    assert "from -2^63 to 2^64 - 1" in dry(config(seed=seed))


def test_the_greatest_and_the_smallest_seed(place):
    for seed in (2**64 - 1, -(2**63)):
        assert run("fit", config(seed=seed), "--dry-run").exit_code == 0


def test_no_eps_under_masks(place):
    masks = {f"{LAYER}.self_attn.proj_q_dense_layer.weight": torch.eye(16, dtype=torch.bool)}
    save_mask(masks, "masks.safetensors")
    section = {"AdamW": {"eps": 0.0}}
    assert "0 / 0" in dry(config(callbacks=with_masks(), optimizer=section))
    for callbacks in ([], with_masks(False)):
        assert run("fit", config(callbacks=callbacks, optimizer=section), "--dry-run").exit_code == 0


def test_a_mask_without_its_weight_or_of_another_shape(place):
    name = f"{LAYER}.self_attn.proj_q_dense_layer.weight"
    for mask, says in (
        ({"model.nope.weight": torch.ones(2, 2, dtype=torch.bool)}, "has no parameter in the model"),
        ({name: torch.ones(2, 2, dtype=torch.bool)}, "is of shape (2, 2), the weight (16, 16)"),
    ):
        Path("masks.safetensors").unlink(missing_ok=True)
        save_mask(mask, "masks.safetensors")
        assert says in dry(config(callbacks=with_masks()))


def test_a_model_too_big_for_this_machine(place):
    model = yaml.safe_load(Path(config()).read_text())["trainer"]["init"]["model"]
    for size in (2**24, 10**9, 2**40):
        section = {**model, "hidden_size": size, "filter_size": size, "num_heads": 1}
        said = dry(config(model=section))
        assert "GiB of memory" in said or "more bytes than can be counted" in said


@pytest.mark.parametrize(
    ("optimizer", "copies"),
    [
        ({"SGD": {"learning_rate": 0.1}}, 2),
        ({"SGD": {"learning_rate": 0.1, "momentum": 0.9}}, 3),
        ({"AdamW": {}}, 4),
        ({"Adam": {"amsgrad": True}}, 5),
    ],
)
def test_training_needs_more_memory_than_the_weights(place, monkeypatch, optimizer, copies):
    """Told before the start, not by the kernel that ends it. LoRA trains its factors alone."""
    path = config(optimizer=optimizer)
    model = build_model(yaml.safe_load(Path(path).read_text())["trainer"]["init"]["model"])
    weights = sum(w.numel() for name, w in model.state_dict().items() if name != "model.lm_head.weight")

    def fits(memory, verb="fit", path=path):
        asked = {"SC_PAGE_SIZE": 1, "SC_PHYS_PAGES": 4 * weights * memory}
        monkeypatch.setattr(os, "sysconf", lambda name: asked.get(name) or sysconf(name))
        result = run(verb, path, "--dry-run")
        assert (f"has {weights:,} weights" in result.stderr) == (result.exit_code == 1), result.stderr
        return result.exit_code == 0

    sysconf = os.sysconf
    assert [fits(copies - 1), fits(copies)] == [False, True]
    assert fits(1, "validate")
    factors = {"r": 2, "alpha": 4, "target_modules": ["proj_q_dense_layer"]}
    lora = config("lora.yaml", optimizer=optimizer, callbacks=[{"Lora": {"lora_params": factors}}])
    assert fits(1, path=lora)


def test_a_checkpoint_that_is_not_there(place):
    assert "there is no such file" in dry(config(), "--checkpoint_path", "absent.mdl")
    path = edited(config(), lambda t: t["fit"].update(ckpt_path="absent.mdl"))
    said = dry(path)
    assert "trainer.fit.ckpt_path" in said
    save_mdl("there.mdl", {"model": {}})
    assert run("fit", path, "--dry-run", "--checkpoint_path", "there.mdl").exit_code == 0


def cut(path):
    data = Path(path).read_bytes()
    Path(path).write_bytes(data[: len(data) // 2])


@pytest.mark.parametrize(
    ("name", "spoil", "says"),
    [
        ("c.yaml", lambda path: None, "is neither a .mdl, which is HDF5, nor a file of torch.save"),
        ("c.pt", lambda path: Path(path).write_text("model: x"), "is neither a .mdl"),
        ("empty.mdl", lambda path: Path(path).touch(), "is empty"),
        ("cut.mdl", cut, "HDF5 cannot open it"),
        ("cut.pt", cut, "torch cannot read it"),
        ("masks.safetensors", lambda path: None, "is neither a .mdl"),
        ("train/data.h5", lambda path: None, "is an HDF5 file, but no Cerebras checkpoint"),
        ("train", lambda path: None, "is no file"),
    ],
)
def test_a_checkpoint_that_is_none(place, name, spoil, says):
    tree = {"model": {"model.weight": torch.ones(10_000)}}
    save_mdl("cut.mdl", tree)
    torch.save(tree, "cut.pt")
    save_mask({"w": torch.eye(4, dtype=torch.bool)}, "masks.safetensors")
    path = config()
    spoil(name)
    for given, where in (((), "trainer.fit.ckpt_path"), (("--checkpoint_path", name), "--checkpoint_path")):
        if not given:
            path = edited(config("named.yaml"), lambda t: t["fit"].update(ckpt_path=name))
        said = dry(path, *given)
        assert f"{where}: {name}" in said
        assert says in said


def forbidden(monkeypatch, method, name):
    """Root may read everything: as if another user asked."""
    asked = getattr(Path, method)

    def refuse(path, *args, **options):
        if path.name == name:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return asked(path, *args, **options)

    monkeypatch.setattr(Path, method, refuse)


def test_files_that_may_not_be_read(place, monkeypatch):
    save_mdl("start.mdl", {"model": {}})
    save_mask({"w": torch.eye(4, dtype=torch.bool)}, "masks.safetensors")
    forbidden(monkeypatch, "open", "start.mdl")
    said = dry(config(), "--checkpoint_path", "start.mdl")
    assert "start.mdl\n   cannot be read: Permission denied\n   fix: allow reading it" in said
    forbidden(monkeypatch, "stat", "masks.safetensors")
    said = dry(config(callbacks=with_masks()))
    assert "mask_path: masks.safetensors\n   cannot be read: Permission denied" in said


def test_states_that_the_checkpoint_or_nothing_has(place):
    save_mdl("start.mdl", {"model": {}, "optimizer": {"state": {}, "param_groups": []}})
    given = ("--checkpoint_path", "start.mdl", "--load_checkpoint_states")
    said = dry(config(), *given, "modle")
    assert "modle without model: the weights would be random. Did you mean 'model'?" in said
    said = dry(config(callbacks=[{"LoadCheckpointStates": {"load_checkpoint_states": "modle"}}]))
    assert "Did you mean 'model'?" in said
    assert "Did you mean 'optimizer'?" in dry(config(), *given, "model,optimzer")
    assert run("fit", config(), "--dry-run", *given, "model,optimizer").exit_code == 0


def test_a_checkpoint_of_another_release(place):
    save_mdl("old.mdl", {"model": {}, "__metadata__": [{"version": "2.9.0"}]})
    assert "was written by ModelZoo 2.9.0" in dry(config(), "--checkpoint_path", "old.mdl")


def test_directories_that_take_no_results(place, monkeypatch):
    Path("file").touch()
    file = Path("file").absolute()
    assert f"--model_dir: file/new\n   {file} is a file" in dry(config(), "-o", "file/new")
    assert "trainer.init.model_dir: file\n" in dry(config(model_dir="file"))
    assert "checkpoint_root: file/a" in dry(config(checkpoint={"checkpoint_root": "file/a"}))
    path = config(checkpoint={"checkpoint_root": "file/a"})
    assert run("validate", path, "--dry-run").exit_code == 0, "it writes no checkpoint"
    Path("mine").mkdir()
    allowed, mine = os.access, Path("mine").absolute()
    monkeypatch.setattr(os, "access", lambda at, mode: Path(at) != mine and allowed(at, mode))
    assert f"{mine} may not be written by this user" in dry(config(), "-o", "mine/a/b")
    assert run("fit", config(), "--dry-run").exit_code == 0


def test_epochs_and_accumulations_that_the_data_are_too_short_for(place):
    """40 samples in batches of 4."""
    assert "an epoch has 10 batches" in dry(loop(num_epochs=2, steps_per_epoch=11))
    assert run("fit", loop(num_epochs=2, steps_per_epoch=10), "--dry-run").exit_code == 0
    assert "more than the 10 batches" in dry(loop(num_epochs=2, grad_accum_steps=11))
    said = dry(loop(max_steps=4, grad_accum_steps=5))
    assert "makes no step of the optimizer" in said


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_the_device_of_a_later_trainer(place):
    one = yaml.safe_load(Path(config()).read_text())
    other = yaml.safe_load(Path(config(backend={"backend_type": "GPU"})).read_text())
    Path("c.yaml").write_text(yaml.safe_dump({"trainer": [one, other]}))
    assert "torch sees no GPU here" in dry("c.yaml")
    assert "torch sees no GPU here" in refused("c.yaml")
    assert not Path("run").exists()


@pytest.mark.parametrize(
    "section",
    [{}, {"val_dataloaders": []}, {"val_dataloaders": None}, {"ckpt_paths": []}],
    ids=["no data", "empty data", "null data", "no checkpoints"],
)
def test_a_validation_of_nothing(place, section):
    def change(trainer):
        data = [trainer["validate"]["val_dataloader"]]
        trainer["validate_all"] = {"val_dataloaders": data, **section} if "ckpt_paths" in section else section

    assert "nothing would be validated" in dry(edited(config(), change), verb="validate_all")


def test_a_number_that_is_text_is_one_problem(place):
    text = Path(config()).read_text().replace("weight_decay: 0.1", "weight_decay: 1e-5")
    Path("c.yaml").write_text(text)
    said = dry("c.yaml")
    assert said.count("weight_decay") == 1
    assert "write 1.0e-5" in said
