"""``torch.save`` files: listed by torch, with ``weights_only``, and read without it.

A mapped page counts as memory of the process, so the mapping that torch makes serves only to
learn which bytes of the file each tensor is: the storages of a zip checkpoint are uncompressed
records, so ``pread`` can deliver them.
"""

import re
import struct
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pruning.checkpoint.shards import Part, open_index, open_shards
from pruning.checkpoint.source import Extent, FileSource, TensorInfo
from pruning.checkpoint.state_dict import DTYPES, unreadable, weights_in
from pruning.problems import Problem, ProblemError, fail

if TYPE_CHECKING:
    from torch import Tensor

_LOCAL_HEADER = struct.Struct("<4s22xHH")  # signature, then the lengths of name and extra field
_SAVE_AGAIN = "load it where it was written and save it again: torch.save(model.state_dict(), path)"
# What zipfile raises for damage: bad names, lengths that lie, features that nobody uses.
_ZIP_ERRORS = (zipfile.BadZipFile, struct.error, EOFError, RuntimeError, ValueError, zlib.error)
_COPY_AGAIN = "copy or download the file again"


class TorchSource(FileSource):
    kind = "torch"


def open_torch(files: Sequence[Path], where: str) -> TorchSource:
    """One file, or the shards of one checkpoint; ``where`` is what messages call it."""
    return open_shards(TorchSource, files, where, read_part)


def open_torch_index(index: Path, where: str) -> TorchSource:
    """The shards that a ``*.bin.index.json`` names."""
    return open_index(TorchSource, index, where, read_part)


def read_part(file: Path) -> Part:
    records = _records(file)
    storages: dict[int, int] = {}  # address to bytes
    loaded = _load(file, storages)
    base = _base(file, storages, records)
    infos, extents = {}, {}
    problems: list[Problem] = []
    for name, tensor in weights_in(loaded, str(file)).items():
        try:
            if (placed := _place(file, name, tensor, base, records)) is not None:
                infos[name], extents[name] = placed
        except ProblemError as error:
            problems += error.problems
    if problems:
        raise ProblemError(problems)
    return Part(infos, extents)


def _records(file: Path) -> dict[int, int]:
    """Offset to size of the storages in the file. No byte of them is read."""
    with file.open("rb") as stream:
        if stream.read(4) != b"PK\x03\x04":
            raise fail(file, "is not a zip checkpoint: torch before 1.6, or another format", _SAVE_AGAIN)
        try:
            with zipfile.ZipFile(stream) as archive:
                members = {entry.filename: entry for entry in archive.infolist()}
                orders = {name: _head(archive, name) for name in members if name.endswith("/byteorder")}
        except _ZIP_ERRORS as error:
            raise fail(file, f"the zip archive is damaged or cut short: {error}", _COPY_AGAIN) from None
        root = _root(file, list(members))
        if orders.get(f"{root}/byteorder", b"little") != b"little":
            raise fail(file, "its byte order is not little-endian", f"on a common machine, {_SAVE_AGAIN}")
        storages = [entry for name, entry in members.items() if name.startswith(f"{root}/data/")]
        return dict(_extent(file, stream, entry) for entry in storages)


def _head(archive: zipfile.ZipFile, name: str) -> bytes:
    with archive.open(name) as member:
        return member.read(16)


def _root(file: Path, names: list[str]) -> str:
    if any(name.endswith("/constants.pkl") for name in names):
        raise fail(
            file, "is a TorchScript archive: code, not weights", "save torch.jit.load(path).state_dict()"
        )
    roots = [name.removesuffix("/data.pkl") for name in names if re.fullmatch(r"[^/]+/data\.pkl", name)]
    if len(roots) != 1:
        raise fail(file, "is a zip archive, but not one that torch.save wrote", "name a checkpoint")
    return roots[0]


def _extent(file: Path, stream: Any, entry: zipfile.ZipInfo) -> tuple[int, int]:
    where = f"{file}: {entry.filename}"
    if entry.compress_type != zipfile.ZIP_STORED:
        raise fail(where, "is compressed, which torch.save never does", _SAVE_AGAIN)
    # The directory at the end of a zip does not know how long the header before the data is.
    stream.seek(entry.header_offset)
    header = stream.read(_LOCAL_HEADER.size)
    if len(header) < _LOCAL_HEADER.size or not header.startswith(b"PK\x03\x04"):
        raise fail(where, "the zip archive is damaged", _COPY_AGAIN)
    _, name, extra = _LOCAL_HEADER.unpack(header)
    offset = entry.header_offset + _LOCAL_HEADER.size + name + extra
    if offset + entry.file_size > stream.seek(0, 2):
        raise fail(where, "ends after the file", _COPY_AGAIN)
    return offset, entry.file_size


def _load(file: Path, storages: dict[int, int]) -> Any:
    import torch

    def note(storage: Any, location: str) -> Any:
        storages[storage.data_ptr()] = storage.nbytes()
        return storage

    try:
        return torch.load(str(file), map_location=note, mmap=True, weights_only=True)
    except Exception as error:  # whatever a damaged or hostile pickle provokes: it is the file's fault
        refused = re.search(r"GLOBAL ([\w.]+)", str(error))
        if refused:
            raise fail(
                file,
                f"holds a pickled {refused[1]}, which is code and is not run",
                f"where the file is trusted, {_SAVE_AGAIN}",
            ) from None
        first = str(error).partition("\n")[0]
        raise fail(file, f"torch cannot read it: {type(error).__name__}: {first}", _SAVE_AGAIN) from None


def _base(file: Path, storages: dict[int, int], records: dict[int, int]) -> int:
    """Address at which the file is mapped: one for which every storage is a record of its size."""
    loaded = {address: size for address, size in storages.items() if size}
    stored = {offset: size for offset, size in records.items() if size}
    base = min(loaded, default=0) - min(stored, default=0)
    if {address - base: size for address, size in loaded.items()} != stored:
        raise fail(
            file,
            "the tensors in it do not match the data in it, one by one",
            f"if it is intact, {_SAVE_AGAIN}",
        )
    return base


def _place(
    file: Path, name: str, tensor: "Tensor", base: int, records: dict[int, int]
) -> tuple[TensorInfo, Extent] | None:
    from torch import Tensor

    where = f"{file}: {name}"
    if not isinstance(tensor, Tensor):
        return None  # counters and settings, which a training state holds beside the weights
    problem = unreadable(str(file), name, tensor)
    if problem is not None:
        raise ProblemError([problem])
    if not tensor.is_contiguous():
        raise fail(
            where,
            f"is a strided view: shape {tuple(tensor.shape)}, strides {tensor.stride()}",
            "save it with .contiguous()",
        )
    dtype, shape = DTYPES[str(tensor.dtype)], tuple(tensor.shape)
    if tensor.numel() == 0:
        return TensorInfo(name, shape, dtype), Extent(file, 0)
    start = tensor.untyped_storage().data_ptr() - base
    skipped = int(tensor.storage_offset()) * tensor.element_size()
    if start not in records or skipped + tensor.nbytes > records[start]:
        raise fail(where, "does not lie in the data of the file", _SAVE_AGAIN)
    tied = (str(file), start + skipped, shape)
    return TensorInfo(name, shape, dtype, storage=tied), Extent(file, start + skipped)
