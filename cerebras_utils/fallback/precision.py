"""``trainer.init.precision``: bf16 autocast or full precision, and how gradients are clipped."""

from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch

from cerebras_utils.fallback.optim.clip import clip_gradients
from cerebras_utils.trainer_keys import settings
from pruning.problems import Problem


@dataclass(kw_only=True)
class Precision:
    enabled: bool = False
    max_gradient_norm: float | None = None
    max_gradient_value: float | None = None

    def autocast(self, device: torch.device) -> Any:
        return torch.autocast(device.type, torch.bfloat16) if self.enabled else nullcontext()

    def clip(self, optimizer: torch.optim.Optimizer) -> None:
        clip_gradients(
            optimizer, max_gradient_norm=self.max_gradient_norm, max_gradient_value=self.max_gradient_value
        )


def precision_of(init: Mapping[str, Any]) -> Precision:
    """Without the section everything is in full precision, and nothing is clipped."""
    written = settings(init, "precision")
    if written is None:
        return Precision()
    names = ("enabled", "max_gradient_norm", "max_gradient_value")
    return Precision(**{name: written[name] for name in names})


def precision_problems(init: Mapping[str, Any], where: str) -> Iterator[Problem]:
    written = settings(init, "precision")
    if written and written["enabled"] and written["fp16_type"] == "float16":
        yield Problem(
            f"{where}.fp16_type",
            "float16 is not run here; ModelZoo takes bfloat16 in its place on a CPU, and float16 on a GPU",
            "set fp16_type: bfloat16 or cbfloat16, or enabled: false",
        )


def precision_notes(init: Mapping[str, Any], where: str) -> Iterator[str]:
    """As ModelZoo on a CPU: cbfloat16 is bfloat16 there, which needs no loss scaling."""
    written = settings(init, "precision")
    if written is None:
        return
    if written["enabled"] and written["fp16_type"] == "cbfloat16":
        yield f"{where}.fp16_type: cbfloat16 is bfloat16 here, as in ModelZoo without a CS-3"
    if written["loss_scaling_factor"] not in (None, 1, 1.0):
        yield f"{where}.loss_scaling_factor has no effect here: bfloat16 needs none"
