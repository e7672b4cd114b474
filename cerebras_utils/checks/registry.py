"""What a check is, what it may find, and the table of all of them."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pruning.problems import Problem
from pruning.registry import Registry

if TYPE_CHECKING:
    from cerebras_utils.checks.case import Case

SUBJECTS = (  # the order in which they are made and shown
    *("config", "paths", "checkpoint", "masks", "sparsity", "lora", "schedule", "loop", "data", "estimate"),
)


@dataclass(frozen=True)
class Doubt(Problem):
    """Suspicious, but it may be meant: shown as a warning, and no reason to fail unless asked."""


@dataclass(frozen=True)
class Estimate:
    """A number that nobody measured."""

    where: str
    name: str
    value: float
    text: str  # the number as a sentence
    how: str  # the formula, and what it leaves out


class NotMade(Exception):  # noqa: N818  (no error: the reason why a check has nothing to say)
    """Raised by a check, or by what it asks of its ``Case``: what is missing for it to be made."""


Finding = Problem | Estimate
Check = Callable[["Case"], Iterator[Finding]]


@dataclass(frozen=True)
class Entry:
    name: str  # subject.function
    subject: str
    says: str  # first line of the docstring
    run: Check
    once: bool  # for the file, not for each of its trainers


CHECKS: Registry[Entry] = Registry("check")


def check(subject: str, *, once: bool = False) -> Callable[[Check], Check]:
    """Register a check under ``subject`` and its own name. Its docstring says what it finds, in a line."""
    assert subject in SUBJECTS, subject

    def add(function: Check) -> Check:
        name = f"{subject}.{function.__name__}"
        says = (function.__doc__ or "").strip().splitlines()
        assert says, f"{name} has no docstring"
        CHECKS.register(name)(Entry(name, subject, says[0], function, once))
        return function

    return add
