"""Whole runs from a YAML, on plain PyTorch: masks held, resumed bit for bit, refused where they must be."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from cerebras_utils.fallback.mdl_reader import load_mdl
from cerebras_utils.fallback.mdl_writer import save_mdl
from pruning.mask_ops import save_mask
from tests.cerebras_utils.fallback.tiny_runs import (
    LAYER,
    config,
    dense,
    drop_step_counts,
    equal,
    fitted,
    masks_of,
    refused,
    run,
    scalars,
    with_masks,
)


@pytest.mark.parametrize(
    "every_step",
    [pytest.param(None, marks=pytest.mark.slow), True, pytest.param(False, marks=pytest.mark.slow)],
    ids=["dense", "every step", "once"],
)
def test_a_resumed_run_is_the_run_that_was_not_interrupted(place, every_step):
    """Weights, optimizer, schedules, dropout's random numbers and the position in the data."""
    callbacks = {}
    if every_step is not None:
        masks_of(dense())
        callbacks = {"callbacks": with_masks(every_step)}
    fitted(config(steps=6, **callbacks), "-o", "whole")
    fitted(config(steps=3, **callbacks), "-o", "halves")
    fitted(config(steps=6, **callbacks), "-o", "halves")
    whole, halves = (load_mdl(Path(d, "checkpoint_6.mdl")) for d in ("whole", "halves"))
    for tree in (whole, halves):
        del tree["__metadata__"]  # the params, which differ in max_steps
        for scheduler in tree["schedulers"]:
            drop_step_counts(scheduler)
    assert equal(whole, halves)
    assert scalars("whole")["loss"] == scalars("halves")["loss"]


@pytest.mark.parametrize("optimizer", ["AdamW", "Adam", "SGD"])
def test_zeros_stay_zero_in_weights_and_state(place, optimizer):
    section = {"momentum": 0.9, "weight_decay": 0.1} if optimizer == "SGD" else {"weight_decay": 0.1}
    start = dense(optimizer={optimizer: section})
    masks = masks_of(start)
    options = {"optimizer": {optimizer: section}, "callbacks": with_masks()}
    result = fitted(config(steps=9, **options), "-o", "sparse", "--checkpoint_path", start, "--json")
    tree = load_mdl(Path("sparse/checkpoint_9.mdl"))
    assert len(masks) == 12
    for name, mask in masks.items():
        assert not tree["model"][name][~mask].any()
        assert tree["model"][name][mask].all()
        assert torch.equal(tree["model"][f"{name}_mask"], mask)
    states = [v for s in tree["optimizer"]["state"].values() for v in s.values() if v.ndim == 2]
    sparse = [value for value in states if (value == 0).float().mean() >= 0.5]
    assert len(sparse) == len(states) * 12 // 14  # all but the embeddings' two
    receipt = json.loads(result.stdout)[0]["masks"][0]
    assert (receipt["resurrected"], receipt["newly_dead"]) == (0, 0)
    assert {layer["sparsity"] for layer in receipt["layers"].values()} == {0.5}


def test_masked_training_is_a_plain_loop_that_masks_after_every_step(place, device):
    """The oracle: ``w *= mask`` after each optimizer step, on weights and on moments."""
    from cerebras_utils.fallback.data.loader import make_loader
    from cerebras_utils.fallback.models.build import build_model
    from cerebras_utils.fallback.optim.build import make_optimizer, make_schedulers

    start = dense()
    masks = masks_of(start)
    model_section = {
        **yaml.safe_load(Path("c.yaml").read_text())["trainer"]["init"]["model"],
        "dropout_rate": 0.0,
        "embedding_dropout_rate": 0.0,
        "attention_dropout_rate": 0.0,
    }
    path = config(steps=10, callbacks=with_masks(), model=model_section)
    fitted(path, "-o", "sparse", "--checkpoint_path", start)

    params = yaml.safe_load(Path(path).read_text())["trainer"]
    tree = load_mdl(Path(start))
    model = build_model(params["init"]["model"]).to(device)
    model.load_state_dict(tree["model"])
    optimizer = make_optimizer(params["init"]["optimizer"], model.named_parameters())
    schedulers = make_schedulers(params["init"]["schedulers"], optimizer)
    optimizer.load_state_dict(tree["optimizer"])
    for scheduler, state in zip(schedulers, tree["schedulers"], strict=True):
        scheduler.load_state_dict(state)
    loader = make_loader(params["fit"]["train_dataloader"], seed=1, where="train")
    loader.load_state_dict(tree["dataloader"])
    weights = {name: p for name, p in model.named_parameters() if name in masks}
    masks = {name: mask.to(device) for name, mask in masks.items()}

    def mask_everything():
        with torch.no_grad():
            for name, weight in weights.items():
                weight *= masks[name]
                for value in optimizer.state[weight].values():
                    if value.shape == weight.shape:
                        value *= masks[name]

    mask_everything()
    losses = []
    for _, batch in zip(range(7), loader, strict=False):
        loss = model({name: value.to(device) for name, value in batch.items()}).loss
        loss.backward()
        for name, weight in weights.items():
            weight.grad *= masks[name]
        trained_in_order = [p for group in optimizer.param_groups for p in group["params"]]
        torch.nn.utils.clip_grad_norm_(trained_in_order, 0.5)
        optimizer.step()
        mask_everything()
        optimizer.zero_grad()
        for scheduler in schedulers:
            scheduler.step()
        losses.append(loss.item())
    found = scalars("sparse")["loss"]
    assert [found[step] for step in range(4, 11)] == pytest.approx(losses, abs=1e-7)
    trained = load_mdl(Path("sparse/checkpoint_10.mdl"))["model"]
    assert max((trained[n] - p.detach().cpu()).abs().max().item() for n, p in model.named_parameters()) < 1e-7


