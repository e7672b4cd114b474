"""ModelZoo's own schema, asked in a process of its own: its import takes seconds and leaves traces."""

import importlib.util
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from cerebras_utils.checks.registry import NotMade
from cerebras_utils.vendor_names import OURS
from pruning.problems import Problem
from pruning.strict_yaml import Document

_SECONDS = 300
_ABSENT = re.compile(r"Path .* does not exist\.$")


@dataclass(frozen=True)
class Answer:
    errors: tuple[Mapping[str, Any], ...]  # of the schema: loc, msg
    known: tuple[str, ...]  # this project's callbacks that a stock cszoo finds here


@cache
def ask(path: str) -> Answer:
    """Raises ``NotMade`` where there is no ModelZoo to ask. Asked once for each file."""
    if not is_installed():
        raise NotMade(
            "ModelZoo is not importable here: the config was compared with this project's tables only"
        )
    with tempfile.TemporaryDirectory() as folder:
        answer = Path(folder) / "answer.json"
        command = [sys.executable, "-W", "ignore", "-m", __name__, path, str(answer)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS)
        except subprocess.TimeoutExpired:
            raise NotMade(f"ModelZoo's schema gave no answer within {_SECONDS} s") from None
        if not answer.exists():
            last = (done.stderr.strip().splitlines() or ["no message"])[-1]
            raise NotMade(f"ModelZoo's schema cannot be asked, its import fails: {last}")
        said = json.loads(answer.read_text())
    return Answer(tuple(said["errors"]), tuple(said["known"]))


def schema_problems(document: Document) -> Iterator[Problem]:
    """One for each place: where a value may be one of several kinds, the schema complains of each."""
    said: dict[str, list[str]] = {}
    for error in ask(document.path).errors:
        messages = said.setdefault(_place(error["loc"], document), [])
        if error["msg"] not in messages:
            messages.append(error["msg"])
    for place, messages in said.items():
        if any(_ABSENT.search(message) for message in messages):
            continue  # what paths.exist says with the nearest name
        fix = "write what the schema asks for; `cszoo config validate` says the same"
        yield Problem(f"{document.path}: {place}", f"ModelZoo's schema: {'; or: '.join(messages)}", fix)


def is_installed() -> bool:
    try:
        return importlib.util.find_spec("cerebras.modelzoo") is not None
    except (ImportError, ValueError):
        return False


def _place(location: Sequence[str | int], document: Document) -> str:
    """The longest part of the schema's path that is in the file: it names types on its way, too.

    The path begins with the number of the trainer, whether there is a list of them or not.
    """
    parts = list(location)
    listed = isinstance(document.value["trainer"], list)
    number = parts.pop(0) if parts and isinstance(parts[0], int) else 0
    key = f"trainer[{number}].trainer" if listed else "trainer"
    for part in parts:
        for longer in (f"{key}[{part}]", f"{key}.{part}"):
            if longer in document.lines:
                key = longer
                break
    return key


def _ask(path: str) -> dict[str, Any]:
    """In the process of its own: what is wrong, as data. This project's callbacks are checked elsewhere."""
    import yaml
    from cerebras.appliance.utils.classes import retrieve_all_subclasses
    from cerebras.modelzoo.trainer.callbacks import Callback
    from cerebras.modelzoo.trainer.validate import validate_trainer_params

    found = {kind.__name__ for kind in retrieve_all_subclasses(Callback)}
    known = [name for name in OURS if name in found]
    params = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    for trainer in params["trainer"] if isinstance(params["trainer"], list) else [params]:
        init = trainer["trainer"]["init"]
        if isinstance(init.get("callbacks"), list):
            init["callbacks"] = [entry for entry in init["callbacks"] if not _is_ours(entry)]
    errors: list[dict[str, Any]] = []
    try:
        validate_trainer_params(params)
    except Exception as error:  # (pydantic's has them one by one; another says what it says)
        said = error.errors() if hasattr(error, "errors") else [{"loc": (), "msg": str(error)}]
        errors = [{"loc": list(one["loc"]), "msg": " ".join(str(one["msg"]).split())} for one in said]
    return {"errors": errors, "known": known}


def _is_ours(entry: Any) -> bool:
    names = {name.lower() for name in OURS}
    return isinstance(entry, Mapping) and any(str(name).lower() in names for name in entry)


if __name__ == "__main__":
    Path(sys.argv[2]).write_text(json.dumps(_ask(sys.argv[1])))
