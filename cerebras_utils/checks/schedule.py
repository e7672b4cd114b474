"""The learning rate that a run really has: schedules against the number of its steps."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from cerebras_utils.checks.case import Case, number, section
from cerebras_utils.checks.registry import Doubt, Finding, NotMade, check
from pruning.problems import Problem

_SLACK = 0.01  # of its length: a schedule that was rounded, or shared with a run of another batch size


@dataclass(frozen=True)
class Piece:
    """One schedule with the optimizer step at which it begins; ``length`` None: it goes on for ever."""

    key: str
    kind: str  # constantlr, linearlr, cosinedecaylr
    first: float
    last: float
    start: int
    length: int | None

    def rate(self, step: int) -> float:
        """At an optimizer step of the run, from 0."""
        if not self.length:
            return self.last
        done = min(1.0, max(0, step - self.start) / self.length)
        if self.kind == "cosinedecaylr":
            return 0.5 * (1 + math.cos(math.pi * done)) * (self.first - self.last) + self.last
        return self.first + (self.last - self.first) * done

    @property
    def end(self) -> float:
        return math.inf if self.length is None else self.start + self.length


def timelines(case: Case) -> list[list[Piece]]:
    """For each learning rate the schedules one after the other; those with an unknown form are left out."""
    written = case.init.get("schedulers")
    if not isinstance(written, list) or not written:
        raise NotMade("the config has no schedulers")
    found = []
    for index, entry in enumerate(written):
        key, (kind, given) = f"init.schedulers[{index}]", _named(entry)
        while kind == "scaleperparamlr":
            key, (kind, given) = f"{key}.{_name(entry)}.scheduler", _named(given.get("scheduler"))
            entry = given
        inner = given.get("schedulers") if kind == "sequentiallr" else None
        if isinstance(inner, list):
            keys = [f"{key}.{_name(entry)}.schedulers[{i}]" for i in range(len(inner))]
            pieces = _chain(inner, keys)
        else:
            pieces = _chain([{kind: given}], [key], _name(entry))
        if pieces:
            found.append(pieces)
    if not found:
        raise NotMade("the schedules are none of ConstantLR, LinearLR, CosineDecayLR and chains of them")
    return found


@check("schedule")
def warm_up(case: Case) -> Iterator[Finding]:
    """A warm-up that is longer than the run: the learning rate is never reached."""
    for piece in _pieces(case):
        if piece.last > piece.first and piece.start < case.steps < piece.end:
            reached = piece.rate(case.steps)
            what = f"warm-up of {piece.length} steps{_from(piece)} in a run of {case.steps}: "
            what += f"the learning rate peaks at {reached:.1e}, not {piece.last:.1e}"
            fix = f"set total_iters to at most {case.steps - piece.start}, or raise {_limit(case)}"
            yield Problem(case.where(f"{piece.key}.total_iters"), what, fix)


@check("schedule")
def never_begins(case: Case) -> Iterator[Finding]:
    """A decay, or any other schedule, that begins after the last step."""
    for pieces in timelines(case):
        for before, piece in pairwise(pieces):
            if piece.start < case.steps or piece.first == piece.last == before.last:
                continue  # a rate that is held after the end changes nothing
            what = f"begins at step {piece.start}, and the run has {case.steps}: the learning rate never "
            fix = f"shorten the schedules before it, or raise {_limit(case)} above {piece.start}"
            if piece.first == piece.last:
                yield Doubt(case.where(piece.key), f"{what}becomes {piece.last:.1e}", fix)
            else:
                does = "decays" if piece.last < piece.first else "rises"
                what += f"{does} from {piece.first:.1e} to {piece.last:.1e}"
                yield Problem(case.where(piece.key), what, fix)


@check("schedule")
def cut_short(case: Case) -> Iterator[Finding]:
    """`total_iters` beyond the end: the decay stops on its way."""
    for piece in _pieces(case):
        if piece.last < piece.first and piece.length and piece.start < case.steps < piece.end:
            left = piece.end - case.steps
            if left <= max(1, _SLACK * piece.length):
                continue
            reached = piece.rate(case.steps)
            what = f"decay of {piece.length} steps{_from(piece)} in a run of {case.steps}: "
            what += f"it stops at {reached:.1e}, not {piece.last:.1e}"
            fix = f"set total_iters to {case.steps - piece.start}, or raise {_limit(case)}"
            hardly = reached > 0.9 * piece.first
            yield (Problem if hardly else Doubt)(case.where(f"{piece.key}.total_iters"), what, fix)


@check("schedule")
def zero(case: Case) -> Iterator[Finding]:
    """A learning rate of zero throughout, or for a part of the run after the schedules have ended."""
    for pieces in timelines(case):
        within = [piece for piece in pieces if piece.start < case.steps]
        ends = [min(case.steps, piece.end) for piece in within]
        highest = max(
            max(piece.rate(piece.start), piece.rate(int(end)))
            for piece, end in zip(within, ends, strict=True)
        )
        final = pieces[-1]
        idle = case.steps - final.end
        if highest <= 0:
            what = f"is 0 throughout the {case.steps} steps of the run: nothing is learned"
            yield Problem(
                case.where(pieces[0].key), f"the learning rate {what}", "write the rate that is meant"
            )
        elif final.last == 0 and idle > max(1, _SLACK * case.steps):
            what = (
                f"the learning rate is 0 from step {int(final.end)} on, for {int(idle)} of {case.steps} steps"
            )
            fix = f"set total_iters to {case.steps - final.start}, or {_limit(case)} to {int(final.end)}"
            yield Problem(case.where(f"{final.key}.total_iters"), what, fix)


@check("schedule")
def jumps(case: Case) -> Iterator[Finding]:
    """A schedule that does not begin where the one before it ends."""
    for pieces in timelines(case):
        for one, other in pairwise(pieces):
            low, high = sorted((one.last, other.first))
            if other.start < case.steps and high > 1.5 * low and high > 0:
                what = f"begins at {other.first:.1e}, and the one before it ends at {one.last:.1e}"
                yield Doubt(case.where(other.key), what, "let one begin where the other ends")


@check("schedule")
def no_rate(case: Case) -> Iterator[Finding]:
    """Neither a schedule nor a learning rate: the vendor's default is used, without a word."""
    if "fit" not in case.phase.params:
        raise NotMade("the config does not train: it has no `fit:`")
    optimizer = case.init.get("optimizer")
    if case.init.get("schedulers") or not isinstance(optimizer, Mapping) or len(optimizer) != 1:
        return
    ((name, given),) = optimizer.items()
    if not (isinstance(given, Mapping) and ({"lr", "learning_rate"} & given.keys())):
        what = "has no learning_rate, and there are no schedulers: the vendor's default is used throughout"
        yield Doubt(case.where(f"init.optimizer.{name}"), what, "write `schedulers:`, or `learning_rate:`")


