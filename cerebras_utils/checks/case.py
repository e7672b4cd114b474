"""What a check looks at: one trainer of a config, with the files that it names, opened once."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from cerebras_utils.checks.registry import NotMade
from cerebras_utils.cszoo_yaml import Phase
from cerebras_utils.trainer_keys import DATALOADERS
from cerebras_utils.vendor_names import named_entries
from pruning.checkpoint.source import TensorSource
from pruning.masks.file import MaskFile
from pruning.problems import ProblemError

MASKS = "SparseMaskCallback"
GIVEN = "--checkpoint"  # where a checkpoint is named that the command line names
Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class Callback:
    name: str
    arguments: Mapping[str, Any]
    key: str  # ``init.callbacks[0].Lora``


class Files:
    """Checkpoints and mask files by path: opened when asked for, closed together.

    What cannot be opened is said by the check that is about opening it; all others are not made.
    """

    def __init__(self) -> None:
        self._open: dict[tuple[str, str], TensorSource | MaskFile | ProblemError] = {}

    def checkpoint(self, path: str) -> TensorSource:
        from pruning.checkpoint.open import open_checkpoint

        found = self._get("checkpoint", path, open_checkpoint)
        assert isinstance(found, TensorSource)
        return found

    def masks(self, path: str) -> MaskFile:
        found = self._get("masks", path, MaskFile)
        assert isinstance(found, MaskFile)
        return found

    def close(self) -> None:
        for file in self._open.values():
            if not isinstance(file, ProblemError):
                file.close()
        self._open = {}

    def _get(self, kind: str, path: str, opener: Any) -> Any:
        if (kind, path) not in self._open:
            try:
                self._open[kind, path] = opener(path)
            except ProblemError as error:
                self._open[kind, path] = error
        found = self._open[kind, path]
        if isinstance(found, ProblemError):
            raise found
        return found


class Case:
    """One trainer. Whatever is not there raises ``NotMade`` with the reason."""

    def __init__(
        self,
        phase: Phase,
        phases: Sequence[Phase],
        files: Files,
        *,
        checkpoint: str | None = None,
        device: str | None = None,
        modelzoo: bool = True,
    ) -> None:
        self.phase, self.phases, self.files = phase, phases, files
        self._given, self._device = checkpoint, device
        self.use_modelzoo = modelzoo

    @property
    def init(self) -> Mapping[str, Any]:
        return self.phase.init

    @property
    def model(self) -> Mapping[str, Any]:
        return section(self.init, "model")

    def where(self, key: str = "") -> str:
        return self.phase.where(key)

    @cached_property
    def device(self) -> str:
        """CSX, CPU or GPU: the command line's word, else the config's, else cszoo's default."""
        backend = section(self.init, "backend").get("backend_type")
        words = (self._device, backend, self.init.get("device"))
        return next((word.upper() for word in words if isinstance(word, str)), "CSX")

    @property
    def cluster(self) -> Mapping[str, Any]:
        return section(section(self.init, "backend"), "cluster_config")

    @cached_property
    def callbacks(self) -> tuple[Callback, ...]:
        return tuple(written_callbacks(self.init))

    def callback(self, name: str) -> Callback | None:
        """By name, compared as cszoo does it."""
        return next((c for c in self.callbacks if c.name.lower() == name.lower()), None)

    def stages(self) -> Iterator[tuple[str, Mapping[str, Any]]]:
        for stage in DATALOADERS:
            if isinstance(written := self.phase.params.get(stage), Mapping):
                yield stage, written

    def loaders(self) -> Iterator[tuple[str, Mapping[str, Any]]]:
        """Every data loader with its key; one that is written once and used again by alias, once."""
        seen: set[int] = set()
        for stage, written in self.stages():
            for key in ("train_dataloader", "val_dataloader", "val_dataloaders"):
                value = written.get(key)
                for index, loader in enumerate(value if isinstance(value, list) else [value]):
                    if isinstance(loader, Mapping) and id(loader) not in seen:
                        seen.add(id(loader))
                        yield (
                            f"{stage}.{key}[{index}]" if isinstance(value, list) else f"{stage}.{key}",
                            loader,
                        )

    # The files that it names

    @cached_property
    def checkpoint_path(self) -> tuple[str, str]:
        """Where it is named, and the path: the command line's word, else the one that ``fit`` starts from."""
        if self._given:
            return GIVEN, self._given
        for stage, written in self.stages():
            path = written.get(DATALOADERS[stage][1])
            if isinstance(path, str) and path:
                return self.where(f"{stage}.{DATALOADERS[stage][1]}"), path
        raise NotMade("no checkpoint: none is given with --checkpoint, and the config names none")

    @cached_property
    def checkpoint(self) -> TensorSource:
        try:
            return self.files.checkpoint(self.checkpoint_path[1])
        except ProblemError:
            place = "checkpoint.opens" if exists(self.checkpoint_path[1]) else "paths.exist, paths.readable"
            raise NotMade(f"the checkpoint cannot be opened: see {place}") from None

    @cached_property
    def mask_path(self) -> tuple[str, str]:
        callback = self.callback(MASKS)
        if callback is None:
            raise NotMade(f"the config names no masks: it has no {MASKS}")
        path = callback.arguments.get("mask_path")
        if not isinstance(path, str) or not path:
            raise NotMade(f"{MASKS} has no mask_path: see masks.opens")
        return self.where(f"{callback.key}.mask_path"), path

    @cached_property
    def masks(self) -> MaskFile:
        try:
            return self.files.masks(self.mask_path[1])
        except ProblemError:
            place = "masks.opens" if exists(self.mask_path[1]) else "paths.exist, paths.readable"
            raise NotMade(f"the mask file cannot be opened: see {place}") from None

    @cached_property
    def model_weights(self) -> Shapes:
        """Names and shapes of what the ``model:`` section builds, those that are tied by both names."""
        from cerebras_utils.checks.weights import weights_of_section

        found = weights_of_section(self.model, self.where("init.model"))
        if found is None:
            known = "for gpt2, gpt3, llama and mistral"
            raise NotMade(f"the weights of the model {self.model.get('name')} are known {known} only")
        return found

    @cached_property
    def weights(self) -> Shapes:
        """Names and shapes of the weights to train: of the checkpoint, else of the ``model:`` section."""
        try:
            return {name: info.shape for name, info in self.checkpoint.infos.items()}
        except NotMade as without:
            try:
                return self.model_weights
            except NotMade as error:
                raise NotMade(f"{error}, and there is {without}") from None

    # How long it runs

    @cached_property
    def steps(self) -> int:
        """Optimizer steps of the whole training, from step 0."""
        if "fit" not in self.phase.params:
            raise NotMade("the config does not train: it has no `fit:`")
        loop = section(self.init, "loop")
        limits = [value for key in ("max_steps", "num_steps") if (value := whole(loop.get(key)))]
        epochs, per_epoch = whole(loop.get("num_epochs")), whole(loop.get("steps_per_epoch"))
        if epochs and per_epoch:
            limits.append(epochs * per_epoch)
        if not limits:
            raise NotMade("the number of steps is not known: the loop has neither max_steps nor num_steps")
        return max(1, min(limits) // self.accumulation)

    @property
    def accumulation(self) -> int:
        """Batches of a step; a CS-3 accumulates by itself, and ``grad_accum_steps`` is for the others."""
        wanted = whole(section(self.init, "loop").get("grad_accum_steps")) or 1
        return 1 if self.device == "CSX" else wanted


def written_callbacks(init: Mapping[str, Any]) -> Iterator[Callback]:
    """Those that are written as they should be: one name with its arguments."""
    for index, name, arguments in named_entries(init.get("callbacks")):
        yield Callback(name, arguments, f"init.callbacks[{index}].{name}")


def section(holder: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    """A map below ``key``, empty where there is none: what is no map is said by config.keys."""
    value = holder.get(key)
    return value if isinstance(value, Mapping) else {}


def whole(value: Any) -> int | None:
    return value if type(value) is int and value > 0 else None


def number(value: Any) -> float | None:
    good = type(value) in (int, float) and value == value and abs(value) != float("inf")
    return float(value) if good else None


def exists(path: str) -> bool:
    """A path that cannot be looked at is none that exists: paths.readable says why."""
    try:
        return Path(path).exists()
    except (OSError, ValueError):
        return False
