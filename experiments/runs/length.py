"""At which step a run is meant to end: by its log, which knows every limit, else by its config."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cerebras_utils.checks.case import section, whole
from experiments.runs.curves import Curves
from experiments.runs.launches import Launch
from experiments.runs.vendor_log import batches_planned, step_before


def steps_asked(
    params: Mapping[str, Any], device: str, latest: Launch | None, parts: Mapping[Path, Curves]
) -> int | None:
    """None where it cannot be known: of epochs, the config tells no length.

    Of the limits of a loop the lowest counts. ``max_steps`` is a step, the others begin at the checkpoint.
    They limit batches; a machine that is no CS-3 takes ``grad_accum_steps`` of them for a step.
    """
    loop = section(section(params, "init"), "loop")
    each = 1 if device == "csx" else whole(loop.get("grad_accum_steps")) or 1
    head = latest.head if latest is not None else ""
    batches, most = whole(loop.get("num_steps")), whole(loop.get("max_steps"))
    begun = step_before(head)
    if begun is None:
        begun = _begun(params, latest, parts, None if batches is None else batches // each)
    planned = batches_planned(head)
    if planned is not None:
        return None if begun is None else begun + planned // each
    limits = [] if batches is None else [batches]
    if loop.get("num_epochs") is not None:
        epochs, per_epoch = whole(loop.get("num_epochs")), whole(loop.get("steps_per_epoch"))
        if epochs is None or per_epoch is None:
            return None
        limits.append(epochs * (per_epoch // each))
    if most is not None and not limits and each == 1:
        return most
    if begun is None or (most is None and not limits):
        return None
    return begun + min([*limits, *([] if most is None else [most - begun])]) // each


def _begun(
    params: Mapping[str, Any], latest: Launch | None, parts: Mapping[Path, Curves], steps: int | None
) -> int | None:
    """The step of the checkpoint that the latest launch began with, by the first step that it logged."""
    with_loss = {os.path.realpath(file): part["loss"] for file, part in parts.items() if "loss" in part}
    if not parts:
        return None if section(params, "fit").get("ckpt_path") else 0
    if latest is not None and latest.events:
        loss = with_loss.get(latest.events)
    else:
        loss = max(with_loss.values(), key=lambda curve: float(curve.times[0]), default=None)
    if loss is None:
        return None
    every = whole(section(section(params, "init"), "logging").get("log_steps")) or 1
    return max(0, int(loss.steps[0]) - min(every, steps or every))
