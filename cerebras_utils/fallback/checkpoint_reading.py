"""Read a checkpoint of whatever file as the tree that a trainer saved, and refuse what is none."""

import pickle
import re
import stat
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from h5py import is_hdf5

from cerebras_utils.fallback.mdl_reader import load_mdl
from cerebras_utils.fallback.weights import some
from pruning.checkpoint.open import TORCH
from pruning.problems import Problem, ProblemError, fail

OWN = "wafersparse"  # top-level key of what only this backend needs; cszoo passes over it
_AGAIN = "copy the checkpoint again, or use the one before it"
_ANOTHER = "name a checkpoint of a trainer: a .mdl, or one of torch.save"
_MODELZOO = "2.10"  # whose checkpoints are read as they are
_RELEASE = re.compile(r"(\d+\.\d+)(?:\.\d+)*(?:[-.]?[a-z]+\d*)*")  # one with a local part is not compared


def read_checkpoint(path: Path, *, listing: bool = False) -> dict[str, Any]:
    """A tree with "model"; a `.mdl` file, or one of ``torch.save`` as cszoo takes it too.

    With ``listing`` everything is checked but the numbers in large tensors, which are not read.
    """
    if what := unreadable(path):
        raise fail(path, what, "allow reading it, or name another" if "cannot" in what else _ANOTHER)
    tree = _load(path, listing=listing)
    if not isinstance(tree, dict) or not isinstance(tree.get("model"), dict):
        keys = some(list(map(str, tree))) if isinstance(tree, dict) else type(tree).__name__
        raise fail(
            path, f'has no weights under "model" at its top ({keys})', "save it as {'model': state_dict}"
        )
    if problems := list(_misshapen(tree, path)):
        raise ProblemError(problems)
    if "global_step" in tree:
        tree["global_step"] = int(tree["global_step"])
    return tree


def unreadable(path: Path) -> str:
    """Why a file cannot be read; nothing where it can be."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            return "is no file"
        path.open("rb").close()
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return "there is no such file"
    except OSError as error:
        return f"cannot be read: {error.strerror or error}"
    return ""


def _misshapen(tree: Mapping[str, Any], path: Path) -> Iterator[Problem]:
    """States that are not what a trainer saves. What is in them, those look at who load them."""
    fix = "use another checkpoint, or save this one again with tensors there"
    for name, value in tree["model"].items():
        if not isinstance(value, torch.Tensor):
            yield Problem(f"{path}: {name}", f"is {_brief(value)}, not a tensor", fix)
    fix = "use another checkpoint, or leave this state out with --load_checkpoint_states"
    for name, (says, holds) in _STATES.items():
        if name in tree and not holds(tree[name]):
            yield Problem(f"{path}: {name}", f"is {_brief(tree[name])}, not {says}", fix)


def _is_step(value: Any) -> bool:
    if isinstance(value, torch.Tensor):
        value = value.item() if value.numel() == 1 and value.ndim == 0 else None
    fine = isinstance(value, int | float) and not isinstance(value, bool)
    return fine and value == value and abs(value) != float("inf") and value >= 0 and value == int(value)


def _is_optimizer(value: Any) -> bool:
    if not isinstance(value, Mapping) or not _are_maps(value.get("param_groups")):
        return False
    states = value.get("state")
    return (
        isinstance(states, Mapping)
        and all(isinstance(state, Mapping) for state in states.values())
        and all(isinstance(group.get("params"), list) for group in value["param_groups"])
    )


def _are_maps(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(entry, Mapping) for entry in value)


def _is_random(value: Any) -> bool:
    """The state of torch's generators in each process. Those of a GPU are not looked at."""
    length = torch.get_rng_state().numel()
    states = [value.get("random"), *value.get("others", [])] if isinstance(value, Mapping) else [None]
    cpu = [state.get("cpu") if isinstance(state, Mapping) else None for state in states]
    return all(isinstance(state, torch.Tensor) and state.numel() == length and _sets(state) for state in cpu)


def _sets(state: torch.Tensor) -> bool:
    """The numbers of such a state depend on each other: torch itself says whether it takes them."""
    try:
        torch.Generator().set_state(state.to(torch.uint8).cpu())
    except RuntimeError:
        return False
    return True


_STATES: Mapping[str, tuple[str, Callable[[Any], bool]]] = {
    "global_step": ("a whole number from 0", _is_step),
    "optimizer": ("state and param_groups as an optimizer saves them", _is_optimizer),
    "schedulers": ("a list of schedulers' states", _are_maps),
    "dataloader": ("a map", lambda value: isinstance(value, Mapping)),
    OWN: ("the states of torch's random numbers, as this version of torch has them", _is_random),
}


def _brief(value: Any) -> str:
    if value is None or isinstance(value, str | int | float):
        return repr(value)[:60]
    return f"a {type(value).__name__}" + (f" of {len(value)}" if isinstance(value, list | dict) else "")


def _load(path: Path, *, listing: bool) -> Any:
    """Its first bytes say what a file is, whatever its name: the last ones of a .mdl are weights."""
    with path.open("rb") as stream:
        head = stream.read(8)
    if not head:
        raise fail(path, "is empty", _AGAIN)
    archive = head.startswith(b"PK\x03\x04")
    if archive or (path.suffix in TORCH and head.startswith(b"\x80")):  # a bare pickle, before torch 1.6
        return _load_pickle(path, mapped=archive and listing)
    if not is_hdf5(path):
        raise fail(path, "is neither a .mdl, which is HDF5, nor a file of torch.save", _ANOTHER)
    return load_mdl(path, listing=listing)


def _load_pickle(path: Path, *, mapped: bool) -> Any:
    """A file of ``torch.save``, without running what a pickle may hold."""
    try:
        return torch.load(str(path), map_location="cpu", weights_only=True, mmap=mapped)
    except pickle.UnpicklingError as error:
        raise fail(
            path,
            "holds more than tensors and plain values, which is code and is not run",
            "where the file is trusted, load it where it was written and save it again: "
            "torch.save({'model': model.state_dict()}, path)",
        ) from error
    except (RuntimeError, OSError, EOFError, ValueError) as error:
        what = f"torch cannot read it: {str(error).splitlines()[0] if str(error) else type(error).__name__}"
        raise fail(path, what, _AGAIN) from error


def check_version(tree: Mapping[str, Any], path: Path, report: Any, *, strict: bool) -> None:
    """A checkpoint of another release of ModelZoo is refused, as ModelZoo refuses it."""
    metadata = tree.get("__metadata__")
    last = metadata[-1] if isinstance(metadata, list | tuple) and metadata else None
    version = str(last.get("version") or "") if isinstance(last, Mapping) else ""
    match = _RELEASE.fullmatch(version)
    if match is None or match[1] == _MODELZOO:
        return
    what = f"was written by ModelZoo {version}, and this is as {_MODELZOO}"
    if strict:
        fix = "`cszoo checkpoint convert` it, or set trainer.init.checkpoint.strict_version: false"
        raise fail(path, what, fix)
    report.say(f"{path} {what}")
