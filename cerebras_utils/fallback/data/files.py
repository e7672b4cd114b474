"""The HDF5 files of a directory: what their headers say, and their rows end to end.

Nothing in a file is believed before it was checked, and nothing outside of the file is followed.
"""

import os
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pruning.problems import Problem, ProblemError, fail

KEY = "data"
_OPEN_FILES = 64  # per process: a corpus may have more files than a process may open
_HDF5_ERRORS = (OSError, RuntimeError, KeyError, TypeError)  # what h5py raises where a file is damaged
_AGAIN = "copy the file again, or make it again"
_SHOWN = 10  # problems of one kind


@dataclass(frozen=True)
class DataFile:
    path: Path
    shape: tuple[int, ...]
    dtype: np.dtype[Any]


def list_files(
    directories: Iterable[str], where: str, *, sort: bool = True
) -> tuple[list[Path], list[Problem]]:
    """The ``.h5`` files, in ModelZoo's order: that of their paths across all directories."""
    files: list[Path] = []
    problems = []
    for directory in map(Path, directories):
        try:
            found = [directory / name for name in os.listdir(directory) if name.endswith(".h5")]
        except (FileNotFoundError, NotADirectoryError, ValueError):
            what = "is a file" if directory.is_file() else "there is no such directory"
            fix = "name a directory of .h5 files"
            if not directory.is_absolute():
                fix += f"; relative paths begin at {Path.cwd()}, where the command runs"
            problems.append(Problem(f"{where}: {directory}", what, fix))
            continue
        except OSError as error:
            problems.append(
                Problem(f"{where}: {directory}", f"cannot be listed: {error.strerror}", "allow reading it")
            )
            continue
        if not found:
            inside = sum(1 for _ in directory.rglob("*.h5"))
            what = "no .h5 files in it" + (f", but {inside} in directories below it" if inside else "")
            problems.append(
                Problem(f"{where}: {directory}", what, "name the directory that holds the files themselves")
            )
        files += found
    return (sorted(files) if sort else files), problems


def describe(files: Iterable[Path]) -> tuple[list[DataFile], list[Problem]]:
    """The header of every file, and what is wrong with them alone or together."""
    described: list[DataFile] = []
    problems: list[Problem] = []
    for path in files:
        try:
            file = _describe(path)
        except ProblemError as error:
            problems += error.problems
            continue
        first = described[0] if described else file
        for what, own, others in (
            ("the shape of a row", file.shape[1:], first.shape[1:]),
            ("the dtype", file.dtype, first.dtype),
        ):
            if own != others:
                fix = "keep files of one kind in a directory, or make them again alike"
                problems.append(Problem(str(path), f"{what} is {own}, and {others} in {first.path}", fix))
        described.append(file)
    if len(problems) > _SHOWN:
        more = f"and {len(problems) - _SHOWN} more problems like these"
        last = problems[_SHOWN - 1]
        problems = [*problems[: _SHOWN - 1], Problem(last.where, f"{last.what} ({more})", last.fix)]
    return described, problems


def _describe(path: Path) -> DataFile:
    import h5py

    with _open(path) as file:
        try:
            link = file.get(KEY, getlink=True)
            if link is None:
                names = ", ".join(sorted(file)) or "nothing"
                fix = f"make the file again with ModelZoo's data preparation, which writes {KEY!r}"
                raise fail(path, f"has no dataset {KEY!r}; in it: {names}", fix)
            dataset = file[KEY] if isinstance(link, h5py.HardLink) else None
            if dataset is None or (isinstance(dataset, h5py.Dataset) and _elsewhere(dataset)):
                raise fail(
                    path,
                    f"{KEY!r} lies in another place, which is not followed",
                    "write the data into the file",
                )
            if not isinstance(dataset, h5py.Dataset):
                raise fail(path, f"{KEY!r} is a group, not a dataset", _AGAIN)
            if dataset.dtype.kind not in "iu" or not dataset.shape:
                what = f"{KEY!r} holds {dataset.dtype} of shape {dataset.shape}, not rows of token ids"
                raise fail(path, what, "make the file again as integers, one row a sample")
            if unwritten := _unwritten(dataset):
                raise fail(path, f"{unwritten}: whoever wrote it was interrupted", _AGAIN)
            return DataFile(path, tuple(dataset.shape), dataset.dtype)
        except _HDF5_ERRORS as error:
            raise fail(path, f"HDF5 cannot read its listing: {error}", _AGAIN) from None


