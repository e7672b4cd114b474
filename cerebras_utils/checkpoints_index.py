"""``checkpoints_index.yaml``: the checkpoints that cszoo knows of in a model directory.

cszoo continues from the last one in this list, not from the last file. Paths are written as the model
directory was, so a relative one is lost to a command that is started elsewhere: cszoo then drops
it, and begins anew without a word. Here it is found beside the list.
"""

import errno
import fcntl
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

import yaml

from pruning.atomic import Part, refusal
from pruning.problems import fail
from pruning.strict_yaml import read_yaml

_NO_LOCKS = (errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK)


class CheckpointsIndex:
    """Safe among processes, those of cszoo included: every change holds the lock that cszoo holds."""

    def __init__(self, model_dir: str | Path, name: str = "checkpoint_{step}.mdl") -> None:
        before, _, after = name.partition("{step}")
        self._pattern = re.compile(rf"{re.escape(before)}(\d+)(?:_(\d{{8}}_\d{{6}}))?{re.escape(after)}")
        self._name = name
        self.model_dir = Path(model_dir)
        self.path = self.model_dir / "checkpoints_index.yaml"

    def checkpoints(self) -> list[Path]:
        """The listed checkpoints that exist and are named as this run names them, oldest step first."""
        return self._sorted(Path(entry) for entry in self._read() if "://" not in entry)

    def latest(self) -> Path | None:
        found = self.checkpoints()
        return found[-1] if found else None

    def unlisted(self, root: Path | None = None) -> list[Path]:
        """Files of that name, in the model directory or in ``root``, that are not in the list: nothing
        continues from them."""
        listed = {path.resolve() for path in self.checkpoints()}
        places = dict.fromkeys([self.model_dir, root or self.model_dir])
        found = [path for place in places if place.is_dir() for path in place.iterdir()]
        return self._sorted(path for path in found if path.resolve() not in listed)

    def step_of(self, path: Path) -> int | None:
        """The step in the name of a checkpoint, None for a file of another name."""
        match = self._pattern.fullmatch(path.name)
        return int(match[1]) if match else None

    def free_path(self, step: int, root: Path | None = None) -> Path:
        """Where the checkpoint of a step goes; where that name is taken, one with the time in it."""
        root = root or self.model_dir
        path = root / self._name.format(step=step)
        if os.path.lexists(path):
            return root / self._name.format(step=f"{step}_{datetime.now():%Y%m%d_%H%M%S}")
        return path

    def append(self, path: Path) -> None:
        with self._locked():
            self._write([*self._read(), str(path)])

    def remove(self, path: Path) -> None:
        """Take it from the list; call it before the file is removed."""
        with self._locked():
            gone = path.resolve()
            self._write([entry for entry in self._read() if "://" in entry or Path(entry).resolve() != gone])

    def _sorted(self, paths: Iterable[Path]) -> list[Path]:
        """Those of the right name by step, then by the time in the name."""
        found = [(path, self._pattern.fullmatch(path.name)) for path in paths]
        order = [(int(match[1]), match[2] or "", path) for path, match in found if match]
        return [path for _, _, path in sorted(order)]

    def _read(self) -> list[str]:
        """The entries whose files exist. One in a store that is no file system stays as it is."""
        if not self.path.exists():
            return []
        entries = read_yaml(self.path).value or []
        if not isinstance(entries, list) or not all(isinstance(entry, str) for entry in entries):
            raise fail(self.path, "is not a list of paths", "mend it: a line `- PATH` for each checkpoint")
        found = []
        for entry in entries:
            beside = self.model_dir / Path(entry).name
            if "://" in entry or Path(entry).exists():
                found.append(entry)
            elif beside.exists():
                found.append(str(beside))
        return found

    def _write(self, entries: list[str]) -> None:
        with Part(self.path, overwrite=True) as part:
            part.write(yaml.safe_dump(entries, width=2**31).encode())

    @contextmanager
    def _locked(self) -> Iterator[None]:
        lock = self.path.with_suffix(".yaml.lock")
        try:
            self.model_dir.mkdir(parents=True, exist_ok=True)
            fd = _locked_file(lock)
        except OSError as error:
            raise refusal(lock, error) from error
        try:
            yield
        finally:
            lock.unlink(missing_ok=True)
            os.close(fd)


def _locked_file(path: Path) -> int:
    while True:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                os.close(fd)
                raise
            return fd
        if os.fstat(fd).st_nlink:
            return fd
        os.close(fd)  # its last holder removed it before the lock was ours
