"""What a sweep knows of a run: before it began, and where its process is gone."""

from pathlib import Path
from typing import Any

from cerebras_utils.run_receipt import State
from experiments.runs.callbacks import with_states
from experiments.runs.find import PLANNED
from experiments.sweep.claim import Clock
from experiments.sweep.states import CONFIG, RunState, read_plan, reason_in_sweep, status_of
from pruning.problems import ProblemError
from pruning.strict_yaml import read_yaml

_UNSURE = (State.KILLED, State.UNKNOWN)


def of_sweep(path: Path, state: str, reason: str, *, started: bool) -> tuple[str, str]:
    """The state and its reason, where the sweep knows more than what the run itself left."""
    if not (path / PLANNED).is_file():
        return state, reason
    known = status_of(path, path.name, Clock(path / PLANNED.split("/")[0]))
    if not started or known.state is RunState.UNREADABLE:
        return ("finished" if known.state is RunState.DONE else known.state), known.reason
    if state in _UNSURE and known.state in (RunState.LOST, RunState.RUNNING, RunState.FAILED):
        return known.state, known.reason
    return state, reason_in_sweep(reason, path)


def planned_params(path: Path, problems: list[str]) -> dict[str, Any]:
    """The trainer of the config that the sweep wrote."""
    if not (path / PLANNED).is_file():
        return {}
    try:
        trainer = read_yaml(path / CONFIG).value["trainer"]
        return with_states(dict(trainer), _start_words(path))
    except ProblemError as error:
        problems += [f"{p.where}: {p.what}" for p in error.problems]
    except (TypeError, KeyError, ValueError):
        problems.append(f"{path / CONFIG}: holds no trainer")
    return {}


def _start_words(path: Path) -> Any:
    try:
        return read_plan(path).get("start")
    except ProblemError:  # its state says so
        return None
