"""What the optimizers share: states from the start, and a load that checks what it is given."""

from collections import Counter
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from cerebras_utils.fallback.shards import as_shard
from pruning.problems import Problem, ProblemError, fail

Group = dict[str, Any]


class Optimizer(torch.optim.Optimizer):
    """States are there before the first step, as cstorch's are, so every checkpoint has the same keys."""

    def __init__(self, groups: list[Group], defaults: dict[str, Any]) -> None:
        super().__init__(groups, defaults)
        for group in self.param_groups:
            if "tags" in group:  # a set in memory; files may bring a list
                group["tags"] = set(group["tags"])
            for parameter in group["params"]:
                if states := self.initial_states(group, parameter):
                    self.state[parameter] = states

    def initial_states(self, group: Group, parameter: Tensor) -> dict[str, Tensor]:
        raise NotImplementedError

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Strict: the groups have the sizes of these, every state is there, with its shape."""
        if problems := list(self._misfits(state_dict)):
            raise ProblemError(problems)
        super().load_state_dict({**state_dict, "state": dict(self._shared_out(state_dict))})
        for group in self.param_groups:
            for parameter in group["params"]:
                for name, own in self.initial_states(group, parameter).items():
                    loaded = self.state[parameter][name]
                    # torch moves every state to its parameter; those of no size stay where they are read
                    self.state[parameter][name] = loaded.to(own.device) if own.dim() == 0 else loaded

    def _shared_out(self, state_dict: dict[str, Any]) -> Iterator[tuple[int, dict[str, Any]]]:
        """The states by number, those of the shape of a shared parameter shared out as it is."""
        for here, group in zip(self.param_groups, state_dict["param_groups"], strict=True):
            for parameter, index in zip(here["params"], group["params"], strict=True):
                if index in state_dict["state"]:
                    yield (
                        index,
                        {
                            name: as_shard(value, parameter)
                            if isinstance(value, Tensor) and value.shape == parameter.shape
                            else value
                            for name, value in state_dict["state"][index].items()
                        },
                    )

    def _misfits(self, state_dict: dict[str, Any]) -> Iterator[Problem]:
        where, fix = "the checkpoint's optimizer", "load the model alone, or use a checkpoint of this model"
        groups, states = state_dict.get("param_groups"), state_dict.get("state")
        if not isinstance(groups, list) or not isinstance(states, dict):
            raise fail(where, "has no state and param_groups", fix)
        sizes = [len(group["params"]) for group in groups]
        own = [len(group["params"]) for group in self.param_groups]
        if sizes != own:
            raise fail(where, f"has groups of {sizes} parameters, this run has {own}", fix)
        wrong = [
            Problem(f"{where}.param_groups[{i}].{key}", f"is {group[key]!r:.60}, not {_says(here[key])}", fix)
            for i, (here, group) in enumerate(zip(self.param_groups, groups, strict=True))
            for key in here
            if key in group and _says(here[key]) not in ("", _says(group[key]))
        ]
        if wrong:
            raise ProblemError(wrong)
        if absent := [key for key in self.defaults if any(key not in group for group in groups)]:
            yield Problem(f"{where}.param_groups", f"lack {', '.join(absent)}", fix)
        missing: Counter[str] = Counter()
        for here, group in zip(self.param_groups, groups, strict=True):
            for parameter, index in zip(here["params"], group["params"], strict=True):
                found = states.get(index, {})
                for name, own_state in self.initial_states({**here, **group}, parameter).items():
                    if name not in found:
                        missing[name] += 1
                    elif not isinstance(found[name], Tensor):
                        what = f"is {found[name]!r:.60}, not a tensor"
                        yield Problem(f"{where}.state.{index}.{name}", what, fix)
                    elif found[name].shape != own_state.shape:
                        shapes = f"{tuple(found[name].shape)}, this run's has {tuple(own_state.shape)}"
                        yield Problem(f"{where}.state.{index}.{name}", f"has the shape {shapes}", fix)
        for name, count in missing.items():
            yield Problem(f"{where}.state", f"has no {name} of {count} of {sum(own)} parameters", fix)


def _says(value: Any) -> str:
    """The kind of a setting of a group; nothing where any kind will do."""
    if isinstance(value, bool):
        return "true or false"
    if isinstance(value, int | float) or (isinstance(value, Tensor) and value.ndim == 0):
        return "a number"
    if isinstance(value, list | tuple) and len(value) == 2 and all(_says(v) == "a number" for v in value):
        return "two numbers"
    return ""


def trained(group: Group) -> list[Tensor]:
    """The parameters that the last backward pass reached."""
    return [parameter for parameter in group["params"] if parameter.grad is not None]


def gradient(parameter: Tensor) -> Tensor:
    """Of a parameter that is trained."""
    assert parameter.grad is not None
    return parameter.grad


def as_float(value: Any) -> float:
    """A learning rate is a number, or after a scheduler a float32 tensor: the same bits as either."""
    return float(value)
