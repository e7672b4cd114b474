"""The thresholds of a pool: read the keys, count digits, until each smallest kept key is known exactly."""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from pruning.checkpoint.source import ITEMSIZE
from pruning.engine.keys import KeyReader
from pruning.engine.radix import BINS, LANES, histogram16, histogram_high, refine
from pruning.engine.stream import Cut, Piece, Progress, Threads
from pruning.problems import Problem, ProblemError

Table = dict[int, NDArray[np.int64]]  # digits found so far → how many keys go on with each next digit

_SAMPLE, _SAMPLES = 1 << 13, 1 << 10  # keys of a piece, and pieces, that a guess is made from


def thresholds(
    reader: KeyReader, pieces: Cut, drops: Sequence[int], threads: Threads, progress: Progress
) -> tuple[list[int], list[int]]:
    """For each level: the smallest key that is kept, and how many keys equal to it are kept.

    A radix select: the top 16 bits of all keys first, then the next 16 of those that share the
    digits found so far. Two-byte keys are done after one read. For four-byte keys a sample tells
    which top digits will matter, so that the same read counts what follows them; where it was
    wrong, a second read does.
    """
    guesses = _guess(reader, pieces, drops, threads) if _guessing(reader, len(drops)) else []
    counts, table = _high_digits(reader, pieces, guesses, threads, progress)
    found, before = zip(*(_digit(counts, drop) for drop in drops), strict=True)
    prefixes = list(found)
    left = [drop - below for drop, below in zip(drops, before, strict=True)]
    quota = [int(counts[p]) - rest for p, rest in zip(prefixes, left, strict=True)]
    for shift in range(8 * reader.bytes_per_key - 32, -1, -16):
        if not set(prefixes) <= set(table):
            told = (lambda nbytes: None) if guesses else progress  # see `reads`
            table = _next_digits(reader, pieces, sorted(set(prefixes)), shift, threads, told)
        for i, prefix in enumerate(prefixes):
            digit, below = _digit(table[prefix], left[i])
            prefixes[i] = prefix << 16 | digit
            left[i] -= below
            quota[i] = int(table[prefix][digit]) - left[i]
    return prefixes, quota


def reads(reader: KeyReader, levels: int) -> int:
    """How often ``thresholds`` and ``pack`` together read a tensor, a wrong guess aside."""
    return reader.bytes_per_key // 2 + (0 if _guessing(reader, levels) else 1)


def _guessing(reader: KeyReader, levels: int) -> bool:
    """Counting two guesses per level costs less than a read only for a few levels."""
    return reader.bytes_per_key == 4 and levels <= 3


def _guess(reader: KeyReader, pieces: Cut, drops: Sequence[int], threads: Threads) -> list[int]:
    """The top digits that thresholds probably have: of a sample, the bin and the nearer of its neighbours."""
    shift, counts = 8 * reader.bytes_per_key - 16, np.zeros(BINS, np.int64)
    every = max(1, sum(-(-info.numel // size) for info, size in pieces.parts) // _SAMPLES)
    for piece in pieces:
        if piece.number % every == 0:
            count = min(piece.count, _SAMPLE)
            keys = reader.load(piece.info.name, piece.start, count, threads.buffers)
            counts += np.bincount((keys & reader.dtype(reader.mask)) >> reader.dtype(shift), minlength=BINS)
    total = sum(info.numel for info, _ in pieces.parts)
    guesses = set()
    for drop in drops:
        rank = drop * int(counts.sum()) // total
        digit, below = _digit(counts, rank)
        nearer = digit + (1 if 2 * (rank - below) > counts[digit] else -1)
        guesses |= {digit, min(max(nearer, 0), BINS - 1)}
    return sorted(guesses)


class _Tally:
    """Counters of one thread. The kernels count in 32 bits: these are added up before they can overflow."""

    def __init__(self, counters: NDArray[np.uint32]) -> None:
        self.counters = counters
        self.counters[:] = 0
        self._total, self._since = np.zeros(counters.shape, np.int64), 0

    def counted(self, keys: int) -> None:
        self._since += keys
        if self._since > 1 << 31:
            self.total()

    def total(self) -> NDArray[np.int64]:
        self._total += self.counters
        self.counters[:], self._since = 0, 0
        return self._total


def _high_digits(
    reader: KeyReader, pieces: Cut, guesses: list[int], threads: Threads, progress: Progress
) -> tuple[NDArray[np.int64], Table]:
    """How many keys have each top digit; and how those that begin with a guess go on."""
    mask = reader.dtype(reader.mask)
    shift = 8 * reader.bytes_per_key - 16
    kernel = histogram16 if reader.bytes_per_key == 2 else histogram_high
    first_bad = min(reader.not_finite >> shift, BINS)
    wanted, chunk = np.array(guesses, np.uint64), threads.sizes.chunk

    def work(mine: Iterator[Piece]) -> tuple[NDArray[np.int64], NDArray[np.int64], dict[str, int]]:
        scratch = threads.buffers.get("counts", LANES * BINS * 4).view(np.uint32)
        high = _Tally(scratch.reshape(LANES, BINS))
        low = _Tally(np.empty((len(guesses), BINS), np.uint32))
        bad: dict[str, int] = {}
        for piece in mine:
            before = int(high.counters[:, first_bad:].sum())
            for start in range(0, piece.count, chunk):
                count = min(chunk, piece.count - start)
                keys = reader.load(piece.info.name, piece.start + start, count, threads.buffers)
                kernel(keys, mask, high.counters)
                if guesses:
                    refine(keys, mask, wanted, shift - 16, low.counters)
                progress(count * ITEMSIZE[piece.info.dtype])
            if found := int(high.counters[:, first_bad:].sum()) - before:
                bad[piece.info.name] = bad.get(piece.info.name, 0) + found
            high.counted(piece.count)
            low.counted(piece.count)
        return high.total().sum(axis=0), low.total(), bad

    results = threads.each(pieces, work)
    _refuse_bad(reader, [bad for _, _, bad in results])
    low = _added([part for _, part, _ in results])
    return _added([part for part, _, _ in results]), dict(zip(guesses, low, strict=True))


def _refuse_bad(reader: KeyReader, parts: Sequence[dict[str, int]]) -> None:
    bad: dict[str, int] = {}
    for part in parts:
        for name, found in part.items():
            bad[name] = bad.get(name, 0) + found
    if bad:
        raise ProblemError(
            Problem(f"{reader.source.where}: {name}", f"{bad[name]} values are NaN or infinite", reader.hint)
            for name in sorted(bad)
        )


def _next_digits(
    reader: KeyReader, pieces: Cut, prefixes: list[int], shift: int, threads: Threads, progress: Progress
) -> Table:
    """For keys that begin with a prefix: how many go on with each next digit."""
    mask, wanted = reader.dtype(reader.mask), np.array(prefixes, np.uint64)
    chunk = threads.sizes.chunk

    def work(mine: Iterator[Piece]) -> NDArray[np.int64]:
        tally = _Tally(np.empty((len(prefixes), BINS), np.uint32))
        for piece in mine:
            for start in range(0, piece.count, chunk):
                count = min(chunk, piece.count - start)
                keys = reader.load(piece.info.name, piece.start + start, count, threads.buffers)
                refine(keys, mask, wanted, shift, tally.counters)
                progress(count * ITEMSIZE[piece.info.dtype])
            tally.counted(piece.count)
        return tally.total()

    return dict(zip(prefixes, _added(threads.each(pieces, work)), strict=True))


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
