"""Doubts that come from setting runs beside each other."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise

from experiments.compare.groups import Group, apart, same_results
from experiments.compare.metrics import METRICS, rounded
from experiments.compare.settings import is_dense, is_sparse
from experiments.compare.warned import Warned, pairs
from experiments.runs.callbacks import LORA, MASKS, SPARSE_LORA, callbacks_of
from experiments.runs.record import RunRecord
from experiments.stats import estimate

_MUCH_FASTER = 2.0  # times: no noise of one machine that did the same work each time


def identical_results(groups: Sequence[Group]) -> Iterator[Warned]:
    """Two labels, one result: most likely the masks were never applied."""
    seen: dict[tuple[int, str, float], list[tuple[Group, RunRecord]]] = {}
    for group, run in pairs(groups):
        if run.state != "finished":
            continue
        keys = [(run.steps, m.tag, run.last[m.tag][1]) for m in METRICS.values() if m.tag in run.last]
        alike = (pair for key in keys for pair in seen.get(key, ()) if same_results(run, pair[1]))
        if (first := next(alike, None)) is None:
            for key in keys:
                seen.setdefault(key, []).append((group, run))
        elif first[0] is not group:
            shown = next(tag for _, tag, _ in keys if tag in first[1].last)
            text = (
                f"{first[0].label} ({first[1].path}) and {group.label} ({run.path}) have identical results "
                f"({shown} {run.last[shown][1]:.6g}): one of them is not what its label says"
            )
            yield Warned("identical results", text, (first[0].label, group.label))


def better_when_sparser(groups: Sequence[Group]) -> Iterator[Warned]:
    """Perplexity that falls as sparsity rises, within one way of pruning, from its own baseline on."""
    tag = METRICS["perplexity"].tag
    families: dict[str, dict[str, Group]] = {}
    for group in groups:
        if group.sparse:
            rows = families.setdefault(repr(sorted(group.family.items())), {})
            rows[group.label] = group
            if group.baseline is not None and not apart(group, group.baseline):
                rows[group.baseline.label] = group.baseline
    for rows in families.values():
        ordered = sorted(
            (rounded(group.requested), estimate(values).mean, label)
            for label, group in rows.items()
            if group.requested is not None and (values := group.values(tag))
        )
        for (low, before, one), (high, after, other) in pairwise(ordered):
            if high > low and after < before:
                text = (
                    f"{other} is sparser than {one} and has the lower perplexity: {after:.4g} < {before:.4g}"
                )
                yield Warned("better when sparser", text, (one, other))


def different_machines(groups: Sequence[Group]) -> Iterator[Warned]:
    """Throughput of different machines in one column."""
    devices = {_machine(run) for _, run in pairs(groups) if run.samples_per_second is not None}
    if len(devices) > 1:
        text = (
            f"throughputs were measured on different machines ({', '.join(sorted(devices))}): do not compare"
        )
        yield Warned("different machines", text)


def _machine(run: RunRecord) -> str:
    return f"{run.backend} on {run.device}" if run.device else run.backend


def the_same_work_at_another_speed(groups: Sequence[Group]) -> Iterator[Warned]:
    """What no config tells: two hosts of one kind, or one that others used as well."""
    of: dict[str, list[tuple[float, str, RunRecord]]] = {}
    for group, run in pairs(groups):
        if run.params and run.state == "finished" and run.samples_per_second is not None:
            speed = run.samples_per_second
            of.setdefault(f"{_machine(run)} {_work(run)}", []).append((speed, group.label, run))
    for found in of.values():
        slow, fast = min(found, key=lambda f: f[0]), max(found, key=lambda f: f[0])
        if fast[0] > _MUCH_FASTER * slow[0]:
            text = (
                f"{slow[1]} ({slow[2].path}) and {fast[1]} ({fast[2].path}) did the same work at "
                f"{slow[0]:.4g} and {fast[0]:.4g} samples/s: their machines, or what else these did, differ"
            )
            yield Warned("uneven speed", text, tuple(dict.fromkeys((slow[1], fast[1]))))


def _work(run: RunRecord) -> str:
    """What a step has to do, and on how many systems."""
    init = run.params.get("init") or {}
    loader = (run.params.get("fit") or {}).get("train_dataloader")
    batch = loader.get("batch_size") if isinstance(loader, Mapping) else loader
    pruned = {name: how for name, how in callbacks_of(init).items() if name in (MASKS, LORA, SPARSE_LORA)}
    return repr([init.get(key) for key in ("model", "precision", "backend", "sparsity")] + [batch, pruned])


def other_data(groups: Sequence[Group]) -> Iterator[Warned]:
    digests: dict[str, list[str]] = {}
    for group, run in pairs(groups):
        if run.data:
            digests.setdefault(run.data, []).append(group.label)
    if len(digests) > 1:
        said = "; ".join(
            f"{digest[:12]}: {', '.join(dict.fromkeys(rows))}" for digest, rows in digests.items()
        )
        yield Warned("different data", f"not all were trained and evaluated on the same data ({said})")


def another_baseline(groups: Sequence[Group]) -> Iterator[Warned]:
    used = {group.baseline.label: group.baseline for group in groups if group.baseline is not None}
    if len(used) > 1:
        yield Warned("several baselines", f"rows are compared with different dense runs: {', '.join(used)}")
    if not used and any(group.sparse for group in groups):
        yield Warned("no baseline", "no dense run is among these: nothing says what the sparsity costs")
    for group in groups:
        if group.baseline is not None and (differ := apart(group, group.baseline)):
            keys = ", ".join(differ)
            text = f"{group.label} differs from its baseline in more than the masks: {keys}"
            yield Warned("not the baseline's settings", text, (group.label,))


def dense_and_sparse_in_one_row(groups: Sequence[Group]) -> Iterator[Warned]:
    for group in groups:
        if any(map(is_dense, group.runs)) and any(map(is_sparse, group.runs)):
            text = f"{group.label} holds dense and sparse runs: its mean is of neither, and has no baseline"
            yield Warned("dense and sparse in one row", text, (group.label,))


def a_seed_twice(groups: Sequence[Group]) -> Iterator[Warned]:
    for group in groups:
        seeds = [run.seed for run in group.finished if run.seed is not None]
        if twice := sorted({seed for seed in seeds if seeds.count(seed) > 1}):
            said = ", ".join(map(str, twice))
            text = f"{group.label} was run more than once with seed {said}: the first of each counts"
            yield Warned("seed repeated", text, (group.label,))


def seeds_that_changed_nothing(groups: Sequence[Group]) -> Iterator[Warned]:
    """One run, several times over, has no interval."""
    for group in groups:
        alike: list[tuple[RunRecord, set[int]]] = []
        for run in group.finished:
            if run.seed is not None:
                seeds = next((seeds for first, seeds in alike if same_results(first, run)), None)
                if seeds is None:
                    alike.append((run, {run.seed}))
                else:
                    seeds.add(run.seed)
        for _, seeds in alike:
            if len(seeds) > 1:
                said = ", ".join(map(str, sorted(seeds)))
                text = (
                    f"{group.label} has the same results, to the last digit, with seeds {said}: they are one "
                    "sample; what differs between seeds (order of the data, dropout) did not differ"
                )
                yield Warned("seeds without effect", text, (group.label,))
