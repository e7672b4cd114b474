"""Where a run computes: which device is meant, that it is here, and what its memory says when it is full."""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from cerebras_utils.cszoo_yaml import Phase
from pruning.problems import fail

_FULL_CPU = "DefaultCPUAllocator: "
# In the messages of errors that have no class of their own.
_FULL = (_FULL_CPU, "CUDA error: out of memory", "ALLOC_FAILED")


def devices_of(phases: Sequence[Phase], asked: str | None) -> list[torch.device]:
    """Of every trainer, before one of them runs: an error where one is not here."""
    return [device_of(phase.init, asked) for phase in phases]


def device_of(init: Mapping[str, Any], asked: str | None) -> torch.device:
    """What the command line says, else the file; CSX in a file means: the best that is here."""
    backend = init.get("backend")
    written = asked or init.get("device") or (backend or {}).get("backend_type") or "CSX"
    wants_gpu = written.upper() == "GPU" or (written.upper() == "CSX" and torch.cuda.is_available())
    if wants_gpu and not torch.cuda.is_available():
        raise fail("--target_device GPU", "torch sees no GPU here", "use --target_device CPU")
    if not wants_gpu:
        return torch.device("cpu")
    index, gpus = int(os.environ.get("LOCAL_RANK", 0)), torch.cuda.device_count()
    if index >= gpus:
        what = f"torchrun started process {index} on a machine of {gpus} GPUs, counted from 0"
        raise fail("--target_device GPU", what, f"use --nproc_per_node {gpus}")
    return torch.device("cuda", index)


def make_current(device: torch.device) -> None:
    """Of several GPUs: the random numbers that are saved, and what FSDP makes, are the current one's."""
    if device.type == "cuda":
        torch.cuda.set_device(device)


def uses_gpu() -> bool:
    """Whether this process does, not whether there is one: a run on the CPU lets that sleep."""
    return bool(torch.cuda.is_initialized())  # type: ignore[no-untyped-call]


@contextmanager
def memory_errors(device: torch.device) -> Iterator[None]:
    """Full memory is a problem of the run, with what torch says of it."""
    try:
        yield
    except (torch.cuda.OutOfMemoryError, MemoryError) as error:
        raise _problem(device, error) from error
    except RuntimeError as error:
        if not any(part in str(error) for part in _FULL):
            raise
        raise _problem(device, error) from error


def _problem(device: torch.device, error: BaseException) -> Exception:
    said = ". ".join(str(error).rpartition(_FULL_CPU)[2].split(". ")[:3]).strip() or type(error).__name__
    fix = "lower batch_size, and raise grad_accum_steps by as much; or compute in fp16_type: bfloat16"
    if device.type == "cuda":
        fix += "; or share the model out among several GPUs: torchrun, and --parallel fsdp"
    return fail(f"the memory of {device}", f"is full: {said}", fix)
