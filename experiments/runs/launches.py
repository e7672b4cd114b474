"""Each start of a run: its receipt, config, log and event file, and whether it trained.

A directory is trained in, and later validated in: with another checkpoint, or another config. What a
validation leaves there says nothing of the run.
"""

import os
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any

from cerebras_utils.run_receipt import NAME, Run, read_receipt
from experiments.runs.curves import Curves, trains
from experiments.runs.find import PARAMS
from experiments.runs.vendor_log import had_nothing_left
from pruning.problems import ProblemError

_COMMAND = re.compile(r"Running command: (.+)")
_VERBS = ("fit", "validate", "validate_all")
_HEAD = 1 << 16  # bytes of a log that hold the command and what it was going to do
_MAPS = ("environment", "error", "start")  # of a receipt


@dataclass(frozen=True)
class Launch:
    directory: Path  # named by its time, in the model directory
    run: Run | None  # None: plain cszoo, or its receipt is damaged
    log: Path | None
    events: str  # the real path of its event file; "" where no link tells

    @property
    def verb(self) -> str | None:
        """None where nothing tells."""
        return str(self.run.receipt["verb"]) if self.run is not None else _verb_of(self.head)

    @property
    def had_nothing_left(self) -> bool:
        """It began at the step that it was to end at, and trained no step."""
        if self.run is None:
            return had_nothing_left(self.head)
        error = self.run.receipt.get("error") or {}
        return error.get("type") == "NothingLeftError" or had_nothing_left(str(error.get("message")))

    @cached_property
    def head(self) -> str:
        """How its log begins."""
        try:
            with (self.log or Path(os.devnull)).open("rb") as stream:
                return stream.read(_HEAD).decode(errors="replace")
        except OSError:
            return ""


def launches_in(path: Path, problems: list[str]) -> list[Launch]:
    """Oldest first."""
    directories = {file.parent for file in [*path.glob(f"*/{NAME}"), *path.glob(f"[0-9]*/{PARAMS}")]}
    ordered = sorted(directories)
    return [_launch(path, one, one == ordered[-1], problems) for one in ordered]


def of_training(launches: Collection[Launch], parts: Mapping[Path, Curves]) -> list[Launch]:
    """Those that trained; all of them where none did: a directory of validations.

    One that had nothing left to train is none of them, where there is another: it is no end of the run.
    """
    by_file = {os.path.realpath(file): part for file, part in parts.items()}

    def trained(launch: Launch) -> bool:
        verb = launch.verb
        if verb is None:
            return launch.events not in by_file or trains(by_file[launch.events])
        return verb == "fit"

    fits = [launch for launch in launches if trained(launch)]
    return [launch for launch in fits if not launch.had_nothing_left] or fits or list(launches)


def parts_of(
    chosen: Collection[Launch], launches: Collection[Launch], parts: Mapping[Path, Curves]
) -> dict[Path, Curves]:
    """The event files of some launches. One that no link claims counts if it trains, or if none does."""
    mine = {launch.events for launch in chosen if launch.events}
    others = {launch.events for launch in launches if launch.events} - mine
    kept = {file: part for file, part in parts.items() if os.path.realpath(file) not in others}
    if not any(map(trains, kept.values())):
        return kept
    return {file: part for file, part in kept.items() if trains(part) or os.path.realpath(file) in mine}


def _launch(path: Path, directory: Path, newest: bool, problems: list[str]) -> Launch:
    run = None
    if (directory / NAME).exists():
        try:
            run = _checked(read_receipt(directory / NAME))
        except ProblemError as error:
            problems += [f"{p.where}: {p.what}" for p in error.problems]
        except (ValueError, TypeError, KeyError) as error:
            problems.append(f"{directory / NAME}: is a damaged receipt: {error}")
    logs = [directory / "run.log", path / "cerebras_logs" / directory.name / "run.log"]
    logs += [path / "latest_run.log"] if newest else []
    events = directory / "tf_events"
    return Launch(
        directory=directory,
        run=run,
        log=next((log for log in logs if log.is_file()), None),
        events=os.path.realpath(events) if events.exists() else "",
    )


def _checked(run: Run) -> Run:
    """A receipt whose parts have the form that is relied on."""
    receipt: Mapping[str, Any] = run.receipt
    for key in _MAPS:
        if not isinstance(receipt.get(key), Mapping | None):
            raise ValueError(f"`{key}` is {receipt[key]!r}, not a map")
    if not isinstance(receipt.get("verb"), str):
        raise ValueError("has no `verb`")
    for key in ("started", "updated"):
        datetime.fromisoformat(receipt[key])
    counted = receipt.get("mask_receipts") or []
    if not isinstance(counted, list) or not all(isinstance(entry, Mapping) for entry in counted):
        raise ValueError("`mask_receipts` is no list of maps")
    if type(receipt.get("steps") or 0) is not int:
        raise ValueError(f"`steps` is {receipt['steps']!r}, not a whole number")
    return run


def _verb_of(head: str) -> str | None:
    command = _COMMAND.search(head)
    words = command[1].split() if command is not None else []
    return next((word for word in words[1:] if word in _VERBS), None)
