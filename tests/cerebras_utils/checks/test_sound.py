"""A run with nothing wrong is silent, and every check is seen to be made on one."""

import pytest

from cerebras_utils.checks.registry import CHECKS, Estimate, NotMade
from cerebras_utils.doctor import entries, examine

from .conftest import linear

LORA = {"r": 2, "alpha": 4, "target_modules": ["TransformerDecoderLayer", "Linear"]}


def masked(run):
    """As it is."""


def with_header(run):
    pass


def validating(run):
    run.config["trainer"]["validate"] = {
        "val_dataloader": run.fit["val_dataloader"],
        "ckpt_path": run.bench.checkpoint,
    }


def restarting(run):
    run.init["autorestart"] = {"max_num_restarts": 2}


def lora(run):
    run.add("Lora", lora_params=dict(LORA))


def sparse_lora(run):
    run.init["backend"]["backend_type"] = "CPU"  # on a CSX a warning says what is not known
    run.add("SparseLora", lora_params=dict(LORA))


def native(run):
    run.init["callbacks"] = []
    run.init["sparsity"] = {"sparsity": 0.5, "param_filter": ["*linear_layer.weight"]}
    state = dict(run.bench.state)
    for name, weight in run.bench.state.items():
        if name.endswith("linear_layer.weight"):
            state[f"{name}_mask"] = (weight.flatten().argsort().argsort() % 2 == 0).view(weight.shape)
    run.fit["ckpt_path"] = run.bench.save("native.mdl", {"model": state})


def native_lora(run):
    """No sound config has both frozen weights and native sparsity but with masked factors."""
    native(run)
    lora(run)
    run.init["sparsity"]["param_filter"] += ["*lora_A"]


def masks_inside(run):
    from pruning.masks.file import MaskFile

    with MaskFile(run.bench.masks) as file:
        masks = {f"{name}_mask": file.mask(name) for name in file.names}
    path = run.bench.save("inside.mdl", {"model": {**run.bench.state, **masks}})
    run.fit["ckpt_path"] = path


SOUND = {  # check: a run on which it is made and silent; where it is not here, the masked run is
    "checkpoint.validate_start": validating,
    "checkpoint.optimizer_state": lora,
    "config.autorestart": restarting,
    "masks.as_in_checkpoint": masks_inside,
    **{f"sparsity.{name}": native for name in ("form", "beside_masks", "algorithm", "level", "changes")},
    **{f"sparsity.{name}": native for name in ("filters", "default_filter", "hints", "dynamic_resume")},
    **{f"sparsity.{name}": native_lora for name in ("from_zeros", "frozen")},
    **{f"lora.{name}": lora for name in ("settings", "merge_weights")},
    "lora.masked_update": sparse_lora,
}
ELSEWHERE = {  # with the reason why a test of its own shows them
    "config.schema": "needs ModelZoo",
    "config.registered": "needs ModelZoo",
    "masks.stated_digest": "needs the header that the rewriter writes",
}


@pytest.mark.parametrize("name", [entry.name for entry in entries() if entry.name not in ELSEWHERE])
def test_a_sound_run_is_silent(run, name):
    SOUND.get(name, masked)(run)
    assert [found for found in run.check(name) if not isinstance(found, Estimate)] == []


@pytest.mark.parametrize("change", [masked, validating, restarting, lora, sparse_lora, native, masks_inside])
def test_nothing_else_is_found_in_it(run, change):
    change(run)
    report = examine(run.file(), modelzoo=False)
    assert (report.problems, report.warnings) == ([], [])
    assert len(report.made) + len(report.not_made) == len(entries())


def test_a_dense_baseline_is_sound(run):
    run.init["callbacks"] = []
    report = examine(run.file(), modelzoo=False)
    assert (report.problems, report.warnings) == ([], [])
    reasons = dict(report.not_made)
    assert reasons["masks.intact"] == "the config names no masks: it has no SparseMaskCallback"


def test_without_a_checkpoint_it_is_said_what_was_not_made(run):
    del run.fit["ckpt_path"]
    report = examine(run.file(), modelzoo=False)
    assert (report.problems, report.warnings) == ([], [])
    reasons = dict(report.not_made)
    assert "none is given with --checkpoint" in reasons["checkpoint.prefix"]
    assert "none is given with --checkpoint" in reasons["masks.of_this_checkpoint"]
    assert "masks.names" not in reasons, "the model section knows the weights"


def test_every_trainer_of_a_list_is_checked_and_named(run):
    second = {
        "trainer": {**run.config["trainer"], "init": {**run.init, "schedulers": [linear(0.0, 1.0, 999)]}}
    }
    run.config = {"trainer": [run.config, second]}
    report = examine(run.file(), modelzoo=False)
    ((name, problem),) = report.problems
    assert name == "schedule.warm_up"
    assert "trainer[1].trainer.init.schedulers[0].LinearLR.total_iters" in problem.where
    assert any(reason.startswith("trainer[1].trainer: ") for _, reason in report.not_made)


def test_no_estimate_is_called_anything_else(run):
    estimates = examine(run.file(), modelzoo=False).to_json()["estimates"]
    assert {found["name"] for found in estimates} == {"training_flop_ratio", "checkpoint_bytes"}
    assert all("estimated" in found and found["how"] for found in estimates)


def test_a_reason_is_no_finding(run):
    run.init["callbacks"] = []
    with pytest.raises(NotMade, match="names no masks"):
        run.check("masks.intact")


def test_every_check_says_what_it_finds():
    assert all(CHECKS[name].says.endswith(".") for name in CHECKS)
