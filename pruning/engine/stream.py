"""Pieces of tensors, and the threads that read them.

Pieces are handed to threads in the order that breaks ties. Each reads a chunk with ``pread`` into
its own buffer and computes on it while it is in the cache, so reading and computing overlap by
themselves. Memory is a few buffers per thread, whatever the checkpoint.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from threading import Condition, Lock, local
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pruning.checkpoint.source import TensorInfo, TensorSource
from pruning.engine.radix import WORD

Write = Callable[[int, str, int, NDArray[np.uint8]], None]  # level, tensor, byte offset, packed bits
Progress = Callable[[int], None]  # bytes read since the last call


class Buffers:
    """Scratch memory of one thread: asked for by name, kept, and grown when needed."""

    def __init__(self) -> None:
        self._held: dict[str, NDArray[np.uint8]] = {}

    def get(self, name: str, nbytes: int) -> NDArray[np.uint8]:
        if name not in self._held or self._held[name].nbytes < nbytes:
            self._held[name] = np.empty(nbytes, np.uint8)
        return self._held[name][:nbytes]


@dataclass(frozen=True)
class Sizes:
    """How much is read at a time. No result depends on it."""

    workers: int = 2
    chunk: int = 1 << 18  # elements: what one kernel call sees, to fit in the L2 cache
    piece: int = 1 << 21  # elements: what one thread takes at a time

    def __post_init__(self) -> None:
        if self.workers < 1 or self.chunk < WORD or self.chunk % WORD or self.piece % self.chunk:
            raise ValueError(
                f"chunk must be a multiple of {WORD}, piece of chunk, and workers at least 1: {self}"
            )


@dataclass(frozen=True)
class Piece:
    number: int
    info: TensorInfo
    start: int
    count: int


@dataclass(frozen=True)
class Cut:
    """Tensors in pieces of so many elements, in the order that breaks ties; iterated anew for every read."""

    parts: tuple[tuple[TensorInfo, int], ...]

    def __iter__(self) -> Iterator[Piece]:
        number = 0
        for info, size in self.parts:
            for start in range(0, info.numel, size):
                yield Piece(number, info, start, min(size, info.numel - start))
                number += 1


class Turns:
    """Shares the quotas of tied keys out to the pieces in their order, whichever thread is done first.

    A thread waits for the pieces before its own. These are in work already, and the first of
    them waits for nobody.
    """

    def __init__(self, quotas: Sequence[int]) -> None:
        self._left = np.array(quotas, np.int64)
        self._next, self._failed, self._change = 0, False, Condition()

    def take(self, number: int, tied: NDArray[np.int64]) -> list[int]:
        with self._change:
            self._change.wait_for(lambda: self._failed or self._next == number)
            quota = np.minimum(self._left, tied)
            self._left -= quota
            self._next = number + 1
            self._change.notify_all()
            return [int(q) for q in quota]

    def give_up(self) -> None:
        with self._change:
            self._failed = True
            self._change.notify_all()


Ties = Callable[[Iterator[Piece]], list[tuple[int, NDArray[np.int64]]]]  # of each piece, by its number


class Threads:
    """A pool of threads, each with scratch memory of its own."""

    def __init__(self, sizes: Sizes) -> None:
        self.sizes = sizes
        self._executor = ThreadPoolExecutor(sizes.workers)
        self._own = local()

    def __enter__(self) -> "Threads":
        return self

    def __exit__(self, *error: object) -> None:
        self._executor.shutdown(cancel_futures=True)

    @property
    def buffers(self) -> Buffers:
        if not hasattr(self._own, "buffers"):
            self._own.buffers = Buffers()
        return self._own.buffers  # type: ignore[no-any-return]

    def each(self, pieces: Cut, work: Callable[[Iterator[Piece]], Any]) -> list[Any]:
        """``work`` once per thread, over one iterator of pieces that all threads share."""
        shared = _Shared(pieces)

        def guarded() -> Any:
            try:
                return work(shared)
            finally:
                shared.stop()  # nothing is left, or this thread failed and the others need not go on

        futures = [self._executor.submit(guarded) for _ in range(self.sizes.workers)]
        try:
            return [future.result() for future in futures]
        finally:
            shared.stop()

    def turns(self, quotas: Sequence[int], pieces: Cut, ties_of: Ties) -> Turns:
        """How tied keys are shared out: threads of one process wait for each other, and count nothing."""
        return Turns(quotas)


class _Shared(Iterator[Piece]):
    """Hands every piece to one thread; to none any more when a thread has failed."""

    def __init__(self, pieces: Iterable[Piece]) -> None:
        self._pieces, self._lock = iter(pieces), Lock()

    def __next__(self) -> Piece:
        with self._lock:
            return next(self._pieces)

    def stop(self) -> None:
        with self._lock:
            self._pieces = iter(())


def cut_for(source: TensorSource, infos: Sequence[TensorInfo], sizes: Sizes) -> Cut:
    """Pieces begin at whole words and where the file reads best; a small tensor occupies every thread."""
    parts = []
    for info in infos:
        quantum = math.lcm(WORD, source.quantum(info.name))
        unit = quantum if quantum <= sizes.piece else WORD
        fair = -(-info.numel // (2 * sizes.workers))
        size = max(sizes.chunk, min(sizes.piece, fair))
        parts.append((info, -(-size // unit) * unit))
    return Cut(tuple(parts))
