"""Bytes of a ``TensorSource`` as torch tensors."""

import torch
from torch import Tensor

from pruning.checkpoint.source import TensorSource

TORCH_DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


def tensor_of(source: TensorSource, name: str) -> Tensor:
    """A whole tensor. For small ones, such as LoRA factors."""
    info = source.infos[name]
    return torch.from_numpy(source.array(name)).view(TORCH_DTYPES[info.dtype]).reshape(info.shape)
