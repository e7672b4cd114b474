"""Whole runs by their sections: what is loaded, how long one trains, when it validates and saves."""

import json
from pathlib import Path

import pytest
import torch
import yaml

from cerebras_utils.fallback.mdl_reader import load_mdl
from cerebras_utils.fallback.run import Overrides
from cerebras_utils.fallback.run import run as run_config
from cerebras_utils.fallback.schedule import (
    Loop,
    NothingLeftError,
    checkpoint_batches,
    left_of,
    refuse_nothing_left,
    rounds,
    total_steps,
)
from pruning.problems import ProblemError
from tests.cerebras_utils.fallback.tiny_runs import (
    config,
    dense,
    edited,
    fitted,
    masks_of,
    refused,
    run,
    scalars,
    with_masks,
)


def saved(directory="run"):
    return sorted(path.name for path in Path(directory).glob("*.mdl"))


# The arithmetic


def test_batches_after_which_a_checkpoint_is_saved():
    whole = {"steps": 10, "elapsed": 0, "batches": 10, "is_last": True}
    assert checkpoint_batches(4, **whole) == {3, 7, 9}
    assert checkpoint_batches(100, **whole) == {9}, "beyond the run: the last"
    assert checkpoint_batches(0, **whole) == checkpoint_batches(None, **whole) == set()
    second = {"steps": 10, "elapsed": 5, "batches": 5}
    assert checkpoint_batches(4, **second, is_last=False) == {2}
    assert checkpoint_batches(4, **second, is_last=True) == {2, 4}


def test_how_long_a_run_trains():
    assert total_steps(Loop(num_epochs=2), 7, 100) == 14
    assert total_steps(Loop(num_epochs=2, steps_per_epoch=5), 7, 100) == 10
    assert total_steps(Loop(num_epochs=1, grad_accum_steps=2), 7, 0) == 3, "ModelZoo's epoch is in steps here"
    assert total_steps(Loop(num_steps=5, max_steps=8), 7, 4) == 4
    assert total_steps(Loop(num_steps=5), 7, 4, 3) == 8, "num_steps begins anew"
    assert total_steps(Loop(max_steps=9), 7, 4, 3) == 5, "max_steps does not"
    refuse_nothing_left(Loop(max_steps=9), 4, 4, 8)
    with pytest.raises(NothingLeftError, match="step 9 is reached"):
        refuse_nothing_left(Loop(max_steps=9), 4, 5, 9)
    with pytest.raises(ProblemError) as error:
        total_steps(Loop(num_epochs=1, steps_per_epoch=8, grad_accum_steps=9), 7, 0)
    assert len(error.value.problems) == 2


def test_what_is_left_of_the_rounds():
    assert left_of([4, 4, 2], 0) == [(0, 4), (1, 4), (2, 2)]
    assert left_of([4, 4, 2], 3) == [(0, 1), (1, 4), (2, 2)]
    assert left_of([4, 4, 2], 4) == [(0, 0), (1, 4), (2, 2)], "its validation is"
    assert left_of([4, 4, 2], 9) == [(2, 1)]


def test_rounds_by_a_fraction_or_a_number():
    assert rounds(7, 0.4, True) == [3, 3, 1]
    assert rounds(7, 1.0, True) == rounds(7, 100, True) == rounds(7, 2, False) == rounds(7, 0, True) == [7]
    assert rounds(7, 1, True) == [1] * 7


# Whole runs


def test_a_run_needs_an_end(place):
    assert "has none of num_steps, max_steps, num_epochs" in refused(config(loop={"eval_frequency": None}))
    assert not Path("run").exists()
    fitted(config(loop=None, checkpoint={"steps": 100}))
    assert saved() == ["checkpoint_10.mdl"], "left out: one epoch"


def test_null_loads_nothing_and_absent_the_last_checkpoint(place):
    fitted(config(steps=3))
    path = edited(config(steps=6), lambda trainer: trainer["fit"].update(ckpt_path=None))
    said = fitted(path).stderr
    assert "no checkpoint is loaded: the weights are random" in said
    assert load_mdl(Path("run/checkpoint_6.mdl"))["dataloader"]["samples_streamed"] == 6 * 4
    stamped = [name for name in saved() if name.startswith("checkpoint_3_")]
    assert stamped, "it began from step 0 again, and replaced nothing"
    said = fitted(config(steps=7)).stderr
    assert "loaded run/checkpoint_6.mdl, step 6" in said
    fitted(config(steps=8, checkpoint={"steps": 8, "autoload_last_checkpoint": False}), "-o", "run")
    assert load_mdl(Path("run/checkpoint_8.mdl"))["dataloader"]["samples_streamed"] == 8 * 4


def test_what_validate_loads(place):
    """Its own ckpt_path, not fit's; without one the last checkpoint; null is random weights, as it says."""
    fitted(config(steps=3))
    for change, step in (
        (lambda trainer: None, 3),
        (lambda trainer: trainer["validate"].update(ckpt_path=None), 0),
    ):
        result = run("validate", edited(config(), change), "--json")
        assert result.exit_code == 0, result.output
        (found,) = json.loads(result.stdout)
        assert found["steps"] == step
        assert set(found["metrics"]) == {"loss", "eval/lm_perplexity", "eval/accuracy"}
        assert ("the weights are random" in result.stderr) == (step == 0)
    path = edited(config(), lambda trainer: trainer["fit"].update(ckpt_path="other.mdl"))
    result = run("validate", path)
    assert result.exit_code == 0, result.output
    assert "fit.ckpt_path is not what validate loads" in result.stderr


