"""Several processes for one run, started by ``torchrun``: DDP, or FSDP where a model is too large for one.

The first process alone talks and writes. What goes wrong in one is told to all where they meet, at the
start, before each batch and at each checkpoint; they end together with one error. ``torchrun`` ends the
others where a process dies in between.
"""

import os
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext, redirect_stderr, redirect_stdout
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.rendezvous import rendezvous

from cerebras_utils.fallback.processes import Processes, told
from pruning.problems import fail

_FAILED = "wafersparse/failed/"  # keys in the store that torchrun provides: who failed by itself
_ENDS = "wafersparse/ends"  # the first process has written its receipt, and ends
_PATIENCE = 5.0  # seconds in which the first process, if it fails likewise, says so
_LAST_WORDS = 1.0  # seconds; when another ends before the first, torchrun kills the first


@contextmanager
def joined(
    kind: str | None = None, verb: str = "fit", environment: Mapping[str, str] = os.environ
) -> Iterator[Processes]:
    """The processes that ``torchrun`` started with this one, for as long as the context lasts.

    In all but the first, nothing is printed meanwhile, and an error ends the process: the first tells it,
    or, where it cannot know of it, the one it happened in.
    """
    started = "RANK" in environment and "WORLD_SIZE" in environment
    if kind is not None and not started:
        raise fail(
            f"--parallel {kind}",
            "torchrun did not start this process",
            f"run: torchrun --standalone --nproc_per_node 2 -m experiments {verb} CONFIG --parallel {kind}",
        )
    world = int(environment["WORLD_SIZE"]) if started else 1
    if world == 1:
        yield Processes()
        return
    store, rank, world = next(iter(rendezvous("env://")))
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    dist.init_process_group(backend, store=store, rank=rank, world_size=world)
    processes = Processes(rank, world, kind or "ddp")
    try:
        with nullcontext() if processes.first else _silence():
            if kind == "fsdp":
                _require_fsdp()
            yield processes
    except BaseException as error:
        _end(processes, store, error)
    dist.destroy_process_group()


def _end(processes: Processes, store: Any, error: BaseException) -> None:
    """Raise what this process has to say: all of it where it is the first, or alone with its error.

    Most errors come to all at once, a setting or a loss that is not finite: then the first says it.
    """
    if not processes.agreed and isinstance(error, Exception):
        if _is_of_the_connection(error):
            others = [rank for rank in range(processes.world) if store.check([f"{_FAILED}{rank}"])]
            _raise_another(f"number {others[0]}" if others else "one", processes, error)
        store.set(f"{_FAILED}{processes.rank}", "")
        if not processes.first and not _comes(store, f"{_FAILED}0"):
            print(f"error: process {processes.rank} of {processes.world}:", file=sys.stderr)
            print(told(error)[1] or error, file=sys.stderr)
            raise SystemExit(1) from None
    if processes.first:
        store.set(_ENDS, "")
        raise error
    if _comes(store, _ENDS):
        time.sleep(_LAST_WORDS)
    raise SystemExit(1) from None


def _comes(store: Any, key: str) -> bool:
    end = time.monotonic() + _PATIENCE
    while time.monotonic() < end:
        if store.check([key]):
            return True
        time.sleep(0.05)
    return False


def _raise_another(which: str, processes: Processes, error: BaseException) -> None:
    if not processes.first:
        raise SystemExit(1) from None
    raise fail(
        f"{which} of {processes.world} processes",
        f"has ended; this one waited for it ({str(error).splitlines()[0][:120]})",
        "mend what it said above; without a message, it was killed: look for a lack of memory",
    ) from error


def _is_of_the_connection(error: BaseException) -> bool:
    return isinstance(error, dist.DistError) or "gloo/transport" in str(error)


@contextmanager
def _silence() -> Iterator[None]:
    with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
        yield


def _require_fsdp() -> None:
    try:
        from torch.distributed.fsdp import fully_shard  # noqa: F401
    except ImportError:
        raise fail(
            "--parallel fsdp",
            f"torch {torch.__version__} has no torch.distributed.fsdp.fully_shard",
            "use torch 2.6 or newer, or --parallel ddp",
        ) from None
