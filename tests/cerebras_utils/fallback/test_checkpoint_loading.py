"""What a run says and refuses of the checkpoint it starts from: nothing is dropped or begun anew unsaid."""

import shutil
import zipfile
from pathlib import Path

import pytest
import torch

from cerebras_utils.fallback.checkpoint_reading import read_checkpoint
from cerebras_utils.fallback.mdl_reader import load_mdl
from cerebras_utils.fallback.mdl_writer import save_mdl
from cerebras_utils.fallback.states import chosen, not_loaded, states_named
from cerebras_utils.fallback.weights import load_model
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
    with_masks,
)

WEIGHT = f"{LAYER}.self_attn.proj_q_dense_layer.weight"


@pytest.fixture
def start(place):
    """A checkpoint of step 3 outside the directory of the runs."""
    Path("start.mdl").write_bytes(Path(dense()).read_bytes())
    shutil.rmtree("run")
    return "start.mdl"


def changed(start, change):
    tree = load_mdl(Path(start))
    change(tree)
    save_mdl("changed.mdl", tree, overwrite=True)
    return "changed.mdl"


# Which states are loaded


@pytest.mark.parametrize(
    ("given", "names"),
    [
        ("all", None),
        ("ALL", None),
        ("model", {"model"}),
        ("model,optimizer", {"model", "optimizer"}),
        (["model", "dataloader"], {"model", "dataloader"}),
    ],
)
def test_names_of_states(given, names):
    assert states_named(given, "w") == names


@pytest.mark.parametrize("given", ["model, optimizer", "", "model,", [], [3], 3, None, "optimizer"])
def test_names_that_are_none(given):
    with pytest.raises(ProblemError, match="w\n"):
        states_named(given, "w")


def test_a_name_that_was_meant_to_be_model():
    with pytest.raises(ProblemError, match=r"Did you mean 'model'\?\n   fix: mend the name"):
        states_named("optimizer,modle", "w")
    with pytest.raises(ProblemError, match="add model to it"):
        states_named("optimizer", "w")


def test_a_name_that_the_checkpoint_does_not_have():
    tree = {"model": {}, "optimizer": {}, "__metadata__": []}
    with pytest.raises(ProblemError, match=r"no state 'optimzer'\. Did you mean 'optimizer'"):
        chosen(tree, frozenset({"model", "optimzer"}), "x.mdl")
    assert chosen(tree, None, "x.mdl") == tree
    assert chosen(tree, frozenset({"model"}), "x.mdl") == {"model": {}}


def test_what_is_not_loaded_is_said():
    whole = {"model": {}, "optimizer": {}, "schedulers": [{}], "global_step": 3, "dataloader": {}}

    def said(tree, part=None, schedulers=1, trains=True):
        lines = not_loaded(tree, part or tree, "x.mdl", trains=trains, schedulers=schedulers)
        return [line.removeprefix("x.mdl") for line in lines]

    assert said(whole) == []
    assert said({"model": {}}, trains=False) == []
    (left,) = said(whole, {"model": {}})
    assert left.endswith("load_checkpoint_states says: dataloader, global_step, optimizer, schedulers")
    assert [line.split(":")[0] for line in said({"model": {}})] == [
        f" has no {name}" for name in ("optimizer", "schedulers", "global_step", "dataloader")
    ]
    assert said(whole, schedulers=0) == [": its schedulers are dropped, for the config has none"]
    assert "the config 2: the others begin" in said(whole, schedulers=2)[0]
    empty = {**whole, "schedulers": []}
    assert said(empty) == [" has no schedulers: the config's schedule begins at its start"]
    assert said(empty, schedulers=0) == []


def test_the_yaml_and_the_command_line_choose_alike(start):
    callback = [{"LoadCheckpointStates": {"load_checkpoint_states": "model,optimizer,global_step"}}]
    for callbacks, flags in (
        (callback, ()),
        ([], ("--load_checkpoint_states", "model,optimizer,global_step")),
    ):
        result = fitted(config(steps=4, callbacks=callbacks), "--checkpoint_path", start, "-o", "n", *flags)
        assert "load_checkpoint_states says: dataloader, schedulers, wafersparse" in result.stderr
        state = load_mdl(Path("n/checkpoint_4.mdl"))["optimizer"]["state"][0]
        assert float(state["beta1_power"]) == pytest.approx(0.9**5), "four steps: the optimizer went on"
        shutil.rmtree("n")
    said = refused("c.yaml", "--checkpoint_path", start, "--load_checkpoint_states", "model,optimzer")
    assert "Did you mean 'optimizer'" in said


