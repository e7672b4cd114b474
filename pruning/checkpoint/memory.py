"""State dicts and modules in memory, on any device, as a ``TensorSource``."""

import math
from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pruning.checkpoint.slabs import slabs
from pruning.checkpoint.source import ITEMSIZE, Bytes, TensorInfo, TensorSource, listing_digest
from pruning.checkpoint.state_dict import DTYPES, unreadable, weights_in
from pruning.problems import Problem, ProblemError, fail

_BLOCK, _BLOCKS = 4096, 64  # of the fingerprint


class MemorySource(TensorSource):
    """Tensors as they are: nothing is copied before it is read, and then only what is read."""

    kind = "memory"

    def __init__(
        self,
        tensors: Mapping[str, Tensor],
        where: str = "the state dict",
        modules: Mapping[str, str] | None = None,
    ) -> None:
        problems = [_problem(where, name, tensor) for name, tensor in tensors.items()]
        if any(problems):
            raise ProblemError(problem for problem in problems if problem is not None)
        modules = modules or {}
        super().__init__(where, {n: _info(n, t, modules.get(n, "")) for n, t in tensors.items()})
        self._tensors = dict(tensors)

    def read(self, name: str, start: int, out: Bytes) -> None:
        tensor, done = self._tensors[name].detach(), 0
        itemsize = tensor.element_size()
        for box, size in slabs(tuple(tensor.shape), start, start + len(out) // itemsize):
            end = done + math.prod(size) * itemsize
            # numpy has no bfloat16, so torch copies into the buffer, from any device and stride.
            torch.from_numpy(out[done:end]).view(tensor.dtype).view(size).copy_(tensor[box])
            done = end

    def fingerprint(self) -> str:
        """The listing, and up to 64 evenly spaced 4 KiB blocks of each tensor."""
        digest = listing_digest(self.infos)
        for name, info in self.infos.items():
            itemsize = ITEMSIZE[info.dtype]
            length = min(_BLOCK, info.nbytes)
            count = min(_BLOCKS, -(-info.nbytes // _BLOCK))
            block = np.empty(length, np.uint8)
            for i in range(count):
                self.read(name, (info.nbytes - length) * i // max(1, count - 1) // itemsize, block)
                digest.update(block.tobytes())
        return digest.hexdigest()

    def context(self, name: str) -> dict[str, Any]:
        grad = self._tensors[name].grad if self._tensors[name].is_leaf else None
        return {} if grad is None else {"grad": grad}


def state_dict_source(state: Mapping[str, Any]) -> MemorySource:
    """A state dict, or a training state that holds one under "model" or "state_dict"."""
    return MemorySource(weights_in(state, "the state dict"))


def module_source(module: nn.Module) -> MemorySource:
    """The parameters of a module by their full names, tied ones under each of their names."""
    where = type(module).__name__
    tensors: dict[str, Tensor] = dict(module.named_parameters(remove_duplicate=False))
    if not tensors:
        raise fail(where, "has no parameters", "pass the model itself")
    owners = {
        f"{prefix}.{name}".removeprefix("."): type(owner).__name__
        for prefix, owner in module.named_modules(remove_duplicate=False)
        for name, _ in owner.named_parameters(recurse=False, remove_duplicate=False)
    }
    return MemorySource(tensors, where, owners)


def _problem(where: str, name: str, tensor: Any) -> Problem | None:
    if isinstance(tensor, Tensor):
        return unreadable(where, name, tensor)
    return Problem(
        f"{where}: {name}",
        f"is a {type(tensor).__name__}, not a torch.Tensor",
        "leave it out, or pass the state dict under 'model'",
    )


def _info(name: str, tensor: Tensor, module: str) -> TensorInfo:
    shape = tuple(tensor.shape)
    tied: Hashable = None
    if tensor.numel():
        memory = str(tensor.device), tensor.untyped_storage().data_ptr()
        tied = *memory, tensor.storage_offset(), shape, tensor.stride()
    return TensorInfo(name, shape, DTYPES[str(tensor.dtype)], storage=tied, module=module)
