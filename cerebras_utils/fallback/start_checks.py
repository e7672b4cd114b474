"""What only building a run would tell otherwise, of every trainer of a file before the first one trains."""

import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn

from cerebras_utils.checks.weights import weights_of_section
from cerebras_utils.cszoo_yaml import Phase
from cerebras_utils.fallback.checkpoint_reading import check_version, read_checkpoint, unreadable
from cerebras_utils.fallback.data.opening import make_order, open_reader
from cerebras_utils.fallback.data.settings import read_settings
from cerebras_utils.fallback.optim.build import make_optimizer
from cerebras_utils.fallback.schedule import Loop, epoch_problems
from cerebras_utils.fallback.states import chosen
from cerebras_utils.mask_matching import matched
from cerebras_utils.trainer_keys import DATALOADERS, settings
from cerebras_utils.vendor_names import named_entries
from pruning.masks.file import MaskFile
from pruning.problems import Problem, ProblemError

_ABSENT = "there is no such file"  # as ``unreadable`` says it
_FLOAT = 4  # bytes; weights are float32 in memory
_LORA = {"lora", "sparselora"}


def start_problems(phase: Phase, verb: str) -> Iterator[Problem]:
    """Of a trainer without other problems: its model fits, its masks find their weights, its epoch is long
    enough."""
    try:
        weights = weights_of_section(phase.init["model"], phase.where("init.model"))
    except RuntimeError as error:
        if "overflow" not in str(error):
            raise
        what = "is a model of more bytes than can be counted"
        yield Problem(phase.where("init.model"), what, "lower hidden_size, or mend the unit it is written in")
        return
    if weights is not None:
        yield from _size(weights, _copies(phase.init, verb), phase.where("init.model"))
        yield from _masks(weights, phase)
    if verb == "fit":
        yield from _epoch(phase)


def checkpoint_problems(
    phase: Phase, verb: str, given: str | None, states: frozenset[str] | None
) -> Iterator[Problem]:
    """A checkpoint to start from that is not there, is none, or lacks a state of those that are loaded.

    Of the first trainer: others may start from its own. Large tensors are not read.
    """
    key = DATALOADERS[verb][1]
    asked = given or (phase.params.get(verb) or {}).get(key)
    where = "--checkpoint_path" if given else phase.where(f"{verb}.{key}")
    strict_version = (settings(phase.init, "checkpoint") or {})["strict_version"]
    for name in [asked] if isinstance(asked, str) else asked or ():
        path = Path(name)
        found = sorted(path.parent.glob(path.name)) if verb == "validate_all" else [path]
        if not found or unreadable(found[0]) == _ABSENT:
            yield Problem(f"{where}: {name}", _ABSENT, "mend the name, or leave it out")
            continue
        for file in found:
            try:
                tree = read_checkpoint(file, listing=True)
                if strict_version:
                    check_version(tree, file, None, strict=True)
                chosen(tree, states, str(file))
            except ProblemError as error:
                for problem in error.problems:
                    yield Problem(f"{where}: {problem.where}", problem.what, problem.fix)


def directory_problems(phase: Phase, verb: str, given: str | None) -> Iterator[Problem]:
    """Directories of the results that cannot be made, or cannot be written into."""
    places = {phase.where("init.model_dir"): phase.init.get("model_dir") or "./model_dir"}
    if given:
        places = {"--model_dir": given}
    if verb == "fit" and (root := (settings(phase.init, "checkpoint") or {})["checkpoint_root"]):
        places[phase.where("init.checkpoint.checkpoint_root")] = root
    for where, name in places.items():
        path = Path(name).absolute()
        near = next((place for place in (path, *path.parents) if os.path.lexists(place)), path)
        if not os.path.isdir(near):
            what = f"{near} is a file, not a directory" if os.path.exists(near) else f"{near} leads nowhere"
            yield Problem(f"{where}: {name}", what, "choose another directory")
        elif not os.access(near, os.W_OK | os.X_OK):
            fix = "choose another directory, or allow writing there"
            yield Problem(f"{where}: {name}", f"{near} may not be written by this user", fix)


def _size(weights: Mapping[str, tuple[int, ...]], copies: int, where: str) -> Iterator[Problem]:
    """Without the head, which may be the embedding's: more than memory is too much."""
    count = sum(math.prod(shape) for name, shape in weights.items() if not name.endswith("lm_head.weight"))
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if copies * _FLOAT * count > memory:
        what = f"has {count:,} weights, which are {_FLOAT * count / 2**30:,.1f} GiB of float32"
        if copies > 1:
            needed = copies * _FLOAT * count / 2**30
            what += f", {needed:,.1f} with their gradients and the optimizer's states"
        what += f", and this machine has {memory / 2**30:,.1f} GiB of memory"
        yield Problem(where, what, "lower hidden_size, filter_size or num_hidden_layers, or use a larger one")


def _copies(init: Mapping[str, Any], verb: str) -> int:
    """How many numbers a run holds for each weight, at least: itself, and in training gradient and states.

    Itself alone where that is not for this machine's memory, or not of every weight.
    """
    elsewhere = torch.cuda.is_available() or "WORLD_SIZE" in os.environ
    if verb != "fit" or elsewhere or not _LORA.isdisjoint(_callbacks(init)):
        return 1
    weight = nn.Parameter(torch.empty(1000, device="meta"))
    states = make_optimizer(init["optimizer"], [("weight", weight)]).state[weight]
    return 2 + len([state for state in states.values() if state.shape == weight.shape])


def _callbacks(init: Mapping[str, Any]) -> dict[str, Any]:
    return {name.lower(): arguments for _, name, arguments in named_entries(init.get("callbacks"))}


def _masks(weights: Mapping[str, tuple[int, ...]], phase: Phase) -> Iterator[Problem]:
    """With factors of LoRA, the callbacks look at it themselves: masks may be of factors."""
    given = _callbacks(phase.init)
    path = given.get("sparsemaskcallback", {}).get("mask_path")
    if path is None or not _LORA.isdisjoint(given):
        return
    shapes = {name: SimpleNamespace(shape=shape) for name, shape in weights.items()}
    try:
        with MaskFile(path) as file:
            matched(file, shapes)
    except ProblemError as error:
        yield from error.problems


def _epoch(phase: Phase) -> Iterator[Problem]:
    loop = Loop(**(settings(phase.init, "loop") or {}))
    section: Any = phase.params["fit"]["train_dataloader"]
    if loop.steps_per_epoch is None and loop.grad_accum_steps == 1:
        return
    where = phase.where("fit.train_dataloader")
    data, _ = read_settings(section, where)
    if data is None:
        return
    reader, opened, _ = open_reader(data, where)
    try:
        order = make_order(data, len(reader), where)[0] if reader is not None else None
        if order is not None:
            yield from epoch_problems(loop, order.remaining(0), phase.where("init.loop"))
    finally:
        for rows in opened:
            rows.close()
