"""Runs as processes of this machine: so many at a time, each under a supervisor of its own."""

import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments.sweep.supervise import DONE, TAKEN

Told = Callable[[str], None]
Running = set["subprocess.Popen[bytes]"]


@dataclass(frozen=True)
class Todo:
    """One attempt that is to be made."""

    run: Path  # absolute
    name: str
    attempt: int
    turns: Path | None = None  # absolute; of the runs that name one folder, one goes on at a time


def supervisor(todo: Todo) -> list[str]:
    words = [str(word) for word in (todo.run, todo.attempt, todo.turns) if word is not None]
    # -P: a folder `experiments` where the sweep is called is not this one
    return [sys.executable, "-P", "-m", "experiments.sweep.supervise", *words]


def run_one(todo: Todo, running: Running | None = None) -> int:
    """For executors of every kind: a process, so that whoever starts it may die.

    While it runs it is in ``running``, for whoever passes Ctrl-C on: it is then out of reach of the
    terminal, which may be closed.
    """
    process = subprocess.Popen(supervisor(todo), start_new_session=running is not None)
    if running is not None:
        running.add(process)
    try:
        return process.wait()
    except BaseException:  # submitit raises here before the time limit of a job: the run saves and ends
        process.terminate()
        process.wait()
        raise
    finally:
        if running is not None:
            running.discard(process)


def said(todo: Todo, code: int) -> str:
    words = {DONE: "done", TAKEN: "left to the process that has it"}
    return f"{todo.name}: {words.get(code, 'failed')}"


def run_local(todos: Sequence[Todo], jobs: int, told: Told) -> None:
    """Until all have ended. After Ctrl-C, those that run save and end, and no other starts."""
    stopped = False
    running: Running = set()

    def one(todo: Todo) -> int | None:
        if stopped:
            return None
        told(f"{todo.name}: started (attempt {todo.attempt})")
        return run_one(todo, running)

    with ThreadPoolExecutor(jobs) as pool:
        futures = {pool.submit(one, todo): todo for todo in todos}
        try:
            for ended, future in enumerate(as_completed(futures), 1):
                if (code := future.result()) is not None:
                    told(f"{said(futures[future], code)} ({ended} of {len(futures)})")
        except KeyboardInterrupt:
            stopped = True
            told("interrupted: runs that go on save a checkpoint and end; --resume continues them")
            while not _interrupt(running, futures):
                pass  # Ctrl-C once more, which reaches them once more: they end at once
            raise


def _interrupt(running: Running, futures: Iterable[Future[Any]]) -> bool:
    """Pass Ctrl-C on to all, those that are just being started too; False where it came again. By SIGTERM,
    of which a supervisor that is not ready yet ends without a word."""
    reached: Running = set()
    try:
        while wait(futures, timeout=0.1).not_done:
            for process in running - reached:
                process.terminate()
                reached.add(process)
    except KeyboardInterrupt:
        return False
    return True