def _elsewhere(dataset: Any) -> bool:
    return bool(dataset.is_virtual or dataset.external)


def _unwritten(dataset: Any) -> str:
    """HDF5 reads zeros where nothing was written: they would train as tokens."""
    if not dataset.size:
        return ""
    if dataset.chunks is None:
        return "" if dataset.id.get_storage_size() else "its data was never written"
    chunks = prod(-(-n // c) for n, c in zip(dataset.shape, dataset.chunks, strict=True))
    written = dataset.id.get_num_chunks()
    return "" if written >= chunks else f"{chunks - written:,} of {chunks:,} chunks were never written"


def _open(path: Path) -> Any:
    import h5py
    import hdf5plugin  # noqa: F401  (registers the filters that a Cerebras environment has)

    try:
        path.open("rb").close()
    except OSError as error:
        raise fail(path, f"cannot be opened: {error.strerror}", "allow reading it, or remove it") from None
    try:
        if not h5py.is_hdf5(path):
            raise fail(path, "is not an HDF5 file", "remove it from the directory, or make it again")
        return h5py.File(path, "r", locking="best-effort")
    except OSError as error:
        raise fail(path, f"HDF5 cannot open it: {error}", _AGAIN) from None


class Rows:
    """The rows of files that agree, end to end: row 0 of the second file follows the last of the first.

    Files are opened when they are read, in the process that reads.
    """

    def __init__(self, files: Sequence[DataFile]) -> None:
        self.files = tuple(files)
        self.shape = files[0].shape[1:]
        self._ends = list(accumulate(file.shape[0] for file in files))
        self._open: OrderedDict[int, Any] = OrderedDict()
        self._pid = os.getpid()

    def __len__(self) -> int:
        return self._ends[-1]

    def locate(self, row: int) -> tuple[int, int]:
        """The number of the file that a row is in, and the row's number there."""
        number = bisect_right(self._ends, row)
        return number, row - (self._ends[number - 1] if number else 0)

    def read(self, start: int, stop: int) -> NDArray[np.int32]:
        """Rows as int32, which is what ModelZoo makes of all integers."""
        assert 0 <= start <= stop <= len(self)
        rows = np.empty((stop - start, *self.shape), np.int32)
        done = 0
        while done < len(rows):
            number, first = self.locate(start + done)
            file = self.files[number]
            count = min(len(rows) - done, file.shape[0] - first)
            try:
                stored = self._dataset(number)[first : first + count]
            except _HDF5_ERRORS as error:
                what = f"HDF5 cannot read rows {first} to {first + count - 1}: {error}"
                raise fail(file.path, what, _AGAIN) from None
            part = rows[done : done + count]
            part[:] = stored.astype(np.int32)
            if stored.dtype != np.int32 and (part != stored).any():
                what = f"has values that are no 32-bit integers in rows {first} to {first + count - 1}"
                raise fail(file.path, what, "make the file again with token ids")
            done += count
        return rows

    def close(self) -> None:
        for dataset in self._open.values():
            dataset.file.close()
        self._open.clear()

    def _dataset(self, number: int) -> Any:
        if self._pid != os.getpid():  # a worker process: the handles are its parent's
            self._open, self._pid = OrderedDict(), os.getpid()
        if number not in self._open:
            if len(self._open) >= _OPEN_FILES:
                self._open.popitem(last=False)[1].file.close()
            file = self.files[number]
            dataset = _open(file.path)[KEY]
            if dataset.shape != file.shape:
                dataset.file.close()
                raise fail(
                    file.path, "was changed while it was in use", "start again, and leave the data alone"
                )
            self._open[number] = dataset
        self._open.move_to_end(number)
        return self._open[number]

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_open": OrderedDict(), "_pid": -1}
