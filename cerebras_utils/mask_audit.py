"""What a checkpoint holds under its masks, read back from the file: the receipt of a sparse run.

Weights are streamed, so the memory is that of a few buffers and of the largest mask, packed.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pruning.checkpoint.open import open_checkpoint
from pruning.checkpoint.source import FLOATS, ITEMSIZE, TensorSource
from pruning.masks.bits import Bytes, count, pack
from pruning.masks.collection import resolve_names
from pruning.masks.file import MaskFile
from pruning.problems import Problem, ProblemError

if TYPE_CHECKING:
    from torch import Tensor

_ELEMENTS = 1 << 20  # read at once, or one row of chunks where that is more; a multiple of 8


@dataclass(frozen=True)
class Layer:
    numel: int
    zeros: int
    resurrected: int  # not zero, where the mask drops
    dead: int  # zero, where the mask keeps

    @property
    def sparsity(self) -> float:
        return self.zeros / self.numel if self.numel else 0.0


def audit(checkpoint: Path, mask_path: Path, *, missing_ok: bool = False) -> dict[str, Layer]:
    """By parameter: zeros, and weights that are on the wrong side of the mask. NaN counts as not zero.

    ``missing_ok`` leaves out masks whose weights are not there, as LoRA factors in a base.
    """
    with open_checkpoint(checkpoint) as source, MaskFile(mask_path) as masks:
        there = {name for name in masks.names if {name, f"{name}.weight"} & source.infos.keys()}
        owners = resolve_names(there if missing_ok else masks.names, source.infos)
        if problems := [*_problems(source, masks, owners)]:
            raise ProblemError(problems)
        return {parameter: _layer(source, parameter, masks, mask) for mask, parameter in owners.items()}


def layer_of(weight: "Tensor", keep: "Tensor") -> Layer:
    """The same of a weight in memory."""
    zero = weight == 0
    return Layer(weight.numel(), int(zero.sum()), int((~zero & ~keep).sum()), int((zero & keep).sum()))


def newly_dead(now: Mapping[str, Layer], before: Mapping[str, int]) -> dict[str, int]:
    """Kept weights that are zero and were not: by parameter, against their number when the run began."""
    return {name: max(0, layer.dead - before[name]) for name, layer in now.items() if name in before}


def as_json(layers: Mapping[str, Layer] | None, before: Mapping[str, int] | None) -> dict[str, Any]:
    """The part of a receipt. ``before`` is None where nobody knows what was zero when the run began."""
    if layers is None:
        return {"resurrected": None, "newly_dead": None, "layers": None}
    died = None if before is None else newly_dead(layers, before)
    return {
        "resurrected": sum(layer.resurrected for layer in layers.values()),
        "newly_dead": None if died is None else sum(died.values()),
        "layers": {
            name: {
                "sparsity": layer.sparsity,
                "resurrected": layer.resurrected,
                "newly_dead": None if died is None else died.get(name),
            }
            for name, layer in layers.items()
        },
    }


def _layer(source: TensorSource, name: str, masks: MaskFile, mask: str) -> Layer:
    keep = masks.packed(mask)
    zeros = resurrected = dead = 0
    for start, nonzero in _nonzeros(source, name):
        here = keep[start // 8 : start // 8 + len(nonzero.packed)]
        zeros += nonzero.size - count(nonzero.packed)
        resurrected += count(nonzero.packed & ~here)
        dead += count(here & ~nonzero.packed)
    return Layer(source.infos[name].numel, zeros, resurrected, dead)


@dataclass(frozen=True)
class _Piece:
    packed: Bytes
    size: int


def _nonzeros(source: TensorSource, name: str) -> Iterator[tuple[int, _Piece]]:
    info = source.infos[name]
    itemsize, quantum = ITEMSIZE[info.dtype], source.quantum(name)
    step = _ELEMENTS if quantum < _ELEMENTS else -(-quantum // 8) * 8
    buffer = np.empty(min(step, info.numel) * itemsize, np.uint8)
    bits = np.dtype(f"<u{itemsize}")
    sign = bits.type(1 << (8 * itemsize - 1))
    for start in range(0, info.numel, step):
        size = min(step, info.numel - start)
        out = buffer[: size * itemsize]
        source.read(name, start, out)
        yield start, _Piece(pack((out.view(bits) & ~sign) != 0), size)  # -0.0 is 0


def _problems(source: TensorSource, masks: MaskFile, owners: Mapping[str, str]) -> Iterator[Problem]:
    for mask, parameter in owners.items():
        info, where = source.infos[parameter], f"{source.where}: {parameter}"
        if info.shape != masks.shape(mask):
            what = f"is of shape {info.shape}, its mask {masks.shape(mask)}"
            yield Problem(where, what, "take the masks of this model")
        elif info.dtype not in FLOATS:
            yield Problem(where, f"holds {info.dtype}, no weights", "name a checkpoint of the model")
