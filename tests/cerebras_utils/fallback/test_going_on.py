"""A run that goes on from a checkpoint of its own does so within its rounds, as if uninterrupted."""

import shutil
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from cerebras_utils.checkpoints_index import CheckpointsIndex
from cerebras_utils.fallback.mdl_reader import load_mdl
from cerebras_utils.fallback.mdl_writer import save_mdl
from experiments.cli import main
from tests.cerebras_utils.fallback.tiny_runs import (
    config,
    drop_step_counts,
    equal,
    fitted,
    masks_of,
    refused,
    run,
    scalars,
    with_masks,
)


def cut_after(step, directory="whole", copy="cut"):
    """The run as it was when it had saved the checkpoint of that step."""
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(directory, copy, symlinks=True)
    Path(copy, "checkpoints_index.yaml").unlink()
    index = CheckpointsIndex(copy)
    for path in sorted(Path(copy).glob("*.mdl"), key=index.step_of):
        if index.step_of(path) <= step:
            index.append(path)
        else:
            path.unlink()
    return copy


def last(directory, step):
    tree = load_mdl(Path(directory, f"checkpoint_{step}.mdl"))
    for scheduler in tree["schedulers"]:
        drop_step_counts(scheduler)
    return tree


@pytest.mark.parametrize(
    ("loop", "steps"),
    [
        ({"max_steps": 12, "eval_frequency": 4}, [2, 4, 6, 8, 10]),
        ({"max_steps": 12, "eval_frequency": 0.25}, [2, 6]),
        ({"max_steps": 25, "eval_frequency": 14}, [8, 10, 12, 14, 24]),  # an epoch has 10 batches
        ({"max_steps": 25, "eval_frequency": 10}, [10, 12, 20]),
        ({"max_steps": 12, "eval_frequency": None, "grad_accum_steps": 2}, [2, 4]),
        ({"max_steps": 16, "eval_frequency": 4, "grad_accum_steps": 2}, [1, 2, 5]),
    ],
)
def test_between_validations_and_under_accumulation(place, loop, steps):
    path = config(loop=loop, checkpoint={"steps": 2})
    fitted(path, "-o", "whole")
    end = max(int(file.stem.split("_")[1]) for file in Path("whole").glob("*.mdl"))
    logged = scalars("whole")
    for step in steps:
        cut_after(step)
        shutil.rmtree("cut/events")
        fitted(path, "-o", "cut")
        assert equal(last("cut", end), last("whole", end)), step
        for tag, values in scalars("cut").items():
            if "/sec" not in tag and "time" not in tag.lower() and "per_sec" not in tag:
                assert values.items() <= logged[tag].items(), (step, tag)
        assert "is reached" in refused(path, "-o", "cut"), "and then it is over"


def test_from_the_checkpoint_of_another_run_a_run_begins(place):
    """Its rounds are counted from there, and its data go on, as in cszoo."""
    fitted(config(loop={"max_steps": 6, "eval_frequency": 4}, checkpoint={"steps": 6}), "-o", "first")
    path = config(loop={"max_steps": 12, "eval_frequency": 4}, checkpoint={"steps": 6})
    fitted(path, "-o", "other", "--checkpoint_path", "first/checkpoint_6.mdl")
    assert sorted(scalars("other")["validate_0/loss"]) == [10, 12]
    fitted(path, "-o", "first")
    assert sorted(scalars("first")["validate_0/loss"]) == [4, 6, 8, 12]


def test_a_position_that_is_none(place):
    fitted(config(steps=3))
    tree = load_mdl(Path("run/checkpoint_3.mdl"))
    tree["wafersparse"]["position"]["batches"] = "three"
    save_mdl("run/checkpoint_3.mdl", tree, overwrite=True)
    assert "wafersparse.position" in refused(config(steps=6))


def test_a_dense_trainer_before_a_sparse_one_in_one_directory(place):
    """What is done is passed over, though its model has no masks and the last checkpoint has."""
    fitted(config(steps=3))
    masks_of("run/checkpoint_3.mdl")
    shutil.rmtree("run")
    first = yaml.safe_load(Path(config("first.yaml", steps=3)).read_text())
    second = yaml.safe_load(Path(config("second.yaml", steps=6, callbacks=with_masks())).read_text())
    Path("both.yaml").write_text(yaml.safe_dump({"trainer": [first, second]}))
    fitted("both.yaml")
    result = run("fit", "both.yaml")
    assert "is reached" in result.stderr, result.stderr
    cut_after(3, "run", "run_cut")
    shutil.rmtree("run")
    Path("run_cut").rename("run")
    fitted("both.yaml")
    assert Path("run/checkpoint_6.mdl").exists()


def test_keep_counts_the_checkpoints_before_an_interruption(place):
    path = config(loop={"max_steps": 12, "eval_frequency": None}, checkpoint={"steps": 2})
    fitted(path, "-o", "whole")
    cut_after(6)
    shutil.rmtree("whole")
    Path("cut").rename("whole")
    shutil.copy("whole/checkpoint_2.mdl", "whole/checkpoint_1.mdl")  # not of this run: it stays
    fitted(path, "-o", "whole", "--keep", "2")
    assert sorted(file.name for file in Path("whole").glob("*.mdl")) == [
        "checkpoint_1.mdl",
        "checkpoint_10.mdl",
        "checkpoint_12.mdl",
    ]


def test_a_checkpoint_that_is_not_gone_on_from_is_told(place):
    """The config names its start, which wins over what a killed run has saved."""
    fitted(config(steps=3), "-o", "base")
    start = str(Path("base/checkpoint_3.mdl").resolve())
    path = config(loop={"max_steps": 9, "eval_frequency": None})
    fitted(path, "-o", "run", "--checkpoint_path", start)
    assert "to go on instead" not in run("fit", path, "-o", "fresh", "--checkpoint_path", start).stderr
    said = fitted(path, "-o", "run", "--checkpoint_path", start).stderr
    assert "to go on instead, add --checkpoint_path run/checkpoint_9.mdl" in said


def test_masks_of_another_checkpoint_are_told(place):
    for seed in (1, 2):
        fitted(config(steps=3, seed=seed), "-o", f"dense_{seed}")
    command = ["masks", "dense_1/checkpoint_3.mdl", "--sparsity", "0.5", "--out", "masks"]
    assert CliRunner().invoke(main, command).exit_code == 0
    (made,) = Path("masks").rglob("*.safetensors")
    made.rename("masks.safetensors")
    path = config(callbacks=with_masks())
    said = fitted(path, "-o", "right", "--checkpoint_path", "dense_1/checkpoint_3.mdl").stderr
    assert "computed from another file" not in said
    said = fitted(path, "-o", "wrong", "--checkpoint_path", "dense_2/checkpoint_3.mdl").stderr
    assert "masks.safetensors was computed from another file than dense_2/checkpoint_3.mdl" in said
    said = fitted(config(steps=9, callbacks=with_masks()), "-o", "wrong").stderr
    assert "computed from another file" not in said, "the run goes on"
