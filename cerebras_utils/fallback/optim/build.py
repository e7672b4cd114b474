"""The ``optimizer:`` and ``schedulers:`` sections of a YAML, built."""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from cerebras_utils.fallback.optim.base import Optimizer
from cerebras_utils.fallback.optim.groups import Scaled, param_groups
from cerebras_utils.fallback.optim.optimizer_section import optimizer_problems, read_optimizer
from cerebras_utils.fallback.optim.scheduler_section import (
    milestones_of,
    read_scheduler,
    scheduler_problems,
)
from cerebras_utils.fallback.optim.schedulers import LinearLR, ScalePerParamLR, Scheduler, SequentialLR
from pruning.problems import ProblemError, fail

__all__ = ["make_optimizer", "make_schedulers", "optimizer_problems", "scheduler_problems"]


def make_optimizer(
    params: Mapping[str, Any],
    named_parameters: Iterable[tuple[str, Tensor]],
    *,
    learning_rate_groups: Mapping[str, Scaled] | None = None,
    where: str = "optimizer",
) -> Optimizer:
    """The optimizer of the section ``params`` over the parameters that are trained.

    ``learning_rate_groups`` are the model's, by name: muP and ``adjust_learning_rate`` scale them.
    """
    if problems := optimizer_problems(params, where):
        raise ProblemError(problems)
    section = read_optimizer(params)
    groups = param_groups(
        named_parameters,
        weight_decay=section.settings["weight_decay"],
        tagged=section.tagged,
        scaled=learning_rate_groups,
        scales=section.scales,
        where=f"{where}.{section.name}",
    )
    if not any(group["params"] for group in groups):
        raise fail(where, "the model has no parameter to train", "freeze fewer of them")
    return section.cls(groups, **section.settings)


def make_schedulers(
    params: list[Mapping[str, Any]] | None, optimizer: torch.optim.Optimizer, *, where: str = "schedulers"
) -> list[Scheduler]:
    """The schedulers of the section ``params``; they have written the rate of the first step."""
    if problems := scheduler_problems(params, where):
        raise ProblemError(problems)
    scaled = any("adjust_learning_rate" in group for group in optimizer.param_groups)
    made = []
    for index, section in enumerate(params or ()):
        scheduler = _build(section, optimizer, None)
        if scaled and not isinstance(scheduler, ScalePerParamLR):
            scheduler = ScalePerParamLR(optimizer, scheduler=scheduler)
        if not any(scheduler.applies_to(group) for group in optimizer.param_groups):
            tags = {tag for group in optimizer.param_groups for tag in group.get("tags", ())}
            raise fail(
                f"{where}[{index}].param_group_tags",
                f"{scheduler.param_group_tags} names no parameters; the tags are {', '.join(tags) or 'none'}",
                "use a tag that the optimizer's params give",
            )
        made.append(scheduler)
    for group in optimizer.param_groups:
        by = [index for index, scheduler in enumerate(made) if scheduler.applies_to(group)]
        if len(by) > 1:
            what = f"the schedulers {by} set the learning rate of one group, tagged {group.get('tags')}"
            raise fail(where, what, "give each parameter one tag that only one scheduler names")
    return made


def _build(section: Mapping[str, Any], optimizer: torch.optim.Optimizer, tags: Any) -> Scheduler:
    cls, settings = read_scheduler(section)
    tags = settings.pop("param_group_tags", None) or tags
    if cls is SequentialLR:
        schedulers = [_build(inner, optimizer, tags) for inner in settings["schedulers"]]
        milestones = milestones_of(settings["schedulers"])
        return SequentialLR(optimizer, schedulers=schedulers, milestones=milestones, param_group_tags=tags)
    if cls is ScalePerParamLR:
        inner = _build(settings["scheduler"], optimizer, tags)
        return ScalePerParamLR(optimizer, scheduler=inner, param_group_tags=tags)
    total = settings.pop("total_iters")
    values = {key: value if isinstance(value, bool) else float(value) for key, value in settings.items()}
    if cls is LinearLR:
        cycle = values.pop("cycle")
        values |= {"power": 1.0, "cycle": cycle}
    return cls(optimizer, total_iters=None if total is None else int(total), param_group_tags=tags, **values)
