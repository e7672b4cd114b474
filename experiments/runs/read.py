"""One run, read from what it left: receipts, config, event files, rates. Any of it may be missing."""

import json
import math
import os
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import yaml

from cerebras_utils.checks.case import section, whole
from cerebras_utils.event_curves import Curve
from cerebras_utils.run_receipt import State
from experiments.runs.callbacks import with_states
from experiments.runs.curves import Curves, last_of, one_line, read_files, seconds_of, thinned
from experiments.runs.find import PARAMS
from experiments.runs.launches import Launch, launches_in, of_training, parts_of
from experiments.runs.length import steps_asked
from experiments.runs.planned import of_sweep, planned_params
from experiments.runs.record import RANDOM, RunRecord
from experiments.runs.sparsity import sparsity_of
from experiments.runs.vendor_log import state_by_log
from experiments.sweep.states import CONFIG

_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # of libyaml, where PyYAML was built with it
_KEPT = re.compile(r"loss|lr/0|validate_\d+/(loss|eval/.+)|avg_samples_per_sec|sparsity/.+/actual")


def read_run(path: Path) -> RunRecord:
    """What cannot be read of a run is said in ``problems``; ``OSError`` where it cannot be looked into."""
    _look_into(path)
    problems: list[str] = []
    files = [file for file in sorted(path.glob("events/events.out.tfevents*")) if file.is_file()]
    all_parts, unreadable = read_files(files)
    every_launch = launches_in(path, problems)
    problems += unreadable
    launches = of_training(every_launch, all_parts)
    parts = parts_of(launches, every_launch, all_parts)
    curves = one_line(parts.values())
    first = next((launch.run.receipt for launch in launches if launch.run is not None), {})
    words = section(first, "environment").get("command")
    params = with_states(_params(launches, problems), words) or planned_params(path, problems)
    if not isinstance(params.get("init") or {}, Mapping):
        problems.append(f"{path}: the config's trainer.init is no map")
        params = {}
    init = section(params, "init")
    latest = launches[-1] if launches else None
    receipt: Mapping[str, Any] = latest.run.receipt if latest is not None and latest.run is not None else {}
    last = last_of(curves)
    steps = max([int(receipt.get("steps") or 0), *(step for tag, (step, _) in last.items() if tag == "loss")])
    device = _device(receipt, init)
    asked = steps_asked(params, device, latest, parts)
    started = bool(all_parts) or any(launch.run for launch in every_launch)
    state, reason = of_sweep(path, *_state(latest, path, steps, asked), started=started)
    rate = curves.get("lr/0")
    return RunRecord(
        path=str(path),
        name=path.name,
        state=state,
        reason=reason,
        backend=str(receipt.get("backend") or "cszoo"),
        device=device,
        seed=_seed(init, problems),
        params=params,
        steps=steps,
        steps_asked=asked,
        started=next((_time(one.run.receipt["started"]) for one in launches if one.run is not None), None),
        seconds=_seconds(launches, parts.values()),
        samples_per_second=_rate(path, last),
        last=last,
        batches=_batches(init, curves.get("validate_0/val_loss")),
        peak_rate=None if rate is None else float(rate.values.max()),
        curves={tag: thinned(curve) for tag, curve in curves.items() if _KEPT.fullmatch(tag)},
        sparsity=sparsity_of(init, receipt, last, problems),
        start=_start(first),
        data=str(receipt.get("data", "")),
        problems=tuple(problems),
    )


def unreadable_run(path: Path, error: Exception) -> RunRecord:
    """A run is a row, whatever its state."""
    return RunRecord(path=str(path), name=path.name, state=State.UNKNOWN, reason=f"cannot be read: {error}")


def inputs_of(path: Path) -> Iterator[Path]:
    """The files that ``read_run`` depends on: what a cache compares."""
    yield from path.glob("*/run.json")
    yield from path.glob(f"*/{PARAMS}")
    yield from path.glob("events/events.out.tfevents*")
    yield from path.glob("cerebras_logs/*/executors/*/performance.json")
    yield from path.glob("*/run.log")
    yield path / "latest_run.log"
    yield path / CONFIG
    yield from path.glob(".wafersparse/*.json")
    yield from path.glob(".wafersparse/*.claim")


