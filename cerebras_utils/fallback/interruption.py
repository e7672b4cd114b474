"""Ctrl-C and ``kill``: the first asks a run to end after its step, the second ends it at once."""

import os
import signal
from types import FrameType, TracebackType
from typing import Any

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class InterruptedRunError(KeyboardInterrupt):
    """A run was asked to end, and has: its last step is in ``checkpoint``, None where it made no step."""

    def __init__(self, step: int, checkpoint: str | None, advice: str) -> None:
        super().__init__(f"interrupted after step {step}; {advice}")
        self.step, self.checkpoint = step, checkpoint


def how_to_continue(
    checkpoint: str | None,
    *,
    found_by_itself: bool,
    without: str | None,
    begins_anew: str | None,
    left: int,
) -> str:
    """``found_by_itself``: the same command loads that checkpoint. ``without``: what would load a part of it.
    ``begins_anew``: the key of ``loop``, of which ``left`` are left, that would count from 0 again."""
    if checkpoint is None:
        return "nothing was trained yet: the same command begins again"
    same = "the same command" if found_by_itself else f"the same command with --checkpoint_path {checkpoint}"
    if without is not None:
        same += f"{'' if found_by_itself else ' and'} without {without}"
    if begins_anew is None:
        return f"{checkpoint} is saved, and {same} continues from it"
    return (
        f"{checkpoint} is saved, and {same} continues from it, but counts {begins_anew} anew: "
        f"{left} steps are left"
    )


class Interruption:
    """While it is entered, a first signal sets ``asked``; a second is a ``KeyboardInterrupt``.

    Processes that are forked meanwhile, such as those of a data loader, leave Ctrl-C to this one: they
    get it too, from the terminal, and would be gone before the step is finished.
    """

    def __init__(self) -> None:
        self.asked = False
        self._owner = os.getpid()
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "Interruption":
        try:
            for number in _SIGNALS:
                self._before[number] = signal.signal(number, self._received)
        except ValueError:  # not the main thread, where signals are not delivered anyway
            pass
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, before in self._before.items():
            signal.signal(number, before)

    def _received(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._owner:
            if number == signal.SIGTERM:
                os._exit(128 + number)
        elif self.asked:
            raise KeyboardInterrupt
        else:
            self.asked = True
            os.write(2, b"\nending after this step; once more to end at once\n")
