"""Doubts about what runs began with: their checkpoints, and the masks that were made from these."""

from collections.abc import Iterator, Mapping, Sequence

from experiments.compare.groups import Group
from experiments.compare.warned import Warned
from experiments.runs.record import RANDOM, short


def another_start(groups: Sequence[Group]) -> Iterator[Warned]:
    """A run and its baseline, from two checkpoints or one from none: pruning is not all that differs."""
    for group in groups:
        if group.baseline is None or not group.starts or not group.baseline.starts:
            continue
        ours, theirs = _by_seed(group), _by_seed(group.baseline)
        common = sorted(ours.keys() & theirs.keys())
        differ = {str(seed): (ours[seed], theirs[seed]) for seed in common if not ours[seed] & theirs[seed]}
        if not common and not group.starts & group.baseline.starts:
            differ = {"any": (group.starts, group.baseline.starts)}
        if differ:
            said = "; ".join(f"seed {seed}: {_names(a)}, not {_names(b)}" for seed, (a, b) in differ.items())
            text = f"{group.label} began with another checkpoint than its baseline ({said})"
            if any(RANDOM in one ^ other for one, other in differ.values()):
                text += ": what a checkpoint was trained before counts for one of them alone"
            yield Warned("another checkpoint", text, (group.label,))


def several_starts(groups: Sequence[Group]) -> Iterator[Warned]:
    """Several checkpoints in a row. One for each seed is fine where a row that it is compared with has the
    same: then it is part of the seed."""
    for group in groups:
        if len(group.starts) > 1 and not any(
            _one_for_each_seed(group, other) for other in _beside(group, groups)
        ):
            text = f"the runs of {group.label} began with different checkpoints: {_names(group.starts)}"
            yield Warned("several checkpoints", text, (group.label,))


def _beside(group: Group, groups: Sequence[Group]) -> list[Group]:
    if group.baseline is not None:
        return [group.baseline]
    return [other for other in groups if other.baseline is group]


def _one_for_each_seed(group: Group, other: Group) -> bool:
    ours, theirs = _by_seed(group), _by_seed(other)
    common = ours.keys() & theirs.keys()
    return len(common) > 1 and len(group.starts) == len(ours) and all(ours[s] == theirs[s] for s in common)


def _by_seed(group: Group) -> Mapping[int, set[str]]:
    found: dict[int, set[str]] = {}
    for run in group.runs:
        if run.start and run.seed is not None:
            found.setdefault(run.seed, set()).add(run.start)
    return found


def several_masks(groups: Sequence[Group]) -> Iterator[Warned]:
    """Masks of one name and sparsity, made from one checkpoint, are one file: or their names are no names."""
    for group in groups:
        by_start: dict[str, set[str]] = {}
        for run in group.runs:
            if run.sparsity.sha256:
                by_start.setdefault(run.start, set()).add(run.sparsity.sha256)
        for digests in by_start.values():
            if len(digests) > 1:
                text = f"the runs of {group.label} used different masks of the same name: {_names(digests)}"
                yield Warned("several masks", text, (group.label,))


def _names(digests: set[str]) -> str:
    return ", ".join(sorted(map(short, digests)))
