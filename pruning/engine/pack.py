"""The last read: compare with the thresholds, and pack the bits straight into the output."""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from pruning.checkpoint.source import ITEMSIZE
from pruning.engine.keys import KeyReader
from pruning.engine.radix import WORD, keep_first_ties, split
from pruning.engine.stream import Cut, Piece, Progress, Threads, Write


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

    def ties_of(mine: Iterator[Piece]) -> list[tuple[int, NDArray[np.int64]]]:
        """How many keys of each piece equal the limits: for pieces that cannot wait for each other."""
        found = []
        for piece in mine:
            tied = np.zeros(levels, np.int64)
            for start in range(0, piece.count, sizes.chunk):
                count = min(sizes.chunk, piece.count - start)
                keys = reader.load(piece.info.name, piece.start + start, count, threads.buffers)
                tied += [np.count_nonzero((keys & mask) == value) for value in values]
            found.append((piece.number, tied))
        return found

    turns = threads.turns(quotas, pieces, ties_of)

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
