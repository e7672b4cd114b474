"""``SparseMaskCallback``: masks from a file, kept on the weights while a model trains.

``apply_every_step: true`` keeps the pattern throughout: weights, gradients and optimizer state
are zero under the mask after every step. Masking the gradients alone would not do: momentum
revives the weights of a trained model. ``false`` applies the masks once, to the weights that a
run starts from, and trains densely from there.

Weights and state are multiplied by the mask, never overwritten: NaN times zero is NaN, so a weight
that went wrong under a mask shows in the loss instead of being tidied away.
"""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cerebras_utils.hooks import Hooks
from pruning.masks.collection import resolve_names
from pruning.masks.file import MaskFile
from pruning.problems import Problem, ProblemError, fail

if TYPE_CHECKING:
    from torch import Tensor, nn

MARK = "sparse_mask_callback"  # in a checkpoint: what was applied, and which masks


class SparseMaskCallback(Hooks):
    def __init__(self, mask_path: str, apply_every_step: bool = True) -> None:
        self.mask_path = str(mask_path)
        self.apply_every_step = apply_every_step
        self._masks: dict[str, Tensor] = {}  # parameter name → bool, True = keep, on the parameter's device
        self._weights: dict[str, nn.Parameter] = {}
        self._start: dict[str, int] = {}  # zeros among the kept weights when the run began
        self._applied = False
        self.digest = ""

    def setup(self, trainer: Any) -> None:
        """Every mask must find its weight with its shape; all that do not are reported together."""
        self.digest = file_digest(Path(self.mask_path))
        weights = dict(trainer.model.named_parameters(remove_duplicate=False))
        problems = []
        with MaskFile(self.mask_path) as file:
            for mask, parameter in resolve_names(file.names, weights).items():
                if tuple(weights[parameter].shape) != file.shape(mask):
                    shapes = f"{file.shape(mask)}, the weight {tuple(weights[parameter].shape)}"
                    problems.append(
                        Problem(
                            f"{self.mask_path}: {mask}", f"is of shape {shapes}", "take this model's masks"
                        )
                    )
                else:
                    self._weights[parameter] = weights[parameter]
                    self._masks[parameter] = file.mask(mask).to(weights[parameter].device)
        if problems:
            raise ProblemError(problems)

    # Every step: gradients and state before the optimizer reads them, weights and state after it wrote them.

    def on_before_optimizer_step(self, trainer: Any, model: Any, optimizer: Any) -> None:
        """Before clipping: its norm is that of the masked gradients."""
        if self.apply_every_step:
            for name, weight in self._weights.items():
                if weight.grad is not None:
                    weight.grad.masked_fill_(~self._masks[name], 0)
            self._mask_state(optimizer)

    def on_after_optimizer_step(self, trainer: Any, model: Any, optimizer: Any) -> None:
        if self.apply_every_step:
            self._mask_weights()
            self._mask_state(optimizer)

    # The weights that a run starts from, with and without a checkpoint.

    def on_fit_start(self, trainer: Any, train_dataloader: Any, val_dataloader: Any, loop: Any) -> None:
        if self.apply_every_step or (trainer.global_step == 0 and not self._applied):
            self._refuse_hidden()
            self._mask_weights()
            if trainer.optimizer is not None:
                self._mask_state(trainer.optimizer)
        self._start = {name: self._dead(name) for name in self._masks}

    def on_validate_start(self, trainer: Any, model: Any, val_dataloader: Any, loop: Any) -> None:
        if self.apply_every_step:
            self._mask_weights()

    def preprocess_checkpoint(self, trainer: Any, state_dict: dict[str, Any]) -> None:
        """A checkpoint's masks must be these; what was started from masked weights is not masked again."""
        model, mark = state_dict["model"], state_dict.pop(MARK, None)
        self._compare(model)
        for name in self._masks:
            model.pop(f"{name}_mask", None)
        if self.apply_every_step:
            return
        if mark is not None and mark.get("sha256") != self.digest:
            raise fail(
                self.mask_path,
                "the checkpoint was trained from the masks of another file "
                f"(sha256 {str(mark.get('sha256'))[:12]}…, this is {self.digest[:12]}…)",
                "resume with the mask file that the run was started with",
            )
        if mark is None:
            for name, mask in self._masks.items():
                if name in model:
                    model[name] = model[name] * mask.to(model[name].device)
        self._applied = True

    def on_save_checkpoint(self, trainer: Any, state_dict: dict[str, Any]) -> None:
        mode = "every_step" if self.apply_every_step else "once"
        state_dict[MARK] = {"mode": mode, "sha256": self.digest}
        if self.apply_every_step:
            for name, mask in self._masks.items():
                state_dict["model"][f"{name}_mask"] = mask

    # Receipt

    def receipt(self) -> dict[str, Any]:
        """What the weights are like now: per layer, and weights that came back or died under the masks."""
        layers = {}
        for name, mask in self._masks.items():
            zeros = int((self._weights[name] == 0).sum())
            revived = int(((self._weights[name] != 0) & ~mask).sum())
            died = self._dead(name) - self._start.get(name, 0)
            layers[name] = {
                "sparsity": zeros / mask.numel(),
                "resurrected": revived,
                "newly_dead": max(0, died),
            }
        return {
            "mask_path": self.mask_path,
            "sha256": self.digest,
            "apply_every_step": self.apply_every_step,
            "resurrected": sum(layer["resurrected"] for layer in layers.values()),
            "newly_dead": sum(layer["newly_dead"] for layer in layers.values()),
            "layers": layers,
        }

    def _mask_weights(self) -> None:
        import torch

        with torch.no_grad():
            for name, weight in self._weights.items():
                weight.mul_(self._masks[name])

    def _mask_state(self, optimizer: Any) -> None:
        """Every tensor of a weight's own shape: momentum, moments."""
        for name, weight in self._weights.items():
            for value in optimizer.state.get(weight, {}).values():
                if getattr(value, "shape", None) == weight.shape:
                    value.mul_(self._masks[name])

    def _dead(self, name: str) -> int:
        return int(((self._weights[name] == 0) & self._masks[name]).sum())

    def _refuse_hidden(self) -> None:
        problems = [
            Problem(
                name, f"{count} values under the mask are NaN or infinite", "mend the weights it starts from"
            )
            for name, count in self._hidden()
        ]
        if problems:
            raise ProblemError(problems)

    def _hidden(self) -> Iterator[tuple[str, int]]:
        for name, weight in self._weights.items():
            if count := int((~weight.detach().isfinite() & ~self._masks[name]).sum()):
                yield name, count

    def _compare(self, model: dict[str, Any]) -> None:
        problems = []
        for name, mask in self._masks.items():
            theirs = model.get(f"{name}_mask")
            if theirs is not None and (differ := int((theirs.to(mask.device).bool() != mask).sum())):
                problems.append(
                    Problem(
                        f"{self.mask_path}: {name}",
                        f"differs from the mask in the checkpoint in {differ:,} of {mask.numel():,} weights",
                        "resume with the masks it was trained with, or start from dense weights",
                    )
                )
        if problems:
            raise ProblemError(problems)


def file_digest(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
