"""How many steps, in which rounds, with which checkpoints: arithmetic on ``trainer.init.loop``.

As ModelZoo counts on a CPU or GPU: a step of ``loop`` and of ``checkpoint.steps`` is one batch, also where
``grad_accum_steps`` batches make one step of the optimizer. The CS-3 knows no such batches.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from pruning.problems import Problem, ProblemError

LIMITS = ("num_steps", "max_steps", "num_epochs")


@dataclass(frozen=True, kw_only=True)
class Loop:
    """``trainer.init.loop``, with ModelZoo's defaults."""

    num_steps: int | None = None
    max_steps: int | None = None
    num_epochs: int | None = None
    steps_per_epoch: int | None = None
    eval_frequency: int | float | None = 1.0
    eval_steps: int | None = None
    grad_accum_steps: int = 1


@dataclass
class Stage:
    """One round of training, or one pass over validation data: where a run is, and what is to come."""

    name: str  # train, validate_0, validate_1, ...
    batches: int
    done: int = 0

    @property
    def left(self) -> int:
        return self.batches - self.done


@dataclass(frozen=True)
class Position:
    """Where a run is: what its checkpoints hold, so that it goes on as if it had not been interrupted."""

    phase: str  # which trainer of the config
    first: int  # the global step that it began with
    batches: int  # that it has trained on since
    began: int  # where its pass over the data did: a new round goes back to that

    @staticmethod
    def is_written(value: Any) -> bool:
        if not isinstance(value, dict) or value.keys() != {"phase", "first", "batches", "began"}:
            return False
        numbers = [value[name] for name in ("first", "batches", "began")]
        return type(value["phase"]) is str and all(type(n) is int and n >= 0 for n in numbers)


class NothingLeftError(ProblemError):
    """A run that has all its steps behind it."""

    def __init__(self, where: str, step: int, max_steps: int) -> None:
        what = f"nothing is left to do: step {step} is reached, and max_steps is {max_steps}"
        fix = "raise max_steps; to begin anew with these weights, take another model_dir, and name the "
        fix += "checkpoint with --checkpoint_path and --load_checkpoint_states model"
        super().__init__([Problem(where, what, fix)])
        self.step = step


def limit_problems(loop: Any, where: str) -> Iterator[Problem]:
    """A run that trains needs an end. ``loop`` is the section as it is written, null where it is left out."""
    if not isinstance(loop, dict):
        return
    if all(loop.get(name) is None for name in LIMITS):
        yield Problem(where, f"has none of {', '.join(LIMITS)}", "write one of them, as `max_steps: 100`")
    parts = loop.get("grad_accum_steps", 1)
    for name in ("num_steps", "max_steps"):
        steps = loop.get(name)
        if type(steps) is int and type(parts) is int and 0 < steps < parts:
            what = f"is {steps} batches, and grad_accum_steps: {parts} makes no step of the optimizer of them"
            yield Problem(f"{where}.{name}", what, f"write {parts} or more")


def epoch_problems(loop: Loop, batches_per_epoch: int, where: str) -> list[Problem]:
    """What an epoch of the data is too short for."""
    per_epoch = loop.steps_per_epoch or batches_per_epoch
    shortest = min(per_epoch, batches_per_epoch)
    problems = []
    if per_epoch > batches_per_epoch:
        what = f"is {per_epoch}, and an epoch has {batches_per_epoch} batches"
        problems.append(Problem(f"{where}.steps_per_epoch", what, "lower it, or leave it out"))
    if loop.grad_accum_steps > shortest:
        what = f"is {loop.grad_accum_steps}, more than the {shortest} batches of an epoch"
        problems.append(Problem(f"{where}.grad_accum_steps", what, "lower it, or give more data"))
    return problems


def refuse_nothing_left(
    loop: Loop, first: int, done: int, step: int, where: str = "trainer.init.loop"
) -> None:
    """``first``: the global step that the run began with; ``done``: batches since; ``step``: where it is."""
    if loop.max_steps is not None and loop.max_steps - first <= done:
        raise NothingLeftError(where, step, loop.max_steps)


def total_steps(
    loop: Loop, batches_per_epoch: int, first: int, done: int = 0, where: str = "trainer.init.loop"
) -> int:
    """Batches of the whole run, of which ``done`` are. ``max_steps`` counts them all, the others begin anew.

    ``first`` is the global step that it began with, in steps of the optimizer, as ModelZoo subtracts it.
    """
    per_epoch = loop.steps_per_epoch or batches_per_epoch
    if problems := epoch_problems(loop, batches_per_epoch, where):
        raise ProblemError(problems)
    limits = []
    if loop.num_epochs is not None:
        limits.append(done + loop.num_epochs * (per_epoch // loop.grad_accum_steps))
    if loop.num_steps is not None:
        limits.append(done + loop.num_steps)
    if loop.max_steps is not None:
        limits.append(loop.max_steps - first)
    return min(limits)


def rounds(steps: int, eval_frequency: int | float | None, validates: bool) -> list[int]:
    """Training batches between validations; one round where there is none. A fraction is of ``steps``."""
    if not eval_frequency or not validates:
        return [steps]
    each = (
        math.ceil(eval_frequency * steps) if isinstance(eval_frequency, float) else min(eval_frequency, steps)
    )
    whole, rest = divmod(steps, each)
    return [each] * whole + ([rest] if rest else [])


def left_of(rounds: list[int], done: int) -> list[tuple[int, int]]:
    """The rounds that are not over, by their numbers, and the batches that are left of each.

    One that lacks its validation alone has 0 left.
    """
    found, end = [], 0
    for index, batches in enumerate(rounds):
        end += batches
        if done <= end:
            found.append((index, min(batches, end - done)))
    return found


def checkpoint_batches(
    every: int | None, *, steps: int, elapsed: int, batches: int, is_last: bool
) -> frozenset[int]:
    """The batches of a round, from 0, after which a checkpoint is saved.

    Every so many from the start of the run, and after its very last; at no time where ``every`` is 0 or null.
    ``steps`` are those of the whole run, ``elapsed`` the global steps since it began.
    """
    if not every:
        return frozenset()
    every = min(every, steps)
    found = set(range(every - elapsed % every - 1, batches, every))
    return frozenset(found | {batches - 1}) if is_last else frozenset(found)
