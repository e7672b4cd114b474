"""What a key of an optimizer or a scheduler may hold, and what is wrong with what it holds."""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pruning.problems import Problem
from pruning.registry import suggest

Check = Callable[[Any], str]  # what is expected instead of the value; "" where the value is fine


@dataclass(frozen=True)
class Field:
    check: Check
    default: Any = None
    required: bool = False


def number(low: float = 0.0, high: float = math.inf, *, below: float = math.inf) -> Check:
    """``low <= value <= high`` and ``value < below``, finite."""

    def check(value: Any) -> str:
        if isinstance(value, bool) or not isinstance(value, int | float):
            return "a number"
        if not math.isfinite(value):
            return "a finite number"
        if value < low or value > high or value >= below:
            top = f"below {below:g}" if below < math.inf else f"to {high:g}" if high < math.inf else "or more"
            return f"a number of {low:g} {top}"
        return ""

    return check


RATE = number(0.0, 10.0)  # of learning or decay; beyond it, a slip of the exponent


def count(low: int = 0) -> Check:
    """An integer, also one that YAML gives as a float because it was written ``1.0e3``."""

    def check(value: Any) -> str:
        whole = isinstance(value, int) or (isinstance(value, float) and value.is_integer())
        return (
            "" if whole and not isinstance(value, bool) and value >= low else f"an integer of {low} or more"
        )

    return check


def flag(value: Any) -> str:
    return "" if isinstance(value, bool) else "true or false"


def pair_of(check: Check) -> Check:
    def checked(value: Any) -> str:
        if isinstance(value, list | tuple) and len(value) == 2:
            wrong = [what for what in map(check, value) if what]
            return f"a list of two, each {wrong[0]}" if wrong else ""
        return "a list of two numbers"

    return checked


def optional(check: Check) -> Check:
    return lambda value: "" if value is None else check(value)


def tags(value: Any) -> str:
    """``param_group_tags``: a tag, or several; None among them stands for the groups without any."""
    if value is None or isinstance(value, str):
        return ""
    if isinstance(value, list) and value and all(tag is None or isinstance(tag, str) for tag in value):
        return "" if len(set(value)) == len(value) else "a list without duplicates"
    return "a tag or a list of tags"


def single(section: Any, where: str, kind: str, example: str) -> tuple[str, dict[str, Any]] | Problem:
    """Name and settings of ``{Name: {key: value}}``, the form in which cszoo names one of several things."""
    if not isinstance(section, Mapping) or len(section) != 1 or not all(isinstance(n, str) for n in section):
        found = ", ".join(map(str, section)) if isinstance(section, Mapping) else repr(section)
        return Problem(
            where, f"holds {found or 'nothing'} where one {kind} is expected", f"write it as {example}"
        )
    ((name, settings),) = section.items()
    if not isinstance(settings, Mapping):
        fix = f"write `{name}: {{}}` if the defaults are meant" if settings is None else f"write {example}"
        return Problem(f"{where}.{name}", f"its settings are {settings!r}, not keys and values", fix)
    return name, {str(key): value for key, value in settings.items()}


def lookup(
    name: str, known: Mapping[str, Any], vendors: tuple[str, ...], where: str, kind: str
) -> str | Problem:
    """The known name that ``name`` is in another case, as cszoo looks it up."""
    for proper in known:
        if proper.lower() == name.lower():
            return proper
    listed = ", ".join(known)
    if name.lower() in map(str.lower, vendors):
        return Problem(
            where,
            f"the {kind} {name} is cszoo's, and is not implemented on plain PyTorch",
            f"use one of {listed}, or run with --backend cszoo",
        )
    return Problem(where, f"unknown {kind} {name!r}.{suggest(name, [*known])}", f"use one of {listed}")


def field_problems(settings: Mapping[str, Any], fields: Mapping[str, Field], where: str) -> Iterator[Problem]:
    """Unknown keys, keys that are missing, and values that cannot be."""
    for key, value in settings.items():
        if key not in fields:
            what = f"unknown key, with the value {value!r}.{suggest(key, [*fields])}"
            yield Problem(f"{where}.{key}", what, f"remove it, or use one of {', '.join(fields)}")
        elif expected := fields[key].check(value):
            yield Problem(f"{where}.{key}", f"is {value!r}, not {expected}", _fix(value, expected))
    for key, field in fields.items():
        if field.required and key not in settings:
            yield Problem(f"{where}.{key}", "is missing", f"add {key}: {field.check(object())}")


def filled(settings: Mapping[str, Any], fields: Mapping[str, Field]) -> dict[str, Any]:
    return {key: settings.get(key, field.default) for key, field in fields.items()}


def _fix(value: Any, expected: str) -> str:
    """The one trap that YAML 1.1 sets for numbers is named: without a dot, ``1e-5`` is a text."""
    texts = [value] if isinstance(value, str) else value if isinstance(value, list) else []
    for text in texts:
        try:
            written = repr(float(text)) if isinstance(text, str) else ""
        except ValueError:
            continue
        if written:
            mantissa, _, exponent = written.partition("e")
            if exponent:
                written = f"{mantissa if '.' in mantissa else mantissa + '.0'}e{exponent}"
            return (
                f"write {written}: YAML 1.1 reads {text} as a text"
                if "e" in text.lower()
                else (f"write {written} without quotes")
            )
    return f"write {expected}"
