"""Cerebras ``.mdl`` checkpoints (format 0.5), read by h5py alone.

What is in the file is told by JSON in the attributes of the root: ``__spec__`` is the tree that
was saved, and ``<key>.__metadata__`` says of each leaf what it is. See ``mdl_records``.
"""

import math
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from pruning.checkpoint.mdl_records import GRAPH, RTFX, Record, read_records
from pruning.checkpoint.slabs import slabs
from pruning.checkpoint.source import (
    ITEMSIZE,
    Bytes,
    TensorInfo,
    TensorSource,
    fingerprint_of_files,
)
from pruning.checkpoint.state_dict import DTYPES, NESTED
from pruning.problems import Problem, ProblemError, fail

# How each dtype is stored. HDF5 has no bfloat16: its bits are stored as integers.
_STORED = {
    "F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<i2",
    "I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "|i1",
    "U64": "<u8", "U32": "<u4", "U16": "<u2", "U8": "|u1", "BOOL": "|b1",
}  # fmt: skip
_Choice = Callable[
    [str, Mapping[str, Any], Mapping[str, Record]], tuple[dict[str, str], tuple[str, ...]]
]  # of the tensors to list, by name, and those to mention
_CACHE = {"rdcc_nbytes": 64 << 20, "rdcc_nslots": 10_007, "rdcc_w0": 1.0}  # of the one open dataset
_HDF5_ERRORS = (
    OSError,
    RuntimeError,
    KeyError,
    TypeError,
    ValueError,
)  # of h5py, where a file is damaged
_COPY_AGAIN = "copy the checkpoint again, or use the one before it"


