"""The weight that a layer with factors computes with, and its gradients."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from pruning.lora.arithmetic import gated_linear, updated
from pruning.sparse_lora import SparseLoRAConfig, apply_sparse_lora

IN, OUT, R = 5, 4, 2


def parts(dtype=torch.float64, seed=0):
    """x, weight, bias, left (B), right (A), mask."""
    g = torch.Generator().manual_seed(seed)
    shapes = ((3, 2, IN), (OUT, IN), (OUT,), (OUT, R), (R, IN))
    made = [torch.randn(shape, generator=g, dtype=torch.float64).to(dtype) for shape in shapes]
    return [*(tensor.requires_grad_() for tensor in made), torch.rand(OUT, IN, generator=g) > 0.5]


def plain(x, weight, bias, left, right, gate, scaling):
    update = scaling * (left @ right) * gate
    return functional.linear(x, update if weight is None else weight + update, bias)


def test_the_recomputed_gradients_are_those_of_the_plain_expression():
    *tensors, mask = parts()
    ours = gated_linear(*tensors, mask, 0.7)
    theirs = plain(*tensors, mask, 0.7)
    assert torch.equal(ours, theirs)
    seed = torch.randn_like(ours)
    for a, b in zip(
        torch.autograd.grad(ours, tensors, seed), torch.autograd.grad(theirs, tensors, seed), strict=True
    ):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


def test_gradients_are_right_to_the_second_order():
    *tensors, mask = parts()
    assert torch.autograd.gradcheck(lambda *t: gated_linear(*t, mask, 0.7), tensors)
    assert torch.autograd.gradgradcheck(lambda *t: gated_linear(*t, mask, 0.7), tensors)


def test_gradients_reach_a_gate_of_numbers_and_an_update_without_a_weight():
    x, weight, _, left, right, mask = parts()
    assert torch.autograd.gradcheck(
        lambda x, w, b, a: gated_linear(x, w, None, b, a, w, 0.7), (x, weight, left, right)
    )
    assert torch.autograd.gradcheck(
        lambda x, b, a: gated_linear(x, None, None, b, a, mask, 0.7), (x, left, right)
    )


def test_nothing_of_the_weights_size_is_kept_for_the_backward_pass():
    x, weight, bias, left, right, mask = parts(torch.float32)
    weight.requires_grad_(False)
    kept = []
    known = {t.data_ptr() for t in (x, weight, bias, left, right, mask)}

    def note(tensor):
        if tensor.data_ptr() not in known:
            kept.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        gated_linear(x, weight, bias, left, right, mask, 0.5)
    assert OUT * IN not in kept
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        plain(x, weight, bias, left, right, mask, 0.5)
    assert OUT * IN in kept, "the plain expression keeps it, or this test sees nothing"


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_the_update_is_rounded_once_to_the_weights_type(dtype):
    _, weight, _, left, right, mask = parts(dtype)
    found = updated(weight, left, right, 0.3, mask)
    wide = weight.double() + 0.3 * (left.double() @ right.double()) * mask
    assert found.dtype == dtype
    torch.testing.assert_close(
        found, wide.to(dtype), rtol=1e-6 if dtype == torch.float32 else 1e-2, atol=1e-6
    )
    assert torch.equal(found[~mask], weight[~mask])


def test_autocast_changes_neither_the_weight_nor_the_zeros():
    x, weight, bias, left, right, mask = parts(torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(
            updated(weight, left, right, 0.7, mask), updated(weight, left, right, 0.7, mask).float()
        )
        output = gated_linear(x, weight, bias, left, right, mask, 0.7)
        output.float().square().sum().backward()
    expected = updated(weight, left, right, 0.7, mask)
    with torch.autocast("cpu", enabled=False):
        assert torch.equal(expected, updated(weight, left, right, 0.7, mask))
    assert output.dtype == torch.bfloat16
    *again, _ = parts(torch.float32)
    plain(*again, mask, 0.7).square().sum().backward()
    for ours, theirs in zip((left, right, x, bias), (again[3], again[4], again[0], again[2]), strict=True):
        assert ours.grad.dtype == torch.float32
        torch.testing.assert_close(
            ours.grad, theirs.grad, rtol=0.1, atol=0.1 * float(theirs.grad.abs().max())
        )


@pytest.mark.parametrize("mode", ["sparse_to_dense", "sparse_to_sparse", "multiplicative"])
def test_with_dropout_the_update_alone_sees_the_dropped_input(mode):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(IN, OUT)).double()
    mask = torch.rand(OUT, IN) > 0.4
    config = SparseLoRAConfig(r=R, alpha=3, dropout=0.5, sparsity_mode=mode)
    apply_sparse_lora(model, {"0.weight": mask}, config)
    layer = model[0]
    nn.init.normal_(layer.lora_B)
    x = torch.randn(7, IN, dtype=torch.float64)
    torch.manual_seed(5)
    dropped = functional.dropout(x, 0.5)
    assert not torch.equal(dropped, x)
    gate = {"sparse_to_dense": 1, "sparse_to_sparse": mask, "multiplicative": layer.weight}[mode]
    update = 1.5 * (layer.lora_B @ layer.lora_A) * gate
    torch.manual_seed(5)
    found = layer(x)
    expected = functional.linear(x, layer.weight, layer.bias) + dropped @ update.t()
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    factors = (layer.lora_A, layer.lora_B)
    for a, b in zip(
        torch.autograd.grad(found.square().sum(), factors),
        torch.autograd.grad(expected.square().sum(), factors),
        strict=True,
    ):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)
    model.eval()
    torch.testing.assert_close(layer(x), functional.linear(x, layer.weight + update, layer.bias))


def test_gradcheck_of_a_whole_layer_with_dropout():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(IN, OUT)).double()
    mask = torch.rand(OUT, IN) > 0.4
    apply_sparse_lora(
        model, {"0.weight": mask}, SparseLoRAConfig(r=R, dropout=0.5, sparsity_mode="sparse_to_sparse")
    )
    layer = model[0]
    nn.init.normal_(layer.lora_B)
    x = torch.randn(3, IN, dtype=torch.float64, requires_grad=True)

    def same_dropout(x, a, b):
        torch.manual_seed(1)
        return torch.func.functional_call(layer, {"lora_A": a, "lora_B": b}, x)

    assert torch.autograd.gradcheck(same_dropout, (x, layer.lora_A, layer.lora_B))
