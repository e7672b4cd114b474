"""Which directories below some others are those of a run."""

import os
import re
import stat
from collections.abc import Iterable
from pathlib import Path

from pruning.problems import Problem, ProblemError

RECEIPT, INDEX, PARAMS = "run.json", "checkpoints_index.yaml", "trainer_params.yaml"
PLANNED = ".wafersparse/planned.json"  # by a sweep
_INSIDE = {"cerebras_logs", "events", "masks", ".wafersparse"}  # of a run or a sweep: no runs below
_LAUNCH = re.compile(r"\d{8}_\d{6}.*")  # in a run: one start of it, with a receipt of its own


def run_directories(roots: Iterable[Path]) -> list[Path]:
    """Every model directory at or below ``roots``, sorted; a root without any is an error that says so.

    Links are followed, and a directory that can be reached in several ways is one run.
    """
    found: dict[str, Path] = {}
    problems = []
    for root in roots:
        if (wrong := _no_directory(root)) is not None:
            problems.append(Problem(str(root), wrong, "name directories of runs, or one that holds them"))
            continue
        below = _below(root)
        if not below:
            what = "holds no run: no run.json, events or trainer_params.yaml at any depth"
            fix = "name the model_dir of a run, or train: wafersparse fit CONFIG.yaml -o DIR"
            problems.append(Problem(str(root), what, fix))
        for path in sorted(below):
            found.setdefault(os.path.realpath(path), path)
    if problems:
        raise ProblemError(problems)
    return list(found.values())


def _no_directory(root: Path) -> str | None:
    try:
        return None if stat.S_ISDIR(root.stat().st_mode) else "is no directory"
    except FileNotFoundError:
        return "does not exist"
    except OSError as error:
        return f"cannot be read: {error.strerror}"


def _below(root: Path) -> list[Path]:
    """What cannot be looked into is told as a run that cannot be read, rather than passed over.

    Links wait until all that lies below ``root`` itself was seen: a run keeps its own name.
    """
    found = []
    seen: set[str] = set()
    launches: set[str] = set()
    waiting, links = [root], list[Path]()
    while waiting or links:
        path = waiting.pop() if waiting else links.pop(0)
        if (real := os.path.realpath(path)) in seen:
            continue
        seen.add(real)
        try:
            with os.scandir(path) as entries:
                children = [entry for entry in entries if entry.is_dir() and entry.name not in _INSIDE]
            run = str(path) not in launches and is_run(path)
        except PermissionError:
            found.append(path)
            continue
        if run:
            found.append(path)
            launches.update(child.path for child in children if _LAUNCH.fullmatch(child.name))
        for child in children:
            (links if child.is_symlink() else waiting).append(Path(child.path))
    return found


def is_run(path: Path) -> bool:
    """Of this project or of cszoo, begun at least; or planned by a sweep."""
    if (path / RECEIPT).is_file() or (path / INDEX).is_file() or (path / PLANNED).is_file():
        return True
    return any(path.glob("events/events.out.tfevents*")) or any(path.glob(f"[0-9]*_[0-9]*/{PARAMS}"))
