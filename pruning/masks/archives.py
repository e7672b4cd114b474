"""Masks in zip archives: numpy's ``.npz`` and torch's ``.pt``."""

import json
import math
import os
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np

from pruning.masks.bits import Bytes
from pruning.masks.containers import METADATA_ENTRY, Container, Entry, Values
from pruning.masks.receipt import DAMAGED, as_json
from pruning.problems import ProblemError, fail

_HIGHEST_RATIO = 1100  # deflate cannot compress better than 1032 to 1
_STEP = 4 << 20  # bytes written at once
_HEADERS = {1: np.lib.format.read_array_header_1_0, 2: np.lib.format.read_array_header_2_0}
# What zipfile, zlib and numpy raise for damaged, encrypted and unknown content.
_BROKEN = (zipfile.BadZipFile, zlib.error, EOFError, OSError, ValueError, KeyError, RuntimeError, SyntaxError)

_Member = tuple[IO[bytes], tuple[int, ...], bool, np.dtype[Any]]


class NpzContainer(Container):
    """Arrays stored or compressed by ``numpy.savez``; never a pickled object."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._archive = _open_zip(path, "numpy.savez(path, **masks)")
        try:
            self._members = self._list()
            self.metadata = self._metadata()
            self.entries = {name: self._entry(name) for name in sorted(self._members)}
        except BaseException:
            self.close()
            raise

    def pieces(self, name: str, step: int) -> Iterator[Values]:
        with self._member(name, self._members[name]) as (stream, shape, fortran, dtype):
            if fortran and len(shape) > 1:  # its elements come in another order: all of them are needed
                whole = np.frombuffer(stream.read(math.prod(shape) * dtype.itemsize), dtype)
                yield whole.reshape(shape, order="F").reshape(-1)
                return
            left = math.prod(shape)
            while left:
                number = min(step, left)
                yield np.frombuffer(stream.read(number * dtype.itemsize), dtype, number)
                left -= number

    def close(self) -> None:
        self._archive.close()

    def _list(self) -> dict[str, zipfile.ZipInfo]:
        members: dict[str, zipfile.ZipInfo] = {}
        for info in self._archive.infolist():
            name = info.filename.removesuffix(".npy")
            if name in members or name == info.filename:
                what = "is listed twice" if name in members else "is no .npy array"
                raise fail(f"{self._path}: {info.filename}", what, "write the file again with numpy.savez")
            members[name] = info
        return members

    def _metadata(self) -> Mapping[str, Any]:
        info = self._members.pop(METADATA_ENTRY, None)
        if info is None:
            return {}
        where = f"{self._path}: {METADATA_ENTRY}"
        with self._member(METADATA_ENTRY, info) as (stream, shape, _, dtype):
            if shape or dtype.kind != "U":
                raise fail(where, f"is an array {shape} of {dtype}, not one string", "write the file again")
            text = str(np.frombuffer(stream.read(dtype.itemsize), dtype)[0])
        metadata = as_json(text, where)
        if not isinstance(metadata, dict):
            raise fail(where, "is not a JSON object", "write the file again")
        return metadata

    def _entry(self, name: str) -> Entry:
        with self._member(name, self._members[name]) as (_, shape, _, dtype):
            return Entry(shape, dtype.name)

    @contextmanager
    def _member(self, name: str, info: zipfile.ZipInfo) -> Iterator[_Member]:
        """An array at its first element, when what it says of itself agrees with the archive's directory."""
        where = f"{self._path}: {name}"
        try:
            with self._archive.open(info) as stream:
                major = np.lib.format.read_magic(stream)[0]
                shape, fortran, dtype = _HEADERS[major](stream)
                if dtype.hasobject:
                    fix = "write the masks again with numpy.savez, as arrays of bool"
                    raise fail(where, "holds Python objects, and reading them could run code", fix)
                size = info.file_size - stream.tell()
                if min(shape, default=0) < 0 or math.prod(shape) * dtype.itemsize != size:
                    raise _damaged(where, f"an array {shape} of {dtype} cannot have {size:,} bytes")
                yield stream, shape, fortran, dtype
        except ProblemError:
            raise
        except _BROKEN as error:
            raise _damaged(where, error) from error


