"""What the page is about: rows and runs with the names, numbers and styles that every part of it shares."""

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from experiments.compare.findings import Warned
from experiments.compare.groups import Group
from experiments.compare.labels import labels
from experiments.compare.metrics import Metric, rounded
from experiments.compare.overlap import MaskOverlaps
from experiments.compare.table import Row, columns
from experiments.report.styles import Style, styles
from experiments.runs.record import RunRecord

_TOLD = ("baseline", "worse by", "vs dense", "samples/s", "FLOPs (est.)", "time")  # of a row, in its tooltip


@dataclass(frozen=True)
class Study:
    rows: Sequence[Row]
    metrics: Sequence[Metric]
    warnings: Sequence[Warned]
    overlaps: MaskOverlaps

    @cached_property
    def runs(self) -> list[tuple[int, RunRecord]]:
        """Every run with the number of its row."""
        return [(number, run) for number, row in enumerate(self.rows) for run in row.group.runs]

    @cached_property
    def families(self) -> list[str]:
        """For each row, the name of what it has in common with the others of its curve."""
        named: dict[str, str] = {}
        keys = [_key(row.group) for row in self.rows]
        distinct = {key: row.group for key, row in zip(keys, self.rows, strict=True)}
        for key, label in zip(distinct, labels([group.family for group in distinct.values()]), strict=True):
            name = label if distinct[key].runs[0].params else distinct[key].label
            taken = sum(other == name or other.startswith(f"{name} (") for other in named.values())
            named[key] = f"{name} ({taken + 1})" if taken else name
        return [named[key] for key in keys]

    def sparsity(self, row: int) -> float | None:
        """Of a row, rounded to what tells masks apart; None where nobody knows it."""
        found = sparsity_of(self.rows[row].group)
        return rounded(found[0]) if found is not None and math.isfinite(found[0]) else None

    @cached_property
    def styles(self) -> Mapping[str, Style]:
        return styles(self.families)

    def style(self, row: int) -> Style:
        return self.styles[self.families[row]]

    def legend_of(self, rows: Sequence[int]) -> dict[str, Style]:
        return {self.families[row]: self.style(row) for row in sorted(set(rows))}

    def tip(self, row: Row) -> str:
        """What a pointer on a row's mark is told: the cells of the table that are not empty."""
        said = [row.group.label, f"sparsity: {sparsity_said(row.group)}"]
        for head, cell in columns(self.metrics).items():
            metric = any(head.startswith(f"{m.name} ") for m in self.metrics)
            if (metric or head in _TOLD) and (value := cell(row)):
                said.append(f"{head}: {value}")
        n = row.group.n
        return "\n".join([*said, f"{n} seed{'s' if n != 1 else ''}, {row.state}"])

    @cached_property
    def places(self) -> list[str]:
        """Paths of the runs, without what all of them have in common."""
        paths = [run.path for _, run in self.runs]
        if len(paths) < 2:
            return paths
        common = os.path.commonpath(paths) if all(map(os.path.isabs, paths)) else ""
        return [os.path.relpath(path, common) if common not in ("", "/") else path for path in paths]

    def name_of(self, run: RunRecord) -> str:
        return self._names[id(run)]

    @cached_property
    def _names(self) -> dict[int, str]:
        return {id(run): name for (_, run), name in zip(self.runs, self.run_names, strict=True)}

    @cached_property
    def run_names(self) -> list[str]:
        """A run for a reader: its configuration, its seed, and where it lies."""
        return [
            " · ".join(
                [
                    self.rows[row].group.label,
                    *([] if run.seed is None else [f"seed {run.seed}"]),
                    place,
                ]
            )
            for (row, run), place in zip(self.runs, self.places, strict=True)
        ]


def sparsity_of(group: Group) -> tuple[float, bool] | None:
    """Where a row stands, and whether that was counted. Without masks it stands at 0: nothing is to count."""
    if group.effective is not None:
        return group.effective, True
    return None if group.requested is None else (group.requested, group.requested == 0)


def sparsity_said(group: Group) -> str:
    found = sparsity_of(group)
    if found is None:
        return "not known"
    value, counted = found
    return f"{100 * value:.2f} %{'' if counted else ', asked for but not counted'}"


def _key(group: Group) -> str:
    return repr(sorted(group.family.items())) if group.runs[0].params else group.label
