"""Runs as processes of this machine: so many at a time, each under a supervisor of its own."""

import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

from experiments.sweep.supervise import DONE, TAKEN

Told = Callable[[str], None]


@dataclass(frozen=True)
class Todo:
    """One attempt that is to be made."""

    run: Path  # absolute
    name: str
    attempt: int


def supervisor(todo: Todo) -> list[str]:
    return [sys.executable, "-m", "experiments.sweep.supervise", str(todo.run), str(todo.attempt)]


def run_one(todo: Todo) -> int:
    """For executors of every kind: a process, so that whoever starts it may die."""
    return subprocess.run(supervisor(todo), check=False).returncode


def said(todo: Todo, code: int) -> str:
    words = {DONE: "done", TAKEN: "left to the process that has it"}
    return f"{todo.name}: {words.get(code, 'failed')}"


def run_local(todos: Sequence[Todo], jobs: int, told: Told) -> None:
    """Until all have ended. After Ctrl-C, those that run save and end, and no other starts."""
    stopped = False

    def one(todo: Todo) -> int | None:
        if stopped:
            return None
        told(f"{todo.name}: started (attempt {todo.attempt})")
        return run_one(todo)

    with ThreadPoolExecutor(jobs) as pool:
        futures = {pool.submit(one, todo): todo for todo in todos}
        try:
            for ended, future in enumerate(as_completed(futures), 1):
                if (code := future.result()) is not None:
                    told(f"{said(futures[future], code)} ({ended} of {len(futures)})")
        except KeyboardInterrupt:
            stopped = True
            told("interrupted: runs that go on save a checkpoint and end; --resume continues them")
            raise
