"""What a file holds under its masks, against counting in memory."""

import pytest
import torch
from safetensors.torch import save_file

from cerebras_utils import mask_audit
from cerebras_utils.fallback.mdl_writer import save_mdl
from cerebras_utils.mask_audit import Layer, as_json, audit, layer_of
from pruning.mask_ops import save_mask
from pruning.problems import ProblemError

SHAPES = {"model.a.weight": (13, 7), "model.b.weight": (64, 33), "model.c.weight": (5,)}


@pytest.fixture
def trained(tmp_path):
    generator = torch.Generator().manual_seed(0)
    masks = {name: torch.rand(shape, generator=generator) >= 0.6 for name, shape in SHAPES.items()}
    weights = {n: torch.randn(mask.shape, generator=generator) * mask for n, mask in masks.items()}
    save_mask(masks, tmp_path / "masks.safetensors")
    return weights, masks


@pytest.mark.parametrize("elements", [1 << 20, 64])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("kind", ["mdl", "safetensors"])
def test_counts_are_those_in_memory(tmp_path, monkeypatch, trained, kind, dtype, elements):
    monkeypatch.setattr(mask_audit, "_ELEMENTS", elements)
    weights, masks = trained
    weights["model.b.weight"].view(-1)[::10] = 0.5  # back
    weights["model.a.weight"].view(-1)[::3] = -0.0  # dead
    weights["model.c.weight"][~masks["model.c.weight"]] = float("nan")
    weights = {name: weight.to(dtype) for name, weight in weights.items()}
    path = tmp_path / f"c.{kind}"
    save_mdl(path, {"model": weights}) if kind == "mdl" else save_file(weights, path)
    found = audit(path, tmp_path / "masks.safetensors")
    assert found == {name: layer_of(weight, masks[name]) for name, weight in weights.items()}
    assert found["model.b.weight"].resurrected > 0
    assert found["model.a.weight"].dead > 0
    assert found["model.c.weight"].resurrected == int((~masks["model.c.weight"]).sum())


def test_a_sound_checkpoint_has_its_masks_sparsity(tmp_path, trained):
    weights, masks = trained
    save_mdl(tmp_path / "c.mdl", {"model": weights})
    receipt = as_json(audit(tmp_path / "c.mdl", tmp_path / "masks.safetensors"), dict.fromkeys(SHAPES, 0))
    assert (receipt["resurrected"], receipt["newly_dead"]) == (0, 0)
    for name, mask in masks.items():
        assert receipt["layers"][name]["sparsity"] == int((~mask).sum()) / mask.numel()


def test_dead_is_counted_from_where_the_run_began():
    now = {"a": Layer(10, 6, 0, 3), "b": Layer(10, 5, 0, 0)}
    assert as_json(now, {"a": 1, "b": 2})["newly_dead"] == 2
    assert as_json(now, None)["newly_dead"] is None
    assert as_json(None, None)["layers"] is None


def test_masks_of_another_model(tmp_path, trained):
    weights, _ = trained
    del weights["model.a.weight"]
    weights["model.b.weight"] = weights["model.b.weight"].t().contiguous()
    save_mdl(tmp_path / "c.mdl", {"model": weights})
    with pytest.raises(ProblemError, match=r"mask model\.a\.weight"):
        audit(tmp_path / "c.mdl", tmp_path / "masks.safetensors")
    with pytest.raises(ProblemError, match=r"is of shape \(33, 64\), its mask \(64, 33\)"):
        audit(tmp_path / "c.mdl", tmp_path / "masks.safetensors", missing_ok=True)