def test_once_prunes_the_start_and_trains_densely(place):
    start = dense()
    masks = masks_of(start)
    fitted(config(steps=4, callbacks=with_masks(False)), "-o", "a", "--checkpoint_path", start)
    fitted(config(steps=4, callbacks=with_masks(True)), "-o", "b", "--checkpoint_path", start)
    assert scalars("a")["loss"][4] == scalars("b")["loss"][4], "the first loss is of the same weights"
    grown = load_mdl(Path("a/checkpoint_4.mdl"))["model"]
    assert all(grown[name][~mask].any() for name, mask in masks.items())
    assert not any(name.endswith("_mask") for name in grown)


def test_gradient_accumulation_counts_batches_as_modelzoo_does(place):
    masks_of(dense())
    loop = {"max_steps": 8, "eval_frequency": None, "grad_accum_steps": 2}
    result = fitted(config(loop=loop, callbacks=with_masks()), "-o", "sparse")
    assert "8 of them are 4 steps of the optimizer, where a CS-3 makes 8" in result.stderr
    assert "checkpoint.steps 3 is no multiple of 2: it cuts an accumulation in two" in result.stderr
    tree = load_mdl(Path("sparse/checkpoint_4.mdl"))
    assert tree["global_step"] == 4
    assert tree["dataloader"]["samples_streamed"] == 8 * 4
    assert not any(tree["model"][name][~mask].any() for name, mask in masks_in("masks.safetensors"))


def masks_in(path):
    from pruning.mask_ops import load_mask

    return list(load_mask(path)[0].items())


def test_validation_while_fitting_and_alone(place):
    loop = {"max_steps": 6, "eval_frequency": 3, "eval_steps": 2}
    fitted(config(loop=loop))
    found = scalars()
    assert set(found["validate_0/loss"]) == {3, 6}
    assert found["validate_0/eval/lm_perplexity"][6] == pytest.approx(
        np.exp(found["validate_0/loss"][6]), rel=1e-5
    )
    assert 0 <= found["validate_0/eval/accuracy"][6] <= 1
    alone = run("validate", config(loop=loop), "-o", "alone", "--checkpoint_path", "run/checkpoint_6.mdl")
    assert alone.exit_code == 0, alone.output
    assert scalars("alone")["validate_0/loss"][6] == pytest.approx(found["validate_0/loss"][6], abs=1e-7)


def test_all_problems_at_once_and_nothing_is_written(place):
    path = config(
        model={"name": "gtp2"}, optimizer={"AdmaW": {}}, callbacks=[{"SparseMaskCalback": {}}], seed="1e-5"
    )
    text = refused(path)
    for meant in ("gpt2", "AdamW", "SparseMaskCallback"):
        assert f"'{meant}'" in text or meant in text
    assert not Path("run").exists()
    assert run("fit", config(), "--dry-run").exit_code == 0
    assert not Path("run").exists()


