"""Masks onto the weights of a model, in place."""

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import numpy as np

from pruning.masks.bits import unpack
from pruning.masks.collection import Masks, MaskSet, opened, resolve_names
from pruning.problems import Problem, ProblemError

if TYPE_CHECKING:
    from torch import Tensor, nn


def apply_masks_to_model(model: "nn.Module", masks: Masks) -> dict[str, int]:
    """Set what the masks drop to zero, in place. Everything is checked before the first weight changes.

    Every mask must find its parameter with its shape. A NaN or Inf that a mask would hide is an error: the
    weights are broken, and pruning is no repair. Returns how many masks, and how many weights they cover,
    keep and drop, and how many of those were not zero before.
    """
    import torch

    with opened(masks) as source, torch.no_grad():
        parameters = dict(model.named_parameters(remove_duplicate=False))
        owners = resolve_names(source.names, parameters)
        targets = {name: parameters[owner] for name, owner in owners.items()}
        problems = [*_shape_problems(source, targets)] or [
            *_tie_problems(source, targets),
            *_hidden_problems(source, targets),
        ]
        if problems:
            raise ProblemError(problems)
        report = {"masks": 0, "numel": 0, "kept": 0, "dropped": 0, "newly_zero": 0}
        for name, weight in {id(weight): (name, weight) for name, weight in targets.items()}.values():
            dropped = _dropped(source, name, weight)
            report["masks"] += 1
            report["numel"] += weight.numel()
            report["dropped"] += int(dropped.sum())
            report["newly_zero"] += int((dropped & (weight != 0)).sum())
            weight.masked_fill_(dropped, 0)
        report["kept"] = report["numel"] - report["dropped"]
        return report


def _dropped(source: MaskSet, name: str, weight: "Tensor") -> "Tensor":
    import torch

    keep = unpack(source.packed(name), weight.numel())
    return torch.from_numpy(~keep).reshape(weight.shape).to(weight.device)


def _shape_problems(source: MaskSet, targets: Mapping[str, "Tensor"]) -> Iterable[Problem]:
    for name, weight in targets.items():
        if source.shape(name) != tuple(weight.shape):
            what = f"is of shape {source.shape(name)}, its parameter of {tuple(weight.shape)}"
            yield Problem(f"mask {name}", what, "take the masks that were computed for this model")
        elif weight.is_meta:
            what = "its parameter has no values (device meta), so the mask would have no effect"
            yield Problem(f"mask {name}", what, "load the weights first")


def _tie_problems(source: MaskSet, targets: Mapping[str, "Tensor"]) -> Iterable[Problem]:
    first: dict[int, str] = {}
    for name, weight in targets.items():
        other = first.setdefault(id(weight), name)
        if other != name and not np.array_equal(source.packed(name), source.packed(other)):
            what = f"differs from mask {other}, though their parameters are one and the same (tied)"
            yield Problem(f"mask {name}", what, "keep one of the two masks")


def _hidden_problems(source: MaskSet, targets: Mapping[str, "Tensor"]) -> Iterable[Problem]:
    import torch

    for name, weight in targets.items():
        broken = ~torch.isfinite(weight)
        if bool(broken.any()) and (hidden := int((broken & _dropped(source, name, weight)).sum())):
            what = f"would hide {hidden:,} values of its parameter that are NaN or Inf"
            yield Problem(f"mask {name}", what, "find out what broke the weights; load a sound checkpoint")
