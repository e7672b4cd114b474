"""What a config asks of sparsity, and so what the graph for the compiler must carry."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from cerebras_utils.cszoo_yaml import Phase
from cerebras_utils.vendor_names import with_defaults
from pruning.problems import Problem, ProblemError, fail

CALLBACK = "SparseMaskCallback"


@dataclass(frozen=True, kw_only=True)
class Asked:
    mask_path: str | None = None
    every_step: bool = False  # False with a mask path: applied once, and trained densely from there
    native: bool = False  # a ``sparsity:`` section: the vendor makes the masks, or takes a checkpoint's

    @property
    def words(self) -> str:
        if self.native:
            return "the vendor's own sparsity section"
        if self.mask_path is None:
            return "dense"
        return f"{self.mask_path}, {'every step' if self.every_step else 'once'}"


def asked(phase: Phase) -> Asked:
    """Of one trainer. Raises ``ProblemError`` for what cannot be meant."""
    entries = [given for name, given in callbacks(phase) if name == CALLBACK]
    native = phase.init.get("sparsity") is not None
    if problems := [*_problems(phase, entries, native)]:
        raise ProblemError(problems)
    if not entries:
        return Asked(native=native)
    every_step = bool(entries[0].get("apply_every_step", True))
    return Asked(mask_path=str(entries[0]["mask_path"]), every_step=every_step)


def callbacks(phase: Phase) -> list[tuple[str, dict[str, Any]]]:
    """Name and arguments of each callback that is written; of what is in no form of a callback, a problem."""
    written = phase.init.get("callbacks") or []
    if not isinstance(written, list) or not all(
        isinstance(entry, dict)
        and len(entry) == 1
        and isinstance(next(iter(entry)), str)
        and isinstance(next(iter(entry.values())), dict | None)
        for entry in written
    ):
        raise fail(phase.at("init.callbacks"), "is no list of callbacks", "write a list of `- Name: {}`")
    return with_defaults(written, {})


def _problems(phase: Phase, entries: list[dict[str, Any]], native: bool) -> Iterator[Problem]:
    where = phase.at("init.callbacks")
    if len(entries) > 1:
        yield Problem(
            where, f"holds {len(entries)} of {CALLBACK}", "keep one; it takes all masks from one file"
        )
    if entries and native:
        what = f"stands beside {CALLBACK}, and both set the masks"
        yield Problem(phase.at("init.sparsity"), what, "keep one of them")
    for given in entries:
        if not isinstance(given.get("mask_path"), str):
            yield Problem(where, f"{CALLBACK} has no mask_path", "write mask_path: the file of the masks")
