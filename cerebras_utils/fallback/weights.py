"""The weights of a checkpoint into a model: every name and shape is compared before one is written."""

from collections.abc import Mapping

import torch

from cerebras_utils.fallback.shards import as_shard, local
from pruning.problems import Problem, ProblemError
from pruning.registry import suggest

_LISTED = 8  # names of one kind that a message shows


def load_model(
    model: torch.nn.Module, weights: Mapping[str, torch.Tensor], where: str, *, strict: bool
) -> list[str]:
    """Into the model's own tensors, after everything has been compared.

    Returns a line for each thing that is not as it should be and no error: without ``strict``, what is
    missing and what is left out; and values that are not finite.
    """
    own = model.state_dict()
    foreign = [name for name in weights if not name.startswith("model.")]
    missing = [name for name in own if name not in weights]
    unexpected = [name for name in weights if name not in own and name not in foreign]
    shapes = [n for n in own if n in weights and tuple(weights[n].shape) != tuple(own[n].shape)]
    kinds = [n for n in own if n in weights and weights[n].is_floating_point() != own[n].is_floating_point()]
    problems = []
    if foreign:
        what = f"keys do not begin with 'model.': {some(foreign)}{suggest('model.' + foreign[0], list(own))}"
        problems.append(
            Problem(where, what, "rename them; cszoo would load nothing and train from random weights")
        )
    if missing and (strict or len(missing) == len(own)):
        what = f"{len(missing)} of the model's {len(own)} tensors are missing: {some(missing)}"
        problems.append(
            Problem(where, what, "use the checkpoint of this model, or the `model:` section of that one")
        )
    if unexpected and strict:
        what = f"{len(unexpected)} tensors are not the model's: {some(unexpected)}"
        masks = all(name.endswith("_mask") for name in unexpected)
        fix = "add the SparseMaskCallback with these masks" if masks else "use the checkpoint of this model"
        problems.append(Problem(where, what, fix))
    for name in shapes:
        what = f"is of shape {tuple(weights[name].shape)}, the model's is {tuple(own[name].shape)}"
        problems.append(Problem(f"{where}: {name}", what, "use the checkpoint of this model"))
    for name in kinds:
        what = f"is {weights[name].dtype}, the model's is {own[name].dtype}"
        problems.append(Problem(f"{where}: {name}", what, "save it as it was trained, in floating point"))
    problems += [
        Problem(
            f"{where}: {first} and {second}",
            "are one tensor in the model, and have different values in the checkpoint",
            "give both the same values; a mask or an edit reached only one of them",
        )
        for first, second in _tied(own)
        if not shapes
        and first in weights
        and second in weights
        and not _same(weights[first], weights[second])
    ]
    if problems:
        raise ProblemError(problems)
    with torch.no_grad():
        for name, tensor in own.items():
            if name in weights:
                local(tensor).copy_(local(as_shard(weights[name], tensor)))
    lines = []
    if missing:
        what = f"{len(missing)} of the model's {len(own)} tensors are missing, and stay as they are"
        lines.append(f"{where}: {what}: {some(missing)}")
    if unexpected:
        what = f"{len(unexpected)} tensors are not the model's, and are not loaded"
        lines.append(f"{where}: {what}: {some(unexpected)}")
    if sick := [name for name in own if name in weights and not weights[name].isfinite().all()]:
        what = f"{len(sick)} tensors hold values that are NaN or infinite"
        lines.append(f"{where}: {what}: {some(sick)}")
    return lines


def _tied(own: Mapping[str, torch.Tensor]) -> list[tuple[str, str]]:
    """Pairs of names for one memory: a tied head, and the final norm, which has two names."""
    first: dict[int, str] = {}
    places = [(name, local(tensor)) for name, tensor in own.items()]
    return [
        (first[t.data_ptr()], name)
        for name, t in places
        if t.numel() and first.setdefault(t.data_ptr(), name) != name
    ]


def _same(one: torch.Tensor, other: torch.Tensor) -> bool:
    return torch.equal(one.nan_to_num(), other.nan_to_num()) and torch.equal(one.isnan(), other.isnan())


def some(names: list[str]) -> str:
    return ", ".join(names[:_LISTED]) + (f" and {len(names) - _LISTED} more" if len(names) > _LISTED else "")
