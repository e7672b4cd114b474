"""The kinds of values that options take, and what is said about a wrong one.

No casting: a number in quotes is not a number, and ``true`` is not 1. The one mistake that nobody sees in
the file gets its own message: YAML 1.1, which cszoo reads, takes ``1e-5`` for a string.
"""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from pruning.problems import Problem
from pruning.registry import suggest

_EXPONENT = re.compile(r"([-+]?\d+)(\.\d*)?[eE]([-+]?)(\d+)")


class Kind(Protocol):
    def problems(self, where: str, value: object) -> Iterator[Problem]: ...


@dataclass(frozen=True)
class Number:
    low: float = -math.inf
    high: float = math.inf
    above: float = -math.inf  # where the bound itself is no value: an epsilon of 0

    def problems(self, where: str, value: object) -> Iterator[Problem]:
        if isinstance(value, str):
            yield _text(where, value)
        elif isinstance(value, bool) or not isinstance(value, int | float):
            yield Problem(where, f"{shown(value)} is not a number", "write a number")
        elif not math.isfinite(value):
            yield Problem(where, f"{shown(value)} is not finite", "write a finite number")
        elif not self.low <= value <= self.high or value <= self.above:
            yield Problem(where, f"{value} is out of range", f"write a number {self._range()}")

    def _range(self) -> str:
        if math.isfinite(self.high):
            return f"between {self.low:g} and {self.high:g}"
        return f"above {self.above:g}" if math.isfinite(self.above) else f"of at least {self.low:g}"


@dataclass(frozen=True)
class Whole:
    low: int = 1
    high: int | None = None

    def problems(self, where: str, value: object) -> Iterator[Problem]:
        if isinstance(value, str):
            yield _text(where, value)
        elif isinstance(value, float) and value.is_integer():
            yield Problem(where, f"{value} is not written as a whole number", f"write {int(value)}")
        elif isinstance(value, bool) or not isinstance(value, int):
            yield Problem(where, f"{shown(value)} is not a whole number", "write a whole number")
        elif value < self.low or (self.high is not None and value > self.high):
            bounds = f"of at least {self.low}" if self.high is None else f"between {self.low} and {self.high}"
            yield Problem(where, f"{value} is out of range", f"write a whole number {bounds}")


@dataclass(frozen=True)
class Flag:
    def problems(self, where: str, value: object) -> Iterator[Problem]:
        if not isinstance(value, bool):
            yield Problem(where, f"{shown(value)} is neither true nor false", "write true or false")


@dataclass(frozen=True)
class Choice:
    """One of some names; ``elsewhere`` are those that ModelZoo knows and this backend does not."""

    names: tuple[str, ...]
    elsewhere: tuple[str, ...] = ()

    def problems(self, where: str, value: object) -> Iterator[Problem]:
        if isinstance(value, str) and value in self.names:
            return
        listing = f"use one of: {', '.join(self.names)}"
        if isinstance(value, str) and value in self.elsewhere:
            fix = f"{listing}; or run this configuration with cszoo (--backend cszoo)"
            yield Problem(where, f"{value!r} is known to ModelZoo but not to the torch backend", fix)
        elif isinstance(value, str):
            yield Problem(where, f"{value!r} is not known.{suggest(value, list(self.names))}", listing)
        else:
            yield Problem(where, f"{shown(value)} is not a name", listing)


@dataclass(frozen=True)
class Only:
    """An option of ModelZoo's that the torch backend does not have, with the values that leave it unused."""

    values: tuple[object, ...]
    why: str

    def problems(self, where: str, value: object) -> Iterator[Problem]:
        if not any(type(value) is type(unused) and value == unused for unused in self.values):
            fix = f"set {shown(self.values[0])}, or run this configuration with cszoo (--backend cszoo)"
            yield Problem(where, f"{shown(value)} is not supported by the torch backend: {self.why}", fix)


@dataclass(frozen=True)
class Anything:
    """For options that are read by nothing here."""

    def problems(self, where: str, value: object) -> Iterator[Problem]:
        yield from ()


@dataclass(frozen=True)
class Numbers:
    """A list of numbers."""

    def problems(self, where: str, value: object) -> Iterator[Problem]:
        if isinstance(value, str) or not isinstance(value, Sequence):
            yield Problem(where, f"{shown(value)} is not a list", "write a list of numbers")
            return
        for index, entry in enumerate(value):
            yield from Number(above=0).problems(f"{where}[{index}]", entry)


@dataclass(frozen=True)
class Table:
    """A mapping with known keys, each of its own kind."""

    kinds: Mapping[str, Kind] = field(hash=False)
    required: tuple[str, ...] = ()

    def problems(self, where: str, value: object) -> Iterator[Problem]:
        if not isinstance(value, Mapping):
            fix = f"write keys and values; known keys: {', '.join(self.kinds)}"
            yield Problem(where, f"{shown(value)} is not a mapping", fix)
            return
        for key, entry in value.items():
            if key in self.kinds:
                yield from self.kinds[key].problems(f"{where}.{key}", entry)
            else:
                yield unknown_key(where, key, list(self.kinds))
        for key in self.required:
            if key not in value:
                yield Problem(where, f"{key} is missing", f"set {where}.{key}")


def unknown_key(where: str, key: object, known: list[str]) -> Problem:
    hint = suggest(key, known) if isinstance(key, str) else ""
    return Problem(
        f"{where}.{key}", f"the key is not known.{hint}", f"use one of: {', '.join(sorted(known))}"
    )


def shown(value: object) -> str:
    """A value as YAML would show it."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if value in ({}, []):
        return str(value)
    return repr(value)


def _text(where: str, value: str) -> Problem:
    try:
        number = float(value)
    except ValueError:
        return Problem(where, f"{value!r} is not a number", "write a number")
    if match := _EXPONENT.fullmatch(value):
        digits, fraction, sign, power = match.groups()
        right = f"{digits}{fraction if fraction and fraction != '.' else '.0'}e{sign or '+'}{power}"
        what = (
            f"{value!r} is a string: YAML 1.1 takes an exponent for a number only after a dot and with a sign"
        )
        return Problem(where, what, f"write {right}")
    right = str(int(number)) if number.is_integer() and "." not in value else value.strip()
    return Problem(where, f"{value!r} is a string, not a number", f"write {right} without quotes")
