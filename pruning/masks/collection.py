"""Masks by name, in memory or in a file, behind one face: packed bits, one mask at a time."""

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from pruning.masks.bits import Bytes, pack, to_bool
from pruning.masks.file import MaskFile
from pruning.problems import Problem, ProblemError, fail
from pruning.registry import suggest


class MaskSet(Protocol):
    @property
    def names(self) -> tuple[str, ...]: ...

    def shape(self, name: str) -> tuple[int, ...]: ...

    def packed(self, name: str) -> Bytes:
        """The bits as in ``pruning.masks.bits``, checked."""
        ...


Masks = Mapping[str, Any] | MaskSet | str | os.PathLike[str]  # a mapping holds tensors or arrays of 0 and 1


class MemoryMasks:
    """A dict of torch tensors or numpy arrays, on any device, bool or any number type that holds 0 and 1."""

    def __init__(self, masks: Mapping[str, Any]) -> None:
        problems = []
        for name, mask in masks.items():
            if not isinstance(name, str):
                problems.append(
                    Problem(f"mask {name!r}", "has no name", "key masks by the name of the parameter")
                )
            elif not hasattr(mask, "shape"):
                what = f"is a {type(mask).__name__}, not a tensor"
                problems.append(Problem(f"mask {name}", what, "give a bool tensor: True = keep"))
        if problems:
            raise ProblemError(problems)
        self._masks = masks

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self._masks)

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self._masks[name].shape)

    def packed(self, name: str) -> Bytes:
        return pack(to_bool(as_array(self._masks[name], f"mask {name}"), f"mask {name}"))


@contextmanager
def opened(masks: Masks) -> Iterator[MaskSet]:
    """Masks from wherever they are. A file that is opened here is closed here."""
    if isinstance(masks, str | os.PathLike):
        with MaskFile(masks) as file:
            yield file
    elif isinstance(masks, Mapping):
        yield MemoryMasks(masks)
    else:
        yield masks


def as_array(tensor: Any, where: str) -> NDArray[Any]:
    """A tensor on any device, or an array, as a numpy array of the same values."""
    if isinstance(tensor, np.ndarray):
        return tensor
    import torch

    if not isinstance(tensor, torch.Tensor) or tensor.layout != torch.strided or tensor.is_meta:
        kind = getattr(tensor, "layout", type(tensor).__name__)
        raise fail(where, f"is no dense tensor with values ({kind})", "give a bool tensor: True = keep")
    tensor = tensor.detach().cpu()
    return np.asarray((tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy())


def resolve_names(mask_names: Iterable[str], parameter_names: Iterable[str]) -> dict[str, str]:
    """The parameter of each mask: the one of its name, or ``NAME.weight`` for one named by its module.

    Nothing is matched by likeness. All names without a parameter are reported together.
    """
    parameters = dict.fromkeys(parameter_names)
    resolved: dict[str, str] = {}
    problems: list[Problem] = []
    for name in mask_names:
        of_module = f"{name}.weight"
        if name in parameters:
            resolved[name] = name
        elif of_module in parameters:
            resolved[name] = of_module
        else:
            what = f"has no parameter in the model.{suggest(name, list(parameters))}"
            problems.append(Problem(f"mask {name}", what, "rename the mask, or take the masks of this model"))
    owners: dict[str, str] = {}
    for name, parameter in resolved.items():
        if parameter in owners:
            what = f"belongs to the same parameter as mask {owners[parameter]}: {parameter}"
            problems.append(Problem(f"mask {name}", what, "keep one of them"))
        owners[parameter] = name
    if problems:
        raise ProblemError(problems)
    return resolved
