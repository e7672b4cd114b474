"""Files that are written once: a reader sees the whole file or none.

A file grows under a temporary name, ``.NAME.PID-RANDOM.part`` in the directory of its target, and
gets its own name when every byte is on the disk. The writer holds a lock on it, which the kernel
releases when the process dies in whatever way; so the next writer of the same name can tell what a
killed one left from what a living one is writing, and removes it.
"""

import errno
import fcntl
import os
import re
import secrets
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from pruning.problems import Problem, ProblemError, fail

_FIXES = {
    errno.EACCES: "choose a directory that you may write to, or change its permissions",
    errno.EPERM: "choose a directory that you may write to, or change its permissions",
    errno.EROFS: "the file system is mounted read-only: choose a directory on another one",
    errno.ENOTDIR: "a parent of this path is a file: choose another path",
    errno.EEXIST: "a parent of this path is a file: choose another path",
    errno.ENAMETOOLONG: "choose a shorter file name",
    errno.EIO: "the disk may be failing: look at the system's log, or write to another file system",
    errno.ESTALE: "the network file system was taken away: mount it again, or write to another one",
    errno.EFBIG: "raise the limit on file sizes (`ulimit -f`), or write to another file system",
}
_FULL = (errno.ENOSPC, errno.EDQUOT)
_LOST = (errno.EIO, errno.ESTALE)
_NO_LOCKS = (errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK)  # Lustre without ``-o flock``, some FUSE


class TargetExistsError(ProblemError):
    """The final name is taken, at the start or by a writer that was faster."""

    def __init__(self, target: Path) -> None:
        fix = "remove it, choose another name, or ask to overwrite it"
        super().__init__([Problem(str(target), "exists already, and finished files are never changed", fix)])


class Part:
    """A file on its way to its final name; a context manager that commits, or on an exception discards.

    Write through ``fd`` (or ``write``), not by opening ``path`` anew in a way that replaces the file.
    What can be made again need not be ``durable``: a crash of the machine may then leave an empty file.
    """

    def __init__(
        self, target: str | os.PathLike[str], *, overwrite: bool = False, durable: bool = True
    ) -> None:
        self.target, self._durable = Path(target), durable
        self._overwrite = overwrite
        try:
            self.target.parent.mkdir(parents=True, exist_ok=True)
            if self.target.is_dir():
                raise fail(self.target, "is a directory", "name a file in it")
            _remove_stale(self.target)
            if os.path.lexists(self.target) and not overwrite:
                raise TargetExistsError(self.target)
            self.path, self.fd = _create(self.target)
        except OSError as error:
            raise refusal(self.target, error) from error
        if not overwrite:
            self._try_link()

    def write(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            view = view[os.write(self.fd, view) :]

    def preallocate(self, size: int) -> None:
        preallocate(self.fd, size, self.target)

    def commit(self) -> None:
        """Name the file, or leave nothing of it."""
        try:
            if self._durable:
                os.fsync(self.fd)
            if self._overwrite:
                os.rename(self.path, self.target)
            else:
                _link(self.path, self.target)
                self.path.unlink()
            if self._durable:
                sync(self.target.parent)
        except OSError as error:
            self.discard()
            raise refusal(self.target, error) from error
        except ProblemError:
            self.discard()
            raise
        os.close(self.fd)

    def discard(self) -> None:
        """On a disk that fails, what cannot be removed stays for the next writer of this name."""
        with suppress(OSError):
            self.path.unlink(missing_ok=True)
        with suppress(OSError):
            os.close(self.fd)

    def __enter__(self) -> "Part":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.commit()
            return
        self.discard()
        if isinstance(error, OSError) and self._is_of_writing(error):
            raise refusal(self.target, error) from error

    def _is_of_writing(self, error: OSError) -> bool:
        """A lost disk may be that of another file, which is named then."""
        lost = error.errno in _LOST and error.filename in (None, str(self.path))
        return lost or error.errno in (*_FULL, errno.EFBIG)

    def _try_link(self) -> None:
        """Find out now, not after hours of work, whether ``commit`` can take a name without replacing."""
        probe = _part_path(self.target)
        try:
            os.link(self.path, probe)
            probe.unlink()
        except OSError as error:
            self.discard()
            raise fail(
                self.target,
                f"the file system makes no hard links ({error.strerror}), by which a finished file gets its"
                " name without replacing another",
                "write to another file system, or ask to overwrite",
            ) from error


def preallocate(fd: int, size: int, target: Path) -> None:
    """Reserve ``size`` bytes on the disk, so that a full one is found before the work."""
    try:
        if size:
            os.posix_fallocate(fd, 0, size)
    except OSError as error:
        raise refusal(target, error, size) from error


def refusal(target: Path, error: OSError, size: int | None = None) -> ProblemError:
    """What the operating system said, as where, what and fix."""
    if error.errno in _FULL:
        disk = os.statvfs(target.parent)
        needed = "" if size is None else f"{size:,} bytes are needed, "
        what = f"{error.strerror}: {needed}{disk.f_bavail * disk.f_frsize:,} bytes are free"
        return fail(target, what, "free some space or quota, or write to another file system")
    needed = "" if size is None else f" ({size:,} bytes)"
    fix = _FIXES.get(error.errno or 0, "choose a directory on a local disk that you may write to")
    return fail(target, f"cannot be written{needed}: {error.strerror or error}", fix)


def _part_path(target: Path) -> Path:
    return target.with_name(f".{target.name}.{os.getpid()}-{secrets.token_hex(4)}.part")


def _create(target: Path) -> tuple[Path, int]:
    while True:
        path = _part_path(target)
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        _lock(fd, fcntl.LOCK_EX)
        if os.fstat(fd).st_nlink:
            return path, fd
        os.close(fd)  # another writer took it for stale before the lock was ours


def _remove_stale(target: Path) -> None:
    pattern = re.compile(rf"\.{re.escape(target.name)}\.\d+-[0-9a-f]{{8}}\.part")
    for path in (entry for entry in target.parent.iterdir() if pattern.fullmatch(entry.name)):
        try:
            fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        except (FileNotFoundError, PermissionError):
            continue  # just finished, or another user's
        try:
            if _lock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB):
                path.unlink(missing_ok=True)
        finally:
            os.close(fd)


def _lock(fd: int, how: int) -> bool:
    """False: someone else holds it, or the file system has no locks and stale parts stay for the user."""
    try:
        fcntl.flock(fd, how)
    except OSError as error:
        if error.errno in (errno.EWOULDBLOCK, *_NO_LOCKS):
            return False
        raise
    return True


def _link(path: Path, target: Path) -> None:
    try:
        os.link(path, target)
    except FileExistsError:
        raise TargetExistsError(target) from None


def sync(path: Path) -> None:
    """A file or a directory, to the disk."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    except OSError as error:
        if error.errno != errno.EINVAL:  # some network file systems sync directories by themselves
            raise
    finally:
        os.close(fd)
