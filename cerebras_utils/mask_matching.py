"""Which mask of a file is of which weight, asked alike by both backends."""

from collections.abc import Iterator, Mapping
from typing import Any

from pruning.masks.collection import resolve_names
from pruning.masks.file import MaskFile
from pruning.problems import Problem, ProblemError


def matched(file: MaskFile, parameters: Mapping[str, Any]) -> dict[str, str]:
    """The mask of each parameter that has one. All that does not fit is raised together."""
    masks = {parameter: mask for mask, parameter in resolve_names(file.names, parameters).items()}
    if problems := [*_problems(file, masks, parameters)]:
        raise ProblemError(problems)
    return masks


def _problems(file: MaskFile, masks: Mapping[str, str], parameters: Mapping[str, Any]) -> Iterator[Problem]:
    first: dict[int, str] = {}
    for parameter, mask in masks.items():
        where, weight = f"{file.path}: {mask}", parameters[parameter]
        if tuple(weight.shape) != file.shape(mask):
            what = f"is of shape {file.shape(mask)}, the weight {tuple(weight.shape)}"
            yield Problem(where, what, "take this model's masks")
            continue
        if file.kept(mask) == 0:
            yield Problem(where, "drops every weight of its layer", "lower the sparsity of this layer")
        other = first.setdefault(id(weight), mask)
        if other != mask and (file.packed(mask) != file.packed(other)).any():
            what = f"differs from mask {other}, though both are of one weight (tied)"
            yield Problem(where, what, "keep one of the two masks")
