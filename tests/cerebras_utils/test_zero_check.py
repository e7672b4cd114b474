"""A dropped weight that is not zero is found, whatever it is; nothing else is."""

import pytest
import torch

from cerebras_utils.zero_check import ZeroCheck
from pruning.problems import ProblemError


@pytest.fixture
def layers():
    generator = torch.Generator().manual_seed(0)
    masks = {name: torch.rand(shape, generator=generator) >= 0.5 for name, shape in SHAPES.items()}
    return {name: torch.randn(mask.shape, generator=generator) * mask for name, mask in masks.items()}, masks


SHAPES = {"a": (7, 5), "b": (3, 4, 2), "c": (40,)}


def test_zeros_of_either_sign_pass(layers):
    weights, masks = layers
    assert any(weight[~masks[name]].signbit().any() for name, weight in weights.items())
    ZeroCheck(weights, masks)("step 1")


@pytest.mark.parametrize("value", [1.0, -1.0, 1e-38, -1e-45, float("nan"), float("inf"), 1e38])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_came_back_is_told_by_layer_and_number(layers, value, dtype):
    weights, masks = ({n: t.to(dtype) for n, t in layers[0].items()}, layers[1])
    if torch.tensor(value, dtype=dtype) == 0:
        pytest.skip("too small a number for this type")
    check = ZeroCheck(weights, masks)
    dropped = (~masks["b"]).flatten().nonzero().flatten()
    weights["b"].view(-1)[dropped[:2]] = value
    weights["b"].view(-1)[dropped[2]] = -value
    with pytest.raises(ProblemError) as told:
        check("step 7")
    (problem,) = told.value.problems
    assert problem.where == "step 7: b"
    assert problem.what.startswith(f"3 of the {len(dropped)} weights")


def test_kept_weights_may_be_anything(layers):
    weights, masks = layers
    weights["a"][masks["a"]] = 1e38
    ZeroCheck(weights, masks)("step 1")


def test_nan_has_another_fix(layers):
    weights, masks = layers
    check = ZeroCheck(weights, masks)
    dropped = (~masks["c"]).nonzero().flatten()
    weights["c"][dropped[0]] = float("nan")
    weights["c"][dropped[1]] = 1.0
    with pytest.raises(ProblemError) as told:
        check("step 7")
    (problem,) = told.value.problems
    assert "2 of the" in problem.what
    assert "1 of them are NaN" in problem.what
    assert "learning rate" in problem.fix
    assert "callback" not in problem.fix
