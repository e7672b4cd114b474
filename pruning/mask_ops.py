"""What a notebook does with masks: check, save, load, count, draw, apply."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pruning.atomic import TargetExistsError
from pruning.masks.apply import apply_masks_to_model
from pruning.masks.bits import count, to_bool
from pruning.masks.collection import MaskSet, MemoryMasks, as_array, resolve_names
from pruning.masks.file import MaskFile
from pruning.masks.plots import plot_sparsity_histogram
from pruning.masks.stats import compute_sparsity_stats, mask_counts
from pruning.masks.writer import MaskWriter
from pruning.problems import ProblemError

if TYPE_CHECKING:
    from torch import Tensor

__all__ = [
    "apply_masks_to_model",
    "compute_sparsity_stats",
    "load_mask",
    "plot_sparsity_histogram",
    "resolve_names",
    "save_mask",
    "validate_mask",
]


def validate_mask(
    mask: Any, expected_sparsity: float | None = None, tolerance: float = 0.01
) -> tuple[bool, dict[str, Any]]:
    """Whether ``mask`` is one, and of the sparsity that is expected, give or take ``tolerance``.

    A bad mask raises nothing: ``stats["error"]`` is then a sentence. What cannot be counted is None.
    """
    stats: dict[str, Any] = dict.fromkeys(("sparsity", "numel", "kept", "dropped", "shape", "error"))
    try:
        values = to_bool(as_array(mask, "the mask"), "the mask")
    except ProblemError as error:
        problem = error.problems[0]
        stats["error"] = f"{problem.where} {problem.what}"
        return False, stats
    stats.update(mask_counts(values.shape, int(np.count_nonzero(values))))
    sparsity = stats["sparsity"]
    if not stats["numel"]:
        stats["error"] = f"the mask is empty: its shape is {stats['shape']}"
    elif not stats["kept"]:
        stats["error"] = f"the mask drops all of its {stats['numel']:,} weights"
    elif expected_sparsity is not None and not abs(sparsity - expected_sparsity) <= tolerance:
        stats["error"] = f"the sparsity is {sparsity:.6g}, expected was {expected_sparsity:g} ± {tolerance:g}"
    return stats["error"] is None, stats


def save_mask(
    masks: Mapping[str, Any],
    path: str | os.PathLike[str],
    metadata: Mapping[str, Any] | None = None,
    format: str | None = None,
    *,
    overwrite: bool = False,
) -> Path:
    """Write masks, one bit per weight, in the format of the suffix: .safetensors, .npz or .pt.

    ``metadata`` is a dict of JSON values. A file of the same content is kept as it is; any other
    is an error, unless it is to be overwritten.
    """
    source = MemoryMasks(masks)
    metadata = dict(metadata or {})
    shapes = {name: source.shape(name) for name in source.names}
    try:
        with MaskWriter(path, shapes, format=format, user=metadata, overwrite=overwrite) as writer:
            kept = {}
            for name in source.names:
                packed = source.packed(name)
                writer.write(name, 0, packed)
                kept[name] = count(packed)
            writer.finish(kept)
    except TargetExistsError:
        if not _same(source, path, metadata, format):
            raise
    return Path(path)


def load_mask(
    path: str | os.PathLike[str], format: str | None = None
) -> tuple[dict[str, "Tensor"], dict[str, Any]]:
    """Bool tensors by name, and the metadata that was saved with them.

    For masks of the engine, which no caller gave metadata, it is what the file says of its origin.
    """
    with MaskFile(path, format) as file:
        masks = {name: file.mask(name) for name in file.names}
        receipt = file.receipt
        if receipt is None or receipt.user is not None:
            return masks, file.metadata
        return masks, {"spec": receipt.spec, "checkpoint": receipt.checkpoint, "tool": receipt.tool}


def _same(
    source: MaskSet, path: str | os.PathLike[str], metadata: Mapping[str, Any], format: str | None
) -> bool:
    """Whether the file holds these masks and this metadata. One that cannot be read does not."""
    try:
        with MaskFile(path, format) as file:
            return (
                file.receipt is not None
                and file.receipt.user == metadata
                and sorted(file.names) == sorted(source.names)
                and all(file.shape(name) == source.shape(name) for name in source.names)
                and all(np.array_equal(file.packed(name), source.packed(name)) for name in source.names)
            )
    except ProblemError:
        return False
