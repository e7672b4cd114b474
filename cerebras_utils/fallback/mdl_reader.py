"""Read the whole state out of a Cerebras ``.mdl`` checkpoint: the tree that was saved, in torch tensors."""

import os
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cerebras_utils.fallback.mdl_tree import unflatten
from pruning.checkpoint.mdl_file import MdlSource, open_state
from pruning.checkpoint.state_dict import DTYPES
from pruning.problems import fail

_SMALL = 1 << 16  # bytes
_DTYPES = {short: getattr(torch, name.removeprefix("torch.")) for name, short in DTYPES.items()}


def load_mdl(path: str | os.PathLike[str], *, listing: bool = False) -> Any:
    """As ``cerebras.pytorch.load`` gives it, in memory: containers of the same types, tied tensors tied.

    For a ``listing``, large tensors are not read: they have shapes and no values, on torch's "meta" device.

    Nothing is unpickled: an object that is none of tensor, number, text and None is an error that names it.
    """
    where = str(path)
    if not Path(path).is_file():
        raise fail(where, "there is no such file", "name a .mdl checkpoint")
    with open_state(Path(path), where) as source:
        if objects := source.objects():
            raise fail(
                f"{where}: {objects[0]}",
                f"is a pickled object, one of {len(objects)}, which is not opened: it could run any code",
                "load it with cerebras.pytorch.load, and save it without",
            )
        leaves: dict[str, Any] = source.scalars()
        tied: dict[Hashable, Tensor] = {}
        for key, info in source.infos.items():
            if info.storage not in tied:
                tied[info.storage] = _read(source, key, listing=listing)
            leaves[key] = tied[info.storage]
        return unflatten(where, source.spec(), leaves)


def _read(source: MdlSource, key: str, *, listing: bool) -> Tensor:
    info = source.infos[key]
    dtype = _DTYPES[info.dtype]
    if listing and info.nbytes > _SMALL:
        return torch.empty(info.shape, dtype=dtype, device="meta")
    tensor = torch.empty(info.shape, dtype=dtype)
    if tensor.numel():
        source.read(key, 0, tensor.view(-1).view(torch.uint8).numpy())
    return tensor
