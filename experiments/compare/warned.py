"""A warning, and what a check is."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from experiments.compare.groups import Group
from experiments.runs.record import RunRecord


@dataclass(frozen=True)
class Warned:
    kind: str
    text: str
    rows: tuple[str, ...] = ()  # labels that it is about


Check = Callable[[Sequence[Group]], Iterator[Warned]]


def pairs(groups: Sequence[Group]) -> Iterator[tuple[Group, RunRecord]]:
    for group in groups:
        for run in group.runs:
            yield group, run
