"""A cszoo config with masks, and LoRA if asked for, in it, and otherwise as it was.

``create_sparse_config`` does it on dictionaries, ``rewrite`` on the text of a file. The text is changed
where the values change; every other line, comment, anchor and number stays as someone wrote it.
"""

import difflib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cerebras_utils.rewriting.checkpoint import checkpoint_problems, optimizer_problem
from cerebras_utils.rewriting.header import header_lines, with_header
from cerebras_utils.rewriting.intended import intended, new_problems, unshared
from cerebras_utils.rewriting.request import SPARSE_TO_SPARSE, Request, read_masks
from cerebras_utils.yaml_edit import edited
from pruning.atomic import Part
from pruning.problems import Problem, ProblemError, fail
from pruning.strict_yaml import Document, parse_yaml


@dataclass(frozen=True)
class Rewritten:
    path: str  # of the base
    before: str
    text: str
    value: Any
    lines: tuple[str, ...]  # what was set right, and what should be known

    def diff(self, target: str) -> list[str]:
        """Unified, without line ends."""
        return list(
            difflib.unified_diff(
                self.before.splitlines(), self.text.splitlines(), self.path, target, n=2, lineterm=""
            )
        )


def create_sparse_config(
    base_config: Mapping[str, Any],
    mask_path: str | os.PathLike[str],
    lora_config: Mapping[str, Any] | None = None,
    sparse_mode: str = SPARSE_TO_SPARSE,
) -> dict[str, Any]:
    """A deep copy of ``base_config`` with the masks, and LoRA if given, among its callbacks.

    ``lora_config`` takes what ModelZoo's ``Lora`` takes: r, alpha, dropout, target_modules. The mask file
    is read and its path written absolute. Raises ``ProblemError`` for a config that is none of cszoo's, one
    with a `sparsity` of its own, and whatever else would go wrong later.
    """
    if not isinstance(base_config, Mapping):
        what = f"is a {type(base_config).__name__}, not a config"
        raise fail("base_config", what, "give the dictionary that yaml.safe_load makes of a cszoo YAML")
    lora = None if lora_config is None else dict(unshared(dict(lora_config)))
    request = Request(masks=read_masks(mask_path), mode=sparse_mode, lora=lora, phase="all")
    base = Document("base_config", unshared(dict(base_config)), {}, ())
    value, _ = intended(base, request)
    assert isinstance(value, dict)
    return value


def rewrite(path: str | Path, text: str, request: Request, command: str) -> Rewritten:
    """``text``, what is in ``path``, as ``request`` asks. ``command`` is what the header says of it.

    Everything wrong is collected and raised at once; the result is parsed as cszoo parses it and compared
    with what was meant.
    """
    base = parse_yaml(text, str(path))
    value, lines = intended(base, request)
    said = checkpoint_lines(value, base, request)
    headed = with_header(text, header_lines(command, request.masks))
    new, result = edited(headed, value, base)
    if problems := new_problems(base, result):
        raise ProblemError(problems)
    return Rewritten(str(path), text, new, value, (*lines, *said))


def checkpoint_lines(value: Any, base: Document, request: Request) -> list[str]:
    """Look into the checkpoint that is given; with LoRA into those of the config, where they are here."""
    problems: list[Problem] = []
    lines: list[str] = []
    trains_lora = request.lora is not None
    if request.checkpoint is not None and request.groups is None:
        try:
            problems, lines = checkpoint_problems(request.checkpoint, request.masks, lora=trains_lora)
        except ProblemError as error:
            problems = list(error.problems)
    elif trains_lora:
        trainers = value["trainer"] if isinstance(value["trainer"], list) else [value]
        for trainer in trainers:
            named = (trainer["trainer"].get("fit") or {}).get("ckpt_path")
            if isinstance(named, str) and Path(named).is_file():
                problems += _optimizer(named)
    if problems:
        raise ProblemError([base.locate(problem) for problem in problems])
    return lines


def read_text(path: Path) -> str:
    """Every character as it is, line ends too."""
    try:
        return path.read_bytes().decode("utf-8")
    except OSError as error:
        raise fail(path, f"cannot be read: {error.strerror}", "check the path") from error
    except UnicodeDecodeError as error:
        what = f"is not UTF-8: byte {error.start} cannot be read"
        raise fail(path, what, "save the file as UTF-8") from None


def write_config(target: Path, text: str) -> str:
    """ "write", or "keep" where this very text is there already; another file is never replaced."""
    if target.is_file():
        if target.read_bytes() == text.encode():
            return "keep"
        raise fail(
            target,
            "exists already, and holds something else",
            "choose another name with --out, or remove it",
        )
    with Part(target) as part:
        part.write(text.encode())
    return "write"


def _optimizer(path: str) -> list[Problem]:
    from pruning.checkpoint.open import open_checkpoint

    with open_checkpoint(path) as source:
        problem = optimizer_problem(path, source)
    return [problem] if problem else []
