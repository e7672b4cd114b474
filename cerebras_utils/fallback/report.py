"""What a run says while it runs: event files, a bar on a terminal or plain lines elsewhere, its receipt."""

import math
import os
import sys
import time
from collections.abc import Callable, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

from tqdm import tqdm

from cerebras_utils.fallback.events import EventWriter
from cerebras_utils.fallback.run_outputs import RunDirectory

_LINE_SECONDS = 10.0  # between plain lines, where there is no terminal
_DETAILS = ("sparsity/", "per_layer_grad_norm/")  # tags by the hundred, which the receipt leaves out


class RunReport:
    """Talk goes to stderr; the first and last step of a run are always told."""

    def __init__(
        self,
        run: RunDirectory,
        clock: Callable[[], float] = time.monotonic,
        *,
        device: str = "cpu",
        events: Mapping[str, Any] | None = None,  # arguments of TensorBoardLogger; None: no event files
    ) -> None:
        self._run, self._clock, self._device = run, clock, device
        self._options = events
        self._writers: dict[str, EventWriter] = {}
        if events is not None and not events.get("legacy_event_dirs"):
            directory = events.get("summary_dir")
            self._writers[""] = run.open_events(None if directory is None else Path(directory))
        self._bar: Any = None
        self._finished = False
        self._begun, self._tokens, self._told = clock(), 0, -_LINE_SECONDS
        self._first = 0  # the step that the time is taken from

    def scalars(self, values: Mapping[str, float], step: int, scope: str = "") -> None:
        """``scope``: what validation puts before its tags."""
        prefix = f"{scope}/" if scope else ""
        named = {f"{prefix}{tag}": value for tag, value in values.items()}
        writer = self._writer(scope)
        if writer is not None:
            plain = self._options is not None and self._options.get("legacy_event_dirs")
            for tag, value in (values if plain else named).items():
                writer.scalar(tag, value, step)
        told = {tag: value for tag, value in named.items() if not tag.startswith(_DETAILS)}
        self._run.progress(step, told)

    def _writer(self, scope: str) -> EventWriter | None:
        """One for the run; with ``legacy_event_dirs`` one for training and one for validation."""
        if self._options is None or not self._options.get("legacy_event_dirs"):
            return self._writers.get("")
        name = "eval" if scope else "train"
        if name not in self._writers:
            self._writers[name] = self._run.open_events(self._run.model_dir / name)
        return self._writers[name]

    def say(self, text: str) -> None:
        self._run.log.info(text)
        tqdm.write(text, file=sys.stderr)

    def line(self, step: int, batch: int | None, values: Mapping[str, float]) -> None:
        """A line of ``run.log`` as cszoo writes it; ``batch`` is that of a validation."""
        where = f"Step={step}" if batch is None else f"GlobalStep={step}, Batch={batch}"
        parts = [f"| {'Train' if batch is None else 'Eval'} Device={self._device}", where]
        for tag in ("loss", "val_loss"):
            if tag in values:
                parts.append(f"Loss={values[tag]:.5f}")
        for tag, name in (("local_samples_per_sec", "Rate"), ("avg_samples_per_sec", "GlobalRate")):
            if tag in values:
                parts.append(f"{name}={values[tag]:{'.3g' if values[tag] < 1 else '.2f'}} samples/sec")
        for tag, name in (("loop_time_remaining", "LoopTimeRemaining"), ("time_remaining", "TimeRemaining")):
            if tag in values:
                parts.append(f"{name}={timedelta(seconds=round(values[tag]))}")
        self._run.log.info(", ".join(parts))

    def measured(self, stage: str, batches: int, performance: Mapping[str, float]) -> None:
        self._run.measured(stage, batches, performance)

    def progress(self, step: int, steps: int, loss: float, tokens: int) -> None:
        """After every batch; ``loss`` is that of the step so far."""
        now = self._clock()
        bar = self._bar
        if self._finished:
            return  # batches that make no further step
        if bar is None:
            bar = self._bar = tqdm(
                total=steps,
                initial=step,
                unit="step",
                file=sys.stderr,
                disable=not _has_room(),
                leave=False,
            )
            # Time is taken from the end of the first batch on: it warms things up.
            self._begun, self._tokens, self._first = now, -tokens, step
        self._tokens += tokens
        seconds = now - self._begun
        speed = f", {self._tokens / seconds:,.0f} tokens/s" if seconds and self._tokens else ""
        bar.set_postfix_str(f"loss {loss:.4f}{speed}", refresh=False)
        bar.update(step - bar.n)
        done = step >= steps
        if done:
            bar.close()  # which takes it off the terminal: the line below is what stays
            self._bar, self._finished = None, True
        if done or (bar.disable and now - self._told >= _LINE_SECONDS):
            self._told = now
            left = (steps - step) * seconds / (step - self._first) if step > self._first else math.nan
            more = f", {timedelta(seconds=round(left))} left" if left == left and not done else ""
            print(f"step {step} of {steps}: loss {loss:.4f}{speed}{more}", file=sys.stderr)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()
        for writer in self._writers.values():
            writer.close()


def _has_room() -> bool:
    """For a bar: a terminal of a width. Those of containers and scripts often say that they have none."""
    try:
        return os.get_terminal_size(sys.stderr.fileno()).columns > 0
    except (OSError, ValueError):  # no terminal, or no file at all, such as a test's
        return False
