"""Masks on ModelZoo's trainer: its own sparsity callback is handed this project's algorithm.

What follows from there is the vendor's: masking on a CPU and a GPU, hints and masks for the CS-3,
masks in checkpoints, LogSparsity. Here is what it lacks: strict loading of checkpoints without masks,
of the dense bases of LoRA, and masks that are applied once.

Imports Cerebras software: import this module inside functions only.
"""

from collections.abc import Callable, Iterator
from functools import wraps
from typing import TYPE_CHECKING, Any

from cerebras_utils.algorithm import FileMaskSparsity
from cerebras_utils.mask_audit import Layer, layer_of
from cerebras_utils.mask_matching import matched
from cerebras_utils.zero_check import ZeroCheck
from pruning.masks.file import MaskFile
from pruning.problems import fail

if TYPE_CHECKING:
    from torch import Tensor, nn

FACTORS = (".lora_A", ".lora_B")


class VendorMasks:
    """Nothing is held: masks are in the model's buffers, or read from the file when they are needed."""

    def __init__(self, mask_path: str, every_step: bool) -> None:
        self.mask_path, self.every_step = mask_path, every_step
        self.masks: dict[str, str] = {}  # parameter → the name of its mask in the file
        self._trainer: Any = None
        self._check: ZeroCheck | None = None

    def pre_setup(self, trainer: Any) -> None:
        """Before the model is made: every ``pre_setup`` is called before any ``setup``."""
        from cerebras_utils.cszoo_callbacks import watch_runs

        self._trainer = trainer
        watch_runs()
        core = trainer.callbacks["sparsity"]
        if core.sparsity is not None:
            raise fail(
                "trainer.init.sparsity",
                "is set together with SparseMaskCallback, and a weight can have one mask",
                "remove `sparsity:`, or the callback",
            )
        if self.every_step:
            core.sparsity = lambda: FileMaskSparsity(self.mask_path)
        else:
            make = trainer.callbacks["model"].model
            trainer.callbacks["model"].model = self._made_sparse(make)

    def setup(self, trainer: Any) -> None:
        if merging := [n for n, m in trainer.model.named_modules() if getattr(m, "merge_weights", False)]:
            raise fail(
                "trainer.init.callbacks: Lora.lora_params.merge_weights",
                f"is true for {len(merging)} layers: validation would merge the update and then mask it away",
                "set merge_weights: false",
            )
        if self.every_step:
            algorithm = trainer.callbacks["sparsity"].sparsity
            assert isinstance(algorithm, FileMaskSparsity), algorithm
            self.masks = algorithm.masks

    def each(self) -> "Iterator[tuple[str, Tensor]]":
        with MaskFile(self.mask_path) as file:
            for parameter, mask in self.masks.items():
                yield parameter, file.mask(mask)

    # Every step: the vendor masks. On the CS-3 there is nothing to look at until a checkpoint comes back.

    def before_step(self) -> None:
        pass

    def after_step(self, optimizer: Any) -> None:
        pass

    def verify(self, when: str) -> None:
        if not self.every_step or self.remote:
            return
        if self._check is None:  # the masks become those of the file when a loop begins
            sparse = self._trainer.callbacks["sparsity"].sparsity.sparse_params
            self._check = ZeroCheck(
                {name: p.param for name, p in sparse.items()}, {name: p.mask for name, p in sparse.items()}
            )
        self._check(when)

    @property
    def remote(self) -> bool:
        """The weights are on a CS-3, and what is here of them are handles."""
        return bool(self._trainer.backend.is_csx)

    # The weights that a run starts from.

    def start(self, optimizer: Any) -> None:
        self._check = None

    def mask_weights(self) -> None:
        pass

    def layers(self) -> dict[str, Layer] | None:
        """What the weights are like now; None where they are not here."""
        if self.remote:
            return None
        weights = dict(self._trainer.model.named_parameters(remove_duplicate=False))
        found = {}
        for name, mask in self.each():
            weight = weights[name].detach()
            found[name] = layer_of(weight, mask.to(weight.device))
        return found

    # Checkpoints

    def into_model(self, trainer: Any, state_dict: dict[str, Any], where: str) -> None:
        """What strict loading asks for, and a checkpoint from elsewhere lacks."""
        model = state_dict["model"]
        if foreign := [name for name in model if not name.startswith("model.")]:
            raise fail(
                f"{where}: {foreign[0]}",
                f"{len(foreign)} of {len(model)} weights have names that do not begin with 'model.': ModelZoo"
                " would look for all of them elsewhere",
                "rename them, or leave them out",
            )
        if self.every_step:
            algorithm = trainer.callbacks["sparsity"].sparsity
            for buffer, parameter in algorithm.buffers(trainer.model):
                model.setdefault(buffer, algorithm.mask(parameter))
        else:
            for parameter in self.masks:
                model.pop(f"{parameter}_mask", None)
        if any(name.endswith(FACTORS) for name in trainer.model.state_dict()):
            from cerebras_utils.lora_callbacks import fill_factors

            only_model = any(_loads_model_alone(callback) for callback in trainer.callbacks.values())
            fill_factors(trainer, {"model": model} if only_model else state_dict, where)

    def into_checkpoint(self, model: dict[str, Any]) -> None:
        pass

    def _made_sparse(self, make: "Callable[[], nn.Module] | nn.Module") -> "Callable[[], nn.Module]":
        """Masked while the model is made, before it is compiled: later is too late for a CS-3."""
        import torch

        def masked() -> "nn.Module":
            model = make if isinstance(make, torch.nn.Module) else make()
            weights = dict(model.named_parameters(remove_duplicate=False))
            with MaskFile(self.mask_path) as file, torch.no_grad():
                self.masks = matched(file, weights)
                for weight, mask in {id(weights[p]): (weights[p], m) for p, m in self.masks.items()}.values():
                    weight.mul_(file.mask(mask).to(weight.device))
            return model

        return masked if isinstance(make, torch.nn.Module) else wraps(make)(masked)


def _loads_model_alone(callback: Any) -> bool:
    """ModelZoo's ``LoadCheckpointStates``, which may stand after this project's callbacks."""
    states = getattr(callback, "load_checkpoint_states", "all")
    return states != "all" and "optimizer" not in states
