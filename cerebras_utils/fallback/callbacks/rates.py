"""How fast a run is, and how long it lasts: rates, durations, and the file that keeps them."""

import statistics
import time
from collections import defaultdict, deque
from collections.abc import Callable
from typing import Any

from cerebras_utils.hooks import Hooks

_SMOOTH = 0.4  # weight of the rate before, as in ModelZoo
_BATCHES, _CHECKPOINTS = 100, 10  # whose durations an estimate is made from


class RateProfiler(Hooks):
    """Samples per second: of the latest batch, smoothed, and of the round of training or validation so far.

    The clock starts with the first batch of a round, so validation and checkpoints before it do not count.
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._begin()

    def _begin(self) -> None:
        self._begun = self._latest = self._clock()
        self._samples, self._rate = 0, 0.0

    def on_train_batch_start(self, trainer: Any, model: Any, batch: Any, batch_idx: int) -> None:
        if batch_idx == 0:
            self._begin()

    def on_validate_batch_start(self, trainer: Any, model: Any, batch: Any, batch_idx: int) -> None:
        if batch_idx == 0:
            self._begin()

    def on_train_batch_end(self, trainer: Any, model: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self._log(trainer, len(batch["input_ids"]) * trainer.processes.world)

    def on_validate_batch_end(
        self, trainer: Any, model: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._log(trainer, len(batch["input_ids"]) * trainer.processes.world)

    def _log(self, trainer: Any, samples: int) -> None:
        now = self._clock()
        current = samples / max(now - self._latest, 1e-9)
        self._rate = (1 - _SMOOTH) * current + _SMOOTH * self._rate if self._samples else current
        self._samples += samples
        self._latest = now
        whole = self._samples / max(now - self._begun, 1e-9)
        trainer.log_metrics(
            local_samples_per_sec=self._rate,
            avg_samples_per_sec=whole,
            avg_steps_per_sec=whole / samples,
        )

    @property
    def performance(self) -> dict[str, float]:
        """What ``performance.json`` says of a round."""
        seconds = self._latest - self._begun
        whole = self._samples / max(seconds, 1e-9)
        return {
            "total_samples": float(self._samples),
            "total_time": seconds,
            "rate": self._rate,
            "global_rate": whole,
            "samples_per_sec": whole,
        }


class SavePerformanceData(Hooks):
    """``performance.json`` of each round that came to its end, with what ``RateProfiler`` measured."""

    def on_train_end(self, trainer: Any, model: Any, loop: Any, loop_idx: int) -> None:
        self._save(trainer, "train")

    def on_validate_end(self, trainer: Any, model: Any, loop: Any) -> None:
        self._save(trainer, "validate")

    def _save(self, trainer: Any, stage: str) -> None:
        rates = [c.performance for c in trainer.callbacks.values() if isinstance(c, RateProfiler)]
        trainer.report.measured(stage, trainer.stage.batches, rates[0] if rates else {})


class DurationProfiler(Hooks):
    """Seconds that are left: of the round, and of the whole run as far as durations are known.

    Batches of a kind take as long as the median of those before; so do checkpoints.
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._latest = clock()
        self._batches: dict[str, deque[float]] = defaultdict(lambda: deque(maxlen=_BATCHES))
        self._checkpoints: deque[float] = deque(maxlen=_CHECKPOINTS)

    def on_train_batch_start(self, trainer: Any, model: Any, batch: Any, batch_idx: int) -> None:
        self._latest = self._clock()

    def on_validate_batch_start(self, trainer: Any, model: Any, batch: Any, batch_idx: int) -> None:
        self._latest = self._clock()

    def on_train_batch_end(self, trainer: Any, model: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self._log(trainer)

    def on_validate_batch_end(
        self, trainer: Any, model: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._log(trainer)

    def on_save_checkpoint(self, trainer: Any, state_dict: Any) -> None:
        self._latest = self._clock()

    def on_after_save_checkpoint(self, trainer: Any, ckpt_path: str) -> None:
        self._checkpoints.append(self._clock() - self._latest)

    def _log(self, trainer: Any) -> None:
        self._batches[trainer.stage.name].append(self._clock() - self._latest)
        saving = statistics.median(self._checkpoints) if self._checkpoints else 0.0
        now, later = trainer.checkpoints_left
        loop = self._seconds(trainer.stage) + now * saving
        rest = sum(self._seconds(stage) for stage in trainer.later) + later * saving
        trainer.log_metrics(loop_time_remaining=loop, time_remaining=loop + rest)

    def _seconds(self, stage: Any) -> float:
        known = self._batches.get(stage.name)
        return stage.left * statistics.median(known) if known else 0.0
