"""Whole processes on the clock, and the spread of repeated measurements."""

import os
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

_BLOCK = 1 << 20


@dataclass(frozen=True)
class Run:
    """One process, from its start to its end."""

    seconds: float
    cpu: float  # seconds, user and system, of all its threads
    peak: int  # bytes of resident memory
    disk: int  # bytes that came from the disk, not from the page cache
    out: str


def run(argv: Sequence[str | Path], *, cwd: Path | None = None, keep: bool = True) -> Run:
    """A process that fails ends the benchmark with what it said.

    The kernel counts the memory of the caller at the moment of the start as the child's, too. So
    whoever calls this must be small: this process imports neither numpy nor torch.
    """
    with tempfile.TemporaryFile("w+") as said, tempfile.TemporaryFile("w+") as talk:
        begun = time.perf_counter()
        child = subprocess.Popen(
            [str(arg) for arg in argv],
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=said if keep else subprocess.DEVNULL,
            stderr=talk,
        )
        _, status, usage = os.wait4(child.pid, 0)
        seconds = time.perf_counter() - begun
        child.returncode = os.waitstatus_to_exitcode(status)  # or Popen would wait for it again
        if child.returncode:
            talk.seek(0)
            raise SystemExit(f"exit code {child.returncode} of {' '.join(map(str, argv))}\n{talk.read()}")
        said.seek(0)
        return Run(
            seconds,
            usage.ru_utime + usage.ru_stime,
            usage.ru_maxrss << 10,
            usage.ru_inblock << 9,
            said.read(),
        )


def plain_write(path: Path, nbytes: int) -> float:
    """Seconds to write that many bytes and have them on the disk. What is written is removed."""
    block = memoryview(os.urandom(_BLOCK))
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    try:
        begun = time.perf_counter()
        while nbytes:
            nbytes -= os.write(fd, block[: min(nbytes, _BLOCK)])
        os.fsync(fd)
        return time.perf_counter() - begun
    finally:
        os.close(fd)
        path.unlink()


@dataclass(frozen=True)
class Spread:
    """One value per repetition."""

    values: tuple[float, ...]

    @classmethod
    def of(cls, values: Iterable[float]) -> "Spread":
        return cls(tuple(values))

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    def text(self, format: str = "{:.2f}") -> str:
        middle, low, high = (format.format(v) for v in (self.median, min(self.values), max(self.values)))
        return f"{middle} ({low}–{high})"


class NoiseError(Exception):
    """The large run was no slower than the small one: their difference says nothing."""


def slope(large: Iterable[float], small: Iterable[float], amount: float) -> Spread:
    """Seconds per unit of ``amount``, by which the large run exceeds the small one of its repetition."""
    spread = Spread.of((much - little) / amount for much, little in zip(large, small, strict=True))
    if min(spread.values) <= 0:
        raise NoiseError
    return spread


def ratio(over: Spread, under: Spread) -> Spread:
    """Repetition by repetition: what slows both down cancels."""
    return Spread.of(a / b for a, b in zip(over.values, under.values, strict=True))


def per_second(seconds: Spread) -> Spread:
    return Spread.of(1 / value for value in seconds.values)


def processors() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def machine() -> Mapping[str, str]:
    """What figures depend on; nothing that identifies the machine."""
    facts = {"CPU": "unknown", "cores in use": str(processors()), "memory": "unknown"}
    for line in _lines("/proc/cpuinfo"):
        if line.startswith("model name"):
            facts["CPU"] = line.split(":", 1)[1].strip()
            break
    for line in _lines("/proc/meminfo"):
        if line.startswith("MemTotal"):
            facts["memory"] = f"{int(line.split()[1]) * 1024 / 1e9:.0f} GB"
    return facts


def _lines(path: str) -> list[str]:
    file = Path(path)
    return file.read_text().splitlines() if file.exists() else []
