"""What a notebook does with masks, as the user guide documents it."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from pruning.mask_ops import (
    apply_masks_to_model,
    compute_sparsity_stats,
    load_mask,
    plot_sparsity_histogram,
    resolve_names,
    save_mask,
    validate_mask,
)
from pruning.masks.file import MaskFile
from pruning.masks.writer import MaskWriter
from pruning.problems import ProblemError


def half(*shape):
    return (torch.arange(math.prod(shape)) % 2 == 0).reshape(shape)


MASKS = {"layer1.weight": half(4, 6), "layer2.weight": torch.arange(10) >= 7}


# The documented calls


def test_validating_as_documented(capsys):
    masks = {"good": half(4, 6), "bad": torch.ones(4)}
    for name, mask in masks.items():
        is_valid, stats = validate_mask(mask, expected_sparsity=0.5, tolerance=0.01)
        if not is_valid:
            print(f"Invalid mask: {name}")
            print(f"  Error: {stats['error']}")
        else:
            print(f"Valid: {name} ({stats['sparsity']:.2%} sparsity)")
    assert capsys.readouterr().out.splitlines() == [
        "Valid: good (50.00% sparsity)",
        "Invalid mask: bad",
        "  Error: the sparsity is 0, expected was 0.5 ± 0.01",
    ]


@pytest.mark.parametrize("format", ["pt", "npz", "safetensors"])
def test_saving_and_loading_as_documented(tmp_path, monkeypatch, format):
    monkeypatch.chdir(tmp_path)
    metadata = {"sparsity": 0.7, "method": "unstructured", "steps": 3, "one": 1.0}
    save_mask(MASKS, f"masks.{format}", metadata=metadata, format=format)
    masks, loaded = load_mask(f"masks.{format}", format=format)
    assert loaded == metadata
    assert {key: type(value) for key, value in loaded.items()} == {
        key: type(value) for key, value in metadata.items()
    }
    assert masks.keys() == MASKS.keys()
    assert all(mask.dtype == torch.bool and torch.equal(mask, MASKS[name]) for name, mask in masks.items())


@pytest.mark.filterwarnings("ignore:.* deprecated - use .*:DeprecationWarning")  # matplotlib 3.9 in pyparsing
def test_statistics_as_documented(capsys, tmp_path):
    stats = compute_sparsity_stats(MASKS)
    print(f"Global sparsity: {stats['global']['sparsity']:.2%}")
    print(f"Mean layer sparsity: {stats['global']['mean_layer_sparsity']:.2%}")
    print(f"Std layer sparsity: {stats['global']['std_layer_sparsity']:.2%}")
    for layer, layer_stats in stats["per_layer"].items():
        print(f"{layer}: {layer_stats['sparsity']:.2%}")
    assert capsys.readouterr().out.splitlines() == [
        "Global sparsity: 55.88%",
        "Mean layer sparsity: 60.00%",
        "Std layer sparsity: 10.00%",
        "layer1.weight: 50.00%",
        "layer2.weight: 70.00%",
    ]
    plot_sparsity_histogram(MASKS, save_path=tmp_path / "sparsity_hist.png")


# Validating


@pytest.mark.parametrize(
    ("mask", "error"),
    [
        (torch.tensor([0.0, 0.5]), "the mask holds 0.5 at flat index 1"),
        (torch.tensor([1.0, float("nan")]), "the mask holds nan at flat index 1"),
        (torch.tensor([2, 1]), "the mask holds 2"),
        (torch.zeros(0, 3), r"the mask is empty: its shape is \(0, 3\)"),
        (torch.zeros(2, 2, dtype=torch.bool), "drops all of its 4 weights"),
        (torch.ones(2, dtype=torch.complex64), "elements of type complex64"),
        (torch.ones(2, device="meta"), "no dense tensor with values"),
        (torch.eye(2).to_sparse(), "no dense tensor with values"),
        ("mask", "no dense tensor with values"),
        (None, "no dense tensor with values"),
    ],
)
def test_a_bad_mask_is_told_and_raises_nothing(mask, error):
    is_valid, stats = validate_mask(mask)
    assert not is_valid
    with pytest.raises(AssertionError, match=error):
        raise AssertionError(stats["error"])
    assert stats.keys() == {"sparsity", "numel", "kept", "dropped", "shape", "error"}


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.float32, torch.bfloat16])
def test_a_good_mask_of_any_type(dtype):
    counts = {"sparsity": 0.7, "numel": 10, "kept": 3, "dropped": 7, "shape": (10,), "error": None}
    assert validate_mask(MASKS["layer2.weight"].to(dtype), 0.7, 0.0) == (True, counts)


def test_an_expectation_that_is_no_number_is_not_met():
    assert not validate_mask(half(4), expected_sparsity=float("nan"))[0]


# Saving


def test_the_same_content_is_kept_and_another_is_refused(tmp_path):
    path = save_mask(MASKS, tmp_path / "m.safetensors", metadata={"a": 1})
    stamp = path.stat().st_mtime_ns
    save_mask({name: mask.float() for name, mask in reversed(MASKS.items())}, path, metadata={"a": 1})
    assert path.stat().st_mtime_ns == stamp
    others = [({"layer1.weight": half(4, 6)}, {"a": 1}), (MASKS, {"a": 2}), (MASKS, None)]
    others += [
        ({**MASKS, "layer1.weight": half(6, 4)}, {"a": 1}),
        ({**MASKS, "layer1.weight": ~half(4, 6)}, {"a": 1}),
    ]
    for masks, metadata in others:
        with pytest.raises(ProblemError, match="remove it, choose another name"):
            save_mask(masks, path, metadata=metadata)
    save_mask(MASKS, path, metadata={"a": 2}, overwrite=True)
    assert load_mask(path)[1] == {"a": 2}
    assert list(tmp_path.iterdir()) == [path]


def test_something_else_under_the_name_is_never_replaced_silently(tmp_path):
    (tmp_path / "m.npz").write_text("notes")
    with pytest.raises(ProblemError, match="exists already"):
        save_mask(MASKS, tmp_path / "m.npz")
    assert (tmp_path / "m.npz").read_text() == "notes"


def test_a_bad_mask_leaves_no_file_and_is_named(tmp_path):
    with pytest.raises(ProblemError, match=r"mask bad\n.*holds 0\.25"):
        save_mask({"good": half(4), "bad": torch.tensor([0.25])}, tmp_path / "m.pt")
    with pytest.raises(ProblemError, match="is a list, not a tensor"):
        save_mask({"bad": [True]}, tmp_path / "m.pt")
    with pytest.raises(ProblemError, match="no masks to write"):
        save_mask({}, tmp_path / "m.pt")
    assert list(tmp_path.iterdir()) == []


def test_masks_of_any_layout(tmp_path):
    mask = half(3, 5)
    for i, same in enumerate(
        [mask.T.contiguous().T, np.asfortranarray(mask.numpy()), nn.Parameter(mask.float())]
    ):
        assert torch.equal(load_mask(save_mask({"w": same}, tmp_path / f"{i}.npz"))[0]["w"], mask)


def test_metadata_of_the_engine_and_of_nobody(tmp_path):
    with MaskWriter(tmp_path / "m.npz", {"w": (8,)}, spec={"sparsity": 0.5}, checkpoint="abc") as writer:
        writer.finish({"w": 0})
    metadata = load_mask(tmp_path / "m.npz")[1]
    assert metadata.pop("tool").startswith("wafersparse")
    assert metadata == {"spec": {"sparsity": 0.5}, "checkpoint": "abc"}
    assert load_mask(save_mask(MASKS, tmp_path / "user.npz"))[1] == {}


# Statistics


def test_all_numbers_of_the_statistics(tmp_path):
    stats = compute_sparsity_stats(save_mask(MASKS, tmp_path / "m.pt"))
    assert stats["per_layer"]["layer2.weight"] == {
        "sparsity": 0.7, "numel": 10, "kept": 3, "dropped": 7, "shape": (10,),
    }  # fmt: skip
    total = stats["global"]
    assert (total["numel"], total["kept"], total["dropped"], total["layers"]) == (34, 15, 19, 2)
    assert (total["min_layer"], total["max_layer"]) == ("layer1.weight", "layer2.weight")
    assert (total["min_layer_sparsity"], total["max_layer_sparsity"]) == (0.5, 0.7)
    assert (total["bool_bytes"], total["packed_bytes"]) == (34, 3 + 2)
    assert total["entropy_bytes"] == math.ceil((24 + 10 * (-0.7 * math.log2(0.7) - 0.3 * math.log2(0.3))) / 8)
    assert compute_sparsity_stats(MASKS) == stats
    with MaskFile(tmp_path / "m.pt") as file:
        assert compute_sparsity_stats(file) == stats


def test_statistics_of_nothing():
    assert compute_sparsity_stats({})["global"]["sparsity"] == 0
    assert compute_sparsity_stats({"w": torch.zeros(0)})["per_layer"]["w"]["sparsity"] == 0
    assert compute_sparsity_stats({"w": torch.ones(9)})["global"]["entropy_bytes"] == 0


# Names


def test_masks_named_by_module_find_its_weight_and_nothing_is_guessed():
    parameters = ["a.q_proj.weight", "a.q_proj.bias", "b.weight"]
    assert resolve_names(["a.q_proj", "b.weight"], parameters) == {
        "a.q_proj": "a.q_proj.weight",
        "b.weight": "b.weight",
    }
    with pytest.raises(ProblemError) as caught:
        resolve_names(["q_proj", "b", "a.q_prog.weight"], parameters)
    assert [problem.where for problem in caught.value.problems] == ["mask q_proj", "mask a.q_prog.weight"]
    assert "Did you mean 'a.q_proj.weight'?" in str(caught.value)
    with pytest.raises(ProblemError, match="same parameter as mask b"):
        resolve_names(["b", "b.weight"], parameters)


# Applying


class Model(nn.Module):
    def __init__(self, tied=False):
        super().__init__()
        torch.manual_seed(0)
        self.layer1 = nn.Linear(6, 4)
        self.layer2 = nn.Linear(6, 4, bias=False)
        if tied:
            self.layer2.weight = self.layer1.weight


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_applying_zeroes_what_is_dropped_and_nothing_else(tmp_path, dtype):
    model = Model().to(dtype).requires_grad_(False)
    before = {name: weight.clone() for name, weight in model.named_parameters()}
    weight = model.layer1.weight
    path = save_mask({"layer1": half(4, 6)}, tmp_path / "m.safetensors")
    report = apply_masks_to_model(model, path)
    assert report == {"masks": 1, "numel": 24, "kept": 12, "dropped": 12, "newly_zero": 12}
    assert model.layer1.weight is weight
    assert torch.equal(weight, torch.where(half(4, 6), before["layer1.weight"], 0))
    assert torch.equal(model.layer1.bias, before["layer1.bias"])
    assert torch.equal(model.layer2.weight, before["layer2.weight"])
    assert apply_masks_to_model(model, path)["newly_zero"] == 0


def test_applying_to_a_model_in_training():
    model = Model()
    model.layer2.weight.data = model.layer2.weight.data.T.contiguous().T
    model.layer1.weight.sum().backward()
    apply_masks_to_model(model, {"layer1.weight": half(4, 6), "layer2.weight": half(4, 6).numpy()})
    assert int((model.layer2.weight == 0).sum()) == 12
    assert model.layer1.weight.requires_grad


def test_everything_that_does_not_fit_is_reported_and_no_weight_changes():
    model = Model()
    before = model.layer1.weight.clone()
    bad = {"layer1.weight": half(4, 6), "layer1.bias": half(5), "layer2.weight": half(6, 4)}
    with pytest.raises(ProblemError) as caught:
        apply_masks_to_model(model, bad)
    assert [problem.where for problem in caught.value.problems] == ["mask layer1.bias", "mask layer2.weight"]
    with pytest.raises(ProblemError, match=r"has no parameter in the model\. Did you mean 'layer2.weight'"):
        apply_masks_to_model(model, {"layer1.weight": half(4, 6), "layer3.weight": half(4, 6)})
    assert torch.equal(model.layer1.weight, before)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_broken_weight_is_not_hidden_by_its_mask(value):
    model = Model()
    before = model.layer2.weight.clone()
    with torch.no_grad():
        model.layer1.weight[0, 1] = value  # dropped by the mask
    with pytest.raises(ProblemError, match=r"mask layer1.weight\n.*would hide 1 values"):
        apply_masks_to_model(model, {"layer2.weight": half(4, 6), "layer1.weight": half(4, 6)})
    assert torch.equal(model.layer2.weight, before)


def test_tied_weights_take_one_mask_or_two_alike():
    for masks in ({"layer1.weight": half(4, 6)}, dict.fromkeys(("layer1", "layer2"), half(4, 6))):
        report = apply_masks_to_model(Model(tied=True), masks)
        assert report == {"masks": 1, "numel": 24, "kept": 12, "dropped": 12, "newly_zero": 12}
    with pytest.raises(ProblemError, match="one and the same"):
        apply_masks_to_model(Model(tied=True), {"layer1.weight": half(4, 6), "layer2.weight": ~half(4, 6)})


def test_a_model_without_values():
    with pytest.raises(ProblemError, match="would have no effect"):
        apply_masks_to_model(Model().to("meta"), {"layer1.weight": half(4, 6)})
