"""Doubts that a run raises by what it left itself."""

import math
from collections.abc import Iterator, Mapping, Sequence

from experiments.compare.groups import Group
from experiments.compare.metrics import METRICS, TOLERANCE
from experiments.compare.warned import Warned, pairs
from experiments.runs.callbacks import masks_apply_once
from experiments.runs.record import RunRecord

_FEWEST_BATCHES = 10  # of a validation: below, a perplexity is an anecdote
_REACHED = 0.999  # of the learning rate that a schedule promises
_SEEN = 0.9  # of it, where not every step is logged and the highest may have been between two
_VALIDATED = [METRICS[name] for name in ("perplexity", "loss", "accuracy")]


def config_missing(groups: Sequence[Group]) -> Iterator[Warned]:
    for group, run in pairs(groups):
        if not run.params:
            text = f"{group.label} ({run.path}) has no config: what it is, and how sparse, nobody knows"
            yield Warned("config missing", text, (group.label,))


def sparsity_is_not_what_was_asked(groups: Sequence[Group]) -> Iterator[Warned]:
    for group, run in pairs(groups):
        asked, found = run.sparsity.requested, run.sparsity.effective
        if not run.params or asked is None or found is None or _once(run) or abs(asked - found) <= TOLERANCE:
            continue
        text = f"{group.label} ({run.path}) was to be {asked:.4f} sparse, and is {found:.4f}"
        yield Warned("requested is not effective", text, (group.label,))


def sparsity_was_not_counted(groups: Sequence[Group]) -> Iterator[Warned]:
    rows = [
        group.label
        for group in groups
        if any(
            run.params and run.sparsity.effective is None and run.sparsity.requested != 0
            for run in group.finished
        )
    ]
    if rows:
        text = f"nothing counted the zeros of {', '.join(rows)}: their sparsity is a claim, not a finding"
        yield Warned("sparsity not counted", text, tuple(rows))


def zeros_came_back(groups: Sequence[Group]) -> Iterator[Warned]:
    for group, run in pairs(groups):
        if run.sparsity.resurrected and not _once(run):
            text = f"{run.sparsity.resurrected:,} pruned weights of {group.label} ({run.path}) are not zero"
            yield Warned("zeros resurrected", text, (group.label,))


def _once(run: RunRecord) -> bool:
    """Sparse to dense: its zeros may come back."""
    return masks_apply_once(run.params.get("init") or {})


def a_rate_that_was_never_reached(groups: Sequence[Group]) -> Iterator[Warned]:
    """The highest rate of the schedule, against the highest that a step used. Others may yet get there."""
    for group, run in pairs(groups):
        promised = max(_rates(run.params), default=None)
        every_step = ((run.params.get("init") or {}).get("logging") or {}).get("log_steps") == 1
        least = _REACHED if every_step else _SEEN
        if run.state != "finished" or not promised or run.peak_rate is None:
            continue
        if run.peak_rate < least * promised:
            text = (
                f"the learning rate of {group.label} ({run.path}) peaked at {run.peak_rate:.2g}, "
                f"its schedule says {promised:.2g}"
            )
            yield Warned("learning rate not reached", text, (group.label,))


def _rates(value: object) -> Iterator[float]:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            if key in ("initial_learning_rate", "end_learning_rate", "learning_rate") and isinstance(
                inner, int | float
            ):
                yield float(inner)
            else:
                yield from _rates(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _rates(inner)


def a_handful_of_batches(groups: Sequence[Group]) -> Iterator[Warned]:
    few = {
        group.label: run.batches
        for group, run in pairs(groups)
        if run.batches is not None and run.batches < _FEWEST_BATCHES
    }
    if few:
        low, high = min(few.values()), max(few.values())
        count = f"{low} batch{'es' * (low != 1)}" if low == high else f"{low} to {high} batches"
        text = f"evaluated on {count} only: {', '.join(few)}"
        yield Warned("few batches", text, tuple(few))


def no_result(groups: Sequence[Group]) -> Iterator[Warned]:
    """Finished, and a cell stays empty that others have filled: its event files are damaged, or not here.

    A study without any validation has none missing.
    """
    anywhere = any(metric.tag in run.last for _, run in pairs(groups) for metric in _VALIDATED)
    for group in groups:
        siblings = {tag for run in group.finished for tag in run.last}
        for run in group.finished:
            missing = [m.name for m in METRICS.values() if m.tag in siblings and m.tag not in run.last]
            validated = any(metric.tag in run.last for metric in _VALIDATED)
            if not run.last:
                what = "no result at all: its event files are empty or not there"
            elif anywhere and not validated:
                what = "no result of a validation"
            elif missing:
                what = f"no {', '.join(missing)}, which other runs of its row have"
            else:
                continue
            yield Warned(
                "no result", f"{group.label} ({run.path}) is finished and has {what}", (group.label,)
            )


def results_that_are_no_numbers(groups: Sequence[Group]) -> Iterator[Warned]:
    for group in groups:
        for run in group.finished:
            wrong = {
                metric.name: run.last[metric.tag][1]
                for metric in METRICS.values()
                if metric.tag in run.last and not math.isfinite(run.last[metric.tag][1])
            }
            if wrong:
                said = ", ".join(f"{name} {value}" for name, value in wrong.items())
                text = f"{group.label} ({run.path}) is finished and diverged: {said}"
                yield Warned("not finite", text, (group.label,))


def not_finished(groups: Sequence[Group]) -> Iterator[Warned]:
    for group, run in pairs(groups):
        if run.state not in ("finished", "planned"):
            reason = f": {run.reason}" if run.reason else ""
            text = f"{group.label} ({run.path}) is {run.state} at step {run.steps}{reason}"
            yield Warned("not finished", text, (group.label,))


def unreadable(groups: Sequence[Group]) -> Iterator[Warned]:
    for group, run in pairs(groups):
        for problem in run.problems:
            yield Warned("unreadable", problem, (group.label,))
