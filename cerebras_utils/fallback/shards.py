"""Tensors that several processes share out among themselves, each with some of the rows.

``fully_shard`` makes such tensors (``DTensor``) of a model's parameters, under their own names. Most
operations on them mean the whole tensor. Not so ``item()`` after a sum, which is that of the local rows:
``count`` is for that. A plain tensor is whole, and its own local part, so that the same code serves one
process and several. Nothing of ``torch.distributed`` is imported here.
"""

from typing import Any

import torch
from torch import Tensor


def is_sharded(tensor: Tensor) -> bool:
    return hasattr(tensor, "to_local")


def local(tensor: Tensor) -> Tensor:
    """The rows that this process has, in the memory of ``tensor``; all of a plain tensor."""
    if not is_sharded(tensor):
        return tensor
    sharded: Any = tensor
    with torch.no_grad():
        rows: Tensor = sharded.to_local()
    return rows


def as_shard(tensor: Tensor, like: Tensor) -> Tensor:
    """A plain tensor of the shape of ``like``, the same in all processes, shared out as ``like`` is.

    No process asks another.
    """
    if not is_sharded(like) or is_sharded(tensor):
        return tensor
    sharded: Any = like
    (placement,) = sharded.placements
    assert placement.is_shard(0), f"only rows are shared out, not {placement}"
    each = -(-tensor.shape[0] // sharded.device_mesh.size())
    first = each * sharded.device_mesh.get_local_rank()
    rows = tensor[first : first + each].clone().to(local(like).device)  # the other rows are not kept
    assert rows.shape == local(like).shape
    made: Tensor = type(sharded.detach()).from_local(
        rows,
        sharded.device_mesh,
        sharded.placements,
        run_check=False,
        shape=sharded.shape,
        stride=sharded.stride(),
    )
    return made


def whole(value: Any, *, keep: bool = True) -> Any:
    """A tree with its shared tensors put together, on the CPU. All processes have to call it.

    Those that do not ``keep`` the tensors get some without data in their place.
    """
    if isinstance(value, dict):
        return {key: whole(inner, keep=keep) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(whole(inner, keep=keep) for inner in value)
    if isinstance(value, Tensor) and is_sharded(value):
        sharded: Any = value.detach()
        full: Tensor = sharded.full_tensor()
        return full.cpu() if keep else full.to("meta")
    return value


def count(found: Tensor) -> int:
    """How many entries of a bool tensor are true, in all processes that share it."""
    total: Any = found.sum()
    return int(total.full_tensor() if is_sharded(total) else total)
