"""Checkpoints of a run: the tree that cszoo saves and loads, in a `.mdl` file, strictly.

A checkpoint that does not fit is an error that lists what is missing, unexpected or of another
shape. Nothing is ever trained from random weights because a key was spelled otherwise.
"""

import pickle
import re
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch

from cerebras_utils.fallback.bystander import NoDirectory
from cerebras_utils.fallback.mdl_reader import load_mdl
from cerebras_utils.fallback.mdl_writer import save_mdl
from cerebras_utils.fallback.processes import Processes
from cerebras_utils.fallback.run_outputs import RunDirectory
from cerebras_utils.fallback.shards import as_shard, local
from pruning.problems import Problem, ProblemError, fail
from pruning.registry import suggest

OWN = "wafersparse"  # top-level key of what only this backend needs; cszoo passes over it
_MODELZOO = "2.10"  # whose checkpoints are read as they are
_RELEASE = re.compile(r"(\d+\.\d+)(?:\.\d+)*(?:[-.]?[a-z]+\d*)*")  # one with a local part is not compared
_LISTED = 8  # names of one kind that a message shows


class Checkpoints:
    def __init__(
        self,
        run: RunDirectory | NoDirectory,
        params: Mapping[str, Any],
        *,
        autoload: bool = True,
        strict: bool = True,
        strict_version: bool = True,
        keep: int | None = None,
        states: str | list[str] = "all",
        root: str | None = None,  # where checkpoints are written, if not in the model directory
    ) -> None:
        self._run, self._params = run, params
        self._autoload, self._strict, self._keep = autoload, strict, keep
        self._strict_version = strict_version
        self._root = None if root is None else Path(root)
        self._states = (
            states if states == "all" else {"model", *([states] if isinstance(states, str) else states)}
        )
        self._saved: list[Path] = []
        self._told_random = False
        self.last: Path | None = None  # the latest that was loaded or saved
        self.autoloads = True  # the same command finds ``last`` by itself
        self.step_on_disk = 0  # where a run from its very start would be again

    def load(self, trainer: Any, path: Any) -> None:
        """``...``: the last of the model directory, where that is not switched off. None: no checkpoint."""
        if trainer.train_dataloader is not None and not self._saved:
            self.autoloads = path is ... and self._autoload
        if path is ...:
            path = trainer.processes.by_first(self._run.index.latest) if self._autoload else None
        trainer.call("on_before_load_checkpoint", None if path is None else str(path))
        if path is None:
            if self.last is None and not self._told_random:
                trainer.report.say("no checkpoint is loaded: the weights are random")
                self._told_random = True
            return
        path = Path(path)
        tree = trainer.processes.together(partial(read_checkpoint, path))
        check_version(tree, path, trainer.report, strict=self._strict_version)
        if self._states != "all":
            tree = {key: value for key, value in tree.items() if key in self._states}
        self._run.starts_from(path)
        trainer.call("preprocess_checkpoint", tree)
        load_model(trainer.model, tree["model"], str(path), strict=self._strict)
        if trainer.optimizer is not None and "optimizer" in tree:
            trainer.optimizer.load_state_dict(tree["optimizer"])
        for scheduler, state in zip(trainer.schedulers, tree.get("schedulers", []), strict=False):
            for line in scheduler.overridden(state):
                trainer.report.say(f"the checkpoint's schedule goes on, the config's has no effect: {line}")
            scheduler.load_state_dict(state)
        trainer.global_step = int(tree.get("global_step", 0))
        if trainer.train_dataloader is not None and "dataloader" in tree:
            trainer.train_dataloader.load_state_dict(tree["dataloader"], strict=self._strict)
        if OWN in tree:
            _set_random(tree[OWN], trainer.processes, trainer.global_step)
        self.last, self.step_on_disk = path, trainer.global_step
        trainer.call("on_load_checkpoint", tree)
        trainer.report.say(f"loaded {path}, step {trainer.global_step}")

    def matching(self, asked: Any, where: str) -> list[Path | None]:
        """The checkpoints to validate: ``...`` is all of the model directory; names may be patterns."""
        if asked is None:
            return [None]
        if asked is ...:
            found = self._run.index.checkpoints() if self._autoload else []
            if not found:
                what = f"{self._run.model_dir} has no checkpoint to validate"
                raise fail(where, what, "write ckpt_paths, or --checkpoint_path")
            return list(found)
        names = [Path(name) for name in ([asked] if isinstance(asked, str) else asked)]
        problems = [
            Problem(f"{where}: {name}", "no such file", "mend the name, or leave it out")
            for name in names
            if not any(name.parent.glob(name.name))
        ]
        if problems:
            raise ProblemError(problems)
        return [path for name in names for path in sorted(name.parent.glob(name.name))]

    def save(self, trainer: Any) -> Path:
        processes: Processes = trainer.processes
        tree: dict[str, Any] = {"model": processes.whole(dict(trainer.model.state_dict()))}
        if trainer.train_dataloader is not None:
            tree["dataloader"] = trainer.train_dataloader.state_dict()
        if trainer.optimizer is not None:
            tree["optimizer"] = processes.whole(trainer.optimizer.state_dict())
        if trainer.schedulers:
            tree["schedulers"] = [scheduler.state_dict() for scheduler in trainer.schedulers]
        tree["global_step"] = trainer.global_step
        about = {"model_name": type(trainer.model).__name__, "params": {"trainer": dict(self._params)}}
        tree["__metadata__"] = [about]
        random = processes.gather(_random_state())
        tree[OWN] = {"random": random[0]} | ({"others": random[1:]} if len(random) > 1 else {})
        trainer.call("on_save_checkpoint", tree)
        trainer.call("postprocess_checkpoint", tree)
        path = processes.by_first(partial(self._write, processes.whole(tree), trainer.global_step))
        self.last, self.step_on_disk = path, trainer.global_step
        trainer.call("on_after_save_checkpoint", str(path))
        trainer.report.say(f"saved {path}")
        self._saved.append(path)
        while self._keep is not None and len(self._saved) > self._keep:
            self._run.remove(self._saved.pop(0))
        return path

    def _write(self, tree: Mapping[str, Any], step: int) -> Path:
        path = self._run.index.free_path(step, self._root)
        save_mdl(path, tree)
        self._run.saved(path, step, tree["model"])
        return path


