"""Whether the Cerebras software that a trace needs is here, and is the release that it was made for."""

import importlib.metadata
import os
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

from cerebras_utils.register import modelzoo_is_here
from pruning.problems import Problem, ProblemError

TESTED = "2.10.0"
LOWERING = "torch-cirh-opt"
MODELZOO, OWN = "modelzoo", "own"
_DISTRIBUTIONS = {"cerebras-pytorch": "cerebras-pytorch", "ModelZoo": "cerebras_modelzoo"}


@dataclass(frozen=True)
class Software:
    through: str  # whose model is traced: MODELZOO or OWN
    path: str  # PATH, on which ``torch-cirh-opt`` is
    notes: tuple[str, ...]

    @property
    def words(self) -> str:
        whose = f"ModelZoo {version('ModelZoo')}" if self.through == MODELZOO else "wafersparse's own model"
        return f"{whose} on cerebras-pytorch {version('cerebras-pytorch')}"


def software(asked: str | None = None) -> Software:
    """What is here, for a trace through ``asked`` (None: ModelZoo where it is). Imports none of it."""
    here = modelzoo_is_here()
    through = asked or (MODELZOO if here else OWN)
    problems = [p for p in (_release("cerebras-pytorch"), _release("ModelZoo") if here else None) if p]
    if through == MODELZOO and not here and not problems:
        what = "is not importable by this Python"
        fix = f"install ModelZoo {TESTED} (pip install -e of its repository), or trace with --through {OWN}"
        problems.append(Problem("ModelZoo", what, fix))
    path = os.environ.get("PATH", os.defpath)
    notes: tuple[str, ...] = ()
    if shutil.which(LOWERING, path=path) is None:
        beside = Path(sys.executable).parent
        if shutil.which(LOWERING, path=str(beside)) is None:
            if version("cerebras-pytorch") is not None:
                what = f"is neither on PATH nor beside {sys.executable}"
                fix = f"pip install cerebras-pytorch=={TESTED} into this environment anew, and activate it"
                problems.append(Problem(LOWERING, what, fix))
        else:
            path = os.pathsep.join((str(beside), path))
            notes = (f"{LOWERING} is not on PATH: using {beside / LOWERING}, beside the running Python",)
    if problems:
        raise ProblemError(problems)
    return Software(through, path, notes)


def version(name: str) -> str | None:
    """Of ``cerebras-pytorch`` or ``ModelZoo``; None: not installed, or not as a distribution."""
    try:
        return importlib.metadata.version(_DISTRIBUTIONS[name])
    except importlib.metadata.PackageNotFoundError:
        return None


def _release(name: str) -> Problem | None:
    found = version(name)
    if found == TESTED:
        return None
    if found is not None:
        what = f"is {found}; the trace stops it at places of its inside, which were tested with {TESTED}"
        return Problem(name, what, f"trace in an environment with {name} {TESTED}")
    if name == "ModelZoo":
        return None  # on the path without being installed: says no release of its own
    what = "is not installed in this Python's environment"
    fix = f"pip install cerebras-pytorch=={TESTED} (Linux x86-64, Python 3.11), and trace with its Python"
    return Problem(name, what, fix)