def _pieces(case: Case) -> list[Piece]:
    found = [piece for pieces in timelines(case) for piece in pieces]
    assert case.steps  # unknown: not made
    return found


def _chain(entries: list[Any], keys: list[str], name: str = "") -> list[Piece]:
    pieces: list[Piece] = []
    start = 0
    for index, (entry, key) in enumerate(zip(entries, keys, strict=True)):
        kind, given = _named(entry)
        constant = number(given.get("learning_rate"))
        first = constant if kind == "constantlr" else number(given.get("initial_learning_rate"))
        last = constant if kind == "constantlr" else number(given.get("end_learning_rate"))
        length = number(given.get("total_iters"))
        known = kind in ("constantlr", "linearlr", "cosinedecaylr")
        if not known or first is None or last is None or (length is None and kind != "constantlr"):
            return pieces  # what follows begins at an unknown step
        alone = index == len(entries) - 1
        whole = None if length is None or (kind == "constantlr" and alone) else int(length)
        pieces.append(Piece(f"{key}.{name or _name(entry)}", kind, first, last, start, whole))
        if whole is None:
            return pieces
        start += whole
    return pieces


def _named(entry: Any) -> tuple[str, Mapping[str, Any]]:
    if isinstance(entry, Mapping) and len(entry) == 1:
        ((name, given),) = entry.items()
        if isinstance(given, Mapping):
            return str(name).lower(), given
    return "", {}


def _name(entry: Any) -> str:
    return str(next(iter(entry), "")) if isinstance(entry, Mapping) else ""


def _from(piece: Piece) -> str:
    return f" from step {piece.start}" if piece.start else ""


def _limit(case: Case) -> str:
    loop = section(case.init, "loop")
    name = next((key for key in ("max_steps", "num_steps", "num_epochs") if loop.get(key)), "max_steps")
    return f"trainer.init.loop.{name}"
