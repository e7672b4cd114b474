"""Who runs a run: claims by hard link, which is atomic on NFS too, and a heartbeat.

Attempt N of a run belongs to whoever linked ``attempt-N.claim``. A claim is never taken away or
rewritten: when its holder is gone, the next attempt is claimed. The time of the file is the heartbeat,
set by the file system's own clock, and compared with that clock alone: what the clocks of the machines
say does not matter.
"""

import json
import os
import secrets
import socket
import time
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from cerebras_utils.run_receipt import State, now, state_of_process, this_process

STATE = ".wafersparse"  # the folder of a run, or of a sweep, that holds what is known of it
BEAT = 5.0  # seconds between two heartbeats
LOST = 120.0  # without one for so long, its holder is gone: NFS may show times that are a minute old


@dataclass(frozen=True)
class Claim:
    path: Path
    attempt: int

    def beat(self) -> None:
        """Raises FileNotFoundError where someone removed the run."""
        os.utime(self.path)

    @property
    def superseded(self) -> bool:
        """Someone took this process for dead, as after a suspended machine woke up: it must stop."""
        return _claim_path(self.path.parent, self.attempt + 1).exists()

    @property
    def log(self) -> Path:
        return self.path.with_suffix(".log")

    @property
    def end(self) -> Path:
        return self.path.with_suffix(".end.json")


def claim(folder: Path, attempt: int) -> Claim | None:
    """``folder`` is the run's state folder. None: another process has this attempt."""
    target = _claim_path(folder, attempt)
    unique = folder / f".claim.{socket.gethostname()}.{os.getpid()}.{secrets.token_hex(4)}"
    with unique.open("x") as stream:
        json.dump({"process": this_process(), "since": now()}, stream)
        stream.flush()
        os.fsync(stream.fileno())
    try:
        # Over NFS the answer to a link may be lost, and its repetition fails: the count is what is believed.
        with suppress(OSError):
            os.link(unique, target)
        won = unique.stat().st_nlink == 2
    finally:
        unique.unlink()
    return Claim(target, attempt) if won else None


def next_turn(folder: Path) -> Claim | None:
    """Of a folder that one process has at a time, until it makes the ``end``; None while another has it."""
    folder.mkdir(parents=True, exist_ok=True)
    count = attempts(folder)
    if count:
        last = held(folder, count)
        if not last.end.exists() and is_alive(last, Clock(folder)):
            return None
    return claim(folder, count + 1)


def attempts(folder: Path) -> int:
    """How many there were; the last one counts."""
    count = 0
    while _claim_path(folder, count + 1).exists():
        count += 1
    return count


def held(folder: Path, attempt: int) -> Claim:
    return Claim(_claim_path(folder, attempt), attempt)


def is_alive(claim: Claim, clock: "Clock") -> bool:
    """Whether its holder is believed to be at work."""
    with suppress(OSError, ValueError, KeyError, TypeError):
        process = holder(claim)["process"]
        # Two machines, or containers, may have one name: another boot says nothing, the heartbeat does.
        if process["boot"] == this_process()["boot"] and state_of_process(process) is State.KILLED:
            return False  # it was on this very machine, and is no more
    try:
        return clock.now() - claim.path.stat().st_mtime < LOST
    except OSError:
        return False


def holder(claim: Claim) -> dict[str, Any]:
    found = json.loads(claim.path.read_text())
    assert isinstance(found, dict)
    return found


class Clock:
    """The file system's: read once from a file that is made for it, then carried on by a steady one."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def now(self) -> float:
        return self._base + time.monotonic()

    @cached_property
    def _base(self) -> float:
        probe = self._directory / f".clock.{socket.gethostname()}.{os.getpid()}.{secrets.token_hex(4)}"
        try:
            probe.touch()
            found = probe.stat().st_mtime
            probe.unlink()
        except OSError:  # a directory of someone else, that may be read alone: the machine's own clock
            found = time.time()
        return found - time.monotonic()


def _claim_path(folder: Path, attempt: int) -> Path:
    return folder / f"attempt-{attempt}.claim"
