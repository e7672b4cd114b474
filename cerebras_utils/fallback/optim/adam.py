"""Adam and AdamW with cstorch's arithmetic, which is not torch's: the epsilon is not bias-corrected.

With m and v the running means of gradients and of their squares, at step t

    update = m / (sqrt(v) + eps) * sqrt(1 - beta2^t) / (1 - beta1^t) + weight_decay * p
    p     -= lr * update

in this order of operations, each rounded to float32. The powers of the betas are states of every
parameter, multiplied on at each step in float32: a parameter without a gradient keeps its own.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from cerebras_utils.fallback.optim.base import Group, Optimizer, as_float, gradient, trained
from cerebras_utils.fallback.optim.bites import Tensors, bites
from cerebras_utils.fallback.shards import local


class _Adam(Optimizer):
    def __init__(
        self,
        groups: list[Group],
        *,
        lr: float,
        betas: tuple[float, float],
        eps: float,
        weight_decay: float,
        l2_regularization_rate: float,
        correct_bias: bool,
        amsgrad: bool,
    ) -> None:
        super().__init__(
            groups,
            {
                "lr": lr,
                "betas": betas,
                "eps": eps,
                "weight_decay": weight_decay,
                "l2_regularization_rate": l2_regularization_rate,
                "correct_bias": correct_bias,
                "amsgrad": amsgrad,
            },
        )

    def initial_states(self, group: Group, parameter: Tensor) -> dict[str, Tensor]:
        states = {"exp_avg": torch.zeros_like(parameter), "exp_avg_sq": torch.zeros_like(parameter)}
        if group["amsgrad"]:
            states["max_exp_avg_sq"] = torch.zeros_like(parameter)
        if group["correct_bias"]:
            # On the CPU wherever the parameter is, so that a step reads them without waiting for a GPU.
            states["beta1_power"], states["beta2_power"] = map(torch.tensor, group["betas"])
        return states

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            if parameters := trained(group):
                self._update(group, parameters)
        return loss

    def _update(self, group: Group, parameters: list[Tensor]) -> None:
        beta1, beta2 = group["betas"]
        states = [self.state[parameter] for parameter in parameters]
        names = ["exp_avg", "exp_avg_sq", *(["max_exp_avg_sq"] if group["amsgrad"] else [])]
        rows = [
            tuple(map(local, (parameter, gradient(parameter), *(state[name] for name in names))))
            for parameter, state in zip(parameters, states, strict=True)
        ]
        sizes = _step_sizes(states, beta1, beta2) if group["correct_bias"] else []
        for indices, (weights, raw, means, squares, *largest) in bites(rows, passes=12):
            grads: Tensors = raw
            if group["l2_regularization_rate"] > 0:
                grads = torch._foreach_add(grads, weights, alpha=group["l2_regularization_rate"])
            torch._foreach_mul_(means, beta1)
            torch._foreach_add_(means, grads, alpha=1.0 - beta1)
            torch._foreach_mul_(squares, beta2)
            torch._foreach_addcmul_(squares, grads, grads, value=1.0 - beta2)
            if largest:
                torch._foreach_maximum_(largest[0], squares)
            update = torch._foreach_sqrt(largest[0] if largest else squares)
            torch._foreach_add_(update, group["eps"])
            update = torch._foreach_div(means, update)
            if sizes:
                torch._foreach_mul_(update, [sizes[index] for index in indices])
            if group["weight_decay"]:
                torch._foreach_add_(update, torch._foreach_mul(weights, group["weight_decay"]))
            torch._foreach_mul_(update, as_float(group["lr"]))
            torch._foreach_sub_(weights, update)


class AdamW(_Adam):
    """Decay beside the gradient, with each group's own ``weight_decay``."""

    def __init__(self, groups: list[Group], **settings: Any) -> None:
        super().__init__(groups, l2_regularization_rate=0.0, **settings)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        groups = [{**group, "l2_regularization_rate": 0.0} for group in state_dict.get("param_groups", ())]
        super().load_state_dict({**state_dict, "param_groups": groups})


class Adam(_Adam):
    """Decay inside the gradient, of every parameter: cstorch loses the groups' exemption of bias and norms.

    (cerebras-pytorch 2.10, optim/AdamBase.py, ``handle_weight_decay``.)
    """

    def __init__(self, groups: list[Group], *, weight_decay: float, **settings: Any) -> None:
        super().__init__(
            [{key: value for key, value in group.items() if key != "weight_decay"} for group in groups],
            weight_decay=0.0,
            l2_regularization_rate=weight_decay,
            correct_bias=True,
            **settings,
        )

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Also a checkpoint of AdamW, whose decay becomes this one's where the file names no other."""
        groups = [
            {"l2_regularization_rate": group.get("weight_decay", 0.0)}
            | group
            | {"weight_decay": 0.0, "correct_bias": True}
            for group in state_dict.get("param_groups", ())
        ]
        super().load_state_dict({**state_dict, "param_groups": groups})


def _step_sizes(states: list[Mapping[str, Tensor]], beta1: float, beta2: float) -> list[float]:
    """sqrt(1 - beta2^t) / (1 - beta1^t) of each parameter; then t is one more."""
    powers1 = [state["beta1_power"] for state in states]
    powers2 = [state["beta2_power"] for state in states]
    sizes = torch.sqrt(1.0 - torch.stack(powers2)) / (1.0 - torch.stack(powers1))
    torch._foreach_mul_(powers1, beta1)
    torch._foreach_mul_(powers2, beta2)
    values: list[float] = sizes.tolist()
    return values
