"""Learning-rate schedules with cstorch's arithmetic and checkpoint states.

The rate of the optimizer step t, from 0, is a closed form of t, computed in float32 as cstorch does it.
A scheduler writes it to the groups when it is made, for the first step, and at each ``step()`` for the
next; so ``step()`` comes after the optimizer's.
"""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from pruning.problems import Problem, ProblemError

# What a checkpoint carries beside a schedule's own values. The rest of them is what the YAML said.
_PROGRESS = {"_last_value", "last_epoch", "_step_count", "_get_called_within_step"}


class Scheduler:
    """One learning rate for every group that one of ``param_group_tags`` names; None stands for untagged."""

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        *,
        total_iters: int | None = None,
        param_group_tags: str | Sequence[str | None] | None = None,
        **values: Any,
    ) -> None:
        self.optimizer = optimizer
        self.values = values
        self.total_iters = total_iters
        tags = [param_group_tags] if isinstance(param_group_tags, str) else param_group_tags
        self.param_group_tags: set[str | None] | None = None if tags is None else set(tags)
        self.last_epoch = torch.tensor(0)
        self._step_count = 1
        self._last_value: list[Tensor | None] = []
        self.apply()

    def rate(self) -> Tensor:
        raise NotImplementedError

    def applies_to(self, group: dict[str, Any]) -> bool:
        if self.param_group_tags is None:
            return True
        return not self.param_group_tags.isdisjoint(group.get("tags", {None}))

    def step(self) -> None:
        self.advance()
        self._step_count += 1
        self.apply()

    def advance(self) -> None:
        self.last_epoch += 1

    def rates(self) -> list[Tensor | None]:
        rate = self.rate()
        return [rate if self.applies_to(group) else None for group in self.optimizer.param_groups]

    def apply(self) -> None:
        self._last_value = self.rates()
        for group, rate in zip(self.optimizer.param_groups, self._last_value, strict=True):
            if rate is not None:
                group["lr"] = rate

    def state_dict(self) -> dict[str, Any]:
        return {
            **self.values,
            "param_group_tags": self.param_group_tags,
            "_last_value": list(self._last_value),
            "total_iters": self.total_iters,
            "last_epoch": self.last_epoch.clone(),
            "_step_count": self._step_count,
            "_get_called_within_step": False,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on where the checkpoint stopped, with the checkpoint's schedule, as cstorch does.

        A changed YAML has no effect on a run that is resumed: ``overridden`` says where that is so.
        """
        if problems := list(_misfits(self.state_dict(), state_dict, "the checkpoint's scheduler")):
            raise ProblemError(problems)
        self._adopt(state_dict)

    def _adopt(self, state: dict[str, Any]) -> None:
        self.values = {key: state[key] for key in self.values}
        self.total_iters = state["total_iters"]
        self.param_group_tags = state["param_group_tags"]
        self.last_epoch = state["last_epoch"].clone()
        self._last_value = list(state["_last_value"])
        # The count of steps is that of the process, as in cstorch: nothing is computed from it.

    def overridden(self, state_dict: dict[str, Any]) -> list[str]:
        """What of the schedule would be the checkpoint's on loading, where this one says something else."""
        return list(_differences(self.state_dict(), state_dict, ""))


class ConstantLR(Scheduler):
    def rate(self) -> Tensor:
        return torch.tensor(self.values["learning_rate"], dtype=torch.float32)


class LinearLR(Scheduler):
    """``cycle`` is in cstorch's formula, which holds the end rate from ``total_iters`` on all the same."""

    def rate(self) -> Tensor:
        initial, end = self.values["initial_learning_rate"], self.values["end_learning_rate"]
        assert self.total_iters is not None, "required, see scheduler_section.py"
        alpha = torch.tensor(1.0)
        if self.values["cycle"]:
            alpha = torch.add(self.last_epoch, 1).div(self.total_iters).ceil()
        progress = torch.div(self.last_epoch, alpha.mul(self.total_iters))
        falling = torch.rsub(progress, 1).pow(self.values["power"]).mul(initial - end).add(end)
        done = self.last_epoch >= self.total_iters
        return torch.where(done, torch.tensor(end, dtype=torch.float32), falling)


class CosineDecayLR(Scheduler):
    def rate(self) -> Tensor:
        initial, end = self.values["initial_learning_rate"], self.values["end_learning_rate"]
        assert self.total_iters is not None, "required, see scheduler_section.py"
        step = torch.minimum(torch.tensor(self.total_iters, dtype=torch.float32), self.last_epoch)
        angle: Tensor = torch.div(math.pi, self.total_iters).mul(step)
        return angle.cos().add(1).mul(0.5).mul(initial - end).add(end)


class SequentialLR(Scheduler):
    """One schedule after the other, each from its own step 0, changing at the milestones."""

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        *,
        schedulers: Sequence[Scheduler],
        milestones: Sequence[int],
        **settings: Any,
    ) -> None:
        self.schedulers = list(schedulers)
        super().__init__(optimizer, _milestones=list(milestones), **settings)

    def rate(self) -> Tensor:
        passed = int(sum(int(self.last_epoch) >= milestone for milestone in self.values["_milestones"]))
        return self.schedulers[passed].rate()

    def advance(self) -> None:
        super().advance()
        for scheduler, start in zip(self.schedulers, [-1, *self.values["_milestones"]], strict=True):
            if self.last_epoch > start:
                scheduler.advance()

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {"_schedulers": [s.state_dict() for s in self.schedulers]}

    def _adopt(self, state: dict[str, Any]) -> None:
        super()._adopt(state)
        for scheduler, nested in zip(self.schedulers, state["_schedulers"], strict=True):
            scheduler._adopt(nested)


