"""The documented Python calls, on modules and state dicts; torch's own pruning where it has the same rule."""

from copy import deepcopy

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import prune

from pruning.importance import (
    SCORES,
    compute_layer_importance,
    magnitude_importance,
    taylor_importance,
)
from pruning.mask_generator import (
    MaskGenerator,
    compute_masks_for_state_dict,
    compute_random_mask,
    compute_structured_mask,
    compute_unstructured_mask,
)
from pruning.mask_ops import apply_masks_to_model, compute_sparsity_stats, load_mask, save_mask, validate_mask
from pruning.problems import ProblemError


@pytest.fixture
def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Embedding(30, 24), nn.Linear(24, 48), nn.LayerNorm(48), nn.Linear(48, 12))


def share(mask):
    return 1 - mask.float().mean().item()


def test_importance_of_a_layer():
    layer = nn.Linear(4, 3)
    assert torch.equal(magnitude_importance(layer), layer.weight.detach().abs())
    assert torch.equal(magnitude_importance(layer.weight), layer.weight.detach().abs())
    with pytest.raises(ValueError, match=r"call loss\.backward\(\) first"):
        taylor_importance(layer)
    layer(torch.ones(4)).sum().backward()
    assert torch.equal(taylor_importance(layer), (layer.weight * layer.weight.grad).abs().detach())
    with pytest.raises(ValueError, match="ReLU has no weight"):
        magnitude_importance(nn.ReLU())


def test_importance_of_a_model_is_by_full_parameter_name(model):
    scores = compute_layer_importance(model, method="magnitude")
    assert list(scores) == ["0.weight", "1.weight", "3.weight"]
    assert torch.equal(scores["1.weight"], model[1].weight.detach().abs())


def test_a_custom_score_is_registered_and_an_unknown_one_is_no_magnitude(model):
    with pytest.raises(LookupError, match="Unknown score 'custom'"):
        compute_layer_importance(model, method="custom")
    SCORES.register("custom")(lambda weight: weight.abs() ** 2)
    try:
        scores = compute_layer_importance(model, method="custom")
        assert torch.equal(scores["3.weight"], model[3].weight.detach() ** 2)
        with pytest.raises(ValueError, match="registered twice"):
            SCORES.register("custom")(lambda weight: weight)
        masks = compute_unstructured_mask(model, 0.5, importance_metric="custom")
        expected = compute_unstructured_mask(model, 0.5)
        assert all(torch.equal(masks[name], expected[name]) for name in expected)
    finally:
        SCORES.unregister("custom")


@pytest.mark.parametrize("wrong", [lambda w: w.sum(), lambda w: w / 0])
def test_a_score_that_is_none(model, wrong):
    SCORES.register("wrong")(wrong)
    try:
        with pytest.raises(ProblemError, match=r"1\.weight"):
            compute_unstructured_mask(model, 0.5, importance_metric="wrong")
    finally:
        SCORES.unregister("wrong")


def test_generator_and_function_agree(model):
    masks = MaskGenerator(
        model=model, sparsity=0.5, method="unstructured", importance_metric="magnitude"
    ).generate_masks()
    direct = compute_unstructured_mask(model=model, sparsity=0.5, importance_metric="magnitude")
    assert list(masks) == list(direct) == ["1.weight", "3.weight"]
    assert all(m.dtype == torch.bool and torch.equal(m, direct[n]) for n, m in masks.items())
    assert [share(m) for m in masks.values()] == [0.5, 0.5]


@pytest.mark.parametrize("sparsity", [0.0, 0.1, 0.5, 0.93])
def test_the_same_weights_as_torch_prune(model, sparsity):
    """torch rounds the same way and sorts the same magnitudes; these have no ties."""
    mine = compute_unstructured_mask(model, sparsity)
    together = compute_unstructured_mask(model, sparsity, global_pruning=True)
    layers = {"1.weight": model[1], "3.weight": model[3]}
    for name, layer in layers.items():
        twin = deepcopy(layer)
        prune.l1_unstructured(twin, "weight", amount=sparsity)
        assert torch.equal(mine[name], twin.weight_mask.bool())
    prune.global_unstructured([(x, "weight") for x in layers.values()], prune.L1Unstructured, amount=sparsity)
    assert all(torch.equal(together[name], layer.weight_mask.bool()) for name, layer in layers.items())


def test_structured_equals_torch_prune():
    torch.manual_seed(1)
    layer = nn.Linear(16, 10)
    (mask,) = compute_structured_mask(layer, 0.3).values()
    by_l1 = layer.weight.detach().abs().sum(1).argsort()[:3]
    assert sorted(np.flatnonzero(~mask.any(1).numpy())) == sorted(by_l1.tolist())
    (mask,) = compute_structured_mask(layer, 0.3, importance_metric="l2").values()
    prune.ln_structured(layer, "weight", amount=0.3, n=2, dim=0)
    assert torch.equal(mask, layer.weight_mask.bool())


def test_structured_patterns(model):
    rows = MaskGenerator(model, 0.5, "structured").generate_masks()
    assert all(set(mask.float().mean(1).tolist()) == {0.0, 1.0} for mask in rows.values())
    columns = compute_structured_mask(model, 0.5, pattern="column")
    assert all(set(mask.float().mean(0).tolist()) == {0.0, 1.0} for mask in columns.values())
    assert {share(m) for m in compute_structured_mask(model, 0.5, pattern="block:4x4").values()} == {0.5}
    filters = compute_structured_mask(nn.Conv2d(3, 8, 3), 0.5)["weight"]
    assert filters.shape == (8, 3, 3, 3)
    assert filters.flatten(1).all(1).sum() == 4


