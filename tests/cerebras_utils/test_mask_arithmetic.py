"""The compiled passes against torch's own operations, to the bit."""

import pytest
import torch

from cerebras_utils import mask_arithmetic
from cerebras_utils.mask_arithmetic import Mask, are_zero

ODD = [0.0, -0.0, 1e-45, -1e-45, 3e38, float("inf"), -float("inf"), float("nan")]


@pytest.fixture(params=["contiguous", "transposed", "bfloat16", "empty"])
def tensor(request: pytest.FixtureRequest) -> torch.Tensor:
    made = torch.randn(37, 41, generator=torch.Generator().manual_seed(0))
    made[0, : len(ODD)] = made[1, : len(ODD)] = torch.tensor(ODD)
    kinds = {"transposed": made.t(), "bfloat16": made.bfloat16(), "empty": made[:0]}
    return kinds.get(request.param, made)


@pytest.fixture
def keep(tensor: torch.Tensor) -> torch.Tensor:
    mask = torch.rand(tensor.shape, generator=torch.Generator().manual_seed(1)) < 0.5
    mask[:1], mask[1:2] = True, False
    return mask.view(torch.uint8)


def bits(tensor: torch.Tensor) -> torch.Tensor:
    """Numbers of any NaN alike."""
    plain = tensor.float().contiguous()
    return torch.where(plain.isnan(), torch.full_like(plain, float("nan")), plain).view(torch.int32)


def test_multiply_is_a_product(tensor: torch.Tensor, keep: torch.Tensor) -> None:
    wanted = tensor * keep
    Mask(keep).multiply(tensor)
    assert torch.equal(bits(tensor), bits(wanted))


def test_clear_leaves_plain_zeros_even_of_nan(tensor: torch.Tensor, keep: torch.Tensor) -> None:
    wanted = torch.where(keep.bool(), tensor, torch.zeros_like(tensor))
    Mask(keep).clear(tensor)
    assert torch.equal(bits(tensor), bits(wanted))


@pytest.mark.parametrize("value", [0.0, -0.0, 1e-45, -1.0, float("nan"), float("inf")])
def test_are_zero(value: float, tensor: torch.Tensor, keep: torch.Tensor) -> None:
    Mask(keep).clear(tensor)
    assert are_zero([(tensor, Mask(keep))])
    if not tensor.numel():
        return
    row, column = (keep == 0).nonzero()[-1].tolist()
    tensor[row, column] = value
    assert are_zero(
        [(tensor, Mask(keep)), (torch.zeros(3), Mask(torch.ones(3, dtype=torch.bool)))]
    ) is not bool(tensor[row, column] != 0)


def test_of_nothing_all_is_zero() -> None:
    assert are_zero([])


def test_a_step_of_plain_training_takes_the_compiled_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else they would be right, and never run."""
    taken = []
    for name in ("_multiply", "_clear", "_bits_under"):
        monkeypatch.setattr(mask_arithmetic, name, lambda *_, name=name: taken.append(name))
    weight = torch.nn.Parameter(torch.randn(4, 4))
    mask = Mask(torch.ones(4, 4, dtype=torch.bool))
    with torch.no_grad():
        mask.multiply(weight)
        mask.clear(weight)
        are_zero([(weight, mask)])
    assert taken == ["_multiply", "_clear", "_bits_under"]
