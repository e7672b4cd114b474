"""Which weights two runs keep in common, beside what masks of their sparsities keep in common by chance.

Runs that share a mask file are one entry. Masks that cannot be read, or that are not those the run used any
more, are named with the reason and left out.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Any

from experiments.compare.groups import Group
from experiments.runs.record import RunRecord
from experiments.runs.sparsity import OTHER_MASKS
from experiments.tables import table
from pruning.masks.file import MaskFile
from pruning.masks.overlap import Overlap, compare_masks
from pruning.problems import ProblemError

FREE = 2 << 30  # bytes that are read without being asked for: some seconds


@dataclass(frozen=True)
class MaskOverlaps:
    names: tuple[str, ...] = ()  # of distinct mask files: the label of the first configuration that uses one
    files: tuple[str, ...] = ()
    pairs: Mapping[tuple[int, int], Overlap] = field(
        default_factory=dict
    )  # by positions in ``names``, the lower one first
    left_out: tuple[str, ...] = ()  # what was not compared, and why


def mask_overlaps(groups: Sequence[Group], *, most: int | None = None) -> MaskOverlaps:
    """Every pair of masks. ``most``: bytes that may be read for it; with more to read, none is compared."""
    files, left_out = _files(groups)
    names, paths = tuple(files.values()), tuple(files)
    cost = max(0, len(paths) - 1) * sum(Path(path).stat().st_size for path in paths)
    if most is not None and cost > most:
        count = len(paths) * (len(paths) - 1) // 2
        why = f"{count:,} pairs of masks, {cost / 1e9:.1f} GB to read: not compared unless --overlap is given"
        return MaskOverlaps((), (), {}, (why, *left_out))
    pairs: dict[tuple[int, int], Overlap] = {}
    for one, other in combinations(range(len(paths)), 2):
        where = f"{names[one]} and {names[other]}"
        try:
            found = compare_masks(paths[one], paths[other])
        except ProblemError as error:
            left_out += [f"{where}: {p.where}: {p.what}" for p in error.problems]
            continue
        if not found.per_layer:
            left_out.append(f"{where}: no mask of one has the name and shape of a mask of the other")
            continue
        pairs[one, other] = found.total
        if not found.complete:
            apart = len({*found.only_in_a, *found.only_in_b, *found.shapes_differ})
            left_out.append(f"{where}: {apart} masks of one have no partner in the other and do not count")
    return MaskOverlaps(names, paths, pairs, tuple(left_out))


def as_json(found: MaskOverlaps) -> dict[str, Any]:
    return {
        "masks": [{"label": n, "path": p} for n, p in zip(found.names, found.files, strict=True)],
        "pairs": [
            {
                "masks": list(positions),
                "weights": pair.numel,
                "iou": pair.iou,
                "chance_iou": pair.chance_iou,
                "agreement": pair.agreement,
                "first_in_second": pair.a_in_b,
                "second_in_first": pair.b_in_a,
            }
            for positions, pair in found.pairs.items()
        ],
        "left_out": list(found.left_out),
    }


def as_text(found: MaskOverlaps) -> str:
    nested = {(True, True): "the same", (True, False): "first in second", (False, True): "second in first"}
    rows = [
        (
            *(found.names[one], found.names[other], f"{pair.iou:.4f}", f"{pair.chance_iou:.4f}"),
            nested.get((pair.a_in_b, pair.b_in_a), ""),
        )
        for (one, other), pair in found.pairs.items()
    ]
    head = ("mask", "and", "overlap (IoU)", "by chance", "nested")
    parts = [table(head, rows, right=(2, 3))] if rows else ["there are not two masks to compare"]
    return "\n".join([*parts, *(f"not compared: {reason}" for reason in found.left_out)])


def _files(groups: Sequence[Group]) -> tuple[dict[str, str], list[str]]:
    """Distinct mask files by path, each with a name; and what is wrong with the others."""
    found: dict[str, str] = {}
    by_content: dict[str, str] = {}
    problems = []
    for group in groups:
        several = len({run.sparsity.path for run in group.runs}) > 1
        for run in group.runs:
            if not run.sparsity.path:
                continue
            if (wrong := _wrong(run)) is not None:
                problems.append(f"{group.label} ({run.path}): {wrong}")
                continue
            content = run.sparsity.sha256 or run.sparsity.path
            path = by_content.setdefault(content, run.sparsity.path)
            seed = f" seed {run.seed}" if several and run.seed is not None else ""
            found.setdefault(path, f"{group.label}{seed}")
    return found, list(dict.fromkeys(problems))


def _wrong(run: RunRecord) -> str | None:
    if run.sparsity.note == OTHER_MASKS:
        return OTHER_MASKS
    try:
        MaskFile(run.sparsity.path).close()
    except ProblemError as error:
        return "; ".join(f"{p.where}: {p.what}" for p in error.problems)
    return None
