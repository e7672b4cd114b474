"""From a plan to bits: the one place where score, pattern and allocation come together."""

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from threading import Event

import numpy as np
from numpy.typing import NDArray

from pruning.checkpoint.source import TensorSource
from pruning.engine.grid import grid_masks
from pruning.engine.keys import key_reader
from pruning.engine.n_of_m import n_of_m_masks
from pruning.engine.pack import pack
from pruning.engine.select import reads, thresholds
from pruning.engine.stream import Progress, Sizes, Threads, Write, cut_for
from pruning.masks.writer import MaskWriter
from pruning.planning.allocation import Pool
from pruning.planning.patterns import Grid, NOfM
from pruning.planning.plan import Plan
from pruning.problems import Problem, ProblemError, fail

_SYNC_SECONDS = 0.25


def compute(
    source: TensorSource,
    plan: Plan,
    write: Write,
    sizes: Sizes,
    progress: Progress,
    threads: Threads | None = None,
) -> list[dict[str, int]]:
    """Hand the packed bits of every level to ``write``; kept counts per level and tensor.

    ``write`` is called from several threads, each byte range once. ``threads`` are those of this process,
    unless others are given.
    """
    aliases = plan.selection.aliases

    def write_tied(level: int, name: str, offset: int, packed: NDArray[np.uint8]) -> None:
        for each in (name, *aliases.get(name, ())):
            write(level, each, offset, packed)

    with threads or Threads(sizes) as threads:
        if isinstance(plan.pattern, NOfM):
            kept = n_of_m_masks(source, plan, threads, write_tied, progress)
        elif isinstance(plan.pattern, Grid):
            kept = grid_masks(source, plan, threads, write_tied, progress)
        else:
            kept = [{} for _ in plan.specs]
            problems: list[Problem] = []
            for pools in zip(*plan.pools, strict=True):
                try:
                    found = _one_pool(
                        source, plan, pools, threads, None if problems else write_tied, progress
                    )
                except ProblemError as error:  # the other pools are looked at all the same, but not packed
                    problems += error.problems
                    continue
                for level, part in enumerate(found):
                    kept[level] |= part
            if problems:
                raise ProblemError(problems)
    for part in kept:
        part |= {other: part[name] for name, others in aliases.items() for other in others}
    return kept


def _one_pool(
    source: TensorSource,
    plan: Plan,
    levels: Sequence[Pool],
    threads: Threads,
    write: Write | None,
    progress: Progress,
) -> list[dict[str, int]]:
    """Unstructured masks of tensors that compete with each other, at every level; without ``write``,
    only what is wrong with them."""
    spec = plan.specs[0]
    infos = [plan.members[layer.name][0] for layer in levels[0].layers]
    reader = key_reader(source, infos, spec)
    pieces = cut_for(source, infos, threads.sizes)
    limits, quotas = thresholds(reader, pieces, [pool.drop for pool in levels], threads, progress)
    if spec.nan_as_pruned and any(limit == 0 and quota for limit, quota in zip(limits, quotas, strict=True)):
        raise fail(
            f"{source.where}: {infos[0].name}" + (f" and {len(infos) - 1} more" if len(infos) > 1 else ""),
            "more weights are NaN than the sparsity drops, so some NaN would be kept",
            "ask for a higher sparsity",
        )
    if write is None:
        return [{} for _ in levels]
    kept = pack(reader, pieces, limits, quotas, threads, write, progress)
    for part, pool in zip(kept, levels, strict=True):
        if (found := sum(part.values())) != pool.units - pool.drop:
            raise fail(
                source.where,
                f"it changed while it was read: {found} weights are kept, of {pool.units} minus {pool.drop}",
                "let nothing write to the checkpoint meanwhile",
            )
    return kept


def bytes_to_read(source: TensorSource, plan: Plan) -> int:
    """What ``progress`` will have been told at the end."""
    if isinstance(plan.pattern, NOfM | Grid):
        return sum(info.nbytes for members in plan.members.values() for info in members)
    total = 0
    for pool in plan.pools[0]:
        infos = [plan.members[layer.name][0] for layer in pool.layers]
        total += reads(key_reader(source, infos, plan.specs[0]), len(plan.specs)) * sum(
            info.nbytes for info in infos
        )
    return total


def write_mask_files(
    source: TensorSource,
    plan: Plan,
    paths: Sequence[Path],
    *,
    format: str = "safetensors",
    sizes: Sizes | None = None,
    progress: Progress = lambda nbytes: None,
) -> list[dict[str, int]]:
    """One file per level, all from the same reads. Either all of a file is there or nothing of it."""
    shapes = {info.name: info.shape for info in plan.tensors}
    checkpoint = source.fingerprint()
    writers: list[MaskWriter] = []
    try:
        for path, spec in zip(paths, plan.specs, strict=True):
            writers.append(
                MaskWriter(path, shapes, spec=spec.to_json(), checkpoint=checkpoint, format=format)
            )
        with _writing_behind(writers):
            kept = compute(
                source,
                plan,
                lambda level, name, at, bits: writers[level].write(name, at, bits),
                sizes or default_sizes(),
                progress,
            )
        for writer, counts in zip(writers, kept, strict=True):
            writer.finish(counts)
    except BaseException:
        for writer in writers:
            writer.abort()
        raise
    return kept


@contextmanager
def _writing_behind(writers: Sequence[MaskWriter]) -> Iterator[None]:
    """Keep the disk busy from the start: ten mask files are gigabytes that ``finish`` would wait for."""
    done = Event()

    def work() -> None:
        while not done.wait(_SYNC_SECONDS):
            for writer in writers:
                if not done.is_set():
                    writer.sync()

    with ThreadPoolExecutor(1) as thread:
        syncing = thread.submit(work)
        try:
            yield
        finally:
            done.set()
        syncing.result()


def packed_masks(
    source: TensorSource, plan: Plan, sizes: Sizes | None = None
) -> list[dict[str, NDArray[np.uint8]]]:
    """The same bits in memory: per level, packed masks by name."""
    held = [{info.name: np.zeros(-(-info.numel // 8), np.uint8) for info in plan.tensors} for _ in plan.specs]

    def write(level: int, name: str, offset: int, packed: NDArray[np.uint8]) -> None:
        held[level][name][offset : offset + len(packed)] = packed

    compute(source, plan, write, sizes or default_sizes(), lambda nbytes: None)
    return held


def default_sizes(workers: int | None = None) -> Sizes:
    """One thread per processor that this process may use."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return Sizes(workers=workers or allowed)
