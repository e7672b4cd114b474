"""Masks whose units are cells of a grid: blocks, rows, columns, heads.

A cell's score is the mean score of its weights, so that cells of different size compare. It is
summed in double precision in flat order; tensors go to different threads, never parts of one.
"""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from pruning.checkpoint.source import ITEMSIZE, TensorInfo, TensorSource
from pruning.engine.exact import keep_largest
from pruning.engine.keys import as_floats, scores_of
from pruning.engine.radix import WORD, add_cells, pack_cells, random_keys
from pruning.engine.stream import Cut, Piece, Progress, Threads, Write
from pruning.importance import random_stream
from pruning.planning.allocation import Layer, Pool
from pruning.planning.patterns import Cell, attention_role, matrix_shape
from pruning.planning.plan import Plan
from pruning.planning.spec import MaskSpec
from pruning.problems import Problem, ProblemError, fail

Scores = dict[str, NDArray[np.float64]]  # competitor → one score per unit


def grid_masks(
    source: TensorSource, plan: Plan, threads: Threads, write: Write, progress: Progress
) -> list[dict[str, int]]:
    """Kept counts per level and tensor."""
    scores = _score(source, plan, threads, progress)
    kept: list[dict[str, int]] = []
    for level, pools in enumerate(plan.pools):
        keep: dict[str, NDArray[np.bool_]] = {}
        for pool in pools:
            keep |= _choose(pool, scores)
        kept.append(_pack(plan, keep, threads, level, write))
    return kept


def _score(source: TensorSource, plan: Plan, threads: Threads, progress: Progress) -> Scores:
    spec = plan.specs[0]
    infos = [info for members in plan.members.values() for info in members]

    def work(mine: Iterator[Piece]) -> dict[str, NDArray[np.float64] | Problem]:
        done: dict[str, NDArray[np.float64] | Problem] = {}
        for piece in mine:
            try:
                done[piece.info.name] = _cell_means(
                    source, piece.info, plan.cells[piece.info.name], spec, threads
                )
            except ProblemError as error:
                done[piece.info.name] = error.problems[0]
            progress(piece.info.nbytes)
        return done

    means: Scores = {}
    problems: list[Problem] = []
    for part in threads.each(Cut(tuple((info, info.numel) for info in infos)), work):
        for name, result in part.items():
            if isinstance(result, Problem):
                problems.append(result)
            else:
                means[name] = result
    if problems:
        raise ProblemError(sorted(problems, key=lambda problem: problem.where))
    return {name: _competitor_score(members, means) for name, members in plan.members.items()}


def _competitor_score(members: Sequence[TensorInfo], means: Scores) -> NDArray[np.float64]:
    """A tensor's own cells; for attention the mean over the projections that have every head."""
    heads = max(len(means[info.name]) for info in members)
    whole = [means[info.name] for info in members if len(means[info.name]) == heads]
    return np.mean(whole, axis=0)  # type: ignore[no-any-return]


def _cell_means(
    source: TensorSource, info: TensorInfo, cell: Cell, spec: MaskSpec, threads: Threads
) -> NDArray[np.float64]:
    (rows, columns), (high, wide) = matrix_shape(info), cell
    cells = rows // high * (columns // wide)
    if spec.score not in ("magnitude", "l2", "random"):
        sums = np.zeros(cells)
        add_cells(scores_of(source, info.name, spec), 0, columns, high, wide, sums)
        return _means(sums, high * wide, f"{source.where}: {info.name}")
    sums, chunk = np.zeros(cells), threads.sizes.chunk
    for start in range(0, info.numel, chunk):
        count = min(chunk, info.numel - start)
        raw = threads.buffers.get("raw", count * ITEMSIZE[info.dtype])
        source.read(info.name, start, raw)
        values = as_floats(raw, info.dtype).astype(np.float64)
        if not np.isfinite(values).all():
            bad = int((~np.isfinite(values)).sum())
            raise fail(
                f"{source.where}: {info.name}",
                f"{bad} or more values are NaN or infinite",
                "mend the checkpoint",
            )
        with np.errstate(over="ignore"):  # an infinite sum is reported below
            scores = values * values if spec.score == "l2" else np.abs(values)
        add_cells(scores, start, columns, high, wide, sums)
    if spec.score == "random":
        keys = np.empty(cells, np.uint32)
        random_keys(np.uint64(random_stream(spec.seed, info.name)), 0, keys)
        return keys.astype(np.float64)
    return _means(sums, high * wide, f"{source.where}: {info.name}")


def _means(sums: NDArray[np.float64], count: int, where: str) -> NDArray[np.float64]:
    if not np.isfinite(sums).all():
        raise fail(
            where, "the scores of some groups add up to infinity", "scale the weights, or use magnitude"
        )
    return sums / count


def _choose(pool: Pool, scores: Scores) -> dict[str, NDArray[np.bool_]]:
    together = np.concatenate([scores[layer.name] for layer in pool.layers])
    keep = keep_largest(together, pool.drop)
    return dict(
        zip(
            map(_name, pool.layers),
            np.split(keep, np.cumsum([x.units for x in pool.layers])[:-1]),
            strict=True,
        )
    )


def _name(layer: Layer) -> str:
    return layer.name


def _pack(
    plan: Plan, keep: dict[str, NDArray[np.bool_]], threads: Threads, level: int, write: Write
) -> dict[str, int]:
    size = threads.sizes.piece

    def work(mine: Iterator[Piece]) -> dict[str, int]:
        kept = {}
        for piece in mine:
            info, units = piece.info, keep[competitor[piece.info.name]]
            (rows, columns), (high, wide) = matrix_shape(info), plan.cells[info.name]
            cells = rows // high * (columns // wide)
            if cells < len(units):  # k or v of grouped queries: kept while one of its readers is
                units = np.logical_or.reduce(units.reshape(cells, -1), axis=1)
            assert attention_role(info.name) in ("k", "v") or cells == len(units)
            ones = 0
            for start in range(0, info.numel, size):
                count = min(size, info.numel - start)
                packed = threads.buffers.get("packed", -(-count // 8))
                ones += int(pack_cells(units, start, count, columns, high, wide, packed))
                write(level, info.name, start // 8, packed)
            kept[info.name] = ones
        return kept

    assert size % WORD == 0
    competitor = {info.name: name for name, members in plan.members.items() for info in members}
    infos = [info for members in plan.members.values() for info in members]
    total: dict[str, int] = {}
    for part in threads.each(Cut(tuple((info, info.numel) for info in infos)), work):
        total |= part
    return total
