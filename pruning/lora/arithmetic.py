"""The weight that a layer with factors computes with, and its gradients.

``left (rows, r) @ right (r, columns)`` is the update of a weight ``(rows, columns)``: B and A of a Linear,
their transposes, Aᵀ and Bᵀ, of an Embedding. A gate is multiplied in, element by element: a mask, which
keeps zeros under it, or the weight itself, of which the update is then a multiple. The same function makes
the weight of the forward pass and the merged one, so the two are the same bits.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

Gate = Tensor | None  # bool: a mask, True = keep; otherwise numbers of the weight's shape


def product(left: Tensor, right: Tensor, scaling: float) -> Tensor:
    """``scaling · left @ right`` in single precision at least, whatever autocast says."""
    with torch.autocast(left.device.type, enabled=False):
        return scaling * (_wide(left) @ _wide(right))


def updated(weight: Tensor, left: Tensor, right: Tensor, scaling: float, gate: Gate = None) -> Tensor:
    """The weight with its update, rounded once, to the weight's own type."""
    update = product(left, right, scaling)
    if gate is not None:
        update = update * gate
    return (weight + update).to(weight.dtype)


def gated_linear(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    left: Tensor,
    right: Tensor,
    gate: Tensor,
    scaling: float,
) -> Tensor:
    """``linear(x, weight + scaling · (left @ right) ⊙ gate, bias)``; no weight: the update alone.

    Nothing of the weight's size is kept for the backward pass: it is computed again there.
    """
    if x.device.type == "lazy":  # traced for the CS-3, which differentiates the trace
        update = scaling * (left @ right) * gate.to(left.dtype)
        return functional.linear(x, update if weight is None else weight + update, bias)
    result: Tensor = _GatedLinear.apply(x, weight, bias, left, right, gate, scaling)  # type: ignore[no-untyped-call]
    return result


class _GatedLinear(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        left: Tensor,
        right: Tensor,
        gate: Tensor,
        scaling: float,
    ) -> Tensor:
        ctx.save_for_backward(x, weight, left, right, gate)
        ctx.scaling = scaling
        return functional.linear(x, _effective(weight, left, right, gate, scaling), bias)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, left, right, gate = ctx.saved_tensors
        needs = dict(
            zip(("x", "weight", "bias", "left", "right", "gate"), ctx.needs_input_grad, strict=False)
        )
        of: dict[str, Tensor | None] = dict.fromkeys(needs)
        with torch.autocast(gradient.device.type, enabled=False):
            rows = gradient.flatten(0, -2)
            if needs["x"]:
                whole = _effective(weight, left, right, gate, ctx.scaling)
                of["x"] = (gradient @ whole.to(gradient.dtype)).to(x.dtype)
            if needs["bias"]:
                of["bias"] = rows.sum(0)
            if any(needs[name] for name in ("weight", "left", "right", "gate")):
                ungated = _wide(rows.t() @ x.flatten(0, -2).to(rows.dtype))
                if needs["weight"]:
                    assert weight is not None
                    of["weight"] = ungated.to(weight.dtype)
                if needs["gate"]:
                    of["gate"] = (ungated * product(left, right, ctx.scaling)).to(gate.dtype)
                gated = ctx.scaling * ungated * gate
                if needs["left"]:
                    of["left"] = (gated @ _wide(right).t()).to(left.dtype)
                if needs["right"]:
                    of["right"] = (_wide(left).t() @ gated).to(right.dtype)
        return of["x"], of["weight"], of["bias"], of["left"], of["right"], of["gate"], None


def _effective(weight: Tensor | None, left: Tensor, right: Tensor, gate: Tensor, scaling: float) -> Tensor:
    if weight is None:
        return (product(left, right, scaling) * gate).to(left.dtype)
    return updated(weight, left, right, scaling, gate)


def _wide(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.dtype in (torch.bfloat16, torch.float16) else tensor
