"""Which directories below some others are those of a run."""

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from pruning.problems import Problem, ProblemError

RECEIPT, INDEX, PARAMS = "run.json", "checkpoints_index.yaml", "trainer_params.yaml"
PLANNED = ".wafersparse/planned.json"  # by a sweep
_INSIDE = {"cerebras_logs", "events", "masks", ".wafersparse"}  # of a run or a sweep: no runs below


def run_directories(roots: Iterable[Path]) -> list[Path]:
    """Every model directory at or below ``roots``, sorted; a root without any is an error that says so."""
    found: dict[Path, None] = {}
    problems = []
    for root in roots:
        if not root.is_dir():
            what = "is no directory" if root.exists() else "does not exist"
            problems.append(Problem(str(root), what, "name directories of runs, or one that holds them"))
            continue
        below = sorted(_walk(root))
        if not below:
            what = "holds no run: no run.json, events or trainer_params.yaml at any depth"
            fix = "name the model_dir of a run, or train: wafersparse fit CONFIG.yaml -o DIR"
            problems.append(Problem(str(root), what, fix))
        found.update(dict.fromkeys(below))
    if problems:
        raise ProblemError(problems)
    return list(found)


def _walk(root: Path) -> Iterator[Path]:
    with os.scandir(root) as entries:
        children = [entry for entry in entries if entry.is_dir(follow_symlinks=False)]
    if is_run(root):
        yield root
        return
    for child in children:
        if child.name not in _INSIDE:
            yield from _walk(Path(child.path))


def is_run(path: Path) -> bool:
    """Of this project or of cszoo, begun at least; or planned by a sweep."""
    if (path / RECEIPT).is_file() or (path / INDEX).is_file() or (path / PLANNED).is_file():
        return True
    return (path / "events").is_dir() or any(path.glob(f"[0-9]*_[0-9]*/{PARAMS}"))
