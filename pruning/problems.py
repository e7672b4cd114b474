"""What is wrong, said once: where, what, and the one edit or command that fixes it."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Problem:
    where: str  # file, and the key or tensor in it
    what: str  # the fact, with the value found
    fix: str  # one edit or one command


class ProblemError(ValueError):
    """The user's mistakes, all of them at once. The command line prints this and exits with 1."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(problems)
        assert self.problems, "an error without a problem"
        super().__init__("\n".join(_lines(self.problems)))

    def __reduce__(self) -> tuple[Any, ...]:
        """Processes hand errors to each other pickled, and an exception on its own pickles its text alone."""
        return _told, (type(self), self.problems), self.__dict__


def fail(where: object, what: str, fix: str) -> ProblemError:
    """``raise fail(...)``: the common case of a single problem."""
    return ProblemError([Problem(str(where), what, fix)])


def _told(kind: type[ProblemError], problems: tuple[Problem, ...]) -> ProblemError:
    """Whatever the arguments are that a subclass is made with."""
    error = kind.__new__(kind)
    ProblemError.__init__(error, problems)
    return error


def _lines(problems: tuple[Problem, ...]) -> Iterable[str]:
    for number, problem in enumerate(problems, 1):
        yield f"{number}. {problem.where}" if len(problems) > 1 else problem.where
        yield f"   {problem.what}"
        yield f"   fix: {problem.fix}"
