"""N of every M consecutive weights along the input dimension: one read, no thresholds."""

import math
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from pruning.checkpoint.source import ITEMSIZE, TensorSource
from pruning.engine.keys import KeyReader, key_reader
from pruning.engine.radix import WORD, Keys, count_above, pack_n_of_m
from pruning.engine.stream import Cut, Piece, Progress, Threads, Write
from pruning.planning.patterns import NOfM
from pruning.planning.plan import Plan
from pruning.problems import Problem, ProblemError


def n_of_m_masks(
    source: TensorSource, plan: Plan, threads: Threads, write: Write, progress: Progress
) -> list[dict[str, int]]:
    """Kept counts per tensor, for the one level that there is."""
    assert isinstance(plan.pattern, NOfM)
    n, m = plan.pattern.n, plan.pattern.m
    group = math.lcm(m, WORD)  # groups and words both begin where a chunk does
    chunk = max(1, threads.sizes.chunk // group) * group
    infos = plan.selection.chosen
    readers = {info.name: key_reader(source, [info], plan.specs[0]) for info in infos}

    def work(mine: Iterator[Piece]) -> tuple[dict[str, int], dict[str, str]]:
        kept: dict[str, int] = {}
        bad: dict[str, str] = {}
        for piece in mine:
            name, reader = piece.info.name, readers[piece.info.name]
            mask = reader.dtype(reader.mask)
            keys = reader.load(name, piece.start, piece.count, threads.buffers)
            words = threads.buffers.get("words", -(-piece.count // WORD) * 8).view(np.uint64)
            kept[name] = kept.get(name, 0) + int(pack_n_of_m(keys, mask, n, m, words))
            packed = words.view(np.uint8)[: -(-piece.count // 8)]
            if wrong := _not_finite(reader, keys, packed, plan.specs[0].nan_as_pruned):
                bad[name] = wrong
            write(0, name, piece.start // 8, packed)
            progress(piece.count * ITEMSIZE[piece.info.dtype])
        return kept, bad

    total: dict[str, int] = {}
    problems: dict[str, str] = {}
    for kept, bad in threads.each(Cut(tuple((info, chunk) for info in infos)), work):
        problems |= bad
        for name, ones in kept.items():
            total[name] = total.get(name, 0) + ones
    if problems:
        raise ProblemError(
            Problem(f"{source.where}: {name}", problems[name], KeyReader.hint) for name in sorted(problems)
        )
    return [total]


def _not_finite(reader: KeyReader, keys: Keys, packed: NDArray[np.uint8], nan_as_pruned: bool) -> str:
    """What is wrong with the values, or nothing."""
    mask = reader.dtype(reader.mask)
    if reader.not_finite <= reader.mask and count_above(keys, mask, reader.dtype(reader.not_finite - 1)):
        return "some values are NaN or infinite"
    if nan_as_pruned:
        keep = np.unpackbits(packed, bitorder="little")[: len(keys)].astype(bool)
        if (keys[keep] == 0).any():
            return "a group holds more NaN than it drops"
    return ""
