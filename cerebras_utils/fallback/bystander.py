"""What the processes of a run have in the place of its directory and its report, but for the first."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cerebras_utils.checkpoints_index import CheckpointsIndex


class NoDirectory:
    """As much of ``RunDirectory`` as checkpoints need. Nothing is written."""

    def __init__(self, model_dir: str | Path, checkpoint_name: str) -> None:
        self.model_dir = Path(model_dir)
        self.index = CheckpointsIndex(self.model_dir, checkpoint_name)

    def starts_from(self, checkpoint: Path) -> list[str]:
        return []

    def saved(self, checkpoint: Path, step: int, model: Any = None) -> None: ...
    def saved_before(self, phase: str, step: int) -> list[Path]:
        return []

    def remove(self, checkpoint: Path) -> None: ...
    def __enter__(self) -> "NoDirectory":
        return self

    def __exit__(self, *error: object) -> None: ...


class NoReport:
    def scalars(self, values: Mapping[str, float], step: int, scope: str = "") -> None: ...
    def progress(self, step: int, steps: int, loss: float, tokens: int) -> None: ...
    def line(self, step: int, batch: int | None, values: Mapping[str, float]) -> None: ...
    def measured(self, stage: str, batches: int, performance: Mapping[str, float]) -> None: ...
    def say(self, text: str) -> None: ...
    def close(self) -> None: ...
