"""What is wrong with the callbacks and loggers of a config beyond their names and kinds of values."""

import inspect
from collections.abc import Iterator, Mapping
from pathlib import Path

from cerebras_utils.cszoo_yaml import Phase
from cerebras_utils.fallback.checkpoint_reading import unreadable
from cerebras_utils.hooks import Hooks
from cerebras_utils.vendor_names import named_entries, with_defaults
from pruning.problems import Problem
from pruning.registry import suggest

_ONCE = ("keepncheckpoints", "loadcheckpointstates", "tensorboardlogger")


def callback_problems(phase: Phase, ours: Mapping[str, type[Hooks]]) -> Iterator[Problem]:
    yield from _argument_problems(phase, ours)
    yield from _mask_problems(phase)
    yield from _twice(phase)
    yield from _eps_problems(phase)


def _argument_problems(phase: Phase, ours: Mapping[str, type[Hooks]]) -> Iterator[Problem]:
    """Arguments of our own callbacks: what they are called, not what they are."""
    entries = phase.init.get("callbacks")
    for index, entry in enumerate(entries if isinstance(entries, list) else ()):
        if not isinstance(entry, dict) or len(entry) != 1:
            continue
        ((name, arguments),) = with_defaults([entry], {}) or [("", {})]
        if name not in ours:
            continue
        where = phase.where(f"init.callbacks[{index}].{next(iter(entry))}")
        known = inspect.signature(ours[name]).parameters
        for argument in arguments:
            if argument not in known:
                what = f"is no argument of {name}.{suggest(str(argument), list(known))}"
                yield Problem(f"{where}.{argument}", what, f"remove it; known: {', '.join(known)}")
        for argument, about in known.items():
            if about.default is inspect.Parameter.empty and argument not in arguments:
                yield Problem(where, f"lacks {argument!r}", f"write `{argument}:` below it")


def _twice(phase: Phase) -> Iterator[Problem]:
    """Of these, one alone would count."""
    for kind in ("callback", "logger"):
        seen = set()
        for index, written, _ in named_entries(phase.init.get(f"{kind}s")):
            if (name := written.lower()) in _ONCE and name in seen:
                where = phase.where(f"init.{kind}s[{index}].{written}")
                yield Problem(where, "is there already, and one alone would count", "keep one of them")
            seen.add(name)


def _eps_problems(phase: Phase) -> Iterator[Problem]:
    """What a mask drops has neither gradient nor moments: without ``eps``, 0 is divided by 0."""
    entries = named_entries(phase.init.get("callbacks"))
    masked = any(
        name.lower() == "sparsemaskcallback" and arguments.get("apply_every_step", True) is True
        for _, name, arguments in entries
    )
    optimizer = phase.init.get("optimizer")
    for name, given in optimizer.items() if masked and isinstance(optimizer, Mapping) else ():
        eps = given.get("eps") if isinstance(given, Mapping) else None
        if type(eps) in (int, float) and eps == 0:
            what = "is 0, and with masks at every step the update of a dropped weight is 0 / 0, which is NaN"
            yield Problem(
                phase.where(f"init.optimizer.{name}.eps"), what, "write eps: 1.0e-8, or leave it out"
            )


def _mask_problems(phase: Phase) -> Iterator[Problem]:
    """What the SparseMaskCallback is given, and that it stands once: two would prune by both, and log one."""
    entries = phase.init.get("callbacks")
    first = True
    for index, entry in enumerate(entries if isinstance(entries, list) else ()):
        if not isinstance(entry, dict) or len(entry) != 1:
            continue
        ((name, arguments),) = with_defaults([entry], {}) or [("", {})]
        if name != "SparseMaskCallback":
            continue
        where = phase.where(f"init.callbacks[{index}].{next(iter(entry))}")
        if not first:
            yield Problem(where, f"{name} is there already, and cszoo takes each once", "keep one of them")
        first = False
        path, every = arguments.get("mask_path", ...), arguments.get("apply_every_step", True)
        if path is not ... and not (isinstance(path, str) and path):
            yield Problem(f"{where}.mask_path", f"{path!r} is no path", "write `mask_path: FILE`")
        elif path is not ... and (what := unreadable(Path(path))):
            fix = f"name a mask file; relative paths begin at {Path.cwd()}, where the command runs"
            if "cannot" in what:
                fix = "allow reading it and its directory, or name another mask file"
            yield Problem(f"{where}.mask_path: {path}", what, fix)
        if not isinstance(every, bool):  # any text would count as true
            what = f"{every!r} is neither true nor false"
            yield Problem(f"{where}.apply_every_step", what, "write true or false, without quotes")