def _look_into(path: Path) -> None:
    """Patterns pass over what they may not see: a closed directory would read as an empty one."""
    with os.scandir(path) as entries:
        for entry in entries:
            entry.stat(follow_symlinks=False)
            return


def _start(first: Mapping[str, Any]) -> str:
    """What the first launch began with: those that resume it begin with the run's own checkpoint."""
    if first.get("steps") and first.get("start", "") is None:  # before a step, it may have yet to say
        return RANDOM
    return str(section(first, "start").get("fingerprint", ""))


def _params(launches: Sequence[Launch], problems: list[str]) -> dict[str, Any]:
    """The config of the latest launch that trained."""
    for launch in reversed(launches):
        file = launch.directory / PARAMS
        if not file.exists():
            continue
        try:
            found = yaml.load(file.read_text(), Loader=_LOADER)  # a safe loader in either case
            if not isinstance(found, dict) or not isinstance(found.get("trainer"), dict):
                problems.append(f"{file}: holds no trainer")
            else:
                return dict(found["trainer"])
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            problems.append(f"{file}: {type(error).__name__}: {error}".splitlines()[0])
    return {}


def _seed(init: Mapping[str, Any], problems: list[str]) -> int | None:
    seed = init.get("seed")
    if seed is not None and type(seed) is not int:
        problems.append(f"init.seed is {seed!r}, not a whole number")
        return None
    return seed


def _batches(init: Mapping[str, Any], logged: Curve | None) -> int | None:
    """Of the last validation: as the config limits them, unless what was logged tells of others.

    Every ``log_steps`` is logged, and the last one. Between two counts, the lower is told.
    """
    limit, every = (
        whole(section(init, "loop").get("eval_steps")),
        whole(section(init, "logging").get("log_steps")),
    )
    if logged is None or every is None:
        return limit
    count = int((logged.steps == logged.steps[-1]).sum())
    if every == 1:
        return count
    return limit if limit is None or math.ceil(limit / every) == count else (count - 1) * every + 1


def _device(receipt: Mapping[str, Any], init: Mapping[str, Any]) -> str:
    said = section(receipt, "environment").get("device") or init.get("device")
    return str(said or section(init, "backend").get("backend_type") or "").lower()


def _state(latest: Launch | None, path: Path, steps: int, asked: int | None) -> tuple[str, str]:
    """By the receipt; of a plain cszoo run, by its log and how far it came."""
    if latest is None or latest.run is None:
        log = latest.log if latest is not None else path / "latest_run.log"
        return state_by_log(latest.head if latest is not None else "", log, steps, asked)
    error = latest.run.receipt.get("error") or {}
    reason = f"{error.get('type')}: {error.get('message')}".splitlines()[0] if error else ""
    if latest.run.state is State.KILLED:
        reason = reason or f"its process is gone; it had reached step {steps}"
    return latest.run.state, reason


def _seconds(launches: Sequence[Launch], parts: Collection[Curves]) -> float | None:
    receipts = [launch.run.receipt for launch in launches if launch.run is not None]
    if launches and len(receipts) == len(launches):
        return sum(_time(receipt["updated"]) - _time(receipt["started"]) for receipt in receipts)
    return seconds_of(parts)


def _time(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


def _rate(path: Path, last: Mapping[str, tuple[int, float]]) -> float | None:
    """Of training, measured: by the event file, else by ``performance.json``."""
    if "avg_samples_per_sec" in last:
        return last["avg_samples_per_sec"][1]
    for file in sorted(path.glob("cerebras_logs/*/executors/*/performance.json")):
        try:
            stage = json.loads(file.with_name("metadata.json").read_text()).get("stage")
            if stage == "train":
                return float(json.loads(file.read_text())["samples_per_sec"])
        except (OSError, ValueError, KeyError, TypeError):
            continue  # half written: the run goes on
    return None