@pytest.mark.slow
def test_validate_all_takes_every_checkpoint_of_the_directory_or_those_it_is_given(place):
    fitted(config(steps=6))
    loaders = yaml.safe_load(Path("c.yaml").read_text())["trainer"]["validate"]["val_dataloader"]

    def validated(out, **section):
        path = edited(
            config(),
            lambda trainer: trainer.update(validate_all={"val_dataloaders": [loaders, loaders], **section}),
        )
        run_config(Path(path), "validate_all", Overrides(device="CPU", model_dir=out))
        return scalars(out)

    found = validated("run")
    assert set(found["validate_0/loss"]) == set(found["validate_1/loss"]) == {3, 6}
    assert set(validated("some", ckpt_paths=["run/checkpoint_6*"])["validate_1/loss"]) == {6}
    assert set(validated("random", ckpt_paths=None)["validate_0/loss"]) == {0}
    result = run("validate_all", "c.yaml", "--checkpoint_path", "run/checkpoint_3.mdl", "-o", "one", "--json")
    assert result.exit_code == 0, result.output
    (of_trainer,) = json.loads(result.stdout)
    (of_checkpoint,) = of_trainer["validations"]
    assert (of_checkpoint["checkpoint"], of_checkpoint["steps"]) == ("run/checkpoint_3.mdl", 3)
    assert of_checkpoint["metrics"]["validate_1"]["loss"] == found["validate_1/loss"][3]
    receipt = json.loads(Path("one/run.json").read_text())
    assert (receipt["verb"], len(receipt["data"])) == ("validate_all", 64)
    with pytest.raises(ProblemError, match="no such file"):
        validated("bad", ckpt_paths="run/checkpoint_9.mdl")
    with pytest.raises(ProblemError, match="has no checkpoint to validate"):
        validated("fresh")


def test_several_validation_sets_at_a_fraction_of_the_run(place):
    def second(trainer):
        one = trainer["fit"]["val_dataloader"]
        trainer["fit"]["val_dataloader"] = [one, {**one, "data_dir": "train", "batch_size": 8}]

    fitted(edited(config(loop={"num_steps": 7, "eval_frequency": 0.4}), second))
    found = scalars()
    assert set(found["validate_0/loss"]) == set(found["validate_1/loss"]) == {3, 6, 7}
    assert found["validate_0/loss"][7] != found["validate_1/loss"][7]
    assert saved() == ["checkpoint_3.mdl", "checkpoint_6.mdl", "checkpoint_7.mdl"]


def test_where_and_when_checkpoints_are_saved(place):
    section = {"steps": 100, "save_initial_checkpoint": True, "checkpoint_root": "elsewhere"}
    fitted(config(checkpoint=section))
    assert saved("elsewhere") == ["checkpoint_0.mdl", "checkpoint_6.mdl"]
    assert not saved()
    said = fitted(config(steps=7, checkpoint=section)).stderr
    assert "loaded elsewhere/checkpoint_6.mdl" in said


@pytest.mark.slow
def test_phases_run_one_after_the_other_and_go_on_where_they_were(place):
    """Sparse, then dense from there: masks at every step, then the same masks only at the start."""
    masks = masks_of(dense())
    sparse = yaml.safe_load(Path(config(steps=3, model_dir="phases", callbacks=with_masks())).read_text())
    grown = yaml.safe_load(Path(config(steps=6, model_dir="phases", callbacks=with_masks(False))).read_text())
    Path("phases.yaml").write_text(yaml.safe_dump({"trainer": [sparse, grown]}))
    result = fitted("phases.yaml", "--json")
    assert [phase["steps"] for phase in json.loads(result.stdout)] == [3, 6]
    first, last = (load_mdl(Path(f"phases/checkpoint_{step}.mdl"))["model"] for step in (3, 6))
    assert not any(first[name][~mask].any() for name, mask in masks.items())
    assert all(last[name][~mask].any() for name, mask in masks.items()), "not masked again"
    assert not any(name.endswith("_mask") for name in last)
    phases = [json.loads(path.read_text())["phase"] for path in sorted(Path("phases").glob("2*/run.json"))]
    assert phases == ["trainer[0].trainer", "trainer[1].trainer"]
    grown["trainer"]["init"]["loop"]["max_steps"] = 7
    Path("phases.yaml").write_text(yaml.safe_dump({"trainer": [sparse, grown]}))
    again = json.loads(fitted("phases.yaml", "--json").stdout)
    assert "nothing is left to do" in again[0]["skipped"]
    assert again[1]["steps"] == 7


def test_bf16_is_autocast_and_weights_stay_in_fp32(place):
    fitted(config(steps=3))
    said = fitted(
        config(
            steps=3, precision={"enabled": True, "fp16_type": "cbfloat16", "loss_scaling_factor": "dynamic"}
        ),
        *("-o", "half"),
    ).stderr
    assert "cbfloat16 is bfloat16 here" in said
    assert "loss_scaling_factor has no effect here" in said
    full, half = scalars()["loss"][1], scalars("half")["loss"][1]
    assert 0 < abs(full - half) < 0.01
    weights = load_mdl(Path("half/checkpoint_3.mdl"))["model"].values()
    assert {weight.dtype for weight in weights} == {torch.float32}
    assert "float16 is not run here" in refused(config(precision={"fp16_type": "float16"}), "-o", "other")


def test_one_schedule_without_a_list_is_taken_and_told(place):
    schedule = {"LinearLR": {"initial_learning_rate": 0.01, "end_learning_rate": 0.0, "total_iters": 4}}
    said = fitted(config(steps=3, schedulers=schedule)).stderr
    assert "is one schedule, which cszoo refuses" in said
    assert scalars()["lr/0"] == {1: pytest.approx(0.01), 2: pytest.approx(0.0075), 3: pytest.approx(0.005)}
