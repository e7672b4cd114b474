"""After every step: is what the masks drop still zero? Cheap enough never to be switched off."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from pruning.problems import Problem, ProblemError

if TYPE_CHECKING:
    from torch import Tensor


class ZeroCheck:
    def __init__(self, weights: "Mapping[str, Tensor]", masks: "Mapping[str, Tensor]") -> None:
        from cerebras_utils.mask_arithmetic import Mask, are_zero  # numba: not on the way to a CS-3

        self._pairs = {name: (weight, Mask(masks[name])) for name, weight in weights.items()}
        self._are_zero = are_zero

    def __call__(self, when: str) -> None:
        """Raise for the layers in which a dropped weight came back, with their number. NaN is one, too."""
        import torch

        from cerebras_utils.fallback.shards import local

        with torch.no_grad():
            # Anew each time: FSDP of some versions of torch gives a shard other memory in its first pass.
            pairs = {name: (local(weight), mask) for name, (weight, mask) in self._pairs.items()}
            if self._are_zero(pairs.values()):
                return
            dropped = {name: mask.keep == 0 for name, (_, mask) in pairs.items()}
            revived, sick = {}, {}
            for name, (weight, _) in pairs.items():
                revived[name] = int(((weight != 0) & dropped[name]).sum())
                sick[name] = int((weight.isnan() & dropped[name]).sum())
        raise ProblemError(
            _problem(f"{when}: {name}", count, int(dropped[name].sum()), sick[name])
            for name, count in revived.items()
            if count
        )


def _problem(where: str, count: int, dropped: int, sick: int) -> Problem:
    what = f"{count:,} of the {dropped:,} weights that its mask drops are not zero"
    if not sick:
        fix = "take out the callback that writes to the weights; the last checkpoint is sound"
        return Problem(where, what, fix)
    what += f"; {sick:,} of them are NaN: the update of the optimizer was, and NaN times zero stays NaN"
    fix = "lower the learning rate, clip gradients, or set a larger eps; the last checkpoint is sound"
    return Problem(where, what, fix)
