"""Runs read once: a record is taken from the cache while none of the files it was read from has changed.

The cache lies in the user's cache directory, not beside the runs: those may be on a volume that cannot be
written, or be read by others. It may be removed at any time.
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

from experiments.runs.read import inputs_of, read_run, unreadable_run
from experiments.runs.record import RunRecord
from pruning.atomic import Part
from pruning.masks.receipt import this_tool
from pruning.problems import ProblemError

_VERSION = 4
_LIVE = ("running", "unknown", "lost")  # their state depends on processes, not on files alone


def read_runs(
    paths: Iterable[Path], *, cache: Path | None = None, told: Callable[[int], None] = lambda count: None
) -> list[RunRecord]:
    """In the order of ``paths``."""
    cache = cache_directory() if cache is None else cache

    def one(path: Path) -> RunRecord:
        record = _read(path.absolute(), cache)
        told(1)
        return record

    with ThreadPoolExecutor(os.cpu_count()) as pool:  # event files are scanned without the GIL
        return list(pool.map(one, paths))


def cache_directory() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "wafersparse" / "runs"


def _read(path: Path, cache: Path) -> RunRecord:
    stamp = _stamp(path)
    file = cache / f"{hashlib.sha256(os.fsencode(path)).hexdigest()[:32]}.json"
    held = _held(file, stamp)
    if held is not None:
        return held
    try:
        record = read_run(path)
    except Exception as error:  # a file of a shape that nobody foresaw: one run must not hide the others
        return unreadable_run(path, error)
    if record.state not in _LIVE and not record.problems:  # what is missing may come back
        _keep(file, stamp, record)
    return record


def _stamp(path: Path) -> list[Any]:
    """Sizes and times of all that is read."""
    found = []
    for file in sorted(inputs_of(path)):
        try:
            about = file.stat()
        except OSError:
            continue
        found.append([str(file.relative_to(path)), about.st_size, about.st_mtime_ns])
    return [_VERSION, this_tool(), *found]


def _masks_stamp(record: RunRecord) -> list[int] | None:
    """Its mask file lies anywhere, and may be replaced or taken away while the run stays as it is."""
    if not record.sparsity.path:
        return None
    try:
        about = os.stat(record.sparsity.path)
    except OSError:
        return None
    return [about.st_size, about.st_mtime_ns]


def _held(file: Path, stamp: list[Any]) -> RunRecord | None:
    try:
        plain = json.loads(file.read_text())
        if plain["stamp"] != stamp:
            return None
        record = RunRecord.from_json(plain["record"])
        return record if plain["masks"] == _masks_stamp(record) else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):  # none yet, or of another version
        return None


def _keep(file: Path, stamp: list[Any], record: RunRecord) -> None:
    # Where it cannot be written, or a crash empties it, the run is read again the next time.
    with suppress(OSError, ProblemError), Part(file, overwrite=True, durable=False) as part:
        kept = {"stamp": stamp, "masks": _masks_stamp(record), "record": record.to_json()}
        part.write(json.dumps(kept).encode())
