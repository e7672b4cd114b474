"""Nonlinearities by ModelZoo's names, with its formulas: an approximation of GELU is not GELU."""

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

_CLAMP = 7.0


def _gelu_new(x: Tensor) -> Tensor:
    return 0.5 * x * (1.0 + torch.tanh(math.sqrt(2.0 / math.pi) * (x + 0.044715 * x * x * x)))


def _gelu_fast(x: Tensor) -> Tensor:
    return 0.5 * x * (1.0 + torch.tanh(x * 0.7978845608 * (1.0 + 0.044715 * x * x)))


def _quick_gelu(x: Tensor) -> Tensor:
    return x * torch.sigmoid(1.702 * x)


def _squared(function: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    def squared(x: Tensor) -> Tensor:
        y = function(x)
        return y * y

    return squared


def _linear(x: Tensor) -> Tensor:
    return x


def _gated(function: Callable[[Tensor], Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
    def glu(x: Tensor, gate: Tensor) -> Tensor:
        return x * function(gate)

    return glu


def _swiglu_clamped(x: Tensor, gate: Tensor) -> Tensor:
    return (x.clamp(-_CLAMP, _CLAMP) + 1) * _quick_gelu(gate.clamp(max=_CLAMP))


PLAIN: dict[str | None, Callable[[Tensor], Tensor]] = {
    None: _linear,
    "gelu": functional.gelu,
    "gelu_new": _gelu_new,
    "gelu_fast": _gelu_fast,
    "quick_gelu": _quick_gelu,
    "squared_gelu": _squared(functional.gelu),
    "relu": functional.relu,
    "squared_relu": _squared(functional.relu),
    "relu6": functional.relu6,
    "leaky_relu": functional.leaky_relu,
    "silu": functional.silu,
    "swish": functional.silu,
    "mish": functional.mish,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "linear": _linear,
}

# Of two projections: the value, and the gate that the nonlinearity is applied to.
GATED: dict[str | None, Callable[[Tensor, Tensor], Tensor]] = {
    "liglu": _gated(_linear),
    "geglu": _gated(functional.gelu),
    "reglu": _gated(functional.relu),
    "swiglu": _gated(functional.silu),
    "swiglu_clamped": _swiglu_clamped,
}
