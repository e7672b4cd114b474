"""Write any ``TensorSource`` as safetensors or ``.mdl``, piece by piece, counting the zeros."""

import json
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cerebras_utils.conversion.tensors import TORCH_DTYPES
from cerebras_utils.fallback.mdl_writer import Streamed, save_mdl
from pruning.atomic import Part, refusal
from pruning.checkpoint.source import FLOATS, ITEMSIZE, Bytes, TensorSource
from pruning.checkpoint.state_dict import DTYPES
from pruning.problems import fail

_PIECE = 1 << 20  # elements that are held at once
_WRITE = 1 << 30  # bytes: Linux writes less than 2 GiB in one call
_BY_SHORT = {short: getattr(torch, name.removeprefix("torch.")) for name, short in DTYPES.items()}

Progress = Callable[[int], None]  # bytes written since the last call


def write(
    path: Path,
    source: TensorSource,
    *,
    metadata: Mapping[str, str] | None = None,
    tree: Mapping[str, Any] | None = None,
    progress: Progress = lambda nbytes: None,
) -> dict[str, int]:
    """By the suffix of ``path``. ``tree``: what a ``.mdl`` holds beside the model. Returns zeros by name."""
    zeros: dict[str, int] = {}

    def pieces(name: str) -> Iterator[Bytes]:
        for piece in _pieces(source, name):
            if source.infos[name].dtype in FLOATS:
                zeros[name] = zeros.get(name, 0) + _count_zeros(piece, source.infos[name].dtype)
            progress(len(piece))
            yield piece

    if path.suffix == ".mdl":
        model = {
            name: Streamed(info.shape, _BY_SHORT[info.dtype], lambda name=name: pieces(name))  # type: ignore[misc]
            for name, info in source.infos.items()
        }
        save_mdl(path, {"model": model, **(tree or {})})
    else:
        _write_safetensors(path, source, metadata or {}, pieces)
    return zeros


def zeros_in(source: TensorSource, names: Mapping[str, int], progress: Progress) -> dict[str, int]:
    """Read back what was written."""
    found = {}
    for name in names:
        found[name] = 0
        for piece in _pieces(source, name):
            found[name] += _count_zeros(piece, source.infos[name].dtype)
            progress(len(piece))
    return found


def check_written(path: Path, zeros: Mapping[str, int], progress: Progress = lambda nbytes: None) -> None:
    """The file holds, tensor by tensor, as many zeros as went into it."""
    from pruning.checkpoint.open import open_checkpoint

    with open_checkpoint(path) as source:
        found = zeros_in(source, zeros, progress)
    differing = [name for name, count in zeros.items() if found[name] != count]
    if differing:
        name = differing[0]
        what = f"{len(differing)} tensors do not read back as they were written: {found[name]:,} zeros, not "
        raise fail(f"{path}: {name}", f"{what}{zeros[name]:,}", "write it again, to another disk")


def _write_safetensors(
    path: Path, source: TensorSource, metadata: Mapping[str, str], pieces: Callable[[str], Iterator[Bytes]]
) -> None:
    names = sorted(source.infos, key=lambda name: (-ITEMSIZE[source.infos[name].dtype], name))  # aligned
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    end = 0
    for name in names:
        info = source.infos[name]
        offsets = [end, end + info.nbytes]
        header[name] = {"dtype": info.dtype, "shape": list(info.shape), "data_offsets": offsets}
        end += info.nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with Part(path) as part:
        part.preallocate(8 + len(text) + end)
        try:
            part.write(len(text).to_bytes(8, "little") + text)
            for name in names:
                for piece in pieces(name):
                    _all_of(part.fd, memoryview(piece.data))
        except OSError as error:
            raise refusal(path, error) from error


def _all_of(fd: int, view: memoryview) -> None:
    while view:
        view = view[os.write(fd, view[:_WRITE]) :]


def _pieces(source: TensorSource, name: str) -> Iterator[Bytes]:
    info = source.infos[name]
    itemsize, quantum = ITEMSIZE[info.dtype], source.quantum(name)
    step = max(1, _PIECE // quantum) * quantum
    buffer = np.empty(min(step, info.numel) * itemsize, np.uint8)
    for start in range(0, info.numel, step):
        piece = buffer[: (min(start + step, info.numel) - start) * itemsize]
        source.read(name, start, piece)
        yield piece


def _count_zeros(piece: Bytes, dtype: str) -> int:
    values = torch.from_numpy(piece).view(TORCH_DTYPES[dtype])
    return values.numel() - int(torch.count_nonzero(values))
