"""How a run of plain cszoo ended, which only its log tells: ModelZoo leaves no receipt.

``Training completed successfully!`` is no end: it stands after every round between two validations. The
last line of a training is ``Processed ... training sample(s)``, of one that an exception ended as well; the
exception follows it.
"""

import re
from pathlib import Path

from cerebras_utils.run_receipt import State

_ERROR = re.compile(
    r"^(?:\S+ )?(?:\S+ )?(?:ERROR|CRITICAL)\b|^[\w.]*(?:Error|Exception|KeyboardInterrupt)\b(?! ignored)"
)
_GOES_ON = re.compile(
    r"\| (?:Train|Eval) Device=|Saved checkpoint|completed successfully!|Processed \d+ train"
)
_ENDED = re.compile(r"Processed \d+ training sample")
_BEGINS = "Trainer Fit Summary"
_FIRST_ROUND = re.compile(r"Starting train loop 1 of \d+, from global step (\d+) to")
_ALL_ROUNDS = re.compile(r"for a total of (\d+) train steps?\.")
_NOTHING_LEFT = re.compile(r"Initial global step \d+ already exceeds max step \d+")
_TAIL = 1 << 14  # bytes of a log that are searched for its end


def step_before(head: str) -> int | None:
    """The global step that a training began after."""
    found = _FIRST_ROUND.search(head)
    return int(found[1]) - 1 if found is not None else None


def batches_planned(head: str) -> int | None:
    """Of all rounds together, whatever limits the config has: steps, where no gradients are accumulated."""
    found = _ALL_ROUNDS.search(head)
    return int(found[1]) if found is not None else None


def had_nothing_left(text: str) -> bool:
    """Whether an error, or a log, says that a run began at the step it was to end at: it trained no step."""
    return _NOTHING_LEFT.search(text) is not None


def state_by_log(head: str, log: Path | None, steps: int, asked: int | None) -> tuple[str, str]:
    """An error counts if nothing went on after it; how far a run came, if its log does not tell more."""
    lines = _tail(log)
    alive = max((i for i, line in enumerate(lines) if _GOES_ON.search(line)), default=-1)
    errors = [line for line in lines[alive + 1 :] if _ERROR.search(line)]
    if errors:
        return State.FAILED, errors[-1].strip()[:300]
    if any(_ENDED.search(line) for line in lines):
        return State.FINISHED, ""
    reached = asked is not None and steps >= asked
    if reached and _BEGINS not in head:
        return State.FINISHED, ""
    of = f" of {asked}" if asked is not None else ""
    doubt = "its log does not say that it ended" if reached else "nothing tells whether it goes on"
    return State.UNKNOWN, f"at step {steps}{of}, and {doubt}"


def _tail(log: Path | None) -> list[str]:
    if log is None:
        return []
    try:
        with log.open("rb") as stream:
            stream.seek(max(0, log.stat().st_size - _TAIL))
            return stream.read().decode(errors="replace").splitlines()
    except OSError:
        return []
