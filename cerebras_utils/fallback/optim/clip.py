"""Gradient clipping as ModelZoo's ``precision`` section asks for it."""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from cerebras_utils.fallback.optim.fields import Field, field_problems, number, optional
from pruning.problems import Problem

_FIELDS = {
    "max_gradient_norm": Field(optional(number())),
    "max_gradient_value": Field(optional(number())),
}


def clip_gradients(
    optimizer: torch.optim.Optimizer,
    *,
    max_gradient_norm: float | None = None,
    max_gradient_value: float | None = None,
) -> Tensor | None:
    """Scale all gradients by min(1, max / (norm + 1e-6)), or clamp each; the norm before, where it was taken.

    In the order of the optimizer's groups, in which ModelZoo adds the norms up.
    """
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    if max_gradient_norm is not None:
        return torch.nn.utils.clip_grad_norm_(parameters, max_gradient_norm)
    if max_gradient_value is not None:
        torch.nn.utils.clip_grad_value_(parameters, max_gradient_value)
    return None


def clipping_problems(params: Mapping[str, Any], where: str) -> Iterator[Problem]:
    """Of the ``precision`` section, the two keys that clip."""
    given = {key: params[key] for key in _FIELDS if params.get(key) is not None}
    yield from field_problems(given, _FIELDS, where)
    for key, value in given.items():
        if value == 0:
            yield Problem(
                f"{where}.{key}", "is 0: no gradient would be left", "write a positive number, or null"
            )
    if len(given) > 1:
        yield Problem(where, f"has both {' and '.join(given)}", "keep one of them: ModelZoo takes no two")
