"""Every kind of model on the device of ``--device``, in full precision and in bfloat16."""

import copy
import json

import pytest
import torch

from cerebras_utils.fallback.models.build import build_model

from .conftest import FOLDER

VARIANTS = json.loads((FOLDER / "recorded.json").read_text())["variants"]


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_step(recipes, device, variant):
    model = build_model(VARIANTS[variant]["params"])
    recipes.set_weights(model)
    batch = recipes.batch()
    exact = model(batch)
    moved = copy.deepcopy(model).to(device)
    there = {name: value.to(device) for name, value in batch.items()}
    torch.testing.assert_close(moved(there).logits.cpu(), exact.logits, rtol=0, atol=1e-5)
    with torch.autocast(device, torch.bfloat16):
        rounded = moved(there)
    torch.testing.assert_close(rounded.loss.float().cpu(), exact.loss, rtol=2e-2, atol=0)
    rounded.loss.backward()
    trained = [parameter for parameter in moved.parameters() if parameter.requires_grad]
    assert all(parameter.grad.isfinite().all() for parameter in trained)
    assert {parameter.grad.dtype for parameter in trained} == {torch.float32}
