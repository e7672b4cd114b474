"""The receipt of a run on cszoo: the ``run.json`` that the fallback backend writes, in the same place.

A callback of ModelZoo's registry of global callbacks: one object sees every trainer of a process, whether
its YAML names a callback of this project or not. Metrics are the last values in the run's event file.
"""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from cerebras_utils.events_file import read_scalars
from cerebras_utils.hooks import Hooks
from cerebras_utils.run_receipt import (
    NAME,
    State,
    as_json_number,
    checkpoint_digest,
    new_receipt,
    now,
    write_receipt,
)
from cerebras_utils.trainer_state import checkpoint_behind


class RunReceipt(Hooks):
    def __init__(self) -> None:
        self.written: list[Path] = []  # by this process, oldest first
        self._receipt: dict[str, Any] | None = None
        self._path = Path()

    def pre_setup(self, trainer: Any) -> None:
        self._receipt = None

    def on_enter_fit(
        self, trainer: Any, stack: Any, train_dataloader: Any, val_dataloader: Any, loop: Any
    ) -> None:
        self._begin(trainer, "fit")
        self._end_on_interrupt(trainer, stack)

    def on_enter_validate_all(
        self, trainer: Any, stack: Any, val_dataloaders: Any, loop: Any, ckpt_paths: Any
    ) -> None:
        if self._receipt is not None:
            return  # a round of validation while fitting
        self._begin(trainer, "validate_all")

        def left(kind: Any, error: BaseException | None, trace: Any) -> None:
            self._end(trainer, State.FINISHED if error is None else State.FAILED, error)

        stack.push(left)
        self._end_on_interrupt(trainer, stack)

    def on_enter_validate(self, trainer: Any, stack: Any, val_dataloader: Any, loop: Any) -> None:
        self._begin(trainer, "validate")
        self._end_on_interrupt(trainer, stack)

    def on_before_load_checkpoint(self, trainer: Any, ckpt_path: str | None) -> None:
        if self._receipt is not None and ckpt_path is not None:
            self._receipt["start"] = _digest(str(ckpt_path))
            self._write()

    def on_after_save_checkpoint(self, trainer: Any, ckpt_path: str) -> None:
        if self._receipt is not None:
            saved = {"step": int(trainer.global_step), "removed": False, **_digest(str(ckpt_path))}
            self._receipt["checkpoints"].append(saved)
            self._receipt["steps"] = int(trainer.global_step)
            self._write()

    def on_fit_end(self, trainer: Any, loop: Any) -> None:
        self._end(trainer, State.FINISHED)

    def on_validate_end(self, trainer: Any, model: Any, loop: Any) -> None:
        if self._receipt is not None and self._receipt["verb"] == "validate":
            self._end(trainer, State.FINISHED)

    def on_fit_exception(self, trainer: Any, exception: Exception) -> None:
        self._end(trainer, State.FAILED, exception)

    def on_train_exception(self, trainer: Any, exception: Exception) -> None:
        self._end(trainer, State.FAILED, exception)

    def on_validate_exception(self, trainer: Any, exception: Exception) -> None:
        self._end(trainer, State.FAILED, exception)

    def on_save_trainer_state(self, trainer: Any, state_dict: dict[str, Any]) -> None: ...
    def on_load_trainer_state(self, trainer: Any, state_dict: dict[str, Any]) -> None: ...

    def _end_on_interrupt(self, trainer: Any, stack: Any) -> None:
        """Ctrl-C is no exception that the trainer's hooks are told of."""

        def left(kind: Any, error: BaseException | None, trace: Any) -> None:
            if isinstance(error, KeyboardInterrupt):
                self._end(trainer, State.INTERRUPTED, error)

        stack.push(left)

    def _begin(self, trainer: Any, verb: str) -> None:
        if self._receipt is not None:
            return  # validation while fitting
        self._path = Path(trainer.summary_dir) / NAME
        self._receipt = new_receipt(
            verb=verb,
            backend="cszoo",
            config=_config(trainer),
            phase="trainer",
            trainer=_written(trainer),
            masks=[Path(callback.mask_path) for callback in _masked(trainer)],
            device=trainer.backend.backend_type.name,
        )
        self._write()
        link = Path(trainer.model_dir) / NAME
        link.unlink(missing_ok=True)
        link.symlink_to(Path(self._path.parent.name, NAME))
        self.written.append(self._path)

    def _end(self, trainer: Any, state: State, error: BaseException | None = None) -> None:
        if self._receipt is None or self._receipt["ended"] is not None:
            return
        self._receipt |= {
            "state": state,
            "ended": now(),
            "steps": int(trainer.global_step),
            "metrics": _metrics(trainer),
            "mask_receipts": [callback.receipt() for callback in _masked(trainer)],
        }
        if error is not None:
            while isinstance(error.__cause__, Exception):
                error = error.__cause__  # the trainer wraps what its callbacks raise
            self._receipt["error"] = {"type": type(error).__name__, "message": str(error)}
        self._write()

    def _write(self) -> None:
        assert self._receipt is not None
        self._receipt["updated"] = now()
        write_receipt(self._path, self._receipt)


def _masked(trainer: Any) -> Iterator[Any]:
    from cerebras_utils.sparse_callback import SparseMaskCallback

    yield from (c for c in trainer.callbacks.values() if isinstance(c, SparseMaskCallback))


def _config(trainer: Any) -> Path:
    """The YAML of the command line; where there is none, what ModelZoo has written of it."""
    given = [Path(word) for word in sys.argv[1:] if word.endswith((".yaml", ".yml"))]
    return next((path for path in given if path.is_file()), Path(trainer.summary_dir) / "trainer_params.yaml")


def _written(trainer: Any) -> dict[str, Any]:
    """The trainer's section of the YAML, as ModelZoo has written it beside the receipt; {} where not."""
    try:
        document = yaml.safe_load((Path(trainer.summary_dir) / "trainer_params.yaml").read_text())
    except (OSError, yaml.YAMLError):  # a trainer made in Python, or with objects that no YAML names
        return {}
    return dict(document["trainer"])


def _digest(checkpoint: str) -> dict[str, str]:
    if checkpoint.lower().startswith("s3://"):
        return {"path": checkpoint, "fingerprint": ""}
    return checkpoint_digest(Path(checkpoint_behind(checkpoint)))


def _metrics(trainer: Any) -> dict[str, float | str]:
    for logger in trainer.loggers:
        logger.flush()
    events = Path(trainer.summary_dir) / "tf_events"
    if not events.exists():
        return {}
    found = read_scalars(events.resolve())
    return {tag: as_json_number(points[-1][1]) for tag, points in found.items() if points}
