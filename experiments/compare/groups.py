"""Configurations: runs that differ in nothing but their seed, a readable name for each, and its baseline."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from experiments.compare.labels import labels
from experiments.compare.metrics import METRICS
from experiments.compare.settings import MASK_CALLBACK, MASKS, START, Flat, differences, flat
from experiments.runs.record import RunRecord

_SPARSE = re.compile(
    rf"{MASKS}|init\.callbacks\.(SparseMaskCallback|Lora|SparseLora)(\..*)?|init\.sparsity.*"
)
_LEVEL = re.compile(r"-s[0-9.]+(?=-|$)|-[0-9a-f]{8}$")  # what the name of a mask says of how much, not of how
_NATIVE_LEVEL = re.compile(r"init\.sparsity(\[\d+\])?(\.sparsity)?")


@dataclass
class Group:
    """One row of the table."""

    label: str
    settings: Flat
    runs: list[RunRecord] = field(default_factory=list)
    baseline: "Group | None" = None  # the dense configuration it is compared with; None for a baseline

    @property
    def dense(self) -> bool:
        return not any(_SPARSE.fullmatch(key) for key in self.settings)

    @property
    def once(self) -> bool:
        """Sparse to dense: its zeros may come back."""
        return self.settings.get(f"{MASK_CALLBACK}.apply_every_step") is False

    @property
    def family(self) -> Flat:
        """The settings but for how sparse: what a curve over sparsities has in common."""
        kept = {key: value for key, value in self.settings.items() if not _NATIVE_LEVEL.fullmatch(key)}
        return kept | ({MASKS: _LEVEL.sub("", str(kept[MASKS]))} if MASKS in kept else {})

    @property
    def finished(self) -> list[RunRecord]:
        return [run for run in self.runs if run.state == "finished"]

    @property
    def samples(self) -> list[RunRecord]:
        """Finished runs, but for repetitions: of a seed, or of every result to the last digit."""
        kept: list[RunRecord] = []
        for run in self.finished:
            again = any(run.seed is not None and run.seed == other.seed for other in kept)
            if not again and not any(same_results(run, other) for other in kept):
                kept.append(run)
        return kept

    @property
    def n(self) -> int:
        return len(self.samples)

    def values(self, tag: str) -> dict[int, float]:
        """The last value by seed, of samples. Runs without a seed are numbered from -1 down."""
        return {
            -1 - position if run.seed is None else run.seed: run.last[tag][1]
            for position, run in enumerate(self.samples)
            if tag in run.last
        }

    def mean(self, values: Sequence[float | None]) -> float | None:
        known = [value for value in values if value is not None]
        return sum(known) / len(known) if known else None

    @property
    def requested(self) -> float | None:
        return self.mean([run.sparsity.requested for run in self.runs])

    @property
    def effective(self) -> float | None:
        return self.mean([run.sparsity.effective for run in self.finished])


def results(run: RunRecord) -> tuple[float, ...]:
    """Steps and every metric of the last validation; () where there are none, or one is not finite."""
    values = [run.last[metric.tag][1] for metric in METRICS.values() if metric.tag in run.last]
    return (run.steps, *values) if values and all(map(math.isfinite, values)) else ()


def same_results(one: RunRecord, other: RunRecord) -> bool:
    return results(one) != () and results(one) == results(other)


def grouped(runs: Sequence[RunRecord], by: Sequence[str] = ()) -> list[Group]:
    """Dense ones first, then by sparsity. With ``by``, runs that agree in these keys alone are a group."""
    of: dict[str, Group] = {}
    for run in runs:
        settings = flat(run)
        if not by:
            settings.pop(START, None)  # each seed starts from its own dense checkpoint
        else:
            settings = {key: value for key, value in settings.items() if _chosen(key, by)}
        key = repr(sorted(settings.items())) if run.params or run.state == "planned" else run.path
        of.setdefault(key, Group("", settings)).runs.append(run)
    groups = list(of.values())
    for group, label in zip(groups, labels([g.settings for g in groups]), strict=True):
        group.label = label or (group.runs[0].name if not group.runs[0].params else "dense")
    _make_distinct(groups)
    _find_baselines(groups)
    return sorted(groups, key=lambda g: (not g.dense, g.requested or 0.0, g.label))


def _chosen(key: str, by: Sequence[str]) -> bool:
    return any(key == asked or key.endswith(f".{asked}") for asked in by)


def _make_distinct(groups: Sequence[Group]) -> None:
    """Two labels that read alike (masks of one name with another digest) get a number."""
    seen: dict[str, int] = {}
    for group in groups:
        seen[group.label] = seen.get(group.label, 0) + 1
        if seen[group.label] > 1:
            group.label = f"{group.label} ({seen[group.label]})"


def _find_baselines(groups: Sequence[Group]) -> None:
    """For each sparse configuration, the dense one that is most like it, masks and LoRA aside."""
    dense = [group for group in groups if group.dense and group.runs[0].params]
    for group in groups:
        if not group.dense and dense:
            group.baseline = min(dense, key=lambda other: (len(apart(group, other)), other.label))


def apart(group: Group, baseline: Group) -> dict[str, tuple[Any, Any]]:
    """What differs beside the sparsity: a comparison of more than one thing."""
    found = differences(group.settings, baseline.settings)
    return {key: pair for key, pair in found.items() if not _SPARSE.fullmatch(key)}
