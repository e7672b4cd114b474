"""The masks that go with a checkpoint: of a mask file, or stored beside the weights as ``<weight>_mask``."""

from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from cerebras_utils.conversion.layout import RearrangedSource, Rule
from cerebras_utils.conversion.tensors import TORCH_DTYPES
from pruning.checkpoint.source import ITEMSIZE, Bytes, TensorInfo, TensorSource
from pruning.masks.bits import pack, unpack
from pruning.masks.collection import resolve_names
from pruning.masks.file import MaskFile
from pruning.masks.writer import MaskWriter
from pruning.problems import Problem, ProblemError

Infos = Mapping[str, TensorInfo]
_PIECE = 1 << 20  # elements
_OTHER_BASE = "give the base of this run, as it was before any merge"


class Masks:
    """Masks by the names of weights; none at all is the plain case."""

    names: tuple[str, ...] = ()

    def read(self, name: str, start: int, stop: int) -> Tensor | None:
        """Flat elements of one mask, True = keep; None where the weight has no mask."""
        return None


class FileMasks(Masks):
    def __init__(self, path: Path, infos: Infos) -> None:
        self._file = MaskFile(path)
        self._of = {weight: mask for mask, weight in resolve_names(self._file.names, infos).items()}
        problems = [
            Problem(
                f"{path}: {mask}",
                f"is of shape {self._file.shape(mask)}, the weight {infos[weight].shape}",
                "take the masks of this model",
            )
            for weight, mask in self._of.items()
            if self._file.shape(mask) != infos[weight].shape
        ]
        if problems:
            self._file.close()
            raise ProblemError(problems)
        self.names = tuple(self._of)
        self._latest: tuple[str, Bytes] | None = None

    def read(self, name: str, start: int, stop: int) -> Tensor | None:
        if name not in self._of:
            return None
        if self._latest is None or self._latest[0] != name:
            self._latest = (name, self._file.packed(self._of[name]))
        first = start // 8  # whole bytes: the piece may begin within one
        bits = unpack(np.ascontiguousarray(self._latest[1][first : -(-stop // 8)]), stop - 8 * first)
        return torch.from_numpy(bits[start - 8 * first :])


class StoredMasks(Masks):
    def __init__(self, source: TensorSource) -> None:
        self._source = source
        self.names = tuple(n for n in source.infos if f"{n}_mask" in source.infos)

    def read(self, name: str, start: int, stop: int) -> Tensor | None:
        info = self._source.infos.get(f"{name}_mask")
        if info is None:
            return None
        itemsize = ITEMSIZE[info.dtype]
        out = np.empty((stop - start) * itemsize, np.uint8)
        self._source.read(info.name, start, out)
        return torch.from_numpy(out.reshape(stop - start, itemsize).any(axis=1))


def refuse_other_base(
    checkpoint: TensorSource, base: TensorSource, weights: Iterable[str], masks: Masks
) -> None:
    """The frozen weights of a LoRA run are those of its base, masked or not. All that differ are told."""
    problems = []
    for name in weights:
        where, ours, theirs = f"{base.where}: {name}", checkpoint.infos[name], base.infos.get(name)
        if theirs is None or (theirs.shape, theirs.dtype) != (ours.shape, ours.dtype):
            what = "is missing" if theirs is None else f"is {theirs.dtype} {theirs.shape}"
            problems.append(Problem(where, f"{what}, in the run {ours.dtype} {ours.shape}", _OTHER_BASE))
        elif differ := _differing(checkpoint, base, name, masks):
            what = f"{differ:,} of {ours.numel:,} weights are not those that the run was trained on"
            problems.append(Problem(where, what, _OTHER_BASE))
    if problems:
        raise ProblemError(problems)


def _differing(checkpoint: TensorSource, base: TensorSource, name: str, masks: Masks) -> int:
    info = checkpoint.infos[name]
    dtype, itemsize = TORCH_DTYPES[info.dtype], ITEMSIZE[info.dtype]
    quantum = max(checkpoint.quantum(name), base.quantum(name))
    step = max(1, _PIECE // quantum) * quantum
    count = 0
    for start in range(0, info.numel, step):
        stop = min(start + step, info.numel)
        one, other = (np.empty((stop - start) * itemsize, np.uint8) for _ in range(2))
        checkpoint.read(name, start, one)
        base.read(name, start, other)
        frozen, original = torch.from_numpy(one).view(dtype), torch.from_numpy(other).view(dtype)
        mask = masks.read(name, start, stop)
        original = original if mask is None else original.masked_fill(~mask, 0)
        count += int(torch.count_nonzero(frozen != original))
    return count


class _MaskSource(TensorSource):
    """A mask for every weight, all True where there is none: so the rules of weights move masks."""

    kind = "masks"

    def __init__(self, masks: Masks, infos: Infos) -> None:
        super().__init__("the masks", {n: TensorInfo(n, i.shape, "BOOL") for n, i in infos.items()})
        self._masks = masks

    def read(self, name: str, start: int, out: Bytes) -> None:
        mask = self._masks.read(name, start, start + len(out))
        out[:] = 1 if mask is None else mask.numpy().view(np.uint8)

    def fingerprint(self) -> str:
        raise AssertionError("masks are named by the digest of their file")


def write_rearranged(path: Path, masks: Masks, infos: Infos, rules: Mapping[str, Rule]) -> dict[str, int]:
    """The masks in another layout. Returns the kept counts by their new names."""
    masked = {name: rule for name, rule in rules.items() if any(n in masks.names for n in rule.inputs)}
    source = RearrangedSource(_MaskSource(masks, infos), masked)
    kept = {}
    with MaskWriter(path, {name: rule.shape for name, rule in masked.items()}) as writer:
        for name in masked:
            mask = source.array(name)
            kept[name] = int(np.count_nonzero(mask))
            writer.write(name, 0, pack(mask.view(np.bool_)))
        writer.finish(kept)
    return kept
