"""Against numbers that ModelZoo gave, on machines without it."""

import json

import pytest
import torch

from cerebras_utils.fallback.models.activations import GATED, PLAIN
from cerebras_utils.fallback.models.build import build_model
from cerebras_utils.fallback.models.options import NONLINEARITIES

from .conftest import FOLDER

VARIANTS = list(json.loads((FOLDER / "recorded.json").read_text())["variants"])


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_step_gives_the_numbers_of_modelzoo(variant, recipes, recorded):
    expected = recorded["variants"][variant]
    model = build_model(expected["params"])
    shapes = {name: list(tensor.shape) for name, tensor in model.state_dict().items()}
    assert list(shapes.items()) == list(expected["shapes"].items())

    recipes.set_weights(model)
    found = recipes.summary(model, *model(recipes.batch()))
    assert found["loss"] == pytest.approx(expected["loss"], abs=1e-6)
    assert found["logits"] == pytest.approx(expected["logits"], abs=1e-5)
    assert list(found["gradients"]) == list(expected["gradients"])
    for name, values in expected["gradients"].items():
        assert found["gradients"][name] == pytest.approx(values, rel=1e-5, abs=1e-6), name


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_same_seed_draws_the_weights_of_modelzoo(variant, recipes, recorded):
    expected = recorded["variants"][variant]
    torch.manual_seed(recipes.SEED)
    found = recipes.first_weights(build_model(expected["params"]))
    assert list(found) == list(expected["first"])
    for name, values in expected["first"].items():
        assert found[name] == pytest.approx(values, abs=1e-7), name


@pytest.mark.parametrize("name", NONLINEARITIES)
def test_nonlinearities_are_those_of_modelzoo(name, recipes, recorded):
    points = torch.tensor(recipes.POINTS)
    values = GATED[name](points.flip(0), points) if name in GATED else PLAIN[name](points)
    assert values.tolist() == pytest.approx(recorded["nonlinearities"][name], rel=1e-6, abs=1e-7)


def test_all_nonlinearities_of_modelzoo_are_here(recorded):
    assert set(recorded["nonlinearities"]) == set(NONLINEARITIES)
