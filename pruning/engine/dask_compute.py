"""The mask engine on many machines: the same passes, their pieces handed to the workers of a Dask cluster.

Each task reads a run of pieces from the checkpoint that all machines see. Histograms come back and are
added up; bits are written by offset into one preallocated file. A task that is done twice, because a
worker died, writes the same bits to the same place. One worker or twenty: the bits of one process.
"""

import os
import pickle
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import local
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pruning.checkpoint.open import open_checkpoint
from pruning.checkpoint.source import ITEMSIZE, Bytes, TensorSource
from pruning.engine.compute import compute, default_sizes
from pruning.engine.stream import Buffers, Cut, Piece, Progress, Sizes, Threads, Ties, Turns
from pruning.masks.writer import MaskWriter
from pruning.planning.plan import Plan
from pruning.problems import Problem, ProblemError, fail

_TASKS_PER_WORKER = 8  # so that the slowest does not hold up the rest
_SCORES = ("magnitude", "l2", "random")  # others may hold what cannot be sent


def write_mask_files_on(
    client: Any,
    checkpoint: Path,
    plan: Plan,
    paths: Sequence[Path],
    *,
    sizes: Sizes | None = None,
    progress: Progress = lambda nbytes: None,
) -> list[dict[str, int]]:
    """``pruning.engine.compute.write_mask_files`` on a ``distributed.Client``. Safetensors alone.

    Checkpoint and masks lie on a file system that every worker sees under the same paths. Unstructured
    masks cost one read more than in one process: equal scores are counted first, for workers cannot wait
    for each other to share them out.
    """
    if plan.specs[0].score not in _SCORES:
        what = f"score {plan.specs[0].score!r} is a function of this process"
        raise fail("--dask", what, f"use {', '.join(_SCORES)}, or leave --dask out")
    sizes = sizes or default_sizes(1)
    with SharedSource(checkpoint.absolute()) as source:
        shapes = {info.name: info.shape for info in plan.tensors}
        writers: list[MaskWriter] = []
        try:
            for path, spec in zip(paths, plan.specs, strict=True):
                writers.append(
                    MaskWriter(
                        path.absolute(),
                        shapes,
                        spec=spec.to_json(),
                        checkpoint=source.fingerprint(),
                        format="safetensors",
                    )
                )
            write = WriteByOffset(tuple(writer.places() for writer in writers))
            kept = compute(
                source, plan, write, sizes, lambda nbytes: None, DaskThreads(client, sizes, progress)
            )
            for writer, counts in zip(writers, kept, strict=True):
                writer.finish(counts)
        except BaseException:
            for writer in writers:
                writer.abort()
            raise
    return kept


class SharedSource(TensorSource):
    """A checkpoint by its path: sent as that, and opened once by each process that it comes to."""

    kind = "shared"

    def __init__(self, path: Path) -> None:
        self._path, self._inner = path, open_checkpoint(path)
        super().__init__(self._inner.where, self._inner.infos)
        self._fingerprint = self._inner.fingerprint()

    def read(self, name: str, start: int, out: Bytes) -> None:
        self._inner.read(name, start, out)

    def fingerprint(self) -> str:
        return self._fingerprint

    def quantum(self, name: str) -> int:
        return self._inner.quantum(name)

    def close(self) -> None:
        self._inner.close()

    def __reduce__(self) -> tuple[Callable[..., "SharedSource"], tuple[Path, str]]:
        return _opened, (self._path, self._fingerprint)


_SOURCES: dict[tuple[Path, str], SharedSource] = {}  # of a worker


def _opened(path: Path, fingerprint: str) -> SharedSource:
    key = (path, fingerprint)
    if key not in _SOURCES:
        source = SharedSource(path)
        if source.fingerprint() != fingerprint:
            what = f"is another checkpoint on the worker {os.uname().nodename}"
            raise fail(path, what, "put it where all machines see the same files")
        _SOURCES[key] = source
    return _SOURCES[key]


