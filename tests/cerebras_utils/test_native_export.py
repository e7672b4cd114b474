"""Masks inside a checkpoint: what is written, what is carried over, what is refused."""

from pathlib import Path

import pytest
import torch

from cerebras_utils import native_export
from cerebras_utils.fallback.mdl_reader import load_mdl
from cerebras_utils.fallback.mdl_writer import save_mdl
from cerebras_utils.native_export import RECEIPT, plan_export, write_export
from cerebras_utils.rewriting.request import read_masks
from pruning.mask_ops import save_mask
from pruning.problems import ProblemError
from tests.cerebras_utils.fallback.tiny_runs import equal

LINEAR, HEAD, EMBEDDING = (
    "model.a.weight",
    "model.lm_head.weight",
    "model.embedding_layer.word_embeddings.weight",
)


@pytest.fixture
def state(tmp_path, monkeypatch):
    """A checkpoint with optimizer state, a tied head stored twice, and weights in bf16."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(native_export, "_STEP", 16)  # several pieces of each tensor
    generator = torch.Generator().manual_seed(0)
    words = torch.randn(6, 5, generator=generator)
    model = {
        EMBEDDING: words,
        LINEAR: torch.randn(7, 9, generator=generator).bfloat16(),
        "model.a.bias": torch.randn(7, generator=generator),
        HEAD: words.clone(),
    }
    moments = {0: {"exp_avg": torch.ones(6, 5)}}
    state = {
        "model": model,
        "optimizer": {"state": moments, "param_groups": [{"params": [0]}]},
        "global_step": 5,
    }
    save_mdl("c.mdl", {**state, "sparsity": {}})
    return state


def masks_in(path="m.safetensors", **masks):
    """By the names above."""
    names = {"linear": LINEAR, "head": HEAD, "embedding": EMBEDDING}
    save_mask({names[key]: mask for key, mask in masks.items()}, path)
    return read_masks(path)


def random(*shape):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(1)) > 0.4


def exported(masks, mode="sparse_to_sparse", source="c.mdl", target="out.mdl"):
    plan = plan_export(source, masks, mode)
    assert write_export(plan, Path(target)) == "write"
    return plan, load_mdl(target)


def test_masked_weights_and_masks_beside_them_and_the_rest_as_it_was(state):
    mask = random(7, 9)
    plan, tree = exported(masks_in(linear=mask))
    receipt = tree.pop(RECEIPT)
    assert set(receipt) == {"masks", "checkpoint", "mode"}
    expected = {**state, "model": dict(state["model"])}
    expected["model"][LINEAR] = torch.where(
        mask, state["model"][LINEAR], torch.zeros((), dtype=torch.bfloat16)
    )
    expected["model"][f"{LINEAR}_mask"] = mask
    assert equal(tree, expected)
    assert plan.groups == (
        {"sparsity": 1 - int(mask.sum()) / 63, "init_method": "random", "param_filter": LINEAR},
    )


@pytest.mark.parametrize("which", ["head", "embedding"])
def test_tied_weights_are_masked_alike_and_carry_one_mask(state, which):
    mask = random(6, 5)
    plan, tree = exported(masks_in(**{which: mask}))
    for name in (HEAD, EMBEDDING):
        assert torch.equal(tree["model"][name], state["model"][name] * mask)
    assert [name for name in tree["model"] if name.endswith("_mask")] == [f"{EMBEDDING}_mask"]
    assert [group["param_filter"] for group in plan.groups] == [EMBEDDING]


def test_tied_weights_with_two_masks(state):
    mask = random(6, 5)
    assert len(plan_export("c.mdl", masks_in(head=mask, embedding=mask), "sparse_to_sparse").groups) == 1
    with pytest.raises(ProblemError, match="keep one of the two"):
        plan_export("c.mdl", masks_in("n.safetensors", head=mask, embedding=~mask), "sparse_to_sparse")


def test_to_train_densely_the_weights_alone_are_masked(state):
    mask = random(7, 9)
    plan, tree = exported(masks_in(linear=mask), mode="sparse_to_dense")
    assert plan.groups == ()
    assert set(tree["model"]) == set(state["model"])
    assert not tree["model"][LINEAR][~mask].any()


def test_masks_of_a_run_that_was_sparse_before_give_way(state):
    state["model"][f"{LINEAR}_mask"] = torch.ones(7, 9, dtype=torch.bool)
    state["model"]["model.a.bias_mask"] = torch.ones(7, dtype=torch.bool)
    save_mdl("sparse.mdl", state)
    mask = random(7, 9)
    _, tree = exported(masks_in(linear=mask), source="sparse.mdl")
    assert torch.equal(tree["model"][f"{LINEAR}_mask"], mask)
    assert "model.a.bias_mask" not in tree["model"]


def test_a_torch_file_gives_its_weights(state):
    torch.save({"model": state["model"], "optimizer": {}}, "c.pt")
    mask = random(7, 9)
    plan, tree = exported(masks_in(linear=mask), source="c.pt")
    assert "only the weights are carried over" in plan.lines[-1]
    assert torch.equal(tree["model"]["model.a.bias"], state["model"]["model.a.bias"])
    assert not tree["model"][LINEAR][~mask].any()


def test_finished_files_are_kept_and_others_never_replaced(state):
    masks = masks_in(linear=random(7, 9))
    plan, _ = exported(masks)
    before = Path("out.mdl").stat().st_mtime_ns
    assert write_export(plan, Path("out.mdl")) == "keep"
    other = plan_export("c.mdl", masks_in("n.safetensors", linear=~random(7, 9)), "sparse_to_sparse")
    for taken in ("out.mdl", "c.mdl", "m.safetensors"):
        with pytest.raises(ProblemError, match="was not made from these"):
            write_export(other, Path(taken))
    assert Path("out.mdl").stat().st_mtime_ns == before


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_a_mask_would_hide_is_refused(state, value):
    mask = torch.ones(7, 9, dtype=torch.bool)
    mask[3, 3] = False
    state["model"][LINEAR][3, 3] = value
    save_mdl("broken.mdl", state)
    plan = plan_export("broken.mdl", masks_in(linear=mask), "sparse_to_sparse")
    with pytest.raises(ProblemError, match="would hide 1 values"):
        write_export(plan, Path("out.mdl"))
    assert [path for path in Path().iterdir() if "out.mdl" in path.name] == []


def test_bad_checkpoints(state):
    masks = masks_in(linear=random(7, 9))
    torch.save(state["model"], "bare.pt")
    save_mdl("foreign.mdl", {"model": {LINEAR: state["model"][LINEAR], "other": torch.ones(1)}})
    save_mdl("shape.mdl", {"model": {LINEAR: torch.ones(2, 2)}})
    save_mdl("missing.mdl", {"model": {"model.b.weight": torch.ones(2, 2)}})
    for file, said in {
        "bare.pt": 'no weights under "model"',
        "foreign.mdl": "1 keys do not begin with",
        "shape.mdl": "is of shape",
        "missing.mdl": "has no parameter",
        "none.mdl": "does not exist",
    }.items():
        with pytest.raises(ProblemError, match=said):
            plan_export(file, masks, "sparse_to_sparse")
