"""What a value of a cszoo YAML may be: a test, and how it is said in a message."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Kind:
    says: str
    holds: Callable[[Any], bool]


def _whole(value: Any) -> bool:
    return type(value) is int  # bool is an int, but no number that someone wrote


def _number(value: Any) -> bool:
    return type(value) in (int, float) and value == value and abs(value) != float("inf")


def or_null(kind: Kind) -> Kind:
    return Kind(f"{kind.says}, or null", lambda value: value is None or kind.holds(value))


def one_of(*values: Any) -> Kind:
    return Kind(
        f"one of {', '.join(map(str, values))}", lambda v: any(type(v) is type(w) and v == w for w in values)
    )


BOOL = Kind("true or false", lambda value: type(value) is bool)
TEXT = Kind("text", lambda value: isinstance(value, str) and bool(value))
MAP = Kind("a map", lambda value: isinstance(value, dict))
COUNT = Kind("a whole number above 0", lambda value: _whole(value) and value > 0)
FROM_ZERO = Kind("a whole number from 0", lambda value: _whole(value) and value >= 0)
POSITIVE = Kind("a number above 0", lambda value: _number(value) and value > 0)
FREQUENCY = Kind(
    "a whole number of steps, or a fraction of the run such as 0.5",
    lambda value: (_whole(value) and value >= 0) or (type(value) is float and 0 <= value <= 1),
)
SCALE = Kind('a number above 0 or "dynamic"', lambda value: value == "dynamic" or POSITIVE.holds(value))
LEVEL = Kind(
    "a level such as INFO or DEBUG",
    lambda value: (
        isinstance(value, str)
        and value.upper()
        in ("CRITICAL", "FATAL", "ERROR", "WARNING", "WARN", "INFO", "DEBUG", "VERBOSE", "TRACE")
    ),
)


def _step_name(value: Any) -> bool:
    """What a step can be read back from: a run continues from the step in a file's name."""
    return isinstance(value, str) and value.count("{step}") == 1 and not set("{}/") & set(_without(value))


def _without(name: str) -> str:
    return name.replace("{step}", "")


CHECKPOINT_NAME = Kind("a file name with {step} in it, once and plain, and no other braces", _step_name)
LOCAL = Kind(
    "a directory (S3 is written by ModelZoo alone)",
    lambda value: TEXT.holds(value) and not value.lower().startswith("s3://"),
)


def _states(value: Any) -> bool:
    """ModelZoo compares names as they are written: with a space around, it is another name."""
    names = value.split(",") if isinstance(value, str) else value
    return (
        isinstance(names, list)
        and bool(names)
        and all(isinstance(name, str) and name and name == name.strip() for name in names)
    )


# ModelZoo reads one text and a list alike; a number or null it does not take.
STATES = Kind('"all", or names such as model and optimizer: a list, or with commas and no spaces', _states)
KEYS = Kind(
    "a name or a list of names",
    lambda value: (
        TEXT.holds(value) or (isinstance(value, list) and bool(value) and all(map(TEXT.holds, value)))
    ),
)
