"""How many weights masks keep, per layer and in total, and what it takes to store them."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from pruning.masks.bits import count, packed_size
from pruning.masks.collection import Masks, opened


def compute_sparsity_stats(masks: Masks) -> dict[str, Any]:
    """Counts of every mask and of all together, from the bits themselves, one mask in memory at a time.

    Bytes are of three kinds: ``bool_bytes`` (a byte per weight, as in memory), ``packed_bytes`` (as in a
    mask file), and ``entropy_bytes``, below which no code of masks with these sparsities gets on average.
    """
    with opened(masks) as source:
        layers = {name: mask_counts(source.shape(name), count(source.packed(name))) for name in source.names}
    numel = sum(layer["numel"] for layer in layers.values())
    kept = sum(layer["kept"] for layer in layers.values())
    sparsities = {name: layer["sparsity"] for name, layer in layers.items() if layer["numel"]}
    values = np.array(list(sparsities.values()) or [0.0])
    return {
        "global": {
            "sparsity": _sparsity(kept, numel),
            "mean_layer_sparsity": float(values.mean()),
            "std_layer_sparsity": float(values.std()),
            "layers": len(layers),
            "numel": numel,
            "kept": kept,
            "dropped": numel - kept,
            "min_layer": min(sparsities, key=sparsities.__getitem__, default=None),
            "min_layer_sparsity": float(values.min()),
            "max_layer": max(sparsities, key=sparsities.__getitem__, default=None),
            "max_layer_sparsity": float(values.max()),
            "bool_bytes": numel,
            "packed_bytes": sum(packed_size(layer["numel"]) for layer in layers.values()),
            "entropy_bytes": math.ceil(sum(map(_entropy_bits, layers.values())) / 8),
        },
        "per_layer": layers,
    }


def mask_counts(shape: tuple[int, ...], kept: int) -> dict[str, Any]:
    numel = math.prod(shape)
    sparsity = _sparsity(kept, numel)
    return {
        "sparsity": sparsity,
        "numel": numel,
        "kept": kept,
        "dropped": numel - kept,
        "shape": tuple(shape),
    }


def _sparsity(kept: int, numel: int) -> float:
    return (numel - kept) / numel if numel else 0.0


def _entropy_bits(layer: Mapping[str, Any]) -> float:
    return -math.fsum(
        layer[part] * math.log2(layer[part] / layer["numel"]) for part in ("kept", "dropped") if layer[part]
    )
