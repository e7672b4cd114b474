"""What a run leaves in its model directory, under the names that cszoo gives them.

As cszoo: ``checkpoints_index.yaml``, ``events/``, ``latest_run.log``, ``TIME/{run.log, tf_events,
trainer_params.yaml}``, ``cerebras_logs/TIME/{run.log, executors/N/{metadata, performance}.json}`` and the
links named ``latest``. Not as cszoo: ``TIME/run.json``, the receipt, and a link to the latest at the top.
Left out, for they come from the Cerebras software alone: the ``csevents`` directory, ``track.json``,
``available_tensor_names.txt``, and the second ``trainer_params.yaml`` with the defaults of every class.
"""

import json
import logging
import os
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import yaml

from cerebras_utils.checkpoints_index import CheckpointsIndex
from cerebras_utils.fallback.events import EventWriter
from cerebras_utils.fallback.run_log import LogFile, level_number, refusals
from cerebras_utils.run_receipt import (
    NAME,
    State,
    as_json_number,
    checkpoint_digest,
    new_receipt,
    now,
    runs_in,
    write_receipt,
)
from pruning.atomic import Part
from pruning.masks.file import MaskFile
from pruning.problems import ProblemError, fail

_TIMESTAMP = "%Y%m%d_%H%M%S"


class RunDirectory:
    """One run of one trainer; a context manager, whose end decides what the receipt says.

    An exception is "failed" (Ctrl-C: "interrupted"), no exception "finished". Everything that is
    logged meanwhile, by whatever package, goes to ``run.log`` as well. Of several processes of a
    run, the first alone has one.
    """

    def __init__(
        self,
        model_dir: str | Path,
        *,
        verb: str,  # fit, validate or validate_all
        config: Path,
        phase: str = "trainer",  # which trainer of the config, as ``Phase.key`` says it
        params: Mapping[str, Any],  # of the trainer as it runs, options of the command line included
        device: str,
        masks: Sequence[Path] = (),
        log_level: str = "INFO",
        checkpoint_name: str = "checkpoint_{step}.mdl",
    ) -> None:
        self.model_dir = Path(model_dir)
        self.index = CheckpointsIndex(self.model_dir, checkpoint_name)
        self.log = logging.getLogger("wafersparse")
        self._masks = masks
        self._receipt = new_receipt(
            verb=verb,
            backend="torch",
            config=config,
            phase=phase,
            trainer=params,
            masks=masks,
            device=device,
        )
        self._checkpoints: list[dict[str, Any]] = self._receipt["checkpoints"]
        if verb == "fit":
            _refuse_a_second(self.model_dir)
        with refusals(self.model_dir):
            self._logs = _claim(self.model_dir / "cerebras_logs")
            self.directory = self.model_dir / self._logs.name
            self.directory.mkdir(exist_ok=True)
        with Part(self.directory / "trainer_params.yaml") as part:
            part.write(yaml.safe_dump({"trainer": _plain(params)}, sort_keys=False).encode())
        with refusals(self.model_dir):
            for link, target in {
                self.directory / "run.log": Path("..", "cerebras_logs", self._logs.name, "run.log"),
                self.model_dir / "latest_run.log": Path("cerebras_logs", self._logs.name, "run.log"),
                self.model_dir / "cerebras_logs" / "latest": Path(self._logs.name),
                self.model_dir / NAME: Path(self._logs.name, NAME),
            }.items():
                _link(link, target)
        self._handler = LogFile(self._logs / "run.log")
        self._write_receipt()
        root = logging.getLogger()
        self._level_before = root.level
        root.addHandler(self._handler)
        root.setLevel(level_number(log_level))
        self.log.info("Current Working Directory: %s", os.getcwd())
        self.log.info("Running command: %s", " ".join(sys.argv))

    def starts_from(self, checkpoint: Path) -> list[str]:
        """A line for each mask file that was computed from another one, unless this run goes on."""
        start = self._receipt["start"] = checkpoint_digest(checkpoint)
        self._write_receipt()
        if checkpoint.resolve() in {path.resolve() for path in self.index.checkpoints()}:
            return []
        lines = []
        for path in self._masks:
            with MaskFile(path) as file:
                of = file.checkpoint
            if of not in (None, start["fingerprint"]):
                lines.append(
                    f"{path} was computed from another file than {checkpoint}: "
                    f"its fingerprint is {of}, this one's {start['fingerprint']}"
                )
        return lines

    def open_events(self, directory: Path | None = None) -> EventWriter:
        """Where TensorBoard finds the run: ``events/`` of the model directory, or another directory."""
        writer = EventWriter((directory or self.model_dir / "events").resolve())
        with refusals(self.directory):
            target = os.path.relpath(writer.path.resolve(), self.directory.resolve())
            _link(self.directory / "tf_events", Path(target))
        return writer

    def progress(self, steps: int, metrics: Mapping[str, float]) -> None:
        """What the receipt says from its next writing on: with a checkpoint, or at the end."""
        self._receipt["steps"] = steps
        self._receipt["metrics"] |= {name: as_json_number(value) for name, value in metrics.items()}

    def saved(self, checkpoint: Path, step: int, model: Mapping[str, Any] | None = None) -> None:
        """A checkpoint is whole on the disk: from here on, a run continues from it.

        ``model`` is what it holds of the model: its listing is then not read back.
        """
        self.index.append(checkpoint)
        self._checkpoints.append({"step": step, "removed": False, **checkpoint_digest(checkpoint, model)})
        self._write_receipt()

    def saved_before(self, phase: str, step: int) -> list[Path]:
        """What is left of the checkpoints up to a step that this run saved before it was interrupted."""
        known = {path.resolve(): path for path in self.index.checkpoints()}
        entries = [
            Path(entry["path"]).resolve()
            for run in runs_in(self.model_dir)
            if run.receipt["verb"] == "fit" and run.receipt["phase"] == phase
            for entry in run.receipt["checkpoints"]
            if entry["step"] <= step
        ]
        return [known[path] for path in dict.fromkeys(entries) if path in known]

    def remove(self, checkpoint: Path) -> None:
        """Delete a checkpoint of this run. The receipt keeps what it was."""
        self.index.remove(checkpoint)
        with refusals(checkpoint):
            checkpoint.unlink(missing_ok=True)
        for entry in self._checkpoints:
            entry["removed"] = entry["removed"] or entry["path"] == str(checkpoint)
        self._write_receipt()

    def found_under_masks(self, receipts: Sequence[Mapping[str, Any]]) -> None:
        """Read back from the checkpoint that was saved: what the receipt says at the end."""
        self._receipt["mask_receipts"] = list(receipts)

    def measured(self, stage: str, steps: int, performance: Mapping[str, float]) -> None:
        """Rates of one loop of training or validation, where cszoo's users look for them."""
        executors = self._logs / "executors"
        number = len(list(executors.glob("[0-9]*"))) + 1
        loop = executors / f"{number:06d}"
        rates = {name: as_json_number(value) for name, value in performance.items()}
        for name, value in {
            "metadata.json": json.dumps({"stage": stage, "num_steps": steps}),
            "performance.json": json.dumps(rates, sort_keys=True, indent=4),
        }.items():
            with Part(loop / name) as part:
                part.write(value.encode())
        with refusals(executors):
            _link(executors / "latest", Path(loop.name))

    def close(self, state: State, error: BaseException | None = None) -> None:
        """Write the end. Called by the context manager; ``state`` is how the run ended."""
        try:
            if error is not None:
                self._receipt["error"] = {"type": type(error).__name__, "message": str(error)}
                self._handler.exception(error)
        finally:
            root = logging.getLogger()
            root.removeHandler(self._handler)
            root.setLevel(self._level_before)
            self._handler.close()
            self._receipt |= {"state": state, "ended": now()}
            self._write_receipt()

    def __enter__(self) -> "RunDirectory":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.close(State.FINISHED)
            return
        try:
            self.close(State.INTERRUPTED if isinstance(error, KeyboardInterrupt) else State.FAILED, error)
        except ProblemError as another:  # the first one is what the user has to know
            error.add_note(f"and the end of the run could not be written down:\n{another}")

    def _write_receipt(self) -> None:
        self._receipt["updated"] = now()
        write_receipt(self.directory / NAME, self._receipt)


def _claim(parent: Path) -> Path:
    """A directory of our own, named after the second; the next second, where another run was faster."""
    while True:
        path = parent / time.strftime(_TIMESTAMP)
        try:
            path.mkdir(parents=True)
            return path
        except FileExistsError:
            time.sleep(0.05)


def _refuse_a_second(model_dir: Path) -> None:
    """Two runs that train in one directory would continue from each other's checkpoints."""
    for run in runs_in(model_dir):
        if run.state is State.RUNNING and run.receipt["verb"] == "fit":
            raise fail(
                model_dir,
                f"process {run.receipt['process']['pid']} trains in it since {run.receipt['started']}",
                "choose another --model_dir, or wait for its end",
            )


def _link(path: Path, target: Path) -> None:
    """A symbolic link, in the place of an older one in one step."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    part.unlink(missing_ok=True)
    part.symlink_to(target)
    part.replace(path)


def _plain(value: Any) -> Any:
    """A copy without shared parts: YAML would write them as anchors and aliases."""
    if isinstance(value, Mapping):
        return {key: _plain(inner) for key, inner in value.items()}
    return [_plain(inner) for inner in value] if isinstance(value, list | tuple) else value
