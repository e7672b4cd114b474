"""After every step: is what the masks drop still zero? Cheap enough never to be switched off."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from pruning.problems import Problem, ProblemError

if TYPE_CHECKING:
    from torch import Tensor


class ZeroCheck:
    """Holds a byte per weight (1 where it must be zero), and a buffer as large as the largest weight."""

    def __init__(self, weights: "Mapping[str, Tensor]", masks: "Mapping[str, Tensor]") -> None:
        import torch

        self._weights = dict(weights)
        self._dropped = {name: (~masks[name]).view(torch.uint8) for name in self._weights}
        self._buffers: dict[tuple[torch.device, torch.dtype], Tensor] = {}
        for weight in self._weights.values():
            key = (weight.device, weight.dtype)
            if key not in self._buffers or self._buffers[key].numel() < weight.numel():
                self._buffers[key] = torch.empty(weight.numel(), device=weight.device, dtype=weight.dtype)

    def __call__(self, when: str) -> None:
        """Raise for the layers in which a dropped weight came back, with their number. NaN is one, too."""
        import torch

        with torch.no_grad():
            sums = [self._sum(name, weight) for name, weight in self._weights.items()]
            if not sums or not torch.stack(sums).any():
                return
            revived = {name: self._count(name) for name in self._weights}
        if any(revived.values()):
            raise ProblemError(
                Problem(
                    f"{when}: {name}",
                    f"{count:,} of the {int(self._dropped[name].sum()):,} weights that its mask drops are not"
                    " zero",
                    "take out the callback that writes to the weights; the last checkpoint is sound",
                )
                for name, count in revived.items()
                if count
            )

    def _sum(self, name: str, weight: "Tensor") -> "Tensor":
        """The sum of the absolute values, 0 only if each is; multiplying bytes beats selecting by far."""
        import torch

        product = self._buffers[weight.device, weight.dtype][: weight.numel()].view(weight.shape)
        torch.mul(weight.detach(), self._dropped[name], out=product)
        return product.abs_().sum(dtype=torch.float32)

    def _count(self, name: str) -> int:
        return int(((self._weights[name] != 0) & self._dropped[name].bool()).sum())