# Weights


def test_without_strictness_what_does_not_fit_is_counted_and_named(start):
    def change(tree):
        tree["model"]["model.foo"] = tree["model"].pop(WEIGHT)

    path = config(steps=4, checkpoint={"steps": 3, "disable_strict_checkpoint_loading": True})
    said = fitted(path, "--checkpoint_path", changed(start, change)).stderr
    assert "1 of the model's" in said
    assert f"stay as they are: {WEIGHT}" in said
    assert "1 tensors are not the model's, and are not loaded: model.foo" in said


def test_whole_numbers_are_no_weights(start):
    model = torch.nn.Linear(2, 1, bias=False)
    model = torch.nn.ModuleDict({"model": model})
    for weight in (torch.ones(1, 2, dtype=torch.int64), torch.ones(1, 2, dtype=torch.bool)):
        with pytest.raises(ProblemError, match=r"the model's is torch\.float32"):
            load_model(model, {"model.weight": weight}, "x.mdl", strict=True)
    assert load_model(model, {"model.weight": torch.ones(1, 2).bfloat16()}, "x.mdl", strict=True) == []
    sick = {"model.weight": torch.tensor([[1.0, float("nan")]])}
    (line,) = load_model(model, sick, "x.mdl", strict=True)
    assert "1 tensors hold values that are NaN or infinite: model.weight" in line


# Files that are damaged


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("global_step", "six"),
        ("global_step", float("nan")),
        ("global_step", -5),
        ("global_step", True),
        ("optimizer", [1]),
        ("optimizer", {"state": {}, "param_groups": [3]}),
        ("schedulers", {"x": 1}),
        ("schedulers", [1]),
        ("dataloader", []),
        ("wafersparse", {}),
        ("wafersparse", {"random": {"cpu": torch.zeros(3, dtype=torch.uint8)}}),
        ("wafersparse", {"random": {"cpu": torch.zeros_like(torch.get_rng_state())}}),
    ],
)
def test_states_of_another_kind(tmp_path, name, value):
    path = tmp_path / "x.mdl"
    save_mdl(path, {"model": {"model.weight": torch.ones(1)}, name: value})
    with pytest.raises(ProblemError) as told:
        read_checkpoint(path)
    (problem,) = told.value.problems
    assert problem.where == f"{path}: {name}"


def test_weights_that_are_no_tensors_and_steps_of_other_kinds(tmp_path):
    path = tmp_path / "x.mdl"
    save_mdl(path, {"model": {"model.a": 3.0, "model.b": None}})
    with pytest.raises(ProblemError) as told:
        read_checkpoint(path)
    assert [p.what for p in told.value.problems] == ["is 3.0, not a tensor", "is None, not a tensor"]
    for step in (6, 6.0, torch.tensor(6)):
        save_mdl(path, {"model": {}, "global_step": step}, overwrite=True)
        assert read_checkpoint(path)["global_step"] == 6


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda t: t["optimizer"]["state"][0].update(exp_avg=3.0), "exp_avg"),
        (lambda t: t["optimizer"]["param_groups"][0].update(betas="x"), "not two numbers"),
        (lambda t: t["optimizer"]["param_groups"][1].pop("lr"), "lack lr"),
        (lambda t: t["schedulers"].__setitem__(0, {"x": 1}), "is another kind"),
        (lambda t: t["schedulers"][0].update(last_epoch=3), "last_epoch"),
    ],
    ids=["a moment", "a setting", "no learning rate", "a scheduler", "its step"],
)
def test_an_error_in_a_state_names_the_file(start, change, says):
    said = refused(config(), "--checkpoint_path", changed(start, change))
    assert "changed.mdl: the checkpoint's" in said
    assert says in said


def test_the_states_of_another_optimizer_are_a_few_problems_and_not_one_for_each_tensor(start):
    said = refused(config(optimizer={"SGD": {"momentum": 0.9}}), "--checkpoint_path", start)
    assert "param_groups\n   lack momentum, dampening, nesterov, maximize\n" in said
    count = len(load_mdl(Path(start))["optimizer"]["state"])
    assert f"has no momentum_buffer of {count} of {count} parameters" in said
    assert said.count("fix: ") == 2


