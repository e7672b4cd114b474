"""The reads: histograms until every threshold is exact, then one that compares and packs.

Pieces of a pool are handed to threads in the order that breaks ties. Each reads a chunk with
``pread`` into its own buffer and computes on it while it is in the cache, so reading and
computing overlap by themselves. Memory is a few buffers per thread, whatever the checkpoint.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from threading import Condition, Lock, local
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pruning.checkpoint.source import ITEMSIZE, TensorInfo
from pruning.engine.keys import Buffers, KeyReader
from pruning.engine.radix import (
    BINS,
    LANES,
    WORD,
    histogram16,
    histogram_high,
    keep_first_ties,
    refine,
    split,
)
from pruning.problems import Problem, ProblemError

Write = Callable[[int, str, int, NDArray[np.uint8]], None]  # level, tensor, byte offset, packed bits
Progress = Callable[[int], None]  # bytes read since the last call

_FOLD = 1 << 31  # counters of a thread have 32 bits: add them up before they can overflow


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


def cut_for(reader: KeyReader, infos: Sequence[TensorInfo], sizes: Sizes) -> Cut:
    """Pieces begin at whole words and where the file reads best; a small tensor occupies every thread."""
    parts = []
    for info in infos:
        quantum = math.lcm(WORD, reader.source.quantum(info.name))
        unit = quantum if quantum <= sizes.piece else WORD
        fair = -(-info.numel // (2 * sizes.workers))
        size = max(sizes.chunk, min(sizes.piece, fair))
        parts.append((info, -(-size // unit) * unit))
    return Cut(tuple(parts))


def thresholds(
    reader: KeyReader, pieces: Cut, drops: Sequence[int], threads: Threads, progress: Progress
) -> tuple[list[int], list[int]]:
    """For each level: the smallest key that is kept, and how many keys equal to it are kept.

    A radix select: the top 16 bits of all keys first, then the next 16 of those that share the
    digits found so far. Two-byte keys are done after one read, four-byte keys after two.
    """
    counts = _high_digits(reader, pieces, threads, progress)
    found, before = zip(*(_digit(counts, drop) for drop in drops), strict=True)
    prefixes = list(found)
    left = [drop - below for drop, below in zip(drops, before, strict=True)]
    quota = [int(counts[p]) - rest for p, rest in zip(prefixes, left, strict=True)]
    for shift in range(8 * reader.bytes_per_key - 32, -1, -16):
        asked = sorted(set(prefixes))
        table = _next_digits(reader, pieces, asked, shift, threads, progress)
        for i, prefix in enumerate(prefixes):
            counts = table[asked.index(prefix)]
            digit, below = _digit(counts, left[i])
            prefixes[i] = prefix << 16 | digit
            left[i] -= below
            quota[i] = int(counts[digit]) - left[i]
    return prefixes, quota


def reads(reader: KeyReader) -> int:
    """How often ``thresholds`` and ``pack`` together read a tensor."""
    return 1 + reader.bytes_per_key // 2


def pack(
    reader: KeyReader,
    pieces: Cut,
    limits: Sequence[int],
    quotas: Sequence[int],
    threads: Threads,
    write: Write,
    progress: Progress,
) -> list[dict[str, int]]:
    """Keep what is above the limit and the first ``quota`` of what equals it; counts by level and name."""
    levels, sizes = len(limits), threads.sizes
    values = np.array(limits, reader.dtype)
    mask = reader.dtype(reader.mask)
    turns = _Turns(quotas)

    def work(mine: Iterator[Piece]) -> list[dict[str, int]]:
        kept: list[dict[str, int]] = [{} for _ in range(levels)]
        for piece in mine:
            words = -(-piece.count // WORD)
            above, ties = (
                threads.buffers.get(name, levels * words * 8).view(np.uint64).reshape(levels, words)
                for name in ("above", "ties")
            )
            tied = np.zeros(levels, np.int64)
            try:
                for start in range(0, piece.count, sizes.chunk):
                    count = min(sizes.chunk, piece.count - start)
                    keys = reader.load(piece.info.name, piece.start + start, count, threads.buffers)
                    split(keys, mask, values, start // WORD, above, ties, tied)
                    progress(count * ITEMSIZE[piece.info.dtype])
            except BaseException:
                turns.give_up()
                raise
            for level, quota in enumerate(turns.take(piece.number, tied)):
                ones = int(keep_first_ties(above[level], ties[level], quota))
                name = piece.info.name
                kept[level][name] = kept[level].get(name, 0) + ones
                write(level, name, piece.start // 8, above[level].view(np.uint8)[: -(-piece.count // 8)])
        return kept

    total: list[dict[str, int]] = [{} for _ in range(levels)]
    for part in threads.each(pieces, work):
        for level in range(levels):
            for name, ones in part[level].items():
                total[level][name] = total[level].get(name, 0) + ones
    return total


class _Turns:
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


def _high_digits(reader: KeyReader, pieces: Cut, threads: Threads, progress: Progress) -> NDArray[np.int64]:
    mask = reader.dtype(reader.mask)
    kernel = histogram16 if reader.bytes_per_key == 2 else histogram_high
    first_bad = reader.not_finite >> (8 * reader.bytes_per_key - 16)
    chunk = threads.sizes.chunk

    def work(mine: Iterator[Piece]) -> tuple[NDArray[np.int64], dict[str, int]]:
        counts = threads.buffers.get("counts", LANES * BINS * 4).view(np.uint32).reshape(LANES, BINS)
        counts[:] = 0
        total, since = np.zeros(BINS, np.int64), 0
        bad: dict[str, int] = {}
        for piece in mine:
            before = int(counts[:, first_bad:].sum()) if first_bad < BINS else 0
            for start in range(0, piece.count, chunk):
                count = min(chunk, piece.count - start)
                keys = reader.load(piece.info.name, piece.start + start, count, threads.buffers)
                kernel(keys, mask, counts)
                progress(count * ITEMSIZE[piece.info.dtype])
            if first_bad < BINS and (found := int(counts[:, first_bad:].sum()) - before):
                bad[piece.info.name] = bad.get(piece.info.name, 0) + found
            since += piece.count
            if since > _FOLD:
                total += counts.sum(axis=0, dtype=np.int64)
                counts[:], since = 0, 0
        return total + counts.sum(axis=0, dtype=np.int64), bad

    results = threads.each(pieces, work)
    bad: dict[str, int] = {}
    for _, part in results:
        for name, found in part.items():
            bad[name] = bad.get(name, 0) + found
    if bad:
        raise ProblemError(
            Problem(f"{reader.source.where}: {name}", f"{bad[name]} values are NaN or infinite", reader.hint)
            for name in sorted(bad)
        )
    return _added([counts for counts, _ in results])


def _next_digits(
    reader: KeyReader,
    pieces: Cut,
    prefixes: list[int],
    shift: int,
    threads: Threads,
    progress: Progress,
) -> NDArray[np.int64]:
    """[prefix, digit]: how many keys begin with the prefix and go on with the digit."""
    mask, wanted = reader.dtype(reader.mask), np.array(prefixes, np.uint64)
    chunk = threads.sizes.chunk

    def work(mine: Iterator[Piece]) -> NDArray[np.int64]:
        counts = np.zeros((len(prefixes), BINS), np.uint32)
        total, since = np.zeros((len(prefixes), BINS), np.int64), 0
        for piece in mine:
            for start in range(0, piece.count, chunk):
                count = min(chunk, piece.count - start)
                keys = reader.load(piece.info.name, piece.start + start, count, threads.buffers)
                refine(keys, mask, wanted, shift, counts)
                progress(count * ITEMSIZE[piece.info.dtype])
            since += piece.count
            if since > _FOLD:
                total += counts
                counts[:], since = 0, 0
        return total + counts

    return _added(threads.each(pieces, work))


def _added(parts: Sequence[NDArray[np.int64]]) -> NDArray[np.int64]:
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    return total


def _digit(counts: NDArray[np.int64], rank: int) -> tuple[int, int]:
    """The bin that holds the key of this rank (from 0, smallest first), and how many keys lie below it."""
    ends = np.cumsum(counts)
    digit = int(np.searchsorted(ends, rank, side="right"))
    return digit, int(ends[digit - 1]) if digit else 0
