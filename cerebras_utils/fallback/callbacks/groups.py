"""``LogOptimizerParamGroup``: values of the optimizer's groups, as the latest step used them."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from cerebras_utils.hooks import Hooks
from pruning.problems import Problem, ProblemError
from pruning.registry import suggest


class LogOptimizerParamGroup(Hooks):
    def __init__(self, keys: str | Sequence[str]) -> None:
        self._keys = [keys] if isinstance(keys, str) else list(keys)

    def setup(self, trainer: Any) -> None:
        groups = trainer.optimizer.param_groups if trainer.optimizer is not None else []
        numbers = [key for key, value in groups[0].items() if _is_number(value)] if groups else []
        problems = [
            Problem(
                "callbacks: LogOptimizerParamGroup.keys",
                f"{key!r} is no number that every group of the optimizer has.{suggest(key, numbers)}",
                f"use one of {', '.join(sorted(numbers))}",
            )
            for key in self._keys
            if any(not _is_number(group.get(key)) for group in groups)
        ]
        if problems:
            raise ProblemError(problems)

    def on_after_optimizer_step(self, trainer: Any, model: Any, optimizer: Any) -> None:
        trainer.log_metrics(
            **{
                f"{key}/{index}": float(group[key])
                for key in self._keys
                for index, group in enumerate(optimizer.param_groups)
            }
        )


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) or (isinstance(value, Tensor) and value.ndim == 0)