def test_a_mdl_of_any_name_is_known_by_what_it_is(tmp_path):
    save_mdl(tmp_path / "c.pt", {"model": {"model.weight": torch.ones(1)}})
    assert read_checkpoint(tmp_path / "c.pt")["model"]["model.weight"] == 1


def test_a_listing_checks_the_same_and_reads_no_large_tensor(tmp_path):
    tree = {"model": {"model.a": torch.ones(200, 200), "model.b": torch.ones(2)}, "global_step": 3}
    save_mdl(tmp_path / "c.mdl", tree)
    torch.save(tree, tmp_path / "c.pt")
    for name in ("c.mdl", "c.pt"):
        listed = read_checkpoint(tmp_path / name, listing=True)
        assert {name: weight.shape for name, weight in listed["model"].items()} == {
            name: weight.shape for name, weight in tree["model"].items()
        }
        assert listed["global_step"] == 3
    large = read_checkpoint(tmp_path / "c.mdl", listing=True)["model"]["model.a"]
    assert large.device.type == "meta"


def test_torch_files_are_known_by_what_they_are(tmp_path):
    torch.save({"model": {"model.weight": torch.ones(1)}}, tmp_path / "weights.ckpt")
    assert read_checkpoint(tmp_path / "weights.ckpt")["model"]["model.weight"] == 1


# Checkpoints that the index does not list


def test_files_without_an_index_are_no_reason_to_begin_anew(place):
    dense()
    Path("run/checkpoints_index.yaml").unlink()
    said = refused(config(steps=4))
    assert "run/checkpoint_3.mdl" in said
    assert "--checkpoint_path run/checkpoint_3.mdl" in said
    data = edited(
        config(), lambda t: t.update(validate_all={"val_dataloaders": [t["validate"]["val_dataloader"]]})
    )
    result = run("validate_all", data)
    assert result.exit_code == 1
    assert "--checkpoint_path run/checkpoint_3.mdl" in result.stderr
    fitted(edited(config(steps=4), lambda t: t["fit"].update(ckpt_path=None)))


def test_a_later_file_that_is_not_listed_is_named(place):
    """A run that was killed between writing it and listing it: it goes on from what is listed."""
    shutil.copy(dense(), "run/checkpoint_5.mdl")
    said = fitted(config(steps=4)).stderr
    assert "not in run/checkpoints_index.yaml, and so not loaded, in cszoo neither: run/checkpoint_5" in said
    assert "loaded run/checkpoint_3.mdl" in said


# NaN


def test_nan_under_a_mask_in_the_optimizers_state(start):
    masks = masks_of(start)

    def change(tree):
        states = tree["optimizer"]["state"]
        last = max(i for i, state in states.items() if state["exp_avg"].shape == masks[WEIGHT].shape)
        states[last]["exp_avg"] = torch.full((16, 16), float("nan"))

    said = refused(config(steps=4, callbacks=with_masks()), "--checkpoint_path", changed(start, change))
    assert "are NaN or infinite in the optimizer's exp_avg" in said
    assert "--load_checkpoint_states model" in said


def test_eps_of_the_checkpoint_under_masks(start):
    masks_of(start)
    without = changed(start, lambda t: [group.update(eps=0.0) for group in t["optimizer"]["param_groups"]])
    said = refused(config(steps=4, callbacks=with_masks()), "--checkpoint_path", without)
    assert "eps is 0 in the optimizer" in said


def test_nan_in_the_weights_is_no_matter_of_the_learning_rate(start):
    def change(tree):
        tree["model"][WEIGHT] *= float("nan")

    result = run("fit", config(steps=4), "--checkpoint_path", changed(start, change))
    assert result.exit_code == 1
    assert "1 tensors hold values that are NaN or infinite" in result.stderr
    assert "not finite in what it starts from: start from another checkpoint" in result.stderr
    assert "learning rate" not in result.stderr.partition("error:")[2]


def test_weights_that_look_like_the_end_of_an_archive_are_weights(tmp_path):
    """The record that ends a ZIP file, as the last weights of a .mdl."""
    record = b"PK\x05\x06" + bytes(18) + bytes(2)
    weights = torch.frombuffer(bytearray(record), dtype=torch.uint8)
    save_mdl(tmp_path / "c.mdl", {"model": {"model.w": weights}})
    with (tmp_path / "c.mdl").open("ab") as stream:
        stream.write(record[:22])
    assert zipfile.is_zipfile(tmp_path / "c.mdl")
    assert read_checkpoint(tmp_path / "c.mdl")["model"]["model.w"].tolist() == list(record)
