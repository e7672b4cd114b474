"""Configurations: runs that differ in nothing but their seed, a readable name for each, and its baseline."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from experiments.compare.labels import labels
from experiments.compare.metrics import METRICS, TOLERANCE, rounded
from experiments.compare.one_form import newest_name
from experiments.compare.settings import (
    KIND,
    LEVEL,
    MASKS,
    START,
    STATES,
    Flat,
    differences,
    every_setting,
    flat,
    is_dense,
    is_sparse,
)
from experiments.runs.record import RANDOM, RunRecord, short

_SPARSE = re.compile(
    rf"{MASKS}|{LEVEL}|{KIND}|init\.callbacks\.(SparseMaskCallback|Lora|SparseLora)(\..*)?|init\.sparsity.*"
)
_LEVEL = re.compile(r"-s[0-9.]+(?=-|$)|-[0-9a-f]{8}$")  # what the name of a mask says of how much, not of how
_NATIVE_LEVEL = re.compile(r"init\.sparsity(\[\d+\])?(\.sparsity)?")
_SEED = re.compile(r"seed\d+")  # a directory of a sweep: the one above it names the configuration
_TAGS = [metric.tag for metric in METRICS.values()]
_TELLING = [METRICS[name].tag for name in ("perplexity", "loss", "train_loss")]


@dataclass
class Group:
    """One row of the table."""

    label: str
    settings: Flat
    runs: list[RunRecord] = field(default_factory=list)
    baseline: "Group | None" = None  # the dense configuration it is compared with; None for a baseline

    @property
    def dense(self) -> bool:
        return all(map(is_dense, self.runs))

    @property
    def sparse(self) -> bool:
        """Neither this nor dense: what the runs are is not known, or a row holds both."""
        return all(map(is_sparse, self.runs))

    @property
    def family(self) -> Flat:
        """The settings but for how sparse: what a curve over sparsities has in common."""
        kept = {
            key: value
            for key, value in self.settings.items()
            if key != LEVEL and not _NATIVE_LEVEL.fullmatch(key)
        }
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

    def values(self, tag: str) -> list[float]:
        """The last value of each sample that has one."""
        return [run.last[tag][1] for run in self.samples if tag in run.last]

    def by_seed(self, tag: str) -> dict[int, float]:
        """The same, of samples that have a seed: without one, nothing says which two runs are a pair."""
        return {
            run.seed: run.last[tag][1] for run in self.samples if run.seed is not None and tag in run.last
        }

    def mean(self, values: Sequence[float | None]) -> float | None:
        known = [value for value in values if value is not None]
        return sum(known) / len(known) if known else None

    @property
    def _requested(self) -> list[float]:
        known = [run.sparsity.requested for run in self.runs if run.params]
        return [value for value in known if value is not None]

    @property
    def _of_one_sparsity(self) -> bool:
        return not self._requested or max(self._requested) - min(self._requested) <= TOLERANCE

    @property
    def requested(self) -> float | None:
        """None where nobody knows, and of a row of several sparsities: their mean is that of no run."""
        return self.mean(self._requested) if self._of_one_sparsity else None

    @property
    def effective(self) -> float | None:
        return self.mean([run.sparsity.effective for run in self.finished]) if self._of_one_sparsity else None

    @property
    def starts(self) -> set[str]:
        """Checkpoints that its runs are known to have begun with."""
        return {run.start for run in self.runs if run.start}


def same_results(one: RunRecord, other: RunRecord) -> bool:
    """Whatever both have measured is the same, to the last digit.

    Accuracy alone proves nothing: it is a fraction of a few thousand tokens, and two models may share it.
    """
    if one.steps != other.steps:
        return False
    pairs = {
        tag: (one.last[tag][1], other.last[tag][1]) for tag in _TAGS if tag in one.last and tag in other.last
    }
    return any(tag in pairs for tag in _TELLING) and all(
        a == b and math.isfinite(a) for a, b in pairs.values()
    )


def grouped(runs: Sequence[RunRecord], by: Sequence[str] = ()) -> list[Group]:
    """Dense ones first, then by sparsity. With ``by``, runs that agree in these keys alone are a group."""
    settings = [_chosen(run, by) if by else flat(run) for run in runs]
    _tell_levels_apart(runs, settings)
    of: dict[str, Group] = {}
    for run, own in zip(runs, settings, strict=True):
        if not by:
            own.pop(START, None)  # each seed may have its own dense checkpoint
        key = repr(sorted(own.items())) if run.params else run.path
        of.setdefault(key, Group("", own)).runs.append(run)
    groups = [group for whole in of.values() for group in ([whole] if by else _by_start(whole))]
    if by:
        _say_kinds(groups)
    _name(groups)
    _find_baselines(groups)
    return sorted(groups, key=lambda g: (not g.dense, rounded(g.requested or 0.0), g.label))


def unknown_keys(runs: Sequence[RunRecord], by: Sequence[str]) -> list[str]:
    """Those of ``by`` that no config has."""
    return [asked for asked in dict.fromkeys(by) if not any(_chosen(run, [asked]) for run in runs)]


def _chosen(run: RunRecord, by: Sequence[str]) -> Flat:
    """Of every setting, also of those that do not make a configuration: seed, paths, what is only written."""
    names = [newest_name(asked) for asked in by]
    return {
        key: value
        for key, value in (every_setting(run) | flat(run)).items()
        if any(key == name or key.endswith(f".{name}") for name in names)
    }


def _tell_levels_apart(runs: Sequence[RunRecord], settings: Sequence[Flat]) -> None:
    """Adds the sparsity of masks where one file name stands for several: ``masks.safetensors`` says nothing.

    Not the digest of the file: masks of one specification differ where each seed has its own checkpoint.
    """
    levels: dict[str, set[float]] = {}
    for run, own in zip(runs, settings, strict=True):
        if MASKS in own and run.sparsity.requested is not None:
            levels.setdefault(own[MASKS], set()).add(rounded(run.sparsity.requested))
    for run, own in zip(runs, settings, strict=True):
        if len(levels.get(own.get(MASKS, ""), ())) > 1 and run.sparsity.requested is not None:
            own[LEVEL] = rounded(run.sparsity.requested)


def _by_start(group: Group) -> list[Group]:
    """A checkpoint for each seed is one configuration; a seed that began with two of them is two."""
    starts: dict[int, set[str]] = {}
    for run in group.runs:
        if run.start and run.seed is not None:
            starts.setdefault(run.seed, set()).add(run.start)
    if all(len(found) == 1 for found in starts.values()):
        return [group]
    parts: dict[str, Group] = {}
    for run in group.runs:
        own = {START: short(run.start)} if run.start else {}
        parts.setdefault(run.start, Group("", group.settings | own)).runs.append(run)
    return list(parts.values())


def _say_kinds(groups: Sequence[Group]) -> None:
    """Keys that say nothing of masks do not make a row dense."""
    for group in groups:
        if group.sparse:
            group.settings[KIND] = "sparse"
        elif not group.dense:
            group.settings[KIND] = "dense and sparse"


def _name(groups: Sequence[Group]) -> None:
    """By settings; by the directory, where there is no config. What then reads alike gets a number."""
    known = [group for group in groups if group.runs[0].params]
    for group, label in zip(known, labels([group.settings for group in known]), strict=True):
        group.label = label
    seen: dict[str, int] = {}
    for group in groups:
        if not group.runs[0].params:
            path = Path(group.runs[0].path)
            name = f"{path.parent.name}/{path.name}" if _SEED.fullmatch(path.name) else group.runs[0].name
            group.label = " ".join(name.split())
        seen[group.label] = seen.get(group.label, 0) + 1
        if seen[group.label] > 1:
            group.label = f"{group.label} ({seen[group.label]})"


def _find_baselines(groups: Sequence[Group]) -> None:
    """For each sparse configuration, the dense one that is most like it, masks and LoRA aside."""
    dense = [group for group in groups if group.dense]
    for group in groups:
        if group.sparse and dense:
            group.baseline = min(
                dense,
                key=lambda other: (len(apart(group, other)), not group.starts & other.starts, other.label),
            )


def apart(group: Group, baseline: Group) -> dict[str, tuple[Any, Any]]:
    """What differs beside the sparsity and the checkpoint: a comparison of more than one thing."""
    found = differences(group.settings, baseline.settings)
    of_start = (START, *([STATES] if RANDOM in group.starts | baseline.starts else []))
    return {key: pair for key, pair in found.items() if key not in of_start and not _SPARSE.fullmatch(key)}