class TorchContainer(Container):
    """A dict of tensors saved by ``torch.save``, alone or under "masks" beside a dict "metadata"."""

    def __init__(self, path: Path) -> None:
        import torch

        self._path = path
        # Torch maps the file and allocates nothing, but only where the archive is what it writes itself.
        with _open_zip(path, "torch.save(masks, path)") as archive:
            if any(info.compress_type != zipfile.ZIP_STORED for info in archive.infolist()):
                raise fail(
                    path, "is a compressed archive, which torch never writes", "save it again by torch"
                )
        try:
            content = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
        except Exception as error:  # torch raises whatever its C++ and the unpickler do
            reason = (str(error) or type(error).__name__).splitlines()[0]
            what = f"is damaged, or holds something else than tensors and plain values: {reason}"
            raise fail(path, what, "save a dict of tensors: torch.save(masks, path)") from error
        masks, self.metadata = self._split(content)
        self._tensors = {name: self._checked(name, masks[name]) for name in sorted(masks)}
        self.entries = {
            name: Entry(tuple(tensor.shape), str(tensor.dtype).removeprefix("torch."))
            for name, tensor in self._tensors.items()
        }

    def pieces(self, name: str, step: int) -> Iterator[Values]:
        import torch

        flat = self._tensors[name].reshape(-1)
        for start in range(0, len(flat), step):
            piece = flat[start : start + step]
            yield (piece.float() if piece.dtype == torch.bfloat16 else piece).numpy()  # numpy has no bfloat16

    def close(self) -> None:
        self._tensors = {}

    def _split(self, content: Any) -> tuple[dict[str, Any], Mapping[str, Any]]:
        masks, metadata = content, None
        if isinstance(content, dict) and isinstance(content.get("masks"), dict):
            masks, metadata = content["masks"], content.get("metadata")
            if extra := sorted(str(key) for key in content.keys() - {"masks", "metadata"}):
                what = f"holds {', '.join(map(repr, extra))} beside 'masks' and 'metadata'"
                raise fail(self._path, what, "save the masks alone: torch.save(masks, path)")
        if not isinstance(masks, dict) or not all(isinstance(name, str) for name in masks):
            raise fail(self._path, "is no dict of masks by name", "save it so: torch.save(masks, path)")
        if not isinstance(metadata, dict | None):
            raise fail(f"{self._path}: metadata", f"is a {type(metadata).__name__}", "store a dict")
        return masks, metadata or {}

    def _checked(self, name: str, tensor: Any) -> Any:
        import torch

        where, again = f"{self._path}: {name}", "save plain tensors on the CPU: mask.cpu().contiguous()"
        if not isinstance(tensor, torch.Tensor):
            raise fail(where, f"is a {type(tensor).__name__}, not a tensor", again)
        if tensor.layout != torch.strided or tensor.device.type != "cpu" or tensor.is_quantized:
            raise fail(where, f"is a {tensor.layout} tensor on {tensor.device}", again)
        if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
            # A view may repeat one byte a trillion times.
            raise fail(where, f"claims the shape {tuple(tensor.shape)} without having the elements", again)
        return tensor.detach()


def write_npz(stream: IO[bytes], packed: Mapping[str, Bytes], strings: Mapping[str, str]) -> None:
    """Stored, not compressed: the bits of a mask are close to random. The same masks give the same bytes."""
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_STORED) as archive:
        for name, data in packed.items():
            with archive.open(_info(name), "w", force_zip64=True) as member:
                header = {"descr": "|u1", "fortran_order": False, "shape": data.shape}
                np.lib.format.write_array_header_1_0(member, header)
                for start in range(0, len(data), _STEP):
                    member.write(data[start : start + _STEP].tobytes())
        with archive.open(_info(METADATA_ENTRY), "w") as member:
            np.lib.format.write_array(member, np.array(json.dumps(strings)))


def write_pt(stream: IO[bytes], packed: Mapping[str, Bytes], strings: Mapping[str, str]) -> None:
    import torch

    masks = {name: torch.from_numpy(data) for name, data in packed.items()}
    torch.save({"masks": masks, "metadata": dict(strings)}, stream)


WRITE_ARCHIVE: dict[str, Callable[[IO[bytes], Mapping[str, Bytes], Mapping[str, str]], None]] = {
    "npz": write_npz,
    "pt": write_pt,
}


def _info(name: str) -> zipfile.ZipInfo:
    return zipfile.ZipInfo(f"{name}.npy", (1980, 1, 1, 0, 0, 0))


def _open_zip(path: Path, writer: str) -> zipfile.ZipFile:
    """An archive whose directory can be true: no member is larger than its bytes can be."""
    try:
        archive = zipfile.ZipFile(path)
    except _BROKEN as error:
        fix = f"copy it again if it was cut short, or write it by {writer}"
        raise fail(path, f"is no zip archive, as this format is: {error}", fix) from error
    size, infos = os.path.getsize(path), archive.infolist()
    liars = [info.filename for info in infos if info.file_size > _HIGHEST_RATIO * (info.compress_size + 1)]
    if liars or sum(info.compress_size for info in infos) > size:
        archive.close()
        what = f"its directory promises more than {size:,} bytes can hold"
        raise fail(": ".join([str(path), *liars[:1]]), what, "do not trust this file")
    return archive


def _damaged(where: str, error: object) -> ProblemError:
    return fail(where, f"is damaged: {error}", DAMAGED)