class MdlSource(TensorSource):
    """The weights of the model, by their parameter names; ``others`` names every other tensor."""

    kind = "mdl"

    def __init__(
        self,
        where: str,
        path: Path,
        file: Any,
        keys: Mapping[str, str],
        records: Mapping[str, Record],
        others: tuple[str, ...],
    ) -> None:
        infos = {}
        problems: list[Problem] = []
        for name, key in keys.items():
            try:
                infos[name] = _info(where, file, name, records[key])
            except ProblemError as error:
                problems += error.problems
        if problems:
            raise ProblemError(problems)
        super().__init__(where, infos)
        self.others = others
        self._path, self._file, self._records = path, file, dict(records)
        self._datasets = {name: records[key].key for name, key in keys.items()}
        self._fills = {
            name: _fill(records[key].fill, infos[name].dtype)
            for name, key in keys.items()
            if records[key].kind == "fill"
        }
        # HDF5 keeps the chunk cache of a dataset while it is open: so there is one, the last read.
        self._lock, self._open = threading.Lock(), ("", None)

    def read(self, name: str, start: int, out: Bytes) -> None:
        info = self.infos[name]
        itemsize = ITEMSIZE[info.dtype]
        if name in self._fills:
            out.reshape(-1, itemsize)[:] = np.frombuffer(self._fills[name], np.uint8)
            return
        done = 0
        with self._lock:
            try:
                dataset = self._dataset(name)
                for box, size in slabs(info.shape, start, start + len(out) // itemsize):
                    end = done + math.prod(size) * itemsize
                    target = out[done:end].view(dataset.dtype).reshape(size)
                    dataset.read_direct(target, source_sel=box)
                    done = end
            except _HDF5_ERRORS as error:
                raise fail(f"{self.where}: {name}", f"HDF5 cannot read it: {error}", _COPY_AGAIN) from None

    def _dataset(self, name: str) -> Any:
        key = self._datasets[name]
        if self._open[0] != key:
            self._open = (key, self._file[key])
        return self._open[1]

    def quantum(self, name: str) -> int:
        """Elements in one row of chunks: what HDF5 decompresses to deliver any part of it."""
        if name in self._fills or not self.infos[name].numel:
            return 1
        with self._lock:
            chunks = self._dataset(name).chunks or ()
        shape = self.infos[name].shape
        for axis, length in enumerate(chunks):
            if length > 1:  # leading chunks of one row each cut the tensor, and need no more
                return min(int(length), shape[axis]) * math.prod(shape[axis + 1 :])
        return 1

    def scalars(self) -> dict[str, object]:
        """Numbers, strings and None of the training state by dotted path: ``global_step``."""
        return {key: r.value for key, r in sorted(self._records.items()) if r.kind == "scalar"}

    def objects(self) -> list[str]:
        """Dotted paths of what is neither tensor nor scalar: pickled objects, which are not opened."""
        return sorted(key for key, record in self._records.items() if record.kind == "object")

    def spec(self) -> str:
        """The text of ``__spec__``: the shape of the tree that was saved."""
        return str(self._file.attrs["__spec__"])

    def fingerprint(self) -> str:
        return fingerprint_of_files(self.infos, (self._path,))

    def __enter__(self) -> "MdlSource":
        return self

    def close(self) -> None:
        with self._lock:
            self._open = ("", None)
            self._file.close()


def open_mdl(path: Path, where: str) -> MdlSource:
    """List the weights in ``path``: those of ``state["model"]``, or of a bare state dict."""
    return _open(path, where, _choose)


def open_state(path: Path, where: str) -> MdlSource:
    """List every tensor in ``path`` by its dotted path, those of the optimizer too."""
    return _open(path, where, _all)


def _open(path: Path, where: str, choose: _Choice) -> MdlSource:
    import h5py
    import hdf5plugin  # noqa: F401  (registers the LZ4 filter)

    if not h5py.is_hdf5(path):
        raise fail(
            where, "is not an HDF5 file", "name a .mdl checkpoint; one from object storage needs a download"
        )
    try:
        # Checkpoints lie on network file systems, many of which have no locks.
        file = h5py.File(path, "r", locking="best-effort", **_CACHE)
    except OSError as error:
        raise fail(where, f"HDF5 cannot open it: {error}", _COPY_AGAIN) from None
    try:
        tree, records = read_records(where, file)
        keys, others = choose(where, tree, records)
        return MdlSource(where, path, file, keys, records, others)
    except ProblemError:  # a ValueError, too, but it says already what is wrong
        file.close()
        raise
    except _HDF5_ERRORS as error:
        file.close()
        raise fail(where, f"HDF5 cannot read its listing: {error}", _COPY_AGAIN) from None
    except BaseException:
        file.close()
        raise


def _all(
    where: str, tree: Mapping[str, Any], records: Mapping[str, Record]
) -> tuple[dict[str, str], tuple[str, ...]]:
    return {key: key for key, record in records.items() if record.is_tensor}, ()


def _choose(
    where: str, tree: Mapping[str, Any], records: Mapping[str, Record]
) -> tuple[dict[str, str], tuple[str, ...]]:
    """Weight name to key of the file, and the keys of the tensors that are no weights."""
    tensors = [key for key, record in records.items() if record.is_tensor]
    for root in NESTED:
        if isinstance(tree.get(root), dict):
            keys = {key.removeprefix(f"{root}."): key for key in tensors if key.startswith(f"{root}.")}
            break
    else:
        keys = {key: key for key in tensors if key in tree}
    if not keys:
        raise fail(
            where,
            f"no weights in it; its top-level keys are {', '.join(tree) or 'none'}",
            "name a checkpoint that was saved with the state of the model",
        )
    graphs = [key for key in keys.values() if records[key].value == GRAPH]
    if graphs:
        raise fail(
            where,
            f"{len(graphs)} weights ({graphs[0]}, ...) are stored as the graph that computes them, not as "
            "data: this checkpoint was saved on the CSX before the first step",
            "use a checkpoint of a later step, or the checkpoint that the run started from",
        )
    return keys, tuple(sorted(set(tensors) - set(keys.values())))


def _info(where: str, file: Any, name: str, record: Record) -> TensorInfo:
    where = f"{where}: {name}"
    if record.kind == "foreign":
        raise fail(
            where,
            f"is stored as {record.value}, which only the Cerebras software can read",
            "load it with cerebras.pytorch.load and save it again with cerebras.pytorch.save",
        )
    dtype = DTYPES.get(record.dtype)
    if dtype not in _STORED:
        raise fail(where, f"has the dtype {record.dtype}", f"save it as one of {', '.join(_STORED)}")
    if record.kind == "data":
        _check_dataset(where, file, record, dtype)
    elif record.fill is None:
        raise fail(where, "was never given a value", "use a checkpoint of a later step")
    return TensorInfo(name, record.shape, dtype, storage=record.key)


def _check_dataset(where: str, file: Any, record: Record, dtype: str) -> None:
    """What the metadata says is what the dataset is, and its data lies in this very file."""
    import h5py

    parts = record.key.split("/")
    for end in range(1, len(parts) + 1):
        link = file.get("/".join(parts[:end]), getlink=True)
        if isinstance(link, h5py.ExternalLink | h5py.SoftLink):
            raise fail(
                where,
                f"is a link to {getattr(link, 'filename', link.path)!r}, which is not followed",
                "save the checkpoint again, whole: load it with cerebras.pytorch.load and save it",
            )
    dataset = file.get(record.key)
    if not isinstance(dataset, h5py.Dataset):
        raise fail(where, "is listed, but its data is not in the file", _COPY_AGAIN)
    if dataset.is_virtual or dataset.external:
        raise fail(
            where, "keeps its data in another file, which is not followed", "save the checkpoint again, whole"
        )
    if dataset.size and not dataset.id.get_storage_size():
        raise fail(where, "its data was never written", _COPY_AGAIN)  # HDF5 would read zeros
    if dataset.size and dataset.chunks:
        all_chunks = math.prod(-(-n // c) for n, c in zip(dataset.shape, dataset.chunks, strict=True))
        if (written := dataset.id.get_num_chunks()) != all_chunks:
            raise fail(
                where, f"{all_chunks - written} of its {all_chunks} chunks were never written", _COPY_AGAIN
            )
    # Raveled: it is a list of one shape, and that of a scalar comes back as an array of floats.
    said = {tuple(int(n) for n in np.ravel(dataset.attrs.get("shapes", ()))), record.shape}
    if said != {dataset.shape}:
        raise fail(
            where,
            f"is said to have the shape {sorted(said)}, its data has {dataset.shape}",
            _COPY_AGAIN,
        )
    named = {str(n) for n in dataset.attrs.get("dtypes", ())} or {
        RTFX.get(int(n), f"rtfx {n}") for n in dataset.attrs.get("rtfx_dtypes", ())
    }
    if named != {record.dtype} or dataset.dtype != np.dtype(_STORED[dtype]):
        raise fail(
            where,
            f"is said to be {record.dtype}, stored as {_STORED[dtype]}; it is "
            f"{', '.join(sorted(named)) or 'nothing'}, stored as {dataset.dtype.str}",
            "save it again with cerebras.pytorch.save on a little-endian machine",
        )


def _fill(value: float | None, dtype: str) -> bytes:
    """The bytes of one element of a tensor that is stored as the value it is filled with."""
    assert value is not None, "checked by _info"
    if dtype != "BF16":
        return np.array(value).astype(_STORED[dtype]).tobytes()
    bits = int(np.array(value, "<f4").view("<u4"))
    # The upper half of a float32, rounded to nearest, ties to even.
    return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).to_bytes(2, "little")
