"""SGD with cstorch's arithmetic.

The momentum buffer begins as zeros, so dampening acts on the first step too, unlike torch's.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from cerebras_utils.fallback.optim.base import Group, Optimizer, as_float, gradient, trained
from cerebras_utils.fallback.optim.bites import Tensors, bites
from cerebras_utils.fallback.shards import local


class SGD(Optimizer):
    def __init__(
        self,
        groups: list[Group],
        *,
        lr: float,
        momentum: float,
        dampening: float,
        weight_decay: float,
        nesterov: bool,
        maximize: bool,
    ) -> None:
        super().__init__(
            groups,
            {
                "lr": lr,
                "momentum": momentum,
                "dampening": dampening,
                "weight_decay": weight_decay,
                "nesterov": nesterov,
                "maximize": maximize,
            },
        )

    def initial_states(self, group: Group, parameter: Tensor) -> dict[str, Tensor]:
        return {"momentum_buffer": torch.zeros_like(parameter)} if group["momentum"] != 0 else {}

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            self._update(group, trained(group))
        return loss

    def _update(self, group: Group, parameters: list[Tensor]) -> None:
        momentum = group["momentum"]
        rows = []
        for parameter in parameters:
            buffer = [self.state[parameter]["momentum_buffer"]] if momentum else []
            rows.append(tuple(map(local, (parameter, gradient(parameter), *buffer))))
        for _, (weights, raw, *buffers) in bites(rows, passes=6):
            grads: Tensors = raw
            if group["maximize"]:
                grads = torch._foreach_neg(grads)
            if group["weight_decay"]:
                decay = torch._foreach_mul(weights, group["weight_decay"])
                torch._foreach_add_(decay, grads)
                grads = decay
            if buffers:
                torch._foreach_mul_(buffers[0], momentum)
                torch._foreach_add_(buffers[0], grads, alpha=1.0 - group["dampening"])
                ahead = group["nesterov"]
                grads = torch._foreach_add(grads, buffers[0], alpha=momentum) if ahead else buffers[0]
            torch._foreach_add_(weights, torch._foreach_mul(grads, -as_float(group["lr"])))
