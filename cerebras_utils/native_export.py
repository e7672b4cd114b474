"""Masks inside a checkpoint, for sites where nothing may be installed beside ModelZoo.

The vendor's own `sparsity:` takes the masks that it finds in a checkpoint, as ``<parameter>_mask`` beside
each weight, and never draws its own. With one group for each weight, by its exact name and with its own
sparsity, a stock cszoo trains as with the SparseMaskCallback, under strict loading.

Tensors are streamed from file to file in pieces; of the masks only the bits of one weight are held.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cerebras_utils.fallback.mdl_tree import unflatten
from cerebras_utils.fallback.mdl_writer import Streamed, save_mdl
from cerebras_utils.rewriting.checkpoint import checkpoint_problems
from cerebras_utils.rewriting.request import SPARSE_TO_SPARSE, MaskSummary
from pruning.checkpoint.mdl_file import MdlSource, open_state
from pruning.checkpoint.open import open_checkpoint
from pruning.checkpoint.source import ITEMSIZE, Bytes, TensorSource
from pruning.checkpoint.state_dict import DTYPES
from pruning.masks.collection import resolve_names
from pruning.masks.file import MaskFile
from pruning.planning.selection import tied_groups
from pruning.problems import ProblemError, fail

RECEIPT = "wafersparse_export"  # top-level key of what the checkpoint was made from; cszoo passes over it
_OTHER_MASKS = ("sparsity", "sparse_mask_callback")  # top-level keys of runs that were sparse before
_STEP = 1 << 22  # elements in one piece
_TORCH = {short: getattr(torch, name.removeprefix("torch.")) for name, short in DTYPES.items()}


@dataclass(frozen=True)
class Export:
    """What is to be written, known from the listing of the checkpoint."""

    source: Path
    masks: MaskSummary
    mode: str
    mask_of: Mapping[str, str]  # weight → its mask, tied duplicates included
    carried: tuple[str, ...]  # weights that carry the mask in a sparse run: one of each tied group
    fingerprint: str
    lines: tuple[str, ...]

    @property
    def groups(self) -> tuple[Mapping[str, Any], ...]:
        """One `sparsity:` group for each weight. None to train densely from the masked weights."""
        if self.mode != SPARSE_TO_SPARSE:
            return ()
        return tuple(
            {
                "sparsity": self.masks.masks[self.mask_of[name]].sparsity,
                "init_method": "random",
                "param_filter": name,
            }
            for name in self.carried
        )

    @property
    def receipt(self) -> dict[str, str]:
        return {"masks": self.masks.sha256, "checkpoint": self.fingerprint, "mode": self.mode}


def plan_export(source: str | Path, masks: MaskSummary, mode: str) -> Export:
    """Check that the checkpoint can be exported with these masks. Of tensors it reads what may be tied."""
    problems, lines = checkpoint_problems(str(source), masks, lora=False)
    if problems:
        raise ProblemError(problems)
    with open_checkpoint(source) as weights:
        owners = resolve_names(masks.masks, weights.infos)
        mask_of = {owner: mask for mask, owner in owners.items()}
        carried = list(mask_of)
        for group in _tied(weights, mask_of):
            _mask_alike(group, mask_of, carried, masks)
        fingerprint = weights.fingerprint()
        if weights.kind != "mdl":
            lines.append(f"{source}: only the weights are carried over, an optimizer's state is not")
    return Export(Path(source), masks, mode, mask_of, tuple(carried), fingerprint, tuple(lines))


def write_export(export: Export, target: Path) -> str:
    """ "write", or "keep" where a checkpoint that was made from the same is there already."""
    if target.exists():
        if _receipt_of(target) == export.receipt:
            return "keep"
        what = "exists already, and was not made from these masks and this checkpoint"
        raise fail(target, what, "choose another name with --out, or remove it")
    with ExitStack() as stack:
        masks = stack.enter_context(MaskFile(export.masks.path))
        tree, read = _tree(export, stack)
        model = {name: value for name, value in tree["model"].items() if not _is_mask(name, tree["model"])}
        for name, mask in export.mask_of.items():
            model[name] = _masked(model[name], f"model.{name}", masks, mask, read)
        if export.mode == SPARSE_TO_SPARSE:
            for name in export.carried:
                model[f"{name}_mask"] = _bools(masks, export.mask_of[name])
        rest = {key: value for key, value in tree.items() if key not in ("model", RECEIPT, *_OTHER_MASKS)}
        save_mdl(target, {"model": model, **rest, RECEIPT: export.receipt})
    return "write"


_Read = Callable[[str, int, Bytes], None]  # of a tensor by its path in the tree


def _tree(export: Export, stack: ExitStack) -> tuple[dict[str, Any], _Read]:
    """The whole state of a `.mdl` file, of another one its weights; tensors as what will be streamed."""
    path = str(export.source)
    source: TensorSource = stack.enter_context(open_checkpoint(path))
    if source.kind != "mdl":
        named = {f"model.{name}": source.infos[name] for name in source.infos}
        read: _Read = lambda key, start, out: source.read(key.removeprefix("model."), start, out)  # noqa: E731
        leaves = {key: _stream(key, info.shape, info.dtype, read, 1) for key, info in named.items()}
        return {"model": {key.removeprefix("model."): leaf for key, leaf in leaves.items()}}, read
    state: MdlSource = stack.enter_context(open_state(export.source, path))
    if objects := state.objects():
        what = f"is a pickled object, one of {len(objects)}, which is not opened: it could run any code"
        raise fail(f"{path}: {objects[0]}", what, "load it with cerebras.pytorch.load, and save it without")
    tied: dict[Any, Streamed] = {}
    values: dict[str, Any] = state.scalars()
    for key, info in state.infos.items():
        if info.storage not in tied:
            tied[info.storage] = _stream(key, info.shape, info.dtype, state.read, state.quantum(key))
        values[key] = tied[info.storage]
    return unflatten(path, state.spec(), values), state.read


def _stream(key: str, shape: tuple[int, ...], dtype: str, read: _Read, quantum: int) -> Streamed:
    def pieces() -> Iterator[Bytes]:
        for _, piece in _pieces(key, shape, dtype, read, quantum):
            yield piece

    return Streamed(shape, _TORCH[dtype], pieces)


def _pieces(
    key: str, shape: tuple[int, ...], dtype: str, read: _Read, quantum: int
) -> Iterator[tuple[int, Bytes]]:
    """The first element of each piece, a multiple of 8, and its bytes, in a buffer that is used again."""
    numel, size = math.prod(shape), ITEMSIZE[dtype]
    step = 8 * quantum * max(1, _STEP // (8 * quantum))
    buffer = np.empty(min(numel, step) * size, np.uint8)
    for start in range(0, numel, step):
        piece = buffer[: min(step, numel - start) * size]
        read(key, start, piece)
        yield start, piece


def _masked(weight: Streamed, key: str, masks: MaskFile, mask: str, read: _Read) -> Streamed:
    """The weight with zeros where its mask drops. A NaN or Inf is not hidden under a mask."""
    dtype = DTYPES[str(weight.dtype)]

    def pieces() -> Iterator[Bytes]:
        bits = masks.packed(mask)
        for start, piece in _pieces(key, weight.shape, dtype, read, 1):
            values = torch.from_numpy(piece).view(weight.dtype)
            dropped = ~torch.from_numpy(_unpack(bits, start, len(values)))
            if broken := int((~values.isfinite() & dropped).sum()):
                what = f"the mask would hide {broken:,} values that are NaN or infinite"
                raise fail(key.removeprefix("model."), what, "find out what broke the weights")
            values.masked_fill_(dropped, 0)
            yield piece

    return Streamed(weight.shape, weight.dtype, pieces)


def _bools(masks: MaskFile, mask: str) -> Streamed:
    shape = masks.shape(mask)

    def pieces() -> Iterator[Bytes]:
        bits, numel = masks.packed(mask), math.prod(shape)
        for start in range(0, numel, _STEP):
            yield _unpack(bits, start, min(_STEP, numel - start)).view(np.uint8)

    return Streamed(shape, torch.bool, pieces)


def _unpack(bits: Bytes, start: int, count: int) -> Any:
    piece = np.unpackbits(bits[start // 8 : -(-(start + count) // 8)], count=count, bitorder="little")
    return piece.view(np.bool_)


def _is_mask(name: str, model: Mapping[str, Any]) -> bool:
    return name.endswith("_mask") and name.removesuffix("_mask") in model


def _tied(weights: TensorSource, mask_of: Mapping[str, str]) -> list[tuple[str, ...]]:
    """Groups that hold a masked weight, each in the order in which a model lists its parameters."""
    groups = [group for group in tied_groups(weights, mask_of) if any(name in mask_of for name in group)]
    return [tuple(sorted(group, key=lambda name: ("embedding" not in name, name))) for group in groups]


def _mask_alike(
    group: tuple[str, ...], mask_of: dict[str, str], carried: list[str], masks: MaskSummary
) -> None:
    """One mask for all of a tied group; the model knows the weight by the first of its names."""
    names = [name for name in group if name in mask_of]
    with MaskFile(masks.path) as file:
        first = file.packed(mask_of[names[0]])
        for other in names[1:]:
            if not np.array_equal(first, file.packed(mask_of[other])):
                what = f"differs from the mask of {names[0]}, though the two weights are one (tied)"
                raise fail(f"{masks.path}: {other}", what, "keep one of the two masks")
    for name in names:
        carried.remove(name)
    carried.append(group[0])
    mask_of.update({name: mask_of[names[0]] for name in group})


def _receipt_of(target: Path) -> dict[str, Any] | None:
    try:
        with open_state(target, str(target)) as state:
            found = state.scalars()
    except ProblemError:
        return None
    prefix = f"{RECEIPT}."
    return {key.removeprefix(prefix): value for key, value in found.items() if key.startswith(prefix)}
