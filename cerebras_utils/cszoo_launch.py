"""Calling cszoo in this very process, with this project's callbacks known to it."""

import importlib.util
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from cerebras_utils.register import register
from pruning.problems import Problem, ProblemError

_CHILD = "cerebras_utils.cszoo_child"
_DISTRIBUTION = "cerebras_modelzoo"


def modelzoo_version() -> str:
    try:
        return version(_DISTRIBUTION)
    except PackageNotFoundError:
        return "of an unknown version"


def launch(arguments: Sequence[str]) -> Any:
    """``cszoo ARGUMENTS``. Returns the object that has written the receipts of its runs.

    What this project's callbacks find wrong is raised as it is, and what ModelZoo's schema finds as
    problems; every other error is ModelZoo's own.
    """
    register()
    from cerebras.modelzoo.cli.main import main

    from cerebras_utils.cszoo_callbacks import watch_runs

    receipts = watch_runs()
    with _as_program(["cszoo", *arguments]):
        try:
            main()
        except Exception as error:
            _raise_problems(error, arguments[1])
            raise
    return receipts


@contextmanager
def _as_program(words: list[str]) -> Iterator[None]:
    """cszoo reads ``sys.argv``, and what it spawns imports the main module, which must know the callbacks."""
    main_module: Any = sys.modules["__main__"]
    before = sys.argv, getattr(main_module, "__spec__", None)
    sys.argv, main_module.__spec__ = words, importlib.util.find_spec(_CHILD)
    try:
        yield
    finally:
        sys.argv, main_module.__spec__ = before


def _raise_problems(error: BaseException, config: str) -> None:
    while True:
        if isinstance(error, ProblemError):
            raise error
        if type(error).__name__ == "ValidationError" and hasattr(error, "errors"):
            raise ProblemError(_of_schema(error, config)) from None
        if error.__cause__ is None:
            return
        error = error.__cause__


def _of_schema(error: Any, config: str) -> Iterator[Problem]:
    for entry in error.errors():
        where = ".".join(str(part) for part in entry["loc"])
        fix = "mend the value; `wafersparse doctor` says more"
        yield Problem(f"{config}: {where}", f"ModelZoo refuses it: {entry['msg']}", fix)
