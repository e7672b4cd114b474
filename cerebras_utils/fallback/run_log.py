"""``run.log``: what is logged, in the form in which cszoo logs it."""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pruning.atomic import refusal

_LEVELS = {"VERBOSE": 15, "TRACE": 5}  # the vendor's own, beside those of Python


class LogFile(logging.Handler):
    """Lines as cszoo writes them, each on the disk before the next: nothing is buffered in this process."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path
        self.setFormatter(logging.Formatter("%(asctime)s %(levelname)s:   %(message)s"))
        with refusals(path):
            self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)

    def emit(self, record: logging.LogRecord) -> None:
        line = memoryview(f"{self.format(record)}\n".encode(errors="backslashreplace"))
        with refusals(self._path):
            while line:
                line = line[os.write(self._fd, line) :]

    def exception(self, error: BaseException) -> None:
        """The traceback, in the file alone: whoever catches the exception tells the user."""
        about = (type(error), error, error.__traceback__)
        record = logging.LogRecord("wafersparse", logging.ERROR, "", 0, "The run ended by", None, about)
        self.handle(record)

    def close(self) -> None:
        os.close(self._fd)
        super().close()


def level_number(name: str) -> int:
    """The number of a level by its name, which ``logging`` of a config has been checked to be."""
    return _LEVELS.get(name.upper()) or logging.getLevelNamesMapping()[name.upper()]


@contextmanager
def refusals(path: Path) -> Iterator[None]:
    """Errors of the operating system while ``path`` is written, as where, what and fix."""
    try:
        yield
    except OSError as error:
        raise refusal(path, error) from error
