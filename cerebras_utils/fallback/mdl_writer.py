"""Write Cerebras ``.mdl`` checkpoints (format 0.5) that cstorch loads and cszoo resumes from.

HDF5 lays out the file: a dataset for each tensor, and attributes. It does so in memory, in a file of the
full length with holes where the numbers belong. What it wrote is copied, and the numbers go straight
to where it said, tensor by tensor, so that no copy is held and a full disk is an ordinary error: HDF5
itself crashes the process when it meets one. They are stored as they are, without the chunks and the
LZ4 of the vendor's writer: trained weights do not compress, and any reader of HDF5 reads both.
"""

import errno
import json
import math
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cerebras_utils.fallback.mdl_tree import flatten, leaf_spec
from pruning.atomic import Part
from pruning.checkpoint.mdl_records import FORMAT, RTFX
from pruning.masks.receipt import this_tool
from pruning.problems import fail

_CSTORCH = "2.10.0"  # whose files these are like
_CODES = {name: code for code, name in RTFX.items()}
_LIBVER = ("v108", "v110")  # oldest and newest structures of HDF5: of 2008, which hold many attributes well
_BLOCK = 1 << 18  # bytes, at most
_MEMORY = "/dev/shm"
_NO_HOLES = (errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS)
_WRITE = 1 << 30  # bytes; Linux writes less than 2 GiB in one call


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
    with Part(path, overwrite=overwrite) as part, _scratch(part.target, structures) as (scratch, name):
        part.preallocate(structures + block + sum(tensor.nbytes for tensor in tensors.values()))
        try:
            offsets = _lay_out(name, spec, metadata, tensors, block)
        except (OSError, RuntimeError) as error:  # HDF5's, which are long
            fix = "free some space there, and look for what else limits it"
            raise fail(Path(name).parent, f"HDF5 cannot write there: {str(error)[:200]}", fix) from error
        _copy(scratch, part.fd)
        for key, offset in offsets.items():
            _write(part.fd, tensors[key], offset)


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
        text = {"__spec__": leaf_spec(key), "__objects__": [key], f"{key}.__metadata__": about}
        metadata[key] = json.dumps(text)
    return metadata, tensors


def _about(kind: str, **fields: Any) -> dict[str, Any]:
    return {**fields, "__TYPE__": kind, "__NONE__": True}


def _about_tensor(key: str, tensor: _Leaf) -> dict[str, Any]:
    dtype = str(tensor.dtype)
    assert dtype in _CODES, f"{key} is {dtype}, which .mdl files cannot hold"
    assert tensor.layout == torch.strided, f"{key} is {tensor.layout}, which .mdl files cannot hold"
    return {
        "__TORCH__": True,
        "shapes": [list(tensor.shape)],
        "dtypes": [dtype],
        "rtfx_dtypes": [_CODES[dtype]],
        "__TYPE__": "TorchTensorSerializer",
        "__NUMPY__": True,
        "compressed": False,
    }


def _lay_out(
    file: str, spec: str, metadata: Mapping[str, str], tensors: Mapping[str, _Leaf], block: int
) -> dict[str, int]:
    """Write everything but the numbers, and say where these belong.

    Structures come in blocks, so that they lie together, and the numbers too.
    """
    import h5py

    properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    properties.set_layout(h5py.h5d.CONTIGUOUS)
    properties.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    properties.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    properties.set_obj_track_times(False)  # the same state is the same file, whenever it is written
    unusual = h5py.h5p.create(h5py.h5p.LINK_CREATE)  # slower to make: for names that need them
    unusual.set_create_intermediate_group(True)
    unusual.set_char_encoding(h5py.h5t.CSET_UTF8)
    kinds = {dtype: _Kind(dtype) for dtype in {tensor.dtype for tensor in tensors.values()}}
    shapes = {shape: _Shape(shape) for shape in {tensor.shape for tensor in tensors.values()}}
    true, text = _constant(np.array(True)), _Text()
    offsets = {}
    with h5py.File(file, "w", libver=_LIBVER, meta_block_size=block) as root:
        os.unlink(file)  # it is open: whatever kills this process leaves nothing in memory
        _constant(np.array(FORMAT))(root.id, "__version__")
        for name, value in (("cstorch_version", _CSTORCH), ("writer", this_tool()), ("spec", spec)):
            text(root.id, f"__{name}__", value)
        for key, tensor in tensors.items():
            kind, shape = kinds[tensor.dtype], shapes[tensor.shape]
            links = None if key.isascii() and "/" not in key else unusual
            dataset = h5py.h5d.create(root.id, key.encode(), kind.stored, shape.space, properties, links)
            # The rest of what is known of a tensor, readers take from the metadata in the root.
            true(dataset, "__NUMPY__")
            kind.code(dataset, "rtfx_dtypes")
            shape.listed(dataset, "shapes")
            if tensor.numel():
                offsets[key] = int(dataset.get_offset())
        for key, about in metadata.items():
            text(root.id, f"{key}.__metadata__", about)
        true(root.id, "__SUCCESS__")
    return offsets


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


