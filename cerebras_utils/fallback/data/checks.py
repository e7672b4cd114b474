"""What is wrong with the data of a run, all of it, before the first step."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cerebras_utils.fallback.data.files import Rows
from cerebras_utils.fallback.data.opening import make_order, open_reader
from cerebras_utils.fallback.data.settings import read_settings
from cerebras_utils.fallback.data.tokens import IGNORED
from pruning.problems import Problem, ProblemError

_DEFAULTS = {"vocab_size": 50257, "max_position_embeddings": 1024}  # ModelZoo's, for every GPT of it
_NO_TABLE = (None, "alibi", "relative")  # position embeddings that have no greatest position
_BLOCKS = 64  # read where not everything is
_BLOCK_BYTES = 1 << 14
_SLAB_BYTES = 1 << 23


def data_problems(
    params: Any, model_params: Mapping[str, Any], where: str, *, full: bool = False
) -> list[Problem]:
    """Everything that is wrong with a dataloader section and its files, for this ``model`` section.

    Token ids are looked at in 64 blocks that are spread over the data; in all of it with ``full``.
    """
    settings, problems = read_settings(params, where)
    if settings is None:
        return problems
    reader, opened, found = open_reader(settings, where)
    problems += found
    try:
        if reader is not None:
            problems += make_order(settings, len(reader), where)[1]
            problems += _too_long(reader.sequence_length, model_params, opened, where)
        vocabulary = _of_model(model_params, "vocab_size")
        if vocabulary is not None:
            problems += _foreign_tokens(opened, vocabulary, full)
    finally:
        for rows in opened:
            rows.close()
    return problems


def _of_model(model_params: Mapping[str, Any], key: str) -> int | None:
    """None where the ``model`` section is wrong itself, which is said elsewhere."""
    value = model_params.get(key, _DEFAULTS[key])
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None


def _too_long(
    length: int, model_params: Mapping[str, Any], opened: list[Rows], where: str
) -> Iterator[Problem]:
    """Shorter sequences are right: positions begin at 0."""
    positions = _of_model(model_params, "max_position_embeddings")
    if positions is None or model_params.get("position_embedding_type", "learned") in _NO_TABLE:
        return
    if length > positions:
        corpus = opened[0].shape == ()
        place = f"{where}.max_sequence_length" if corpus else str(opened[0].files[0].path.parent)
        again = f"set it to {positions}" if corpus else f"prepare the data with sequences of {positions}"
        yield Problem(
            place,
            f"sequences of {length} tokens, and the model has max_position_embeddings: {positions}",
            f"{again}, or set model.max_position_embeddings: {length}",
        )


def _foreign_tokens(opened: list[Rows], vocabulary: int, full: bool) -> Iterator[Problem]:
    """Token ids that the model has no embedding for: a problem a set of files, with the first of them."""
    for rows in opened:
        first = worst = None
        blocks = bad_blocks = 0
        for start, stop in _blocks(rows, full, _BLOCKS // len(opened) or 1):
            try:
                block = rows.read(start, stop)
            except ProblemError as error:
                yield from error.problems
                break
            bad = _bad_tokens(block, vocabulary)
            blocks += 1
            if bad.any():
                bad_blocks += 1
                place = np.argwhere(bad)[0]
                first = first or (start + int(place[0]), int(block[tuple(place)]))
                worst = max(worst or 0, int(block[bad].max()))
        if first is not None and worst is not None:
            yield _foreign_token(rows, *first, worst, f"{bad_blocks} of {blocks} blocks read", vocabulary)


def _foreign_token(rows: Rows, row: int, value: int, greatest: int, counted: str, vocabulary: int) -> Problem:
    number, row = rows.locate(row)
    what = f"row {row} has the token id {value}, and the model has vocab_size: {vocabulary} ({counted})"
    if value < 0:
        return Problem(str(rows.files[number].path), what, "make the data again; only labels may be -100")
    fix = f"set model.vocab_size to {greatest + 1} or more, or prepare the data with the model's tokenizer"
    return Problem(str(rows.files[number].path), what, fix)


def _blocks(rows: Rows, full: bool, count: int) -> Iterator[tuple[int, int]]:
    """Rows to look at, the first and the last among them."""
    row_bytes = 4 * max(1, math.prod(rows.shape))
    size = min(len(rows), max(1, (_SLAB_BYTES if full else _BLOCK_BYTES) // row_bytes))
    if not size:
        return
    starts: Sequence[int] = range(0, len(rows), size)
    if not full and len(starts) > count:
        last = len(rows) - size
        starts = sorted({last * i // max(count - 1, 1) for i in range(count)})
    for start in starts:
        yield start, min(start + size, len(rows))


def _bad_tokens(block: NDArray[np.int32], vocabulary: int) -> NDArray[np.bool_]:
    bad = (block < 0) | (block >= vocabulary)
    if block.ndim == 3:  # samples: the mask is no token, and nothing reads a fourth feature
        bad[:, 1] = False
        bad[:, 2] &= block[:, 2] != IGNORED
        bad[:, 3:] = False
    return bad
