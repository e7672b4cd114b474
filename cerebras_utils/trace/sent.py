"""The tensors that a run would send to the CS-3, looked at on the way, and whose they are.

Imports Cerebras software: import this module inside functions only.
"""

import hashlib
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from cerebras.pytorch.backend import current_backend_impl
from cerebras.pytorch.storage.utils import lazy_tensor_data_wrapper

from pruning.masks.bits import count, pack
from pruning.masks.collection import resolve_names
from pruning.masks.file import MaskFile


def parameters() -> list[dict[str, Any]]:
    """Each parameter of the model: its names (several, if tied), and the optimizer's tensors of its shape."""
    backend = current_backend_impl()
    names = {id(tensor): name for name, tensor in backend._generate_state_names(backend.state_dict())}
    found: dict[int, dict[str, Any]] = {}
    tensors: dict[int, Any] = {}
    for name, parameter in backend.model.named_parameters(remove_duplicate=False):
        entry = found.setdefault(id(parameter), {"names": [], "argument": "", "state": [], "trained": False})
        entry["names"].append(name)
        entry["argument"] = names.get(id(parameter), entry["argument"])
        tensors[id(parameter)] = parameter
    for optimizer in backend.optimizer_registry:
        for parameter in (p for group in optimizer.param_groups for p in group["params"]):
            if id(parameter) in found:
                found[id(parameter)]["trained"] = True
                found[id(parameter)]["state"] += [
                    names[id(value)]
                    for value in optimizer.state[parameter].values()
                    if getattr(value, "shape", None) == parameter.shape and id(value) in names
                ]
    return [*found.values()]


def sent(
    initial: Mapping[str, Any], owners: Mapping[str, str], once: str | None
) -> dict[str, dict[str, Any]]:
    """By argument: how a tensor would be sent; the bits of masks; under ``once``, what its masks left over.

    ``owners`` has the argument of each parameter's name. A mask is made here if it is not yet, as it would be
    on sending. Weights are not, which may be many times the memory: only a mask file that is applied ``once``
    has to be looked for in them, one at a time.
    """
    seen: dict[str, dict[str, Any]] = {}
    for argument, data in initial.items():
        tensor = lazy_tensor_data_wrapper(data)
        seen[argument] = {"kind": type(tensor).__name__}
        if str(tensor.dtype) == "torch.bool" and argument.endswith("_mask"):
            packed = pack(_values(tensor).numpy())
            seen[argument] |= {
                "kept": count(packed),
                "numel": tensor.numel(),
                "sha256": hashlib.sha256(packed.tobytes()).hexdigest(),
            }
    if once is not None:
        for argument, revived in _left_over(initial, owners, once):
            seen[argument]["under_mask"] = revived
    return seen


def _left_over(initial: Mapping[str, Any], owners: Mapping[str, str], once: str) -> Iterator[tuple[str, int]]:
    """(argument, weights under its mask that are not zero) for each mask of the file."""
    with MaskFile(once) as file:
        for mask, parameter in resolve_names(file.names, owners).items():
            argument = owners[parameter]
            if argument in initial:
                values = _values(lazy_tensor_data_wrapper(initial[argument]))
                yield argument, int(((values != 0) & ~file.mask(mask)).sum())


def _values(tensor: Any) -> torch.Tensor:
    """On the host, whatever it is that makes the values: a file, a graph, packed bits."""
    materialize = getattr(tensor, "_materialize", None)
    values = materialize(cache_override=False) if materialize else tensor
    assert isinstance(values, torch.Tensor)
    return values.detach().cpu()