def read_checkpoint(path: Path) -> dict[str, Any]:
    """A tree with "model"; a `.mdl` file, or one of ``torch.save`` as cszoo takes it too."""
    if not path.is_file():
        raise fail(path, "there is no such file", "name a checkpoint: a .mdl, or one of torch.save")
    if path.suffix in (".pt", ".pth", ".bin"):
        tree: Any = _load_pickle(path)
    else:
        tree = load_mdl(path)
    if not isinstance(tree, dict) or not isinstance(tree.get("model"), dict):
        keys = _some(list(map(str, tree))) if isinstance(tree, dict) else type(tree).__name__
        raise fail(
            path, f'has no weights under "model" at its top ({keys})', "save it as {'model': state_dict}"
        )
    return tree


def _load_pickle(path: Path) -> Any:
    """A file of ``torch.save``, without running what a pickle may hold."""
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise fail(
            path,
            "holds more than tensors and plain values, which is code and is not run",
            "where the file is trusted, load it where it was written and save it again: "
            "torch.save({'model': model.state_dict()}, path)",
        ) from error
    except (RuntimeError, EOFError, ValueError) as error:
        what = f"torch cannot read it: {str(error).splitlines()[0] if str(error) else type(error).__name__}"
        raise fail(path, what, "copy the checkpoint again, or use the one before it") from error


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


def load_model(model: torch.nn.Module, weights: Mapping[str, Any], where: str, *, strict: bool) -> None:
    """Into the model's own tensors, after everything has been compared."""
    own = model.state_dict()
    foreign = [name for name in weights if not name.startswith("model.")]
    missing = [name for name in own if name not in weights]
    unexpected = [name for name in weights if name not in own and name not in foreign]
    shapes = [n for n in own if n in weights and tuple(weights[n].shape) != tuple(own[n].shape)]
    problems = []
    if foreign:
        what = f"keys do not begin with 'model.': {_some(foreign)}{suggest('model.' + foreign[0], list(own))}"
        problems.append(
            Problem(where, what, "rename them; cszoo would load nothing and train from random weights")
        )
    if missing and (strict or len(missing) == len(own)):
        what = f"{len(missing)} of the model's {len(own)} tensors are missing: {_some(missing)}"
        problems.append(
            Problem(where, what, "use the checkpoint of this model, or the `model:` section of that one")
        )
    if unexpected and strict:
        what = f"{len(unexpected)} tensors are not the model's: {_some(unexpected)}"
        masks = all(name.endswith("_mask") for name in unexpected)
        fix = "add the SparseMaskCallback with these masks" if masks else "use the checkpoint of this model"
        problems.append(Problem(where, what, fix))
    for name in shapes:
        what = f"is of shape {tuple(weights[name].shape)}, the model's is {tuple(own[name].shape)}"
        problems.append(Problem(f"{where}: {name}", what, "use the checkpoint of this model"))
    problems += [
        Problem(
            f"{where}: {first} and {second}",
            "are one tensor in the model, and have different values in the checkpoint",
            "give both the same values; a mask or an edit reached only one of them",
        )
        for first, second in _tied(own)
        if not shapes
        and first in weights
        and second in weights
        and not _same(weights[first], weights[second])
    ]
    if problems:
        raise ProblemError(problems)
    with torch.no_grad():
        for name, tensor in own.items():
            if name in weights:
                local(tensor).copy_(local(as_shard(weights[name], tensor)))


def _tied(own: Mapping[str, torch.Tensor]) -> list[tuple[str, str]]:
    """Pairs of names for one memory: a tied head, and the final norm, which has two names."""
    first: dict[int, str] = {}
    places = [(name, local(tensor)) for name, tensor in own.items()]
    return [
        (first[t.data_ptr()], name)
        for name, t in places
        if t.numel() and first.setdefault(t.data_ptr(), name) != name
    ]


def _same(one: torch.Tensor, other: torch.Tensor) -> bool:
    return torch.equal(one.nan_to_num(), other.nan_to_num()) and torch.equal(one.isnan(), other.isnan())


def _some(names: list[str]) -> str:
    return ", ".join(names[:_LISTED]) + (f" and {len(names) - _LISTED} more" if len(names) > _LISTED else "")


def _random_state() -> dict[str, Any]:
    state: dict[str, Any] = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def _set_random(saved: Mapping[str, Any], processes: Processes, step: int) -> None:
    """Of the process of this number. Of one that was not there, random numbers begin here."""
    others = saved.get("others", [])
    if processes.rank > len(others):
        processes.own_random_numbers(step)
        return
    state = saved["random"] if processes.first else others[processes.rank - 1]
    torch.set_rng_state(state["cpu"].to(torch.uint8).cpu())
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"].to(torch.uint8).cpu())
