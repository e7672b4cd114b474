"""Write Cerebras ``.mdl`` checkpoints (format 0.5) that cstorch loads and cszoo resumes from.

HDF5 lays out the file, in memory and with holes where the numbers belong. What it wrote is copied, and the
numbers go straight to where it said, so that no copy is held and a full disk is an ordinary error: HDF5
itself crashes the process when it meets one. They are stored as they are, without the chunks and the
LZ4 of the vendor's writer: trained weights do not compress, and any reader of HDF5 reads both.

The layout takes as long as the writing of a small model's numbers. So the large tensors, nearly all
bytes in a fifth of the tensors, are laid out first, and another thread writes them meanwhile.
"""

import errno
import json
import math
import os
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cerebras_utils.fallback.mdl_layout import CODES, Layout
from cerebras_utils.fallback.mdl_tree import flatten, leaf_spec
from pruning.atomic import Part
from pruning.problems import fail

_BLOCK = 1 << 18  # bytes, at most
_LARGE = 1 << 14  # bytes
_MEMORY = "/dev/shm"
_AT_ONCE = 1 << 30  # bytes; Linux writes less than 2 GiB in one call
_BUFFERS = 1024  # and not from more places


@dataclass(frozen=True, eq=False)
class Streamed:
    """A leaf that is not in memory: its bytes come in pieces, in order, while they are written."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    pieces: Callable[[], Iterator[np.ndarray]]  # of uint8
    layout: torch.layout = torch.strided

    def numel(self) -> int:
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        return self.numel() * self.dtype.itemsize


_Leaf = Tensor | Streamed


def save_mdl(path: str | os.PathLike[str], tree: Mapping[str, Any], *, overwrite: bool = False) -> None:
    """Write ``tree``, nested containers of tensors, numbers, texts and None, whole or not at all.

    One tensor under several keys is stored once, and is one again when it is loaded; two tensors that
    share their memory are stored twice, as cstorch does it.
    """
    leaves, spec = flatten(tree)
    metadata, tensors = _describe(leaves)
    structures = len(spec) + (1 << 14) + sum(640 + 48 * len(tensor.shape) for tensor in tensors.values())
    structures += sum(2 * len(key) + len(text) + 256 for key, text in metadata.items())
    block = min(structures // 4, _BLOCK)
    at_hand = {key: tensor for key, tensor in tensors.items() if _is_at_hand(tensor)}
    others = {key: tensor for key, tensor in tensors.items() if key not in at_hand}
    with Part(path, overwrite=overwrite) as part, _scratch(part.target, structures) as (scratch, name):
        part.preallocate(structures + block + sum(tensor.nbytes for tensor in tensors.values()))
        with ThreadPoolExecutor(1) as beside, _hdf5_errors(name), Layout(name, block) as layout:
            large = layout.place(at_hand)
            writing = beside.submit(_write_at_hand, os.dup(part.fd), at_hand, large)
            small = layout.place(others)
            layout.describe(spec, metadata)
        writing.result()
        for key, offset in small.items():
            _write(part.fd, tensors[key], offset)
        _copy(scratch, part.fd, [(at, tensors[key].nbytes) for key, at in (large | small).items()])


@contextmanager
def _hdf5_errors(name: str) -> Iterator[None]:
    try:
        yield
    except (OSError, RuntimeError) as error:  # which are long
        fix = "free some space there, and look for what else limits it"
        raise fail(Path(name).parent, f"HDF5 cannot write there: {str(error)[:200]}", fix) from error


def _describe(leaves: Mapping[str, Any]) -> tuple[dict[str, str], dict[str, _Leaf]]:
    """The metadata of each leaf as text, and the tensors that need a dataset."""
    first: dict[int, str] = {}
    tensors: dict[str, _Leaf] = {}
    metadata = {}
    for key, value in leaves.items():
        if isinstance(value, _Leaf):
            if id(value) in first:
                about = _about("LinkedObject", key=first[id(value)], __LINKED__=True)
            else:
                first[id(value)] = key
                tensors[key] = value
                about = _about_tensor(key, value)
        elif value is None:
            about = _about("NoneSerializer")
        elif type(value) is str:
            about = _about("StringSerializer", string_value=value)
        else:
            assert type(value) in (bool, int, float), (
                f"{key} is a {type(value)}, which .mdl files cannot hold"
            )
            about = _about("ScalarSerializer", scalar_value=value)
        metadata[key] = _framed(key, about)
    return metadata, tensors


def _about(kind: str, **fields: Any) -> str:
    return json.dumps({**fields, "__TYPE__": kind, "__NONE__": True})


def _about_tensor(key: str, tensor: _Leaf) -> str:
    dtype = str(tensor.dtype)
    assert dtype in CODES, f"{key} is {dtype}, which .mdl files cannot hold"
    assert tensor.layout == torch.strided, f"{key} is {tensor.layout}, which .mdl files cannot hold"
    return _about_kind(dtype, tuple(tensor.shape))


@lru_cache(maxsize=1024)  # of hundreds of tensors, a dozen kinds
def _about_kind(dtype: str, shape: tuple[int, ...]) -> str:
    about = {
        "__TORCH__": True,
        "shapes": [shape],
        "dtypes": [dtype],
        "rtfx_dtypes": [CODES[dtype]],
        "__TYPE__": "TorchTensorSerializer",
        "__NUMPY__": True,
        "compressed": False,
    }
    return json.dumps(about)


def _framed(key: str, about: str) -> str:
    """The text of a leaf. ``json`` writes the frame anew where a name needs its escapes."""
    frame = _FRAME.replace("@", key) if _PLAIN.fullmatch(key) else _frame(key)
    return f"{frame}{about}}}"


def _frame(key: str) -> str:
    text = {"__spec__": leaf_spec(key), "__objects__": [key], f"{key}.__metadata__": 0}
    return json.dumps(text).removesuffix("0}")


_FRAME = _frame("@")
_PLAIN = re.compile(r"[\w.]+", re.ASCII)


@contextmanager
def _scratch(target: Path, size: int) -> Iterator[tuple[int, str]]:
    """A file for structures alone, 0.4 MB beside 121 of numbers: in memory, or beside ``target``."""
    room = _free(_MEMORY) if os.access(_MEMORY, os.W_OK) else 0
    place = _MEMORY if room > 4 * size else str(target.parent)
    if place != _MEMORY and _free(place) < 4 * size:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    descriptor, name = tempfile.mkstemp(prefix=".wafersparse-", suffix=".part", dir=place)
    try:
        yield descriptor, name
    finally:
        os.close(descriptor)
        Path(name).unlink(missing_ok=True)


def _free(place: str) -> int:
    found = os.statvfs(place)
    return found.f_bavail * found.f_frsize


def _copy(source: int, target: int, numbers: list[tuple[int, int]]) -> None:
    """The length of the file, and what lies between the numbers: their places and lengths are given."""
    end = os.fstat(source).st_size
    os.ftruncate(target, end)
    start = 0
    for stop, length in [*sorted(numbers), (end, 0)]:
        while start < stop:
            piece = os.pread(source, min(stop - start, _BLOCK), start)
            _write_all(target, memoryview(piece), start)
            start += len(piece)
        start = stop + length


def _is_at_hand(tensor: _Leaf) -> bool:
    """Large, and to be written without a copy."""
    here = isinstance(tensor, Tensor) and tensor.device.type == "cpu" and tensor.is_contiguous()
    return here and tensor.nbytes >= _LARGE


def _write_at_hand(fd: int, tensors: Mapping[str, _Leaf], offsets: Mapping[str, int]) -> None:
    """Neighbours in one call: between calls a thread waits for its turn with the interpreter.

    ``fd`` is this thread's own, and it closes it: who ends in haste closes the other one, and the number may
    be another file's by then.
    """
    try:
        for offset, views in _neighbours(tensors, offsets):
            done = os.pwritev(fd, views, offset)
            for view in views:
                if done < len(view):
                    _write_all(fd, view[done:], offset + done)
                offset, done = offset + len(view), max(0, done - len(view))
    finally:
        os.close(fd)


def _neighbours(
    tensors: Mapping[str, _Leaf], offsets: Mapping[str, int]
) -> Iterator[tuple[int, list[memoryview]]]:
    views: list[memoryview] = []
    start = end = 0
    for key, offset in sorted(offsets.items(), key=lambda pair: pair[1]):
        (numbers,) = _pieces(tensors[key])
        if views and (offset != end or end - start > _AT_ONCE or len(views) == _BUFFERS):
            yield start, views
            views = []
        if not views:
            start = offset
        views.append(numbers.data)
        end = offset + numbers.nbytes
    if views:
        yield start, views


def _write(fd: int, tensor: _Leaf, offset: int) -> None:
    for piece in _pieces(tensor):
        _write_all(fd, memoryview(piece.data), offset)
        offset += piece.nbytes


def _write_all(fd: int, view: memoryview, offset: int) -> None:
    while view:
        done = os.pwrite(fd, view[:_AT_ONCE], offset)
        view, offset = view[done:], offset + done


def _pieces(tensor: _Leaf) -> Iterator[np.ndarray]:
    if isinstance(tensor, Streamed):
        return tensor.pieces()
    flat = tensor.detach().to("cpu").contiguous().reshape(-1)
    return iter([flat.view(torch.uint8).numpy()])