def test_a_checkpoint_that_does_not_fit_is_never_trained_from_random_weights(place):
    start = dense()
    tree = load_mdl(Path(start))
    weight = f"{LAYER}.self_attn.proj_q_dense_layer.weight"
    for change, says in (
        (lambda m: m.update({weight: torch.zeros(8, 16)}), "is of shape (8, 16)"),
        (lambda m: m.pop(weight), "1 of the model's"),
        (lambda m: m.update({"model.other": torch.zeros(2)}), "not the model's: model.other"),
        (lambda m: m.update({"foreign": m.pop(weight)}), "do not begin with 'model.'"),
    ):
        model = dict(tree["model"])
        change(model)
        Path("other.mdl").unlink(missing_ok=True)
        save_mdl(Path("other.mdl"), {**tree, "model": model})
        assert says in refused(config(), "-o", "other", "--checkpoint_path", "other.mdl")
    assert "absent.mdl" in refused(config(), "-o", "other", "--checkpoint_path", "absent.mdl")
    model = dict(tree["model"])
    model["model.ln_f.weight"] = model["model.ln_f.weight"] + 1
    save_mdl(Path("split.mdl"), {**tree, "model": model})
    text = refused(config(), "-o", "other", "--checkpoint_path", "split.mdl")
    assert "are one tensor in the model, and have different values" in text


def test_masks_that_do_not_fit(place):
    masks_of(dense())
    save_mask(
        {f"{LAYER}.absent.weight": torch.ones(2, 2, dtype=torch.bool)}, "masks.safetensors", overwrite=True
    )
    assert "absent" in refused(config(callbacks=with_masks()), "-o", "other")
    name = f"{LAYER}.self_attn.proj_q_dense_layer.weight"
    save_mask({name: torch.ones(8, 8, dtype=torch.bool)}, "masks.safetensors", overwrite=True)
    assert "(16, 16)" in refused(config(callbacks=with_masks()), "-o", "other")
    Path("masks.safetensors").unlink()
    assert "masks.safetensors" in refused(config(callbacks=with_masks()), "-o", "other")


def test_a_resumed_run_must_have_the_masks_it_began_with(place):
    masks_of(dense())
    fitted(config(steps=3, callbacks=with_masks()), "-o", "sparse")
    assert "are not the model's" in refused(config(), "-o", "sparse")
    name, mask = masks_in("masks.safetensors")[0]
    changed = dict(masks_in("masks.safetensors"))
    changed[name] = mask.flip(0)
    save_mask(changed, "masks.safetensors", overwrite=True)
    differ = int((mask != mask.flip(0)).sum())
    assert f"in {differ} of {mask.numel()} weights" in refused(config(callbacks=with_masks()), "-o", "sparse")


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_last_good_checkpoint(place):
    start = dense()
    tree = load_mdl(Path(start))
    tree["model"] = {
        n: torch.full_like(t, float("nan")) if n.endswith(("ln_f.weight", "decoder.norm.weight")) else t
        for n, t in tree["model"].items()
    }
    save_mdl(Path("bad.mdl"), tree)
    result = run("fit", config(), "-o", "bad", "--checkpoint_path", "bad.mdl")
    assert result.exit_code == 1
    assert "the loss of step 4 is nan" in result.stderr
    assert not list(Path("bad").glob("*.mdl"))
    assert json.loads(Path("bad/run.json").read_text())["state"] == "failed"


def test_what_a_run_leaves(place):
    fitted(config())
    names = {p.name for p in Path("run").iterdir()}
    assert {
        "checkpoint_3.mdl",
        "checkpoint_6.mdl",
        "checkpoints_index.yaml",
        "events",
        "run.json",
        "latest_run.log",
    } <= names
    receipt = json.loads(Path("run/run.json").read_text())
    assert receipt["state"] == "finished"
    assert receipt["steps"] == 6
    assert [c["step"] for c in receipt["checkpoints"]] == [3, 6]
    found = scalars()
    assert found["lr/0"][1] == 0
    assert found["lr/0"][3] == pytest.approx(0.01 * 2 / 3)
    fitted(config(steps=12), "-o", "kept", "--keep", "2")
    assert sorted(p.name for p in Path("kept").glob("*.mdl")) == ["checkpoint_12.mdl", "checkpoint_9.mdl"]


def test_only_the_weights_of_a_checkpoint(place):
    start = dense()
    fitted(
        config(steps=3, callbacks=[{"LoadCheckpointStates": {"load_checkpoint_states": "model"}}]),
        "-o",
        "other",
        "--checkpoint_path",
        start,
    )
    assert load_mdl(Path("other/checkpoint_3.mdl"))["dataloader"]["samples_streamed"] == 12
    assert scalars("other")["lr/0"][1] == 0


def test_nothing_left_to_do_is_said(place):
    fitted(config(steps=3))
    assert "nothing is left to do: step 3 is reached" in refused(config(steps=3))
