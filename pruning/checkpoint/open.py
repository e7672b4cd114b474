"""``open_checkpoint``: whatever holds weights, as a ``TensorSource``.

A file is what its first bytes say; its name counts only where they say nothing.
"""

import re
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pruning.checkpoint.safetensors_file import MAX_HEADER, open_safetensors, open_safetensors_index
from pruning.checkpoint.shards import read_index
from pruning.checkpoint.source import TensorSource
from pruning.problems import fail
from pruning.registry import suggest

if TYPE_CHECKING:
    from torch import nn

TORCH = (".bin", ".pt", ".pth")
_KINDS = {".safetensors": "safetensors", ".mdl": "mdl", **dict.fromkeys(TORCH, "torch")}
_INDEX = ".index.json"
# What training loops leave beside the weights.
_NOT_WEIGHTS = re.compile(r"(training_args|optimizer|scheduler|scaler|rng_state)[\w-]*\.(bin|pt|pth)")
_SHARD = re.compile(r"(?P<stem>.+)-(?P<number>\d+)-of-(?P<count>\d+)(?P<suffix>\.\w+)")
_FORMATS = f".safetensors, {', '.join(TORCH)}, .mdl, an {_INDEX}, or a directory with one of these"


def open_checkpoint(what: "str | Path | Mapping[str, Any] | nn.Module") -> TensorSource:
    """The weights of a file, of a directory, of a state dict or of a module.

    Raises ``ProblemError`` for whatever is wrong with them, ``TypeError`` for any other object.
    """
    if isinstance(what, str | Path):
        try:
            return _open_path(Path(what))
        except OSError as error:
            name = error.filename if isinstance(error.filename, str) else what
            raise fail(name, f"cannot be read: {error.strerror or error}", "check its permissions") from None
    from torch import nn

    from pruning.checkpoint.memory import module_source, state_dict_source

    if isinstance(what, nn.Module):
        return module_source(what)
    if isinstance(what, Mapping):
        return state_dict_source(what)
    raise TypeError(f"a checkpoint is a path, a state dict or a torch.nn.Module, not {type(what).__name__}")


def _open_path(path: Path) -> TensorSource:
    if path.is_dir():
        return _open_directory(path)
    if not path.exists():
        if not path.parent.is_dir():
            raise fail(path, f"there is no directory {path.parent}", "check the path")
        known = [file.name for file in path.parent.iterdir()]
        raise fail(path, f"does not exist.{suggest(path.name, known)}", f"name a checkpoint: {_FORMATS}")
    if not path.is_file():
        raise fail(path, "is neither a file nor a directory", f"name a checkpoint: {_FORMATS}")
    if path.name.endswith(_INDEX):
        return _open_index(path)
    kind = _kind(path)
    if kind == "safetensors":
        return open_safetensors([path], str(path))
    if kind == "torch":
        from pruning.checkpoint.torch_file import open_torch

        return open_torch([path], str(path))
    from pruning.checkpoint.mdl_file import open_mdl

    return open_mdl(path, str(path))


def _kind(path: Path) -> str:
    with path.open("rb") as stream:
        head = stream.read(9)
    if not head:
        raise fail(path, "is empty", "copy or download the file again")
    if head.startswith(b"\x89HDF\r\n\x1a\n"):
        return "mdl"
    if head.startswith(b"PK\x03\x04"):
        return "torch"
    if head[8:] == b"{" and int.from_bytes(head[:8], "little") <= MAX_HEADER:
        return "safetensors"
    if path.suffix in _KINDS:
        return _KINDS[path.suffix]
    raise fail(path, f"is no checkpoint that is known here; it begins with {head!r}", f"name {_FORMATS}")


def _open_index(index: Path, where: str = "") -> TensorSource:
    shards = read_index(index).values()
    kinds = {_KINDS.get(Path(shard).suffix, "unknown") for shard in shards}
    if kinds == {"safetensors"}:
        return open_safetensors_index(index, where or str(index))
    if kinds == {"torch"}:
        from pruning.checkpoint.torch_file import open_torch_index

        return open_torch_index(index, where or str(index))
    names = ", ".join(sorted({Path(shard).name for shard in shards})[:5]) or "none"
    raise fail(
        index,
        f"names shards that are not of one known kind: {names}",
        "name an index of .safetensors or of .bin files",
    )


def _open_directory(directory: Path) -> TensorSource:
    files = sorted(file for file in directory.iterdir() if file.is_file())
    weights = [f for f in files if f.suffix in _KINDS and not _NOT_WEIGHTS.fullmatch(f.name)]
    indices = [file for file in files if file.name.endswith(_INDEX)]
    named = {directory / shard for index in indices for shard in _shards(index)}
    rest = [file for file in weights if file not in named]
    sets = _numbered(rest)
    rest = [file for file in rest if not any(file in group for group in sets)]
    if len(indices) + len(sets) + len(rest) != 1:
        found = ", ".join(file.name for file in (*indices, *weights)) or "none"
        raise fail(
            directory,
            f"does not hold one checkpoint; the files of weights in it are: {found}",
            f"name the one that is meant, as {directory / (indices + weights)[0].name}"
            if indices or weights
            else f"name a checkpoint: {_FORMATS}",
        )
    if indices:
        return _open_index(indices[0], str(directory))
    if sets:
        return _open_set(directory, sets[0])
    return _open_path(rest[0])


def _shards(index: Path) -> list[str]:
    # A broken index still counts as one checkpoint: opening it says what is wrong with it.
    with suppress(ValueError):
        return list(read_index(index).values())
    return []


def _numbered(files: list[Path]) -> list[list[Path]]:
    """Files named ``stem-00001-of-00002``, by set."""
    sets: dict[tuple[str, ...], list[Path]] = {}
    for file in files:
        if (match := _SHARD.fullmatch(file.name)) is not None:
            sets.setdefault((match["stem"], match["count"], match["suffix"]), []).append(file)
    return list(sets.values())


def _open_set(directory: Path, files: list[Path]) -> TensorSource:
    matches = [match for file in files if (match := _SHARD.fullmatch(file.name)) is not None]
    count = int(matches[0]["count"])
    if len(files) != count or {int(match["number"]) for match in matches} - set(range(count + 1)):
        raise fail(
            directory,
            f"holds {len(files)} of {count} shards: {', '.join(file.name for file in files[:5])}",
            "download or copy the others",
        )
    if files[0].suffix in TORCH:
        from pruning.checkpoint.torch_file import open_torch

        return open_torch(files, str(directory))
    return open_safetensors(files, str(directory))
