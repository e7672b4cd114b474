"""What a run says while it runs: event files, a bar on a terminal or plain lines elsewhere, its receipt."""

import sys
import time
from collections.abc import Callable
from typing import Any

from tqdm import tqdm

from cerebras_utils.fallback.run_outputs import RunDirectory

_LINE_SECONDS = 10.0  # between plain lines, where there is no terminal


class RunReport:
    """Talk goes to stderr; the first and last step of a round are always told."""

    def __init__(self, run: RunDirectory, clock: Callable[[], float] = time.monotonic) -> None:
        self._run, self._clock = run, clock
        self._events = run.open_events()
        self._bar: Any = None
        self._begun, self._tokens, self._told = clock(), 0, -_LINE_SECONDS

    def scalars(self, values: dict[str, float], step: int) -> None:
        for tag, value in values.items():
            self._events.scalar(tag, value, step)
        self._run.progress(step, values)

    def say(self, text: str) -> None:
        self._run.log.info(text)
        tqdm.write(text, file=sys.stderr)

    def progress(self, step: int, steps: int, loss: float, tokens: int) -> None:
        now = self._clock()
        bar = self._bar
        if bar is None:
            bar = self._bar = tqdm(
                total=steps, initial=step - 1, unit="step", file=sys.stderr, disable=None, leave=False
            )
            self._begun, self._tokens = now, -tokens  # time is taken from the end of the first step on
        self._tokens += tokens
        speed = "" if now == self._begun else f", {self._tokens / (now - self._begun):,.0f} tokens/s"
        bar.set_postfix_str(f"loss {loss:.4f}{speed}", refresh=False)
        bar.update()
        if bar.disable and (step == steps or now - self._told >= _LINE_SECONDS):
            self._told = now
            left = (steps - step) * (now - self._begun) * tokens / max(self._tokens, 1)
            more = f", {left:.0f} s left" if speed else ""
            print(f"step {step} of {steps}: loss {loss:.4f}{speed}{more}", file=sys.stderr)
        if step == steps:
            bar.close()
            self._bar = None

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()
        self._events.close()
