"""What would make a table of these runs a lie, found before anybody reads its numbers.

A check sees all configurations at once and says what is wrong in one sentence each. Warnings come first in
every output: whoever reads the numbers has read them.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from experiments.compare.groups import Group, apart, results
from experiments.compare.metrics import METRICS
from experiments.runs.record import RunRecord

_FEWEST_BATCHES = 10  # of a validation: below, a perplexity is an anecdote
_TOLERANCE = 1e-4  # of a sparsity: more is another mask, not a rounding
_REACHED = 0.999  # of the learning rate that a schedule promises
_SEEN = 0.9  # of it, where not every step is logged and the highest may have been between two

Check = Callable[[Sequence[Group]], Iterator["Warned"]]
CHECKS: list[Check] = []


@dataclass(frozen=True)
class Warned:
    kind: str
    text: str
    rows: tuple[str, ...] = ()  # labels that it is about


def warnings_of(groups: Sequence[Group]) -> list[Warned]:
    return [found for check in CHECKS for found in check(groups)]


def _check(function: Check) -> Check:
    CHECKS.append(function)
    return function


def _pairs(groups: Sequence[Group]) -> Iterator[tuple[Group, RunRecord]]:
    for group in groups:
        for run in group.runs:
            yield group, run


@_check
def identical_results(groups: Sequence[Group]) -> Iterator[Warned]:
    """Two labels, one result: most likely the masks were never applied."""
    tags = [metric.tag for metric in METRICS.values()]
    seen: dict[tuple[float, ...], tuple[Group, RunRecord]] = {}
    for group, run in _pairs(groups):
        if run.state != "finished" or not (found := results(run)):
            continue
        first = seen.setdefault(found, (group, run))
        if first[0] is not group:
            shown = next(tag for tag in tags if tag in run.last)
            text = (
                f"{first[0].label} ({first[1].path}) and {group.label} ({run.path}) have identical results "
                f"({shown} {run.last[shown][1]:.6g}): one of them is not what its label says"
            )
            yield Warned("identical results", text, (first[0].label, group.label))


@_check
def sparsity_is_not_what_was_asked(groups: Sequence[Group]) -> Iterator[Warned]:
    for group, run in _pairs(groups):
        asked, found = run.sparsity.requested, run.sparsity.effective
        if asked is None or found is None or group.once or abs(asked - found) <= _TOLERANCE:
            continue
        text = f"{group.label} ({run.path}) was to be {asked:.4f} sparse, and is {found:.4f}"
        yield Warned("requested is not effective", text, (group.label,))


@_check
def sparsity_was_not_counted(groups: Sequence[Group]) -> Iterator[Warned]:
    rows = [
        group.label
        for group in groups
        if any(run.sparsity.effective is None and run.sparsity.requested != 0 for run in group.finished)
    ]
    if rows:
        text = f"nothing counted the zeros of {', '.join(rows)}: their sparsity is a claim, not a finding"
        yield Warned("sparsity not counted", text, tuple(rows))


@_check
def zeros_came_back(groups: Sequence[Group]) -> Iterator[Warned]:
    for group, run in _pairs(groups):
        if run.sparsity.resurrected and not group.once:
            text = f"{run.sparsity.resurrected:,} pruned weights of {group.label} ({run.path}) are not zero"
            yield Warned("zeros resurrected", text, (group.label,))


@_check
def better_when_sparser(groups: Sequence[Group]) -> Iterator[Warned]:
    """Perplexity that falls as sparsity rises, within one way of pruning."""
    tag = METRICS["perplexity"].tag
    families: dict[str, list[tuple[float, float, str]]] = {}
    for group in groups:
        values = list(group.values(tag).values())
        if values and group.requested is not None:
            family = "dense" if group.dense else repr(sorted(group.family.items()))
            families.setdefault(family, []).append((group.requested, sum(values) / len(values), group.label))
    dense = families.pop("dense", [])
    for rows in families.values():
        ordered = sorted([*rows, *dense[:1]])
        for (low, before, one), (high, after, other) in pairwise(ordered):
            if high - low > _TOLERANCE and after < before:
                text = (
                    f"{other} is sparser than {one} and has the lower perplexity: {after:.4g} < {before:.4g}"
                )
                yield Warned("better when sparser", text, (one, other))


@_check
def a_rate_that_was_never_reached(groups: Sequence[Group]) -> Iterator[Warned]:
    """The highest rate of the schedule, against the highest that a step used."""
    for group, run in _pairs(groups):
        promised = max(_rates(run.params), default=None)
        every_step = ((run.params.get("init") or {}).get("logging") or {}).get("log_steps") == 1
        least = _REACHED if every_step else _SEEN
        if promised and run.peak_rate is not None and run.peak_rate < least * promised:
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


@_check
def a_handful_of_batches(groups: Sequence[Group]) -> Iterator[Warned]:
    few = {
        group.label: run.batches
        for group, run in _pairs(groups)
        if run.batches is not None and run.batches < _FEWEST_BATCHES
    }
    if few:
        text = f"evaluated on {min(few.values())} to {max(few.values())} batches only: {', '.join(few)}"
        yield Warned("few batches", text, tuple(few))


@_check
def measured_beside_estimated(groups: Sequence[Group]) -> Iterator[Warned]:
    """Throughput of different machines in one column."""
    devices = {_machine(run) for _, run in _pairs(groups) if run.samples_per_second is not None}
    if len(devices) > 1:
        text = (
            f"throughputs were measured on different machines ({', '.join(sorted(devices))}): do not compare"
        )
        yield Warned("different machines", text)


def _machine(run: RunRecord) -> str:
    return f"{run.backend} on {run.device}" if run.device else run.backend


@_check
def other_data(groups: Sequence[Group]) -> Iterator[Warned]:
    digests: dict[str, list[str]] = {}
    for group, run in _pairs(groups):
        if run.data:
            digests.setdefault(run.data, []).append(group.label)
    if len(digests) > 1:
        said = "; ".join(
            f"{digest[:12]}: {', '.join(dict.fromkeys(rows))}" for digest, rows in digests.items()
        )
        yield Warned("different data", f"not all were trained and evaluated on the same data ({said})")


@_check
def another_baseline(groups: Sequence[Group]) -> Iterator[Warned]:
    used = {group.baseline.label: group.baseline for group in groups if group.baseline is not None}
    if len(used) > 1:
        yield Warned("several baselines", f"rows are compared with different dense runs: {', '.join(used)}")
    if not used and any(not group.dense for group in groups):
        yield Warned("no baseline", "no dense run is among these: nothing says what the sparsity costs")
    for group in groups:
        if group.baseline is not None and (differ := apart(group, group.baseline)):
            keys = ", ".join(differ)
            text = f"{group.label} differs from its baseline in more than the masks: {keys}"
            yield Warned("not the baseline's settings", text, (group.label,))


@_check
def a_seed_twice(groups: Sequence[Group]) -> Iterator[Warned]:
    for group in groups:
        seeds = [run.seed for run in group.finished if run.seed is not None]
        if twice := sorted({seed for seed in seeds if seeds.count(seed) > 1}):
            said = ", ".join(map(str, twice))
            text = f"{group.label} was run more than once with seed {said}: the first of each counts"
            yield Warned("seed repeated", text, (group.label,))


@_check
def seeds_that_changed_nothing(groups: Sequence[Group]) -> Iterator[Warned]:
    """One run, several times over, has no interval."""
    for group in groups:
        alike: dict[tuple[float, ...], list[int]] = {}
        for run in group.finished:
            if run.seed is not None and (found := results(run)):
                alike.setdefault(found, []).append(run.seed)
        for seeds in alike.values():
            if len(set(seeds)) > 1:
                said = ", ".join(map(str, sorted(set(seeds))))
                text = (
                    f"{group.label} has the same results, to the last digit, with seeds {said}: they are one "
                    "sample; what differs between seeds (order of the data, dropout) did not differ"
                )
                yield Warned("seeds without effect", text, (group.label,))


@_check
def not_finished(groups: Sequence[Group]) -> Iterator[Warned]:
    for group, run in _pairs(groups):
        if run.state not in ("finished", "planned"):
            reason = f": {run.reason}" if run.reason else ""
            text = f"{group.label} ({run.path}) is {run.state} at step {run.steps}{reason}"
            yield Warned("not finished", text, (group.label,))


@_check
def unreadable(groups: Sequence[Group]) -> Iterator[Warned]:
    for group, run in _pairs(groups):
        for problem in run.problems:
            yield Warned("unreadable", problem, (group.label,))
