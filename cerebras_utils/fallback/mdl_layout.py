"""A ``.mdl`` file (format 0.5) as HDF5 lays it out: all but the numbers of its tensors."""

import os
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any

import numpy as np
import torch

from pruning.checkpoint.mdl_records import FORMAT, RTFX
from pruning.masks.receipt import this_tool

CODES = {name: code for code, name in RTFX.items()}
_CSTORCH = "2.10.0"  # whose files these are like
_LIBVER = ("v108", "v110")  # oldest and newest structures of HDF5: of 2008, which hold many attributes well


class Layout:
    """Writes to ``file``, which keeps no name: whatever kills this process leaves nothing of it.

    Structures come in blocks of ``block`` bytes, so that they lie together, and the numbers too.
    """

    def __init__(self, file: str, block: int) -> None:
        import h5py

        self._root = h5py.File(file, "w", libver=_LIBVER, meta_block_size=block)
        os.unlink(file)
        self._create, self._properties = h5py.h5d.create, h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        self._properties.set_layout(h5py.h5d.CONTIGUOUS)
        self._properties.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
        self._properties.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
        self._properties.set_obj_track_times(False)  # the same state is the same file, whenever it is written
        self._unusual = h5py.h5p.create(h5py.h5p.LINK_CREATE)  # slower to make: for names that need them
        self._unusual.set_create_intermediate_group(True)
        self._unusual.set_char_encoding(h5py.h5t.CSET_UTF8)
        self._true, self._text = _constant(np.array(True)), _Text()

    def __enter__(self) -> "Layout":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._root.close()

    def place(self, tensors: Mapping[str, Any]) -> dict[str, int]:
        """Make a dataset for each, which has a shape and a dtype, and say where its numbers belong."""
        root, create, properties, true = self._root.id, self._create, self._properties, self._true
        kinds = {dtype: _Kind(dtype) for dtype in {tensor.dtype for tensor in tensors.values()}}
        shapes = {shape: _Shape(shape) for shape in {tensor.shape for tensor in tensors.values()}}
        offsets = {}
        for key, tensor in tensors.items():
            kind, shape = kinds[tensor.dtype], shapes[tensor.shape]
            links = None if key.isascii() and "/" not in key else self._unusual
            dataset = create(root, key.encode(), kind.stored, shape.space, properties, links)
            # The rest of what is known of a tensor, readers take from the metadata in the root.
            true(dataset, "__NUMPY__")
            kind.code(dataset, "rtfx_dtypes")
            shape.listed(dataset, "shapes")
            if tensor.numel():
                offsets[key] = int(dataset.get_offset())
        return offsets

    def describe(self, spec: str, metadata: Mapping[str, str]) -> None:
        """The tree, and each leaf of it. After this a reader takes the file for whole."""
        root, text = self._root.id, self._text
        _constant(np.array(FORMAT))(root, "__version__")
        for name, value in (("cstorch_version", _CSTORCH), ("writer", this_tool()), ("spec", spec)):
            text(root, f"__{name}__", value)
        for key, about in metadata.items():
            text(root, f"{key}.__metadata__", about)
        self._true(root, "__SUCCESS__")


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
        self.code = _constant(np.array([CODES[str(dtype)]]))


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