@dataclass(frozen=True)
class WriteByOffset:
    """Bits to their final place. The file is opened for each write: on NFS, closing it is what sends them."""

    places: tuple[tuple[Path, Mapping[str, int]], ...]  # by level

    def __call__(self, level: int, name: str, offset: int, packed: NDArray[np.uint8]) -> None:
        path, starts = self.places[level]
        try:
            fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        except OSError as error:
            what = f"cannot be written by the worker {os.uname().nodename}: {error.strerror}"
            raise fail(path, what, "choose an --out that all machines see under this path") from error
        try:
            data, position = memoryview(np.ascontiguousarray(packed).data), starts[name] + offset
            while data:
                done = os.pwrite(fd, data, position)
                data, position = data[done:], position + done
        finally:
            os.close(fd)


class DaskThreads(Threads):
    """What ``Threads`` is to the passes, with tasks instead of threads. It is sent as its stand-in."""

    def __init__(self, client: Any, sizes: Sizes, progress: Progress) -> None:
        super().__init__(sizes)
        self._client, self._progress = client, progress

    def each(self, pieces: Cut, work: Callable[[Iterator[Piece]], Any]) -> list[Any]:
        from distributed import as_completed
        from distributed.protocol.pickle import dumps

        sent = dumps(work)
        listed = list(pieces)
        workers = max(1, sum(self._client.nthreads().values()))
        size = max(1, -(-len(listed) // (_TASKS_PER_WORKER * workers)))
        batches = [listed[at : at + size] for at in range(0, len(listed), size)]
        futures = [self._client.submit(_task, sent, batch, pure=False) for batch in batches]
        try:
            for future in as_completed(futures):
                self._progress(_result(future)[1])
            results = [_result(future)[0] for future in futures]
        finally:
            self._client.cancel(futures)
        refused = [problem for found in results if isinstance(found, _Refused) for problem in found.problems]
        if refused:
            raise ProblemError(dict.fromkeys(refused))
        return results

    def turns(self, quotas: Sequence[int], pieces: Cut, ties_of: Ties) -> Turns:
        tied = sorted((found for part in self.each(pieces, ties_of) for found in part), key=lambda f: f[0])
        in_order = Turns(quotas)
        return Given({number: in_order.take(number, count) for number, count in tied})

    def __reduce__(self) -> tuple[Callable[..., Threads], tuple[Sizes]]:
        return _stand_in, (self.sizes,)


class Given(Turns):
    """Quotas that are shared out already."""

    def __init__(self, quotas: Mapping[int, list[int]]) -> None:
        self._given = dict(quotas)

    def take(self, number: int, tied: NDArray[np.int64]) -> list[int]:
        return self._given[number]

    def give_up(self) -> None:
        pass  # nobody waits


@dataclass(frozen=True)
class _Refused:
    """The user's mistake, found by a worker."""

    problems: tuple[Problem, ...]


class _StandIn(Threads):
    """Of the threads of the process that asked: scratch memory alone."""

    _buffers = local()

    def __init__(self, sizes: Sizes) -> None:
        self.sizes = sizes

    @property
    def buffers(self) -> Buffers:
        if not hasattr(self._buffers, "held"):
            self._buffers.held = Buffers()
        held: Buffers = self._buffers.held
        return held


def _stand_in(sizes: Sizes) -> Threads:
    return _StandIn(sizes)


def _task(sent: bytes, pieces: Sequence[Piece]) -> tuple[Any, int]:
    """What came of it, and the bytes that were read for it."""
    try:
        return pickle.loads(sent)(iter(pieces)), sum(p.count * ITEMSIZE[p.info.dtype] for p in pieces)
    except ProblemError as error:
        return _Refused(error.problems), 0


def _result(future: Any) -> tuple[Any, int]:
    found: tuple[Any, int] = future.result()
    return found