class ScalePerParamLR(Scheduler):
    """Another schedule, times the ``adjust_learning_rate`` of each group."""

    def __init__(self, optimizer: torch.optim.Optimizer, *, scheduler: Scheduler, **settings: Any) -> None:
        self.scheduler = scheduler
        scales = [group.get("adjust_learning_rate", 1.0) for group in optimizer.param_groups]
        super().__init__(optimizer, lr_adjustment_scalars=scales, **settings)

    def rate(self) -> Tensor:
        return self.scheduler.rate()

    def rates(self) -> list[Tensor | None]:
        scales = self.values["lr_adjustment_scalars"]
        rates = zip(super().rates(), scales, strict=True)
        return [None if rate is None else rate * scale for rate, scale in rates]

    def advance(self) -> None:
        super().advance()
        self.scheduler.advance()

    def state_dict(self) -> dict[str, Any]:
        nested = self.scheduler.state_dict()
        del nested["_get_called_within_step"]  # as cstorch does it for this one
        return super().state_dict() | {"_scheduler": nested}

    def _adopt(self, state: dict[str, Any]) -> None:
        super()._adopt(state)
        self.scheduler._adopt(state["_scheduler"])


def _nested(state: dict[str, Any]) -> list[dict[str, Any]]:
    return [*state.get("_schedulers", ()), *([state["_scheduler"]] if "_scheduler" in state else [])]


def _misfits(own: dict[str, Any], state: Any, where: str) -> Iterator[Problem]:
    fix = "resume with the schedulers that the run began with, or do not load their states"
    if not isinstance(state, dict) or set(state) - _PROGRESS != set(own) - _PROGRESS:
        found = ", ".join(map(str, state)) if isinstance(state, dict) else repr(state)
        yield Problem(where, f"is another kind: it has {found}; this run's has {', '.join(own)}", fix)
    elif not isinstance(state.get("last_epoch"), Tensor) or not isinstance(state.get("_last_value"), list):
        yield Problem(where, "has a last_epoch or _last_value that is not what a scheduler saves", fix)
    elif len(_nested(own)) != len(_nested(state)):
        counts = f"{len(_nested(state))} schedules in a row, this run has {len(_nested(own))}"
        yield Problem(where, f"has {counts}", fix)
    else:
        for index, (inner, theirs) in enumerate(zip(_nested(own), _nested(state), strict=True)):
            yield from _misfits(inner, theirs, f"{where}[{index}]")


def _differences(own: dict[str, Any], state: dict[str, Any], where: str) -> Iterator[str]:
    for key in own.keys() - _PROGRESS - {"_scheduler", "_schedulers"}:
        if own[key] != state.get(key):
            yield f"{where}{key.lstrip('_')}: {state.get(key)} of the checkpoint, not {own[key]}"
    for index, (inner, theirs) in enumerate(zip(_nested(own), _nested(state), strict=False)):
        yield from _differences(inner, theirs, f"{where}schedulers[{index}].")
