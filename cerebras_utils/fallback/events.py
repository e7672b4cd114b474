"""What a run measures, as TensorBoard reads it: one event file, safe against a killed process.

The file always is a row of whole records, and perhaps the start of one more: a write that was cut
off, by Ctrl-C or by a full disk, is made again in the same place.
"""

import errno
import os
import socket
import threading
import time
from pathlib import Path
from types import TracebackType

from cerebras_utils.events_file import record, scalar_event, version_event
from pruning.atomic import refusal
from pruning.problems import ProblemError

_INTERVAL = 2.0  # seconds between flushes: what a killed process may lose
_PENDING = 1 << 16  # bytes that wait at most


class EventWriter:
    """``scalar`` never waits for the disk, except to hand over what has piled up.

    What cannot be written stays in memory; the next call of any method raises ``ProblemError``, and
    tries again. May be called from several threads.
    """

    def __init__(self, directory: str | os.PathLike[str]) -> None:
        now = time.time()
        stem = f"events.out.tfevents.{int(now):010d}.{socket.gethostname()}.{os.getpid()}"
        self.path, self._fd = _create(Path(directory), stem)
        self._lock = threading.Lock()
        self._pending = bytearray()
        self._failure: ProblemError | None = None
        self._size = 0
        self._closed = threading.Event()
        try:
            self._append(version_event(now))
            self.flush()
        except ProblemError:
            os.close(self._fd)
            self.path.unlink(missing_ok=True)
            raise
        threading.Thread(target=self._flush_now_and_then, name="events", daemon=True).start()

    def scalar(self, tag: str, value: float, step: int) -> None:
        """``value`` is a number or a tensor of one; NaN and infinities are written as they are."""
        assert tag, "a scalar without a name"
        self._append(scalar_event(tag, float(value), step, time.time()))

    def flush(self) -> None:
        with self._lock:
            self._write()

    def close(self) -> None:
        """May be called twice. Nothing is written afterwards."""
        with self._lock:
            if self._closed.is_set():
                return
            self._closed.set()
            try:
                self._write()
            finally:
                os.close(self._fd)

    def __enter__(self) -> "EventWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _append(self, payload: bytes) -> None:
        with self._lock:
            assert not self._closed.is_set(), "the event file is closed"
            self._pending += record(payload)
            if self._failure is not None or len(self._pending) >= _PENDING:
                self._write()

    def _write(self) -> None:
        """All that is pending, or nothing of it. The lock is held."""
        view = memoryview(bytes(self._pending))
        try:
            written = 0
            while written < len(view):
                written += os.pwrite(self._fd, view[written:], self._size + written)
        except OSError as error:
            self._failure = refusal(self.path, error)
            raise self._failure from error
        self._size += len(view)
        self._pending.clear()
        self._failure = None

    def _flush_now_and_then(self) -> None:
        while not self._closed.wait(_INTERVAL):
            with self._lock:
                if self._closed.is_set():
                    return
                try:
                    self._write()
                except ProblemError:
                    continue  # kept in _failure: raised where the run sees it


def _create(directory: Path, stem: str) -> tuple[Path, int]:
    """A new file: several writers of one process, in the same second, have a number each."""
    number = 0
    while True:
        path = directory / f"{stem}.{number}"
        try:
            directory.mkdir(parents=True, exist_ok=True)
            return path, os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        except OSError as error:
            if error.errno != errno.EEXIST or not os.path.lexists(path):
                raise refusal(path if directory.is_dir() else directory, error) from error
            number += 1
