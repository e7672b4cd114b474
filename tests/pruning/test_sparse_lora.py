"""LoRA on sparse models as its users call it: the documented examples, what is equal, what is refused."""

import copy
import logging

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from pruning.mask_generator import compute_unstructured_mask
from pruning.mask_ops import load_mask, save_mask
from pruning.problems import ProblemError
from pruning.sparse_lora import (
    SparseLoRAConfig,
    apply_sparse_lora,
    merge_all_lora_weights,
    validate_sparsity_preserved,
)


class Net(nn.Module):
    """Token ids to logits."""

    def __init__(self, hidden=16, inner=24, vocabulary=20):
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, hidden)
        self.norm = nn.LayerNorm(hidden)
        self.up = nn.Linear(hidden, inner)
        self.down = nn.Linear(inner, hidden, bias=False)
        self.head = nn.Linear(hidden, vocabulary)

    def forward(self, ids):
        x = self.embedding(ids)
        return self.head(x + self.down(torch.tanh(self.up(self.norm(x)))))


IDS = torch.arange(20).view(4, 5)


@pytest.fixture
def model():
    torch.manual_seed(0)
    return Net()


def trained(model, steps=4, optimizer=torch.optim.AdamW, **options):
    """A few steps towards arbitrary labels; every factor is then other than zero."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = optimizer(parameters, lr=0.05, **options)
    model.train()
    for step in range(steps):
        loss = nn.functional.cross_entropy(model(IDS).flatten(0, 1), (IDS * 7 + step).flatten() % 20)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval()


# The documented examples


def test_example_configure_apply_train_merge_validate(model):
    masks = compute_unstructured_mask(model=model, sparsity=0.5, importance_metric="magnitude")
    original_masks = copy.deepcopy(masks)
    config = SparseLoRAConfig(
        r=16,
        alpha=32,
        dropout=0.05,
        target_modules=["Linear"],
        sparsity_mode="sparse_to_dense",
        initial_sparsity=0.5,
        preserve_sparsity_on_merge=True,
    )
    model = apply_sparse_lora(model, masks, config)
    trained(model)
    model = merge_all_lora_weights(model, preserve_sparsity=True)
    is_valid, report = validate_sparsity_preserved(model, original_masks)
    assert is_valid
    assert report["global"]["total_violations"] == 0
    is_valid, report = validate_sparsity_preserved(model, original_masks, tolerance=1e-6)
    assert is_valid
    assert f"{report['global']['violation_rate']:.2%}" == "0.00%"
    assert type(model.up) is nn.Linear


def test_example_sparse_to_dense_from_a_mask_file(model, tmp_path):
    path = tmp_path / "masks_70pct.pt"
    save_mask(
        compute_unstructured_mask(model, sparsity=0.7, global_pruning=True), path, metadata={"sparsity": 0.7}
    )
    masks, metadata = load_mask(path)
    assert metadata == {"sparsity": 0.7}
    config = SparseLoRAConfig(r=16, sparsity_mode="sparse_to_dense", preserve_sparsity_on_merge=True)
    model = apply_sparse_lora(model, masks, config)
    again = apply_sparse_lora(Net(), path, config)  # the file itself will do
    assert torch.equal(again.up.weight_mask, model.up.weight_mask)
    assert not model.up.weight[~masks["up.weight"]].any()
    assert model.up.lora_A.requires_grad


def test_example_sparse_to_sparse(model):
    masks = compute_unstructured_mask(model, 0.7)
    config = SparseLoRAConfig(
        r=16, sparsity_mode="sparse_to_sparse", maintain_sparsity=True, preserve_sparsity_on_merge=True
    )
    model = apply_sparse_lora(model, masks, config)
    trained(model)
    assert validate_sparsity_preserved(model, masks)[0]  # before the merge as after it
    assert validate_sparsity_preserved(merge_all_lora_weights(model), masks)[0]


# What is equal


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 999),
    hidden=st.integers(2, 12),
    inner=st.integers(2, 12),
    r=st.integers(1, 2),
    sparsity=st.sampled_from([0.1, 0.5, 0.9]),
    mode=st.sampled_from(["sparse_to_sparse", "multiplicative"]),
    dropout=st.sampled_from([0.0, 0.3]),
    targets=st.sampled_from([None, ("Linear",), ("*down*",), ("Embedding",)]),
)
def test_the_merged_model_is_the_trained_function_and_as_sparse(
    seed, hidden, inner, r, sparsity, mode, dropout, targets
):
    torch.manual_seed(seed)
    model = Net(hidden, inner)
    masks = {
        name: torch.rand(weight.shape) >= sparsity
        for name, weight in model.named_parameters()
        if weight.ndim == 2
    }
    if targets == ("Embedding",):
        dropout = 0.0
    apply_sparse_lora(
        model, masks, SparseLoRAConfig(r=r, target_modules=targets, sparsity_mode=mode, dropout=dropout)
    )
    trained(model, steps=3)
    before = model(IDS)
    merge_all_lora_weights(model)
    assert (model(IDS) - before).abs().max() <= 1e-5
    assert all(not model.get_parameter(name)[~mask].any() for name, mask in masks.items())
    assert model.lora_merge_report["global"]["max_dropped"] == 0
    assert not any("lora" in name or "mask" in name for name in model.state_dict())


def test_a_dense_merge_is_the_trained_function_and_says_that_the_zeros_are_gone(model, caplog):
    masks = compute_unstructured_mask(model, 0.5)
    apply_sparse_lora(model, masks, SparseLoRAConfig(r=4))
    before = trained(model)(IDS)
    with caplog.at_level(logging.WARNING):
        merge_all_lora_weights(model, preserve_sparsity=False)
    torch.testing.assert_close(model(IDS), before, rtol=0, atol=1e-5)
    assert "weights that were zero are not" in caplog.text
    valid, report = validate_sparsity_preserved(model, masks)
    assert not valid
    assert report["global"]["violation_rate"] > 0.9
    assert report["per_layer"]["up.weight"]["max_violation"] > 0


def test_a_masked_merge_says_what_it_costs(model, caplog):
    masks = compute_unstructured_mask(model, 0.5)
    apply_sparse_lora(model, masks, SparseLoRAConfig(r=4))
    trained(model)
    update = (model.up.lora.scaling * model.up.lora_B @ model.up.lora_A).detach()
    dropped = update[~masks["up.weight"]]

    @torch.no_grad()
    def loss(net):
        return float(nn.functional.cross_entropy(net(IDS).flatten(0, 1), IDS.flatten()))

    expected = loss(model)
    with caplog.at_level(logging.WARNING):
        merge_all_lora_weights(model, preserve_sparsity=True, evaluate=loss)
    report = model.lora_merge_report
    layer = report["per_layer"]["up"]
    assert layer["max_dropped"] == pytest.approx(float(dropped.abs().max()))
    assert layer["dropped_share"] == pytest.approx(float(dropped.norm() / update.norm()))
    assert layer["sparsity_after"] == layer["sparsity_before"] == 0.5
    assert report["loss_before"] == expected
    assert report["loss_after"] == loss(model) != expected
    assert "of its norm is gone" in caplog.text
    assert "the loss from" in caplog.text


def test_the_configuration_decides_where_the_call_says_nothing(model):
    apply_sparse_lora(
        model, compute_unstructured_mask(model, 0.5), SparseLoRAConfig(r=4, preserve_sparsity_on_merge=False)
    )
    merge_all_lora_weights(trained(model))
    assert model.lora_merge_report["global"]["resurrected"] > 0


def test_names_order_and_what_is_trained(model):
    before = [name for name, _ in model.named_parameters()]
    apply_sparse_lora(
        model, compute_unstructured_mask(model, 0.5), SparseLoRAConfig(r=4, target_modules=["*up*"])
    )
    names = [name for name, _ in model.named_parameters()]
    assert [name for name in names if "lora" not in name] == before
    assert names.index("up.lora_A") == names.index("up.bias") + 1
    assert list(model.state_dict()) == names
    assert model.up.lora_A.shape == (4, 16)
    assert model.up.lora_B.shape == (24, 4)
    assert [n for n, p in model.named_parameters() if p.requires_grad] == ["up.lora_A", "up.lora_B"]
    merge_all_lora_weights(model)
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_norms_and_biases_are_trained_where_asked():
    model = apply_sparse_lora(Net(), None, SparseLoRAConfig(r=2, train_norms=True, target_modules=["*up*"]))
    free = [n for n, p in model.named_parameters() if p.requires_grad and "lora" not in n]
    assert free == ["norm.weight", "norm.bias"]
    model = apply_sparse_lora(Net(), None, SparseLoRAConfig(r=2, train_bias=True, target_modules=["*up*"]))
    free = [n for n, p in model.named_parameters() if p.requires_grad and "lora" not in n]
    assert free == ["norm.bias", "up.bias", "head.bias"]
    with pytest.raises(ProblemError, match=r"train_norms\n.*has no effect"):
        apply_sparse_lora(nn.Sequential(nn.Linear(4, 4)), None, SparseLoRAConfig(r=2, train_norms=True))


def test_the_first_values_come_from_the_seed(model):
    state = torch.get_rng_state()
    one, two = (
        apply_sparse_lora(copy.deepcopy(model), None, SparseLoRAConfig(r=4, seed=3, target_modules=None))
        for _ in range(2)
    )
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(one.up.lora_A, two.up.lora_A)
    assert one.up.lora_A.abs().max() <= 16**-0.5
    assert not one.up.lora_B.any()
    assert not one.embedding.lora_A.any()
    assert torch.equal(one(IDS), model(IDS))


def test_without_masks_a_sparsity_prunes_by_magnitude(model):
    expected = compute_unstructured_mask(model, 0.6)
    apply_sparse_lora(
        model, None, SparseLoRAConfig(r=4, initial_sparsity=0.6, sparsity_mode="sparse_to_sparse")
    )
    assert torch.equal(model.up.weight_mask, expected["up.weight"])
    assert validate_sparsity_preserved(model, expected)[0]


@pytest.mark.parametrize("optimizer", [torch.optim.AdamW, torch.optim.SGD])
def test_masked_factors_keep_their_zeros(model, optimizer, tmp_path):
    masks = compute_unstructured_mask(model, 0.5)
    masks["up.lora_A"] = torch.rand(4, 16) > 0.5
    masks["up.lora_B"] = torch.rand(24, 4) > 0.5
    save_mask(masks, tmp_path / "m.safetensors")
    apply_sparse_lora(model, tmp_path / "m.safetensors", SparseLoRAConfig(r=4))
    options = {"momentum": 0.9} if optimizer is torch.optim.SGD else {}
    before = trained(model, optimizer=optimizer, weight_decay=0.1, **options)(IDS)
    for factor in ("lora_A", "lora_B"):
        values = getattr(model.up, factor)
        assert not values[~masks[f"up.{factor}"]].any()
        assert values[masks[f"up.{factor}"]].all()
    torch.testing.assert_close(
        merge_all_lora_weights(model, preserve_sparsity=False)(IDS), before, rtol=0, atol=1e-5
    )


def test_zeros_hold_through_training_with_momentum_and_decay(model):
    masks = compute_unstructured_mask(model, 0.5)
    apply_sparse_lora(model, masks, SparseLoRAConfig(r=4, dropout=0.2, sparsity_mode="sparse_to_sparse"))
    trained(model, steps=8, weight_decay=0.1)
    merge_all_lora_weights(model)
    assert validate_sparsity_preserved(model, masks, tolerance=0.0)[0]


def test_half_precision_merges_to_what_was_computed():
    torch.manual_seed(0)
    model = Net().bfloat16()
    masks = compute_unstructured_mask(model, 0.5)
    apply_sparse_lora(model, masks, SparseLoRAConfig(r=4, sparsity_mode="sparse_to_sparse"))
    before = trained(model)(IDS)
    assert torch.equal(merge_all_lora_weights(model)(IDS), before)
    assert validate_sparsity_preserved(model, masks, tolerance=0.0)[0]


# What is refused


def refused(call, *words):
    with pytest.raises(ProblemError) as caught:
        call()
    text = str(caught.value)
    assert all(word in text for word in words), text
    return caught.value.problems


def test_masks_of_another_model_change_nothing(model):
    before = copy.deepcopy(model.state_dict())
    masks = compute_unstructured_mask(Net(hidden=8), 0.5) | {
        "other.weight": torch.ones(2, 2, dtype=torch.bool)
    }
    problems = refused(
        lambda: apply_sparse_lora(model, masks, SparseLoRAConfig(r=4)), "other.weight", "no parameter"
    )
    assert len(problems) == 1
    del masks["other.weight"]
    problems = refused(
        lambda: apply_sparse_lora(model, masks, SparseLoRAConfig(r=40, target_modules=["*up*"])),
        "of shape",
        "rank",
    )
    assert len(problems) == 4
    assert list(model.state_dict()) == list(before)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_sparsity_that_the_masks_do_not_have(model):
    masks = compute_unstructured_mask(model, 0.7)
    refused(
        lambda: apply_sparse_lora(model, masks, SparseLoRAConfig(r=4, initial_sparsity=0.5)),
        "initial_sparsity", "0.5", "drop 0.7004",
    )  # fmt: skip


def test_sparse_to_sparse_without_a_mask_for_any_of_its_layers(model):
    config = SparseLoRAConfig(r=4, sparsity_mode="sparse_to_sparse", target_modules=["*up*"])
    refused(lambda: apply_sparse_lora(model, None, config), "there are no masks")
    masks = {"down.weight": torch.ones(16, 24, dtype=torch.bool)}
    refused(lambda: apply_sparse_lora(model, masks, config), "no layer that gets factors has a mask")


def test_masks_of_factors_that_do_not_fit(model):
    masks = {
        "up.lora_A": torch.ones(3, 16, dtype=torch.bool),
        "up.lora_B": torch.zeros(24, 4, dtype=torch.bool),
        "head.lora_A": torch.ones(4, 16, dtype=torch.bool),
    }
    config = SparseLoRAConfig(r=4, target_modules=["*up*"])
    problems = refused(
        lambda: apply_sparse_lora(model, masks, config), "never train", "(4, 16)", "gets no factors"
    )
    assert len(problems) == 3


def test_merging_twice_and_merging_nothing(model):
    refused(lambda: merge_all_lora_weights(model), "no layer of the model has any")
    apply_sparse_lora(model, compute_unstructured_mask(model, 0.5), SparseLoRAConfig(r=4))
    merge_all_lora_weights(model)
    refused(lambda: merge_all_lora_weights(model), "merged already")


def test_a_base_that_was_merged_densely(model):
    masks = compute_unstructured_mask(model, 0.5)
    apply_sparse_lora(model, masks, SparseLoRAConfig(r=4))
    merge_all_lora_weights(trained(model), preserve_sparsity=False)
    refused(lambda: apply_sparse_lora(model, masks, SparseLoRAConfig(r=4)), "merged densely")
    apply_sparse_lora(model, None, SparseLoRAConfig(r=4))  # a dense base of its own is none of that


def test_factors_that_are_missing_or_broken_stop_the_merge_before_it_begins(model):
    apply_sparse_lora(model, compute_unstructured_mask(model, 0.5), SparseLoRAConfig(r=4))
    before = model.head.weight.clone()
    del model.up.lora_B
    model.down.lora_A.data[0, 0] = torch.inf
    problems = refused(lambda: merge_all_lora_weights(model), "has no lora_B", "NaN or infinite")
    assert [problem.where for problem in problems] == ["up", "down"]
    assert torch.equal(model.head.weight, before)


def test_a_merge_that_contradicts_the_training(model):
    masks = compute_unstructured_mask(model, 0.5)
    sparse = apply_sparse_lora(
        copy.deepcopy(model), masks, SparseLoRAConfig(r=4, sparsity_mode="sparse_to_sparse")
    )
    refused(lambda: merge_all_lora_weights(sparse, preserve_sparsity=False), "no merge makes it dense")
    plain = apply_sparse_lora(model, None, SparseLoRAConfig(r=4))
    refused(lambda: merge_all_lora_weights(plain), "no layer with factors has a mask")


def test_nan_under_a_mask_is_no_zero(model):
    masks = compute_unstructured_mask(model, 0.5)
    apply_sparse_lora(model, masks, SparseLoRAConfig(r=4))
    merge_all_lora_weights(model)
    with torch.no_grad():
        model.up.weight[~masks["up.weight"]] = torch.nan
    valid, report = validate_sparsity_preserved(model, masks)
    assert not valid
    assert report["global"]["total_violations"] == int((~masks["up.weight"]).sum())
    refused(lambda: validate_sparsity_preserved(model, {"up.weight": masks["down.weight"]}), "of shape")
