"""What is asked of the rewriter, checked where it can be without a config."""

import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cerebras_utils.cszoo_yaml import numbers_that_are_text
from cerebras_utils.lora_settings import LORA, SPARSE_LORA, params_problems
from pruning.masks.file import MaskFile
from pruning.problems import Problem, ProblemError, fail
from pruning.registry import suggest
from pruning.strict_yaml import parse_yaml

SPARSE_TO_SPARSE, SPARSE_TO_DENSE = MODES = ("sparse_to_sparse", "sparse_to_dense")
DEFAULT_TARGET = ["TransformerDecoderLayer", "Linear"]


@dataclass(frozen=True)
class MaskInfo:
    """What a mask file says of one weight."""

    shape: tuple[int, ...]
    kept: int

    @property
    def sparsity(self) -> float:
        numel = math.prod(self.shape)
        return 1 - self.kept / numel if numel else 0.0


@dataclass(frozen=True)
class MaskSummary:
    """A mask file that was read to its last bit."""

    path: str  # absolute
    sha256: str
    masks: Mapping[str, MaskInfo]
    checkpoint: str | None  # fingerprint of what they were computed from
    spec: Any

    @property
    def sparsity(self) -> float:
        numel = sum(math.prod(mask.shape) for mask in self.masks.values())
        return 1 - sum(mask.kept for mask in self.masks.values()) / numel


@dataclass(frozen=True)
class Setting:
    """One ``--set``."""

    key: str  # below ``trainer``, as it was written
    value: Any


@dataclass(frozen=True, kw_only=True)
class Request:
    masks: MaskSummary
    mode: str = SPARSE_TO_SPARSE
    lora: Mapping[str, Any] | None = None
    checkpoint: str | None = None  # absolute
    settings: tuple[Setting, ...] = ()
    phase: str | None = None  # "all", or the index of a trainer
    replace_sparsity: bool = False
    groups: tuple[Mapping[str, Any], ...] | None = None  # native `sparsity:`, instead of the callback

    def __post_init__(self) -> None:
        problems: list[Problem] = []
        if self.lora is not None and self.mode in MODES:
            problems += params_problems(self.lora_callback, self.lora, "--lora")
        if self.mode not in MODES:
            what = f"{self.mode!r} is no mode.{suggest(str(self.mode), list(MODES))}"
            problems.append(Problem("--mode", what, f"use one of {', '.join(MODES)}"))
        if self.phase not in (None, "all") and not str(self.phase).isdigit():
            problems.append(
                Problem("--phase", f"{self.phase!r} is no trainer", "use its number from 0, or all")
            )
        if problems:
            raise ProblemError(problems)

    @property
    def lora_callback(self) -> str:
        """ModelZoo's own trains a dense update; ours masks it."""
        return LORA if self.mode == SPARSE_TO_DENSE else SPARSE_LORA


def read_masks(path: str | os.PathLike[str]) -> MaskSummary:
    """Every bit is read. A mask that no CS-3 takes is an error."""
    from cerebras_utils.sparse_callback import file_digest

    absolute = Path(path).absolute()
    with MaskFile(absolute) as file:
        file.verify()
        masks = {name: MaskInfo(file.shape(name), file.kept(name)) for name in file.names}
        checkpoint, spec = file.checkpoint, file.spec
    problems = [
        Problem(
            f"{path}: {name}",
            "keeps nothing: the CS-3 takes no sparsity of 1",
            "make the masks again with less for this layer",
        )
        for name, mask in masks.items()
        if not mask.kept
    ]
    if problems:
        raise ProblemError(problems)
    return MaskSummary(str(absolute), file_digest(absolute), masks, checkpoint, spec)


def name_problems(masks: MaskSummary) -> Iterator[Problem]:
    foreign = [name for name in masks.masks if not name.startswith("model.")]
    if foreign:
        what = f"{len(foreign)} names are none of ModelZoo's weights, which begin with 'model.': {foreign[0]}"
        yield Problem(masks.path, what, "compute the masks from the .mdl checkpoint of the model")


def parse_lora(text: str) -> dict[str, Any]:
    """``r=16,alpha=32,dropout=0.05,target=TransformerDecoderLayer+Linear``"""
    found: dict[str, Any] = {}
    for item in filter(None, (part.strip() for part in text.split(","))):
        key, equals, value = item.partition("=")
        key = {"target": "target_modules", "lora_alpha": "alpha"}.get(key.strip(), key.strip())
        if not equals or not value.strip():
            raise fail(f"--lora {text}", f"{item!r} has no value", "write it as in r=16,alpha=32,target=A+B")
        if key in found:
            raise fail(
                f"--lora {text}", f"has {key!r} twice", "keep one of them; several targets: target=A+B"
            )
        parsed = parse_yaml(value, f"--lora {key}").value
        found[key] = [part.strip() for part in value.split("+")] if key == "target_modules" else parsed
    return found


def parse_setting(text: str) -> Setting:
    """``init.loop.max_steps=100``: the value is a YAML value of one line."""
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise fail(f"--set {text}", "is no KEY=VALUE", "write it as in --set init.loop.max_steps=100")
    document = parse_yaml(value, f"--set {key}")
    if problems := [Problem(f"--set {key}", p.what, p.fix) for p in numbers_that_are_text(document)]:
        raise ProblemError(problems)
    return Setting(key.strip().removeprefix("trainer."), document.value)
