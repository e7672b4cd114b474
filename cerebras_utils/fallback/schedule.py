"""How many steps, in which rounds, with which checkpoints: arithmetic on ``trainer.init.loop``."""

import math
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Loop:
    """``trainer.init.loop``, with ModelZoo's defaults."""

    num_steps: int | None = None
    max_steps: int | None = None
    num_epochs: int | None = None
    steps_per_epoch: int | None = None
    eval_frequency: int | float | None = 1.0
    eval_steps: int | None = None
    grad_accum_steps: int = 1

    @classmethod
    def from_config(cls, section: "dict[str, Any] | None") -> "Loop":
        return cls(**section) if section else cls(num_epochs=1)


def total_steps(loop: Loop, batches_per_epoch: int, done: int) -> int:
    """Optimizer steps that are left to do. ``max_steps`` counts those of earlier runs, the others do not."""
    per_epoch = min(loop.steps_per_epoch or batches_per_epoch, batches_per_epoch) // loop.grad_accum_steps
    limits = []
    if loop.num_epochs is not None:
        limits.append(loop.num_epochs * per_epoch)
    if loop.num_steps is not None:
        limits.append(loop.num_steps)
    if loop.max_steps is not None:
        limits.append(loop.max_steps - done)
    return max(0, min(limits))


def rounds(steps: int, eval_frequency: int | float | None, validates: bool) -> list[int]:
    """Training steps between validations; one round where there is none. A fraction is of ``steps``."""
    if not eval_frequency or not validates:
        return [steps]
    each = (
        math.ceil(eval_frequency * steps) if isinstance(eval_frequency, float) else min(eval_frequency, steps)
    )
    whole, rest = divmod(steps, each)
    return [each] * whole + ([rest] if rest else [])


def is_checkpoint_step(step: int, every: int | None, first: int, last: int) -> bool:
    """Every so many steps counted from the first, and always after the last; never where it is not asked."""
    if not every:
        return False
    return step == last or (step - first) % min(every, last - first) == 0
