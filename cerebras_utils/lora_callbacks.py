"""LoRA in a run: ``Lora``, ModelZoo's callback on plain PyTorch, and ``SparseLora``, this project's on both.

    callbacks:
    - SparseMaskCallback: {mask_path: masks.safetensors}
    - SparseLora: {lora_params: {r: 8, alpha: 16, target_modules: [TransformerDecoderLayer, Linear]}}

``SparseLora`` masks the update by the masks of the ``SparseMaskCallback``, in the forward pass. On cszoo it
wraps the model function as ModelZoo's own ``Lora`` does, so that the optimizer is made for the factors alone.
"""

from collections.abc import Iterator, Mapping
from functools import wraps
from typing import TYPE_CHECKING, Any

from cerebras_utils.hooks import Hooks
from cerebras_utils.lora_settings import LORA, SPARSE_LORA, group_place, groups, weights_command
from pruning.problems import Problem, ProblemError, fail

if TYPE_CHECKING:
    from torch import Tensor, nn

    from pruning.lora.layers import Settings

MARK = "lora_factors"  # in a checkpoint: what the factors were trained with
_FACTORS = (".lora_A", ".lora_B")
_OF_A_RUN = ("optimizer", "schedulers", "dataloader")  # of the training that wrote a checkpoint


class Lora(Hooks):
    """The factors of ModelZoo's ``Lora``: same names, same order, same first values after the same seed."""

    kind = LORA

    def __init__(self, lora_params: dict[str, Any] | list[dict[str, Any]]) -> None:
        self.lora_params = lora_params
        self._where = f"{self.kind}.lora_params"
        self._groups = groups(self.kind, lora_params, self._where)
        self._settings: dict[str, Settings] = {}  # layer → what it was given
        self._start: str = "the checkpoint"

    def change_model(self, model: "nn.Module") -> None:
        from cerebras_utils.fallback.models.vendor_classes import vendor_class
        from pruning.lora.apply import attach_factors, freeze

        places = [group_place(self._where, self.lora_params, index) for index in range(len(self._groups))]
        self._settings = attach_factors(
            model, self._groups, where=places, named=vendor_class, draw_as_modelzoo=True
        )
        freeze(
            model,
            train_norms=any(group.train_norms for group in self._groups),
            train_bias=any(group.train_bias for group in self._groups),
            where=self._where,
        )

    def post_setup(self, trainer: Any) -> None:
        trained = sum(p.numel() for p in trainer.model.parameters() if p.requires_grad)
        total = sum(p.numel() for p in trainer.model.parameters())
        ranks = ", ".join(map(str, sorted({settings.r for settings in self._settings.values()})))
        _say(
            trainer,
            f"{self.kind}: {len(self._settings)} layers of rank {ranks}; {trained:,} of {total:,} trained",
        )

    # Checkpoints

    def on_before_load_checkpoint(self, trainer: Any, ckpt_path: str | None) -> None:
        self._start = str(ckpt_path)

    def preprocess_checkpoint(self, trainer: Any, state_dict: dict[str, Any]) -> None:
        """A base has no factors: it gets those that were drawn. Otherwise it must be of this very run."""
        mark = state_dict.pop(MARK, None)
        if "model" not in state_dict:
            return
        fill_factors(trainer, state_dict, self._start)
        if mark is not None and (problems := [*self._differences(mark)]):
            raise ProblemError(problems)

    def on_save_checkpoint(self, trainer: Any, state_dict: dict[str, Any]) -> None:
        state_dict[MARK] = {name: _as_mark(settings) for name, settings in self._settings.items()}

    # Autorestart asks for these two; everything is in the checkpoint.
    def on_save_trainer_state(self, trainer: Any, state_dict: dict[str, Any]) -> None: ...
    def on_load_trainer_state(self, trainer: Any, state_dict: dict[str, Any]) -> None: ...

    def _differences(self, mark: Mapping[str, Mapping[str, Any]]) -> Iterator[Problem]:
        """Another scaling or mode makes another function of the same factors, and nothing would show it."""
        for name, settings in self._settings.items():
            ours, theirs = _as_mark(settings), dict(mark.get(name, {}))
            if theirs and theirs != ours:
                keys = [key for key in ours if theirs.get(key) != ours[key]]
                what = "; ".join(
                    f"{key} was {theirs.get(key)}, and is {ours[key]} in the config" for key in keys
                )
                yield Problem(
                    f"{self._start}: {name}", what, "resume with the settings of the run that wrote it"
                )


