"""Masks on the weights of a plain module: what the vendor's sparsity API does, in plain PyTorch.

Weights and optimizer state are multiplied by the mask, never overwritten: NaN times zero is NaN, so
a weight that went wrong under a mask shows in the loss instead of being tidied away. Masking the
gradients alone would not do: momentum revives the weights of a trained model.
"""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from cerebras_utils.mask_audit import Layer
from cerebras_utils.mask_matching import matched
from cerebras_utils.zero_check import ZeroCheck
from pruning.masks.file import MaskFile
from pruning.problems import Problem, ProblemError

if TYPE_CHECKING:
    from torch import Tensor, nn

    from cerebras_utils.mask_arithmetic import Mask


class PlainMasks:
    """Read once, and held on the devices of the weights: a byte for each weight."""

    def __init__(self, mask_path: str, every_step: bool) -> None:
        self.mask_path, self.every_step = mask_path, every_step
        self.weights: dict[str, nn.Parameter] = {}
        self.masks: dict[str, Tensor] = {}  # parameter name → bool, True = keep, on the parameter's device
        self._local: dict[str, Mask] = {}  # the same masks: of FSDP, this process's rows
        self._check: ZeroCheck | None = None

    def pre_setup(self, trainer: Any) -> None:
        pass

    def setup(self, trainer: Any) -> None:
        """Every mask must find its weight with its shape; all that do not are reported together."""
        from cerebras_utils.fallback.shards import as_shard, local
        from cerebras_utils.mask_arithmetic import Mask

        weights = dict(trainer.model.named_parameters(remove_duplicate=False))
        with MaskFile(self.mask_path) as file:
            for parameter, mask in matched(file, weights).items():
                self.weights[parameter] = weights[parameter]
                keep = as_shard(file.mask(mask), weights[parameter])
                self.masks[parameter] = keep.to(weights[parameter].device)
        self._local = {name: Mask(local(mask)) for name, mask in self.masks.items()}
        if self.every_step:
            self._check = ZeroCheck(self.weights, {name: local(mask) for name, mask in self.masks.items()})

    def each(self) -> "Iterator[tuple[str, Tensor]]":
        from cerebras_utils.fallback.shards import whole

        for name, mask in self.masks.items():
            yield name, whole(mask)

    # Every step: gradients before the optimizer reads them, weights after it wrote them. Its state is masked
    # at the start alone: from masked gradients and weights no optimizer here makes anything but zeros.

    def before_step(self) -> None:
        """Before clipping: its norm is that of the masked gradients."""
        from cerebras_utils.fallback.shards import local

        for name, weight in self.weights.items():
            if weight.grad is not None:
                self._local[name].clear(local(weight.grad))

    def after_step(self, optimizer: Any) -> None:
        self.mask_weights()

    def verify(self, when: str) -> None:
        if self._check is not None:
            self._check(when)

    # The weights that a run starts from.

    def start(self, optimizer: Any) -> None:
        """Whatever they are now, they are sparse afterwards. What a mask would hide is an error."""
        if problems := [*self._hidden(), *self._hidden_in_state(optimizer)]:
            raise ProblemError(problems)
        self.mask_weights()
        if optimizer is not None:
            self._mask_state(optimizer)

    def mask_weights(self) -> None:
        self._multiply(self.weights)

    def layers(self) -> dict[str, Layer]:
        """What the weights are like now."""
        from cerebras_utils.fallback.shards import count

        found = {}
        for name, keep in self.masks.items():
            zero = self.weights[name].detach() == 0
            counts = [count(of) for of in (zero, ~zero & ~keep, zero & keep)]
            found[name] = Layer(zero.numel(), *counts)
        return found

    # Checkpoints: the model keeps no masks, its checkpoints do.

    def into_model(self, trainer: Any, state_dict: dict[str, Any], where: str) -> None:
        for name in self.masks:
            state_dict["model"].pop(f"{name}_mask", None)

    def into_checkpoint(self, model: dict[str, Any]) -> None:
        if self.every_step:
            model |= {f"{name}_mask": mask for name, mask in self.masks.items()}

    def _mask_state(self, optimizer: Any) -> None:
        for name, _, value in self._states(optimizer):
            self._multiply({name: value})

    def _states(self, optimizer: Any) -> "Iterator[tuple[str, str, Tensor]]":
        """Every tensor of a weight's own shape, by the weight's name and its own: momentum, moments."""
        for name, weight in self.weights.items():
            for state, value in optimizer.state.get(weight, {}).items():
                if getattr(value, "shape", None) == weight.shape:
                    yield name, state, value

    def _multiply(self, tensors: "Mapping[str, Tensor]") -> None:
        import torch

        from cerebras_utils.fallback.shards import local

        with torch.no_grad():
            for name, tensor in tensors.items():
                self._local[name].multiply(local(tensor))

    def _hidden(self) -> Iterator[Problem]:
        from cerebras_utils.fallback.shards import count

        for name, weight in self.weights.items():
            if hidden := count(~weight.detach().isfinite() & ~self.masks[name]):
                what = f"{hidden} values under the mask are NaN or infinite"
                yield Problem(name, what, "mend the weights it starts from")

    def _hidden_in_state(self, optimizer: Any) -> Iterator[Problem]:
        """What would make NaN of a zero: such values in a loaded state, and a step of 0 / 0."""
        from cerebras_utils.fallback.shards import count

        if optimizer is None:
            return
        for name, state, value in self._states(optimizer):
            if hidden := count(~value.isfinite() & ~self.masks[name]):
                what = f"{hidden} values under the mask are NaN or infinite in the optimizer's {state}"
                fix = "use an earlier checkpoint, or load its weights alone: --load_checkpoint_states model"
                yield Problem(name, what, fix)
        if self.every_step and any(group.get("eps") == 0 for group in optimizer.param_groups):
            what = "eps is 0 in the optimizer, so that the update of a dropped weight is 0 / 0, which is NaN"
            fix = "set eps: 1.0e-8; a checkpoint's eps wins unless its optimizer is left out"
            yield Problem(self.mask_path, what, fix)
