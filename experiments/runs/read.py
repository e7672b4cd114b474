"""One run, read from what it left: receipts, config, event files, rates. Any of it may be missing."""

import json
import re
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import yaml

from cerebras_utils.run_receipt import Run, State, runs_in
from experiments.runs.curves import joined, last_of, thinned
from experiments.runs.find import PARAMS
from experiments.runs.planned import of_sweep, planned_params
from experiments.runs.record import RunRecord
from experiments.runs.sparsity import sparsity_of
from pruning.problems import ProblemError

_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # of libyaml, where PyYAML was built with it
_KEPT = re.compile(r"loss|lr/0|validate_\d+/(loss|eval/.+)|avg_samples_per_sec|sparsity/.+/actual")
_ERROR = re.compile(r"^(?:\S+ )?(?:\S+ )?(?:ERROR|CRITICAL)\b|^\w*(?:Error|Exception)\b", re.MULTILINE)
_TAIL = 1 << 14  # bytes of a log that are searched for its last error


def read_run(path: Path) -> RunRecord:
    """Never raises for what a run left: what cannot be read is said in ``problems``."""
    problems: list[str] = []
    launches = _launches(path, problems)
    params = _params(path, problems) or planned_params(path, problems)
    files = [file for file in sorted(path.glob("events/events.out.tfevents*")) if file.is_file()]
    curves, unreadable = joined(files)
    problems += unreadable
    receipt: Mapping[str, Any] = launches[-1].receipt if launches else {}
    last = last_of(curves)
    steps = max([int(receipt.get("steps") or 0), *(step for tag, (step, _) in last.items() if tag == "loss")])
    init = params.get("init") or {}
    asked = _steps_asked(init)
    state, reason = of_sweep(path, *_state(path, launches, steps, asked), started=bool(launches or curves))
    sparsity = sparsity_of(init, receipt, last, problems)
    batches = curves.get("validate_0/val_loss")
    rate = curves.get("lr/0")
    return RunRecord(
        path=str(path),
        name=path.name,
        state=state,
        reason=reason,
        backend=str(receipt.get("backend") or "cszoo"),
        device=_device(receipt, init),
        seed=init.get("seed"),
        params=params,
        steps=steps,
        steps_asked=asked,
        started=_time(launches[0].receipt["started"]) if launches else None,
        seconds=_seconds(launches, curves),
        samples_per_second=_rate(path, last),
        last=last,
        batches=_batches(init, batches),
        peak_rate=None if rate is None else float(rate.values.max()),
        curves={tag: thinned(curve) for tag, curve in curves.items() if _KEPT.fullmatch(tag)},
        sparsity=sparsity,
        start=str((receipt.get("start") or {}).get("fingerprint", "")),
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
    yield path / "latest_run.log"
    yield from path.glob(".wafersparse/*.json")
    yield from path.glob(".wafersparse/*.claim")


def _launches(path: Path, problems: list[str]) -> list[Run]:
    try:
        return [run for run in runs_in(path) if run.receipt["verb"] == "fit"] or runs_in(path)
    except ProblemError as error:
        problems += [f"{p.where}: {p.what}" for p in error.problems]
        return []


def _params(path: Path, problems: list[str]) -> dict[str, Any]:
    """The config of the latest launch."""
    for file in sorted(path.glob(f"[0-9]*/{PARAMS}"), reverse=True):
        try:
            found = yaml.load(file.read_text(), Loader=_LOADER)  # a safe loader in either case
            if isinstance(found, dict) and isinstance(found.get("trainer"), dict):
                return dict(found["trainer"])
            problems.append(f"{file}: holds no trainer")
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            problems.append(f"{file}: {type(error).__name__}: {error}".splitlines()[0])
    return {}


def _batches(init: Mapping[str, Any], logged: Any) -> int | None:
    """Of the last validation: counted where each is logged, else as the config limits them."""
    if logged is not None and (init.get("logging") or {}).get("log_steps") == 1:
        return int((logged.steps == logged.steps[-1]).sum())
    limit = (init.get("loop") or {}).get("eval_steps")
    return limit if isinstance(limit, int) else None


def _device(receipt: Mapping[str, Any], init: Mapping[str, Any]) -> str:
    said = (receipt.get("environment") or {}).get("device") or init.get("device")
    return str(said or (init.get("backend") or {}).get("backend_type") or "").lower()


def _steps_asked(init: Mapping[str, Any]) -> int | None:
    loop = init.get("loop") or {}
    asked = loop.get("max_steps") or loop.get("num_steps")
    return int(asked) if isinstance(asked, int) else None


def _state(path: Path, launches: list[Run], steps: int, asked: int | None) -> tuple[str, str]:
    """By the receipt; of a plain cszoo run, by how far it came and what its log ends with."""
    if launches:
        latest = launches[-1]
        error = latest.receipt.get("error") or {}
        reason = f"{error.get('type')}: {error.get('message')}".splitlines()[0] if error else ""
        if latest.state is State.KILLED:
            reason = reason or f"its process is gone; it had reached step {steps}"
        return latest.state, reason
    if asked is not None and steps >= asked:
        return State.FINISHED, ""
    if (line := _last_error(path / "latest_run.log")) is not None:
        return State.FAILED, line
    of = f" of {asked}" if asked is not None else ""
    return State.UNKNOWN, f"at step {steps}{of}, and nothing tells whether it goes on"


def _last_error(log: Path) -> str | None:
    try:
        with log.open("rb") as stream:
            stream.seek(max(0, log.stat().st_size - _TAIL))
            text = stream.read().decode(errors="replace")
    except OSError:
        return None
    lines = [line for line in text.splitlines() if _ERROR.search(line)]
    return lines[-1].strip()[:300] if lines else None


def _seconds(launches: list[Run], curves: Mapping[str, Any]) -> float | None:
    if launches:
        spans = [(_time(run.receipt["started"]), _time(run.receipt["updated"])) for run in launches]
        return sum(end - begin for begin, end in spans)
    loss = curves.get("loss")
    return None if loss is None or len(loss.times) < 2 else float(loss.times[-1] - loss.times[0])


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