class SparseLora(Lora):
    """Also rank-stabilised, with ranks by layer, masked or multiplicative: see ``SparseLoRAConfig``."""

    kind = SPARSE_LORA

    def pre_setup(self, trainer: Any) -> None:
        """On cszoo: before the model is made. On plain PyTorch it is changed already."""
        if "model" not in trainer.callbacks:
            return
        import torch

        core = trainer.callbacks["model"]
        make = core.model

        def changed() -> "nn.Module":
            model: nn.Module = make if isinstance(make, torch.nn.Module) else make()
            self.change_model(model)
            return model

        core.model = changed if isinstance(make, torch.nn.Module) else wraps(make)(changed)

    def post_setup(self, trainer: Any) -> None:
        """The masks are there: all callbacks' setup is over."""
        super().post_setup(trainer)
        if not any(settings.mode == "sparse_to_sparse" for settings in self._settings.values()):
            return
        callback = self._mask_callback(trainer)
        covered = (
            self._vendor_masks(trainer)
            if "sparsity" in trainer.callbacks
            else self._own_masks(trainer, callback)
        )
        if not covered:
            what = "no layer that gets factors has a mask, so the update would be dense"
            raise fail(self._where, what, "target layers that the masks cover, or use Lora")

    def _mask_callback(self, trainer: Any) -> Any:
        from cerebras_utils.sparse_callback import SparseMaskCallback

        found = [c for c in trainer.callbacks.values() if isinstance(c, SparseMaskCallback)]
        if not found:
            what = "masks the update by the masks of SparseMaskCallback, which is not there"
            raise fail(self.kind, what, "add `- SparseMaskCallback: {mask_path: ...}`, or use Lora")
        if not found[0].apply_every_step:
            what = f"is false: the masks are applied once, and {self.kind} needs them in every step"
            raise fail("SparseMaskCallback.apply_every_step", what, "set it to true, or use Lora")
        return found[0]

    def _own_masks(self, trainer: Any, callback: Any) -> int:
        from pruning.lora.apply import adapted
        from pruning.lora.layers import mask_layer
        from pruning.masks.collection import resolve_names
        from pruning.masks.file import MaskFile

        weights = dict(trainer.model.named_parameters(remove_duplicate=False))
        count = 0
        with MaskFile(callback.mask_path) as file:
            masks = {owner: mask for mask, owner in resolve_names(file.names, weights).items()}
            for name, layer in adapted(trainer.model).items():
                if (mask := masks.get(f"{name}.weight")) is not None:
                    mask_layer(layer, "weight", file.mask(mask))  # type: ignore[arg-type]
                    count += 1
        return count

    def _vendor_masks(self, trainer: Any) -> int:
        """They are buffers ``weight_mask`` of the same modules, filled when a loop begins."""
        from pruning.lora.apply import adapted

        masked = {
            id(sparse.param) for sparse in trainer.callbacks["sparsity"].sparsity.sparse_params.values()
        }
        layers = [layer for layer in adapted(trainer.model).values() if id(layer.weight) in masked]
        for layer in layers:
            layer.has_mask = True
        return len(layers)


def fill_factors(trainer: Any, state_dict: dict[str, Any], where: str) -> None:
    """Into a base without factors, those of the model as they were drawn: strict loading asks for them."""
    own: Mapping[str, Tensor] = trainer.model.state_dict()
    model = state_dict["model"]
    wanted = [name for name in own if name.endswith(_FACTORS)]
    missing = [name for name in wanted if name not in model]
    if missing and len(missing) < len(wanted):
        fix = "resume from a checkpoint of this run, or start from a base without any factors"
        raise ProblemError(
            Problem(f"{where}: {n}", "is missing, though other factors are there", fix) for n in missing
        )
    others = [key for key in _OF_A_RUN if key in state_dict]
    if trainer.optimizer is not None and others and (missing or _of_other_weights(trainer, state_dict)):
        raise fail(
            where,
            f"is a base, of other weights than are trained here, and has the {', '.join(others)} of its own",
            f"start from its weights alone: {weights_command(where)}",
        )
    model |= {name: own[name] for name in missing}


def _of_other_weights(trainer: Any, state_dict: Mapping[str, Any]) -> bool:
    """Where the optimizer's state is for another number of weights, whoever put the factors in."""
    if "optimizer" not in state_dict:
        return False
    theirs = state_dict["optimizer"]["param_groups"]
    ours = trainer.optimizer.param_groups
    return [len(group["params"]) for group in theirs] != [len(group["params"]) for group in ours]


def _as_mark(settings: "Settings") -> dict[str, Any]:
    return {key: getattr(settings, key) for key in ("r", "alpha", "scaling", "mode")}


def _say(trainer: Any, text: str) -> None:
    report = getattr(trainer, "report", None)
    if report is not None:
        report.say(text)
    else:
        trainer.logger.info(text)