def _copy(source: int, target: int) -> None:
    """What there is between the holes, and the length."""
    end = os.fstat(source).st_size
    os.ftruncate(target, end)
    for start, stop in _written(source, end):
        while start < stop:
            piece = os.pread(source, min(stop - start, _BLOCK), start)
            _write_all(target, memoryview(piece), start)
            start += len(piece)


def _written(fd: int, end: int) -> Iterator[tuple[int, int]]:
    """From where to where there is data. A file system that knows of no holes has data everywhere."""
    at = 0
    while at < end:
        try:
            start = os.lseek(fd, at, os.SEEK_DATA)
            stop = os.lseek(fd, start, os.SEEK_HOLE)
        except OSError as error:
            if error.errno not in _NO_HOLES:
                if error.errno == errno.ENXIO:  # nothing but a hole is left
                    return
                raise
            start, stop = at, end
        yield start, stop
        at = stop


def _write(fd: int, tensor: _Leaf, offset: int) -> None:
    for piece in _pieces(tensor):
        _write_all(fd, memoryview(piece.data), offset)
        offset += piece.nbytes


def _write_all(fd: int, view: memoryview, offset: int) -> None:
    while view:
        done = os.pwrite(fd, view[:_WRITE], offset)
        view, offset = view[done:], offset + done


def _pieces(tensor: _Leaf) -> Iterator[np.ndarray]:
    if isinstance(tensor, Streamed):
        return tensor.pieces()
    flat = tensor.detach().to("cpu").contiguous().reshape(-1)
    return iter([flat.view(torch.uint8).numpy()])


def _constant(value: Any) -> Callable[[Any, str], None]:
    """What writes one attribute to many objects, five times as fast as h5py's ``attrs``."""
    from h5py import h5a, h5s, h5t

    kind, space = h5t.py_create(value.dtype, logical=True), h5s.create_simple(value.shape)

    def put(target: Any, name: str) -> None:
        attribute = h5a.create(target, name.encode(), kind, space)
        if value.size:
            attribute.write(value, mtype=kind)

    return put


class _Kind:
    """How a dtype is stored. HDF5 has no bfloat16: its bits are stored as integers."""

    def __init__(self, dtype: torch.dtype) -> None:
        from h5py import h5t

        plain = torch.int16 if dtype == torch.bfloat16 else dtype
        self.stored = h5t.py_create(torch.empty(0, dtype=plain).numpy().dtype, logical=True)
        self.code = _constant(np.array([_CODES[str(dtype)]]))


class _Shape:
    def __init__(self, shape: tuple[int, ...]) -> None:
        from h5py import h5s

        self.space = h5s.create_simple(tuple(shape))
        self.listed = _constant(np.array([shape], np.int64))


class _Text:
    """What writes a text as an attribute, of any length, as h5py does it."""

    def __init__(self) -> None:
        from h5py import h5a, h5s, h5t, string_dtype

        self._create, self._scalar = h5a.create, h5s.create(h5s.SCALAR)
        self._in_file = h5t.py_create(string_dtype(), logical=True)
        self._in_memory = h5t.py_create(string_dtype())

    def __call__(self, target: Any, name: str, value: str) -> None:
        attribute = self._create(target, name.encode(), self._in_file, self._scalar)
        attribute.write(np.array(value, dtype=object), mtype=self._in_memory)
