"""Directories that are written once: a reader sees the whole directory or none.

The same promise as ``pruning.atomic`` makes for a file, by the same means: a temporary name beside the
target, a lock that dies with its process, and a rename when every byte is on the disk.
"""

import errno
import fcntl
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pruning.atomic import TargetExistsError, refusal, sync


@contextmanager
def new_directory(target: Path) -> Iterator[Path]:
    """``with new_directory(target) as part: ...`` fills ``part``, which then becomes ``target``.

    ``target`` must be absent or empty. An exception leaves nothing behind, and what a killed process left
    is removed by the next one.
    """
    target = Path(os.path.abspath(target))
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _remove_stale(target)
        part, lock = _create(target)
    except OSError as error:
        raise refusal(target, error) from error
    try:
        yield part
        _sync(part)
        os.rename(part, target)  # replaces an empty directory, and nothing else
        sync(target.parent)
    except OSError as error:
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
            raise TargetExistsError(target) from None
        raise refusal(target, error) from error
    finally:
        shutil.rmtree(part, ignore_errors=True)
        os.close(lock)


def _create(target: Path) -> tuple[Path, int]:
    while True:
        part = target.with_name(f".{target.name}.{os.getpid()}-{secrets.token_hex(4)}.part")
        part.mkdir()
        try:
            lock = os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except FileNotFoundError:
            continue  # another process took it for stale
        _lock(lock)
        if part.exists():
            return part, lock
        os.close(lock)


def _remove_stale(target: Path) -> None:
    pattern = re.compile(rf"\.{re.escape(target.name)}\.\d+-[0-9a-f]{{8}}\.part")
    for path in [entry for entry in target.parent.iterdir() if pattern.fullmatch(entry.name)]:
        try:
            lock = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError:
            continue  # just finished, another user's, or no directory
        try:
            if _lock(lock):
                shutil.rmtree(path, ignore_errors=True)
        finally:
            os.close(lock)


def _lock(fd: int) -> bool:
    """False: someone else holds it, or the file system has no locks and stale parts stay for the user."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _sync(directory: Path) -> None:
    for folder, _, files in os.walk(directory):
        for name in files:
            sync(Path(folder, name))
        sync(Path(folder))
