"""What a checkpoint holds, from reading it: zeros per tensor, values that are not finite, a full digest."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from pruning.checkpoint.source import FLOATS, ITEMSIZE, TensorSource, listing_digest
from pruning.engine.keys import INFINITY, UNSIGNED
from pruning.engine.radix import count_above
from pruning.engine.stream import Cut, Piece, Progress, Sizes, Threads


@dataclass(frozen=True)
class Count:
    """Of one tensor of floats. Minus zero is a zero."""

    zeros: int = 0
    not_finite: int = 0

    def __add__(self, other: "Count") -> "Count":
        return Count(self.zeros + other.zeros, self.not_finite + other.not_finite)


def count_values(source: TensorSource, sizes: Sizes, progress: Progress) -> dict[str, Count]:
    """Counts of every tensor of floats."""

    def work(mine: Iterator[Piece]) -> dict[str, Count]:
        counts: dict[str, Count] = {}
        for piece in mine:
            info = piece.info
            raw = threads.buffers.get("raw", piece.count * ITEMSIZE[info.dtype])
            source.read(info.name, piece.start, raw)
            unsigned = UNSIGNED[ITEMSIZE[info.dtype]]
            keys, mask = raw.view(unsigned), unsigned((1 << (8 * ITEMSIZE[info.dtype] - 1)) - 1)
            zeros = piece.count - int(count_above(keys, mask, unsigned(0)))
            bad = int(count_above(keys, mask, unsigned(INFINITY[info.dtype] - 1)))
            counts[info.name] = counts.get(info.name, Count()) + Count(zeros, bad)
            progress(len(raw))
        return counts

    infos = [info for info in source.infos.values() if info.dtype in FLOATS]
    total = {info.name: Count() for info in infos}
    with Threads(sizes) as threads:
        for part in threads.each(Cut(tuple((info, sizes.chunk) for info in infos)), work):
            for name, count in part.items():
                total[name] += count
    return total


def full_digest(source: TensorSource, progress: Progress) -> str:
    """SHA-256 over the listing and all values, by name: the same for any file format and sharding."""
    digest, buffer = listing_digest(source.infos), np.empty(1 << 20, np.uint8)
    for info in source.infos.values():
        for start in range(0, info.nbytes, len(buffer)):
            piece = buffer[: min(len(buffer), info.nbytes - start)]
            source.read(info.name, start // ITEMSIZE[info.dtype], piece)
            digest.update(piece.data)
            progress(len(piece))
    return digest.hexdigest()
