"""The receipt of a run, ``run.json``: from what it was made, where, and how it ended.

A receipt that says "running" is believed only while its very process lives: a killed run is never
taken for a finished one, nor for one that goes on.
"""

import hashlib
import json
import math
import os
import platform
import socket
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from cerebras_utils.data_digest import data_digest
from pruning.atomic import Part
from pruning.checkpoint.open import open_checkpoint
from pruning.checkpoint.source import TensorInfo, fingerprint_of_files
from pruning.masks.receipt import this_tool
from pruning.problems import fail

FORMAT, VERSION = "wafersparse-run", 1
NAME = "run.json"


class State(StrEnum):
    RUNNING = "running"
    FINISHED = "finished"
    INTERRUPTED = "interrupted"  # Ctrl-C
    FAILED = "failed"
    KILLED = "killed"  # never written: its process is gone, and it did not say how it ended
    UNKNOWN = "unknown"  # never written: on another machine, it may be running or killed


@dataclass(frozen=True)
class Run:
    path: Path
    state: State
    receipt: Mapping[str, Any]

    @property
    def metrics(self) -> dict[str, float]:
        return {name: float(value) for name, value in self.receipt["metrics"].items()}


def new_receipt(
    *,
    verb: str,
    backend: str,
    config: Path,
    phase: str,
    trainer: Mapping[str, Any],  # the section of the config that runs: its data are looked up
    masks: Iterable[Path],
    device: str,
) -> dict[str, Any]:
    """What a run says when it begins."""
    return {
        "format": FORMAT,
        "version": VERSION,
        "state": State.RUNNING,
        "error": None,
        "verb": verb,
        "backend": backend,
        "started": now(),
        "updated": now(),
        "ended": None,
        "config": file_digest(config),
        "phase": phase,
        "data": data_digest(trainer, verb),
        "masks": [file_digest(path) for path in masks],
        "start": None,
        "steps": 0,
        "metrics": {},
        "checkpoints": [],
        "environment": environment(device),
        "process": this_process(),
    }


def write_receipt(path: Path, receipt: Mapping[str, Any]) -> None:
    """A reader sees the old one or the new one, whole."""
    with Part(path, overwrite=True) as part:
        part.write((json.dumps(receipt, indent=1, allow_nan=False) + "\n").encode())


def read_receipt(path: Path) -> Run:
    """``path`` is a receipt, or the directory that it is in."""
    file = path / NAME if path.is_dir() else path
    try:
        receipt = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise fail(file, f"cannot be read: {error.strerror}", "name the directory of a run") from error
    except ValueError as error:
        raise fail(file, f"is no receipt of a run: {error}", "name the directory of a run") from None
    if not isinstance(receipt, dict) or receipt.get("format") != FORMAT:
        raise fail(file, "is no receipt of a run", "name the directory of a run")
    if receipt.get("version") != VERSION:
        what = f"is of version {receipt.get('version')!r}, and this program knows {VERSION}"
        raise fail(file, what, "use the version of wafersparse that wrote it")
    try:
        state = State(receipt["state"])
        if state is State.RUNNING:
            state = state_of_process(receipt["process"])
        return Run(file, state, receipt)
    except (KeyError, ValueError, TypeError) as error:
        raise fail(file, f"is a damaged receipt: {error!r}", "look at run.log beside it") from None


def runs_in(model_dir: Path) -> list[Run]:
    """Every run that was started in a model directory, oldest first."""
    return [read_receipt(file) for file in sorted(model_dir.glob(f"*/{NAME}"))]


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def environment(device: str) -> dict[str, Any]:
    """On what and with what it runs: versions, machine, command."""
    versions = {}
    for package in ("torch", "numpy"):
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = "not installed"
    return {
        "tool": this_tool(),
        "python": platform.python_version(),
        **versions,
        "platform": platform.platform(),
        "device": device,
        "command": list(sys.argv),
        "directory": os.getcwd(),
    }


def this_process() -> dict[str, Any]:
    """What tells this process from every other, a later one with the same number included."""
    return {"host": socket.gethostname(), "pid": os.getpid(), **_kernel(), "started": _start_of(os.getpid())}


def file_digest(path: Path) -> dict[str, str]:
    """Path and SHA-256 of a whole file: of configs and masks, which are small."""
    try:
        with path.open("rb") as stream:
            return {"path": str(path), "sha256": hashlib.file_digest(stream, "sha256").hexdigest()}
    except OSError as error:
        raise fail(path, f"cannot be read: {error.strerror}", "check the path") from error


def checkpoint_digest(path: Path, model: Mapping[str, Any] | None = None) -> dict[str, str]:
    """Path and fingerprint: cheap on 800 GB, and the same that mask files carry.

    Of a file that was just written, ``model`` is the state dict in it: nothing has to be listed anew.
    """
    if model is not None:
        return {"path": str(path), "fingerprint": fingerprint_of_files(listing(model), (path,))}
    with open_checkpoint(path) as source:
        return {"path": str(path), "fingerprint": source.fingerprint()}


def listing(model: Mapping[str, Any]) -> dict[str, TensorInfo]:
    """The tensors of a state dict as a checkpoint of it lists them."""
    from pruning.checkpoint.state_dict import DTYPES

    infos = {n: TensorInfo(n, tuple(t.shape), DTYPES[str(t.dtype)]) for n, t in model.items()}
    return {name: infos[name] for name in sorted(infos)}


def as_json_number(value: float) -> float | str:
    """JSON has no NaN and no infinity: they are written as text, and ``Run.metrics`` reads them back."""
    number = float(value)
    return number if math.isfinite(number) else str(number)


def state_of_process(process: Mapping[str, Any]) -> State:
    if process["host"] != socket.gethostname():
        return State.UNKNOWN
    kernel = _kernel()
    if not kernel["boot"] or not process["boot"]:
        return State.UNKNOWN  # no Linux: nothing tells a process from a later one with its number
    if process["boot"] != kernel["boot"]:
        return State.KILLED
    if process["pids"] != kernel["pids"]:
        return State.UNKNOWN  # in another container of this machine
    return State.RUNNING if _start_of(int(process["pid"])) == process["started"] else State.KILLED


def _kernel() -> dict[str, str]:
    """The boot of this machine, and the name space in which process numbers count."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return {"boot": boot, "pids": os.readlink("/proc/self/ns/pid")}
    except OSError:
        return {"boot": "", "pids": ""}


def _start_of(pid: int) -> int | None:
    """When a process began, in ticks of the kernel; None if it is gone, or a zombie."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else int(fields[19])