def test_random_depends_on_seed_and_name_alone(model):
    one = compute_random_mask(model, 0.5, seed=1)
    assert all(torch.equal(one[n], m) for n, m in compute_random_mask(model, 0.5, seed=1).items())
    other = compute_random_mask(model, 0.5, seed=2)
    assert all(0.4 < (one[n] == other[n]).float().mean() < 0.6 for n in one)
    alone = compute_random_mask(nn.ModuleDict({"1": nn.Linear(24, 48)}), 0.5, seed=1)
    assert torch.equal(alone["1.weight"], one["1.weight"])
    assert all(share(mask) == 0.5 for mask in one.values())


def test_random_has_no_pattern():
    """Dropped weights are spread evenly over rows, columns and neighbours."""
    mask = compute_masks_for_state_dict({"w": torch.ones(400, 400)}, 0.5, method="random")["w"].double()
    for axis in (0, 1):
        assert abs(mask.mean(axis) - 0.5).max() < 5 * 0.5 / 20
    centred = mask.flatten() - 0.5
    for lag in (1, 2, 7, 400):
        assert abs((centred[lag:] * centred[:-lag]).mean()) < 5 * 0.25 / 400


def test_taylor_masks_need_a_backward_pass(model):
    with pytest.raises(ProblemError, match=r"call loss\.backward\(\) first"):
        compute_unstructured_mask(model, 0.5, importance_metric="taylor")
    model(torch.arange(30)).square().mean().backward()
    masks = compute_unstructured_mask(model, 0.5, importance_metric="taylor")
    for name, layer in (("1.weight", model[1]), ("3.weight", model[3])):
        score = (layer.weight * layer.weight.grad).abs().detach()
        assert score[masks[name]].min() >= score[~masks[name]].max()


def test_state_dicts_nested_or_not(tmp_path, model):
    torch.save({"model": model.state_dict()}, tmp_path / "model.pt")
    state = torch.load(tmp_path / "model.pt", map_location="cpu", weights_only=True)
    nested = compute_masks_for_state_dict(state, sparsity=0.5, method="unstructured", exclude=("0.*", "2.*"))
    flat = compute_masks_for_state_dict(state["model"], sparsity=0.5, exclude=("0.*", "2.*"))
    direct = compute_unstructured_mask(model, 0.5)
    assert list(nested) == list(flat) == list(direct)
    assert all(torch.equal(nested[n], direct[n]) and torch.equal(flat[n], direct[n]) for n in direct)


def test_a_sparsity_per_layer(model):
    masks = compute_unstructured_mask(model, {"1.weight": 0.25, "*": 0.75})
    assert [share(mask) for mask in masks.values()] == [0.25, 0.75]
    with pytest.raises(ProblemError, match=r"layer1 matches no tensor"):
        compute_unstructured_mask(model, {"layer1": 0.3, "*": 0.5})


def test_masks_keyed_by_modules_are_accepted_where_the_match_is_exact(model):
    by_module = {name.removesuffix(".weight"): m for name, m in compute_unstructured_mask(model, 0.5).items()}
    assert list(by_module) == ["1", "3"]
    apply_masks_to_model(model, by_module)
    assert share(model[1].weight.detach() != 0) == 0.5
    with pytest.raises(ProblemError, match="mask linear"):
        apply_masks_to_model(model, {"linear": by_module["1"]})


def test_gradual_pruning_as_documented(model):
    for sparsity in [0.0, 0.2, 0.4, 0.6, 0.8]:
        masks = compute_unstructured_mask(model, sparsity)
        apply_masks_to_model(model, masks)
        found = sum(int((model[i].weight == 0).sum()) for i in (1, 3)) / (24 * 48 + 48 * 12)
        assert found == pytest.approx(sparsity, abs=1e-3)


def test_generate_validate_save_load_as_documented(model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    masks = compute_unstructured_mask(model, sparsity=0.7, importance_metric="magnitude", global_pruning=True)
    stats = compute_sparsity_stats(masks)
    assert f"{stats['global']['sparsity']:.2%}" == "70.02%"  # round(0.7 * 1728) = 1210
    save_mask(
        masks,
        "masks_70pct.pt",
        metadata={"sparsity": 0.7, "method": "unstructured", "importance": "magnitude"},
    )
    loaded, metadata = load_mask("masks_70pct.pt")
    assert metadata == {"sparsity": 0.7, "method": "unstructured", "importance": "magnitude"}
    assert all(torch.equal(loaded[name], mask) for name, mask in masks.items())
    is_valid, found = validate_mask(loaded["1.weight"], expected_sparsity=0.7, tolerance=0.1)
    assert is_valid, found


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda m: MaskGenerator(m, 0.5, "structred"), "Did you mean 'structured'"),
        (lambda m: MaskGenerator(m, 0.5, importance_metric="magnitud"), "Did you mean 'magnitude'"),
        (lambda m: MaskGenerator(m, 1.0), r"outside \[0, 1\)"),
        (lambda m: MaskGenerator(m), "how sparse"),
        (lambda m: MaskGenerator(m, 0.5, "random", "magnitude"), "no effect"),
        (lambda m: MaskGenerator(m, 0.5, pattern="row"), "goes with method 'structured'"),
    ],
)
def test_what_is_wrong_is_said_when_the_generator_is_made(model, call, says):
    with pytest.raises((ValueError, LookupError), match=says):
        call(model)
