"""Checkpoints of a run: the tree that cszoo saves and loads, in a `.mdl` file, strictly.

A checkpoint that does not fit is an error that lists what is missing, unexpected or of another
shape. Nothing is ever trained from random weights because a key was spelled otherwise.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch

from cerebras_utils.fallback.bystander import NoDirectory
from cerebras_utils.fallback.checkpoint_reading import OWN, check_version, read_checkpoint
from cerebras_utils.fallback.devices import uses_gpu
from cerebras_utils.fallback.mdl_writer import save_mdl
from cerebras_utils.fallback.processes import Processes
from cerebras_utils.fallback.run_outputs import RunDirectory
from cerebras_utils.fallback.schedule import Position
from cerebras_utils.fallback.states import chosen, not_loaded
from cerebras_utils.fallback.weights import load_model
from pruning.problems import Problem, ProblemError, fail


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
        states: frozenset[str] | None = None,  # of a checkpoint, which are loaded; None: all
        states_by: str = "",  # what says so
        root: str | None = None,  # where checkpoints are written, if not in the model directory
    ) -> None:
        self._run, self._params = run, params
        self._autoload, self._strict, self._keep = autoload, strict, keep
        self._strict_version = strict_version
        self._root = None if root is None else Path(root)
        self._states = states
        self.loads_a_part = None if states is None else states_by
        self._saved: list[Path] = []
        self._started = self._told_random = False
        self.last: Path | None = None  # the latest that was loaded or saved
        self.autoloads = True  # the same command finds ``last`` by itself
        self.step_on_disk = 0  # where a run from its very start would be again

    def load(self, trainer: Any, path: Any) -> None:
        """``...``: the last of the model directory, where that is not switched off. None: no checkpoint."""
        starts = trainer.train_dataloader is not None and not self._started  # validations load between, too
        if starts:
            self._started, self.autoloads = True, path is ... and self._autoload
        if path is ...:
            path = (
                trainer.processes.by_first(partial(self._latest, trainer.report)) if self._autoload else None
            )
        elif starts:
            for line in trainer.processes.by_first(partial(self._passed_over, path)):
                trainer.report.say(line)
        trainer.call("on_before_load_checkpoint", None if path is None else str(path))
        if path is None:
            if self.last is None and not self._told_random:
                trainer.report.say("no checkpoint is loaded: the weights are random")
                self._told_random = True
            return
        path = Path(path)
        whole = trainer.processes.together(partial(read_checkpoint, path))
        check_version(whole, path, trainer.report, strict=self._strict_version)
        tree = chosen(whole, self._states, str(path))
        position = self._position(trainer, tree, path)
        trainer.resume(tree.get("global_step", 0), position)
        trains = trainer.optimizer is not None
        for line in not_loaded(whole, tree, str(path), trains=trains, schedulers=len(trainer.schedulers)):
            trainer.report.say(line)
        for line in self._run.starts_from(path):
            trainer.report.say(line)
        trainer.call("preprocess_checkpoint", tree)
        for line in load_model(trainer.model, tree["model"], str(path), strict=self._strict):
            trainer.report.say(line)
        with _named(path):
            if trainer.optimizer is not None and "optimizer" in tree:
                trainer.optimizer.load_state_dict(tree["optimizer"])
            for scheduler, state in zip(trainer.schedulers, tree.get("schedulers", []), strict=False):
                overridden = scheduler.overridden(state)
                scheduler.load_state_dict(state)
                for line in overridden:
                    what = "the checkpoint's schedule goes on, the config's has no effect"
                    trainer.report.say(f"{what}: {line}")
        if trainer.train_dataloader is not None and "dataloader" in tree:
            trainer.train_dataloader.load_state_dict(tree["dataloader"], strict=self._strict)
        if position is not None:
            trainer.train_dataloader.go_on(position.began)
            self._saved = [*self._run.saved_before(trainer.phase, trainer.global_step), *self._saved]
        if OWN in tree:
            _set_random(tree[OWN], trainer.processes, trainer.global_step)
        self.last, self.step_on_disk = path, trainer.global_step
        trainer.call("on_load_checkpoint", tree)
        trainer.report.say(f"loaded {path}, step {trainer.global_step}")

    def _passed_over(self, path: Any) -> list[str]:
        """The last checkpoint of the model directory, where another one is asked for, or none."""
        latest = self._run.index.latest()
        if latest is None or (path is not None and Path(path).resolve() == latest.resolve()):
            return []
        instead = "no checkpoint" if path is None else path
        what = f"{self._run.model_dir} has {latest}, and the run begins with {instead}, as it is asked to"
        return [f"{what}: to go on instead, add --checkpoint_path {latest}"]

    def _position(self, trainer: Any, tree: Mapping[str, Any], path: Path) -> Position | None:
        """Where this run was, from a checkpoint of its own that is loaded whole."""
        own = {each.resolve() for each in self._run.index.checkpoints()}
        if trainer.train_dataloader is None or self._states is not None or path.resolve() not in own:
            return None
        written = tree.get(OWN, {}).get("position")
        if not {"dataloader", "optimizer", "global_step"} <= tree.keys() or written is None:
            return None
        if not Position.is_written(written):
            what = f"is {written!r:.80}, not where a run is"
            raise fail(f"{path}: {OWN}.position", what, "use another checkpoint of the run")
        return Position(**written) if written["phase"] == trainer.phase else None

    def _latest(self, report: Any) -> Path | None:
        """Of the list, as in cszoo. Where it has none and there are files, a run must not begin anew."""
        latest, unlisted = self._run.index.latest(), self._run.index.unlisted(self._root)
        if latest is None and unlisted:
            raise _unlisted(self._run.index.path, unlisted)
        step = self._run.index.step_of
        if later := [file for file in unlisted if latest and (step(file) or 0) > (step(latest) or 0)]:
            files = ", ".join(map(str, later))
            report.say(f"not in {self._run.index.path}, and so not loaded, in cszoo neither: {files}")
        return latest

    def matching(self, asked: Any, where: str) -> list[Path | None]:
        """The checkpoints to validate: ``...`` is all of the model directory; names may be patterns."""
        if asked is None:
            return [None]
        if asked is ...:
            found = self._run.index.checkpoints() if self._autoload else []
            if not found and self._autoload and (unlisted := self._run.index.unlisted(self._root)):
                raise _unlisted(self._run.index.path, unlisted)
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
        if trainer.train_dataloader is not None:
            tree[OWN]["position"] = asdict(trainer.position)
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


def _random_state() -> dict[str, Any]:
    state: dict[str, Any] = {"cpu": torch.get_rng_state()}
    if uses_gpu():
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
    if "cuda" in state and uses_gpu():
        torch.cuda.set_rng_state(state["cuda"].to(torch.uint8).cpu())


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """Problems of what a checkpoint holds, with its name."""
    try:
        yield
    except ProblemError as error:
        raise ProblemError(
            Problem(f"{path}: {problem.where}", problem.what, problem.fix) for problem in error.problems
        ) from error


def _unlisted(index: Path, files: list[Path]) -> ProblemError:
    what = f"lists no checkpoint that is here, and there are {', '.join(map(str, files))}"
    fix = (
        f"go on from one with --checkpoint_path {files[-1]}; "
        "to begin anew, write ckpt_path: null, or take another model_dir"
    )
    return fail(index, what, fix)
