"""Merging tensors: what comes out, what it cost, slice by slice, and against PEFT."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from pruning.lora.arithmetic import updated
from pruning.lora.merge import MergeCost, find_factors, merge_rows, report, sides
from pruning.problems import ProblemError
from pruning.sparse_lora import SparseLoRAConfig, apply_sparse_lora, merge_all_lora_weights


def random_layer(seed, rows, columns, r, sparsity=0.5):
    g = torch.Generator().manual_seed(seed)
    weight = torch.randn(rows, columns, generator=g)
    mask = torch.rand(rows, columns, generator=g) >= sparsity
    weight = weight * mask
    return weight, mask, torch.randn(rows, r, generator=g), torch.randn(r, columns, generator=g)


SHAPES = {
    "seed": st.integers(0, 2**16),
    "rows": st.integers(1, 9),
    "columns": st.integers(1, 9),
    "r": st.integers(1, 9),
    "sparsity": st.sampled_from([0.0, 0.3, 0.9, 1.0]),
    "trained": st.sampled_from(["dense", "masked", "multiplicative"]),
}


def rounded(left, right):
    """How far products in fp32 may be off: by the size of their terms, which may cancel."""
    return 1e-6 * (left.abs() @ right.abs()).double()


@settings(max_examples=60, deadline=None)
@given(**SHAPES)
def test_zeros_stay_zeros_whatever_was_trained(seed, rows, columns, r, sparsity, trained):
    weight, mask, left, right = random_layer(seed, rows, columns, r, sparsity)
    merged, cost = merge_rows(weight, left, right, scaling=0.7, trained=trained, mask=mask)
    assert not merged[~mask].any()
    assert cost.resurrected == 0
    assert cost.zeros_after == int((merged == 0).sum())
    assert cost.zeros_after - cost.zeros_before == cost.newly_dead
    gate = {"dense": None, "masked": mask, "multiplicative": weight}[trained]
    computed = updated(weight, left, right, 0.7, gate)
    if trained == "dense":
        assert torch.equal(merged[mask], computed[mask])
        update, rounding = 0.7 * (left.double() @ right.double()), rounded(0.7 * left, right)
        dropped, size = update[~mask], float(update.norm())
        share = float(dropped.norm()) / size
        assert cost.dropped_share == pytest.approx(share, abs=float(rounding.norm()) / size)
        largest = float(dropped.abs().max()) if dropped.numel() else 0.0
        assert cost.max_dropped == pytest.approx(largest, abs=float(rounding.max()))
    else:
        assert torch.equal(merged, computed)
        assert cost.dropped_share == cost.max_dropped == 0


@settings(max_examples=30, deadline=None)
@given(**SHAPES, cut=st.integers(0, 9))
def test_slices_of_rows_and_their_costs_add_up(seed, rows, columns, r, sparsity, trained, cut):
    weight, mask, left, right = random_layer(seed, rows, columns, r, sparsity)
    whole, cost = merge_rows(weight, left, right, scaling=2.0, trained=trained, mask=mask)
    parts = [
        merge_rows(weight[rows_], left[rows_], right, scaling=2.0, trained=trained, mask=mask[rows_])
        for rows_ in (slice(0, cut), slice(cut, None))
        if weight[rows_].numel()
    ]
    torch.testing.assert_close(torch.cat([merged for merged, _ in parts]), whole)
    summed = sum((part for _, part in parts), MergeCost())
    for name in ("numel", "zeros_before", "zeros_after", "resurrected", "newly_dead"):
        assert getattr(summed, name) == getattr(cost, name)
    rounding, size = rounded(2.0 * left, right), float((2.0 * left @ right).norm())
    if trained == "multiplicative":
        rounding, size = rounding * weight.abs(), float((2.0 * left @ right * weight).norm())
    share = pytest.approx(cost.dropped_share, abs=float(rounding.norm()) / size if size else 0)
    assert summed.dropped_share == share
    assert summed.max_update == pytest.approx(cost.max_update, abs=float(rounding.max()))


def test_a_dense_merge_counts_the_zeros_that_are_gone():
    weight, mask, left, right = random_layer(0, 8, 8, 2)
    merged, cost = merge_rows(weight, left, right, scaling=1.0, mask=mask, keep_sparsity=False)
    assert torch.equal(merged, weight + left @ right)
    assert cost.resurrected == int((~mask).sum())
    assert cost.sparsity_after == 0
    _, unmasked = merge_rows(weight, left, right, scaling=1.0, keep_sparsity=False)
    assert unmasked.resurrected == cost.resurrected


def test_a_weight_that_the_update_cancels_is_newly_dead():
    weight, left, right = torch.tensor([[1.0, 2.0]]), torch.tensor([[-1.0]]), torch.tensor([[1.0, 1.0]])
    merged, cost = merge_rows(weight, left, right, scaling=1.0, mask=torch.ones(1, 2, dtype=torch.bool))
    assert merged.tolist() == [[0.0, 1.0]]
    assert (cost.newly_dead, cost.resurrected) == (1, 0)
    assert report({"l": cost})["global"]["newly_dead"] == 1


@pytest.mark.parametrize("where", [0, 1, 2])
def test_what_is_not_finite_is_refused_and_named(where):
    weight, mask, left, right = random_layer(0, 4, 4, 2)
    tensors = [weight, left, right]
    tensors[where][0, 0] = float("nan")
    mask[0, 0] = False
    with pytest.raises(ProblemError, match=r"model\.q_proj\n.*NaN or infinite"):
        merge_rows(*tensors, scaling=1.0, mask=mask, where="model.q_proj")


def test_factors_are_found_by_name_and_those_that_are_missing_told():
    names = [f"m.{layer}.{part}" for layer in "ab" for part in ("weight", "bias", "lora_A", "lora_B")]
    assert find_factors(names, "c.mdl")["m.a"] == ("m.a.weight", "m.a.lora_A", "m.a.lora_B")
    with pytest.raises(ProblemError) as caught:
        find_factors([name for name in names if name not in ("m.a.lora_B", "m.b.weight")], "c.mdl")
    assert [p.where for p in caught.value.problems] == ["c.mdl: m.a.lora_B", "c.mdl: m.b.weight"]
    with pytest.raises(ProblemError, match="merged already"):
        find_factors(["m.a.weight", "m.a.bias"], "c.mdl")


def test_sides_of_a_linear_and_of_an_embedding():
    a, b = torch.randn(2, 5), torch.randn(7, 2)
    assert sides((7, 5), a, b, "x") == (b, a)
    left, right = sides((5, 7), a, b, "x")
    assert left.shape == (5, 2)
    assert right.shape == (2, 7)
    a, b = torch.randn(2, 5), torch.randn(5, 2)
    assert sides((5, 5), a, b, "x") == (b, a)
    assert torch.equal(sides((5, 5), a, b, "x", embedding=True)[0], a.t())
    for shape, first, second in (((7, 6), a, b), ((5, 5), a, torch.randn(5, 3)), ((5,), a, b)):
        with pytest.raises(ProblemError, match="no factors of a weight"):
            sides(shape, first, second, "x")


def test_peft_merges_the_same(recwarn):
    peft = pytest.importorskip("peft", reason="needs peft, which is no dependency: pip install peft")
    torch.manual_seed(0)
    theirs = nn.Sequential(nn.Embedding(11, 8), nn.Linear(8, 12), nn.GELU(), nn.Linear(12, 8))
    ours = nn.Sequential(nn.Embedding(11, 8), nn.Linear(8, 12), nn.GELU(), nn.Linear(12, 8))
    ours.load_state_dict(theirs.state_dict())
    config = peft.LoraConfig(
        r=4, lora_alpha=12, target_modules=["0", "1", "3"], rank_pattern={"3": 2}, use_rslora=True
    )
    wrapped = peft.get_peft_model(theirs, config)
    apply_sparse_lora(
        ours,
        None,
        SparseLoRAConfig(
            r=4, alpha=12, target_modules=None, ranks={"3.weight": 2}, rank_stabilized=True,
            preserve_sparsity_on_merge=False,
        ),
    )  # fmt: skip
    values = {}
    for name, parameter in ours.named_parameters():
        if "lora_" in name:
            values[name] = nn.init.normal_(parameter.data)
    for name, parameter in wrapped.named_parameters():
        if "lora_" in name:
            layer = name.split("base_model.model.")[1].split(".lora_")[0]
            factor = "lora_A" if "_A" in name else "lora_B"
            parameter.data.copy_(values[f"{layer}.{factor}"])
    x = torch.arange(11)
    torch.testing.assert_close(ours(x), wrapped(x), rtol=0, atol=1e-5)
    merged, expected = merge_all_lora_weights(ours), wrapped.merge_and_unload()
    for name, weight in expected.state_dict().items():
        assert (merged.state_dict()[name] - weight).abs().max() <= 1e-6, name
