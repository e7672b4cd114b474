"""After every step: is what the masks drop still zero? Cheap enough never to be switched off."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from pruning.problems import Problem, ProblemError

if TYPE_CHECKING:
    from torch import Tensor


class ZeroCheck:
    def __init__(self, weights: "Mapping[str, Tensor]", masks: "Mapping[str, Tensor]") -> None:
        import torch

        self._pairs = {name: (weight, masks[name].view(torch.uint8)) for name, weight in weights.items()}

    def __call__(self, when: str) -> None:
        """Raise for the layers in which a dropped weight came back, with their number. NaN is one, too."""
        import torch

        from cerebras_utils.mask_arithmetic import are_zero  # numba: not on the way to a CS-3

        with torch.no_grad():
            if are_zero(self._pairs.values()):
                return
            dropped = {name: keep == 0 for name, (_, keep) in self._pairs.items()}
            revived = {n: int(((weight != 0) & dropped[n]).sum()) for n, (weight, _) in self._pairs.items()}
        raise ProblemError(
            Problem(
                f"{when}: {name}",
                f"{count:,} of the {int(dropped[name].sum()):,} weights that its mask drops are not zero",
                "take out the callback that writes to the weights; the last checkpoint is sound",
            )
            for name, count in revived.items()
            if count
        )
