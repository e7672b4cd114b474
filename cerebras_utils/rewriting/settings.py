"""``--set key.path=value`` on the values of a trainer: changed where it is there, made where it is known."""

import re
from collections.abc import Iterator
from typing import Any

from cerebras_utils.rewriting.request import Setting
from cerebras_utils.trainer_keys import DATALOADERS, INIT, SECTIONS
from cerebras_utils.yaml_values import in_flow, same
from pruning.problems import Problem, ProblemError, fail
from pruning.registry import suggest

_STEP = re.compile(r"\[(\d+)\]|([^.\[\]]+)")
_PATH = re.compile(r"[^.\[\]]+(\.[^.\[\]]+|\[\d+\])*")
_ONE_NAME = ("callbacks", "loggers", "schedulers")  # lists whose items are one name with its arguments


def apply_settings(params: dict[str, Any], settings: tuple[Setting, ...], where: str) -> list[str]:
    """Change ``params``, what stands below a ``trainer:``. Returns a line for each setting that needs one.

    A key that no trainer knows is found by whoever checks the result (``cszoo_yaml.config_problems``); here
    it is only made. In a model or a data processor, whose keys are not known here, only an existing map takes
    a new key, and a line says that nothing has checked its name.
    """
    lines: list[str] = []
    problems: list[Problem] = []
    for setting in settings:
        try:
            lines += _apply(params, setting, where)
        except ProblemError as error:
            problems += error.problems
    if problems:
        raise ProblemError(problems)
    return lines


def _apply(params: dict[str, Any], setting: Setting, where: str) -> Iterator[str]:
    steps: list[str] = []
    for found in _STEP.finditer(setting.key):
        steps.append(found[1] or found[2])
    if _PATH.fullmatch(setting.key) is None:
        raise fail(f"--set {setting.key}", "is no path of keys", "write it as in init.loop.max_steps")
    at: Any = params
    done: list[str] = []
    while True:
        name, rest = _next(at, steps, done, setting)
        done.append(str(name))
        if not rest:
            break
        if isinstance(at, dict) and at.get(name) is None:
            _may_be_made(at, str(name), done, setting)
            at[name] = {}
        at, steps = at[name], rest
    full = f"{where}.{'.'.join(done)}"
    is_new = isinstance(at, dict) and name not in at
    if is_new:
        _one_name(at, done, setting)
        if not _known(done):
            meant = suggest(str(name), list(map(str, at)))
            yield f"{full} is new, and its name is checked by cszoo alone.{meant}"
    elif same(at[name], setting.value):
        yield f"--set {setting.key} has no effect: it is {in_flow(at[name])} already"
    at[name] = setting.value


def _next(at: Any, steps: list[str], done: list[str], setting: Setting) -> tuple[Any, list[str]]:
    """The key or index that the next steps name: some keys have points in them."""
    here = f"--set {setting.key}"
    if isinstance(at, list):
        if not steps[0].isdigit():
            names = [next(iter(item), "") for item in at if isinstance(item, dict)]
            held = f" of {', '.join(map(str, names))}" if names else ""
            raise fail(
                here, f"{'.'.join(done)} is a list{held}", f"say which item by its index: {'.'.join(done)}.0"
            )
        if int(steps[0]) >= len(at):
            raise fail(here, f"{'.'.join(done)} has {len(at)} items", f"use an index from 0 to {len(at) - 1}")
        return int(steps[0]), steps[1:]
    if not isinstance(at, dict):
        raise fail(
            here, f"{'.'.join(done)} is {in_flow(at)}, and has no keys", f"end the path at {'.'.join(done)}"
        )
    for end in range(len(steps), 0, -1):
        name = ".".join(steps[:end])
        for key in at:
            if str(key) == name:
                return key, steps[end:]
    if any(str(key).startswith("csx.") for key in at) or steps[0] == "csx":
        return ".".join(steps), []
    return steps[0], steps[1:]


def _may_be_made(at: dict[Any, Any], name: str, done: list[str], setting: Setting) -> None:
    """A map on the way to the key; where nothing says that it belongs there, it is a mistake."""
    known = {1: ["init", *DATALOADERS], 2: list(INIT) if done[0] == "init" else []}.get(len(done), [])
    if name in at or name in known:
        return
    parent = ".".join(done[:-1]) or "a trainer"
    known = list(dict.fromkeys([*map(str, at), *known]))
    what = f"there is no {name!r} in {parent}.{suggest(name, known)}"
    raise fail(f"--set {setting.key}", what, f"known there: {', '.join(known) or 'nothing'}")


def _known(done: list[str]) -> bool:
    """Whether ``config_problems`` knows what may stand at this place: an unknown name is then its error."""
    if len(done) == 1 or (len(done) == 2 and done[0] in ("init", *DATALOADERS)):
        return True
    return len(done) == 3 and done[0] == "init" and done[1] in SECTIONS and done[1] in INIT


def _one_name(at: dict[Any, Any], done: list[str], setting: Setting) -> None:
    parent = done[:-1]
    in_list = len(parent) >= 2 and parent[-1].isdigit() and parent[-2] in _ONE_NAME
    if at and (parent == ["init", "optimizer"] or in_list):
        held = next(iter(at))
        what = f"{'.'.join(parent)} holds one name, {held}.{suggest(done[-1], [str(held)])}"
        raise fail(f"--set {setting.key}", what, f"set a key below it: {'.'.join(parent)}.{held}.{done[-1]}")
