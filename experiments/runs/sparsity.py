"""Requested and effective sparsity of a run: what its config asks for, and what was counted afterwards."""

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from cerebras_utils.run_receipt import file_digest
from experiments.runs.callbacks import MASKS, callbacks_of
from experiments.runs.native import native_sparsity
from experiments.runs.record import Sparsity
from pruning.masks.file import MaskFile
from pruning.problems import ProblemError

Last = Mapping[str, tuple[int, float]]
OTHER_MASKS = "the mask file is not the one that the run used any more"


def sparsity_of(
    init: Mapping[str, Any], receipt: Mapping[str, Any], last: Last, problems: list[str]
) -> Sparsity:
    """A run without masks has a requested sparsity of 0: it is dense, and said to be."""
    if not init:
        return Sparsity(note="its config is missing: nothing tells whether it is sparse")
    named = callbacks_of(init)
    if MASKS in named:
        # The path is relative to where the run was started, which may be anywhere else by now.
        started_in = Path(str((receipt.get("environment") or {}).get("directory", "")))
        return _masked(started_in / str(named[MASKS].get("mask_path", "")), receipt, problems)
    if init.get("sparsity") is not None:
        return native_sparsity(init, last)
    return Sparsity(requested=0.0, effective=None, note="dense: no masks")


def _masked(path: Path, receipt: Mapping[str, Any], problems: list[str]) -> Sparsity:
    counted = next(iter(receipt.get("mask_receipts") or []), None) or {}
    sizes: dict[str, int] = {}
    kept = 0
    note, requested = "", None
    try:
        with MaskFile(path) as file:
            sizes = {mask: file.numel(mask) for mask in file.names}
            kept = sum(file.kept(mask) for mask in file.names)
        total = sum(sizes.values())
        requested = 1 - kept / total if total else None
        said = counted.get("sha256")
        if said and _digest(path, path.stat().st_mtime_ns, path.stat().st_size) != said:
            note = OTHER_MASKS
            requested = None
    except ProblemError as error:
        problems += [f"{p.where}: {p.what}" for p in error.problems]
        note = "its mask file cannot be read"
    layers = {weight: float(about["sparsity"]) for weight, about in (counted.get("layers") or {}).items()}
    weighed = {weight: sizes.get(weight, sizes.get(weight.removesuffix(".weight"), 0)) for weight in layers}
    total = sum(weighed.values())
    effective = sum(layers[weight] * size for weight, size in weighed.items()) / total if total else None
    if effective is None and not note:
        note = "not counted: the run left no receipt of its masks"
    return Sparsity(
        requested=requested,
        effective=effective,
        masked=sum(sizes.values()),
        resurrected=counted.get("resurrected"),
        newly_dead=counted.get("newly_dead"),
        layers=layers,
        mask=path.stem,
        path=str(path),
        sha256=str(counted.get("sha256", "")),
        note=note,
    )


@lru_cache(maxsize=1024)
def _digest(path: Path, changed: int, size: int) -> str:
    """Once for all the runs that share a mask file."""
    return file_digest(path)["sha256"]
