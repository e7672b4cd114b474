"""``ComputeNorm``: norms of the weights, of all gradients, and of the gradients of each layer."""

import re
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from cerebras_utils.hooks import Hooks

_LAYER = re.compile(r".*(?:layers\.)(\d+)\.")


class ComputeNorm(Hooks):
    """Weights are measured before the backward pass, gradients before they are clipped.

    Only in steps that are logged: a pass over all weights is not free.
    """

    def on_before_backward(self, trainer: Any, model: Any, outputs: Any) -> None:
        if trainer.will_log:
            weights = [weight for weight in model.parameters() if weight.requires_grad]
            trainer.log_metrics(model_wise_params_norm=_norm(weights))

    def on_before_optimizer_step(self, trainer: Any, model: Any, optimizer: Any) -> None:
        if not trainer.will_log:
            return
        layers: dict[str, list[Tensor]] = {}
        gradients = []
        for name, weight in model.named_parameters():
            if weight.grad is not None:
                gradients.append(weight.grad)
                if match := _LAYER.match(name):
                    layers.setdefault(match[1], []).append(weight.grad)
        norms = {f"per_layer_grad_norm/layer_{layer}": _norm(found) for layer, found in layers.items()}
        trainer.log_metrics(model_wise_grad_norm=_norm(gradients), **norms)


def _norm(tensors: Iterable[Tensor]) -> float:
    """Squares are added up in fp32, tensor after tensor, as ModelZoo does it."""
    squares = [torch.linalg.vector_norm(tensor.detach()).square() for tensor in tensors]
    total = torch.zeros((), device=squares[0].device) if squares else torch.zeros(())
    for square in squares:
        total = total + square
    return total.sqrt().item()
