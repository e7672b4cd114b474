"""A loss that is NaN or infinite: the end of a run, and what to do about it."""

from collections.abc import Mapping

from torch import Tensor, nn

from cerebras_utils.fallback.shards import local


class NotFiniteError(RuntimeError):
    """The loss is NaN or infinite. Nothing was saved after the last good checkpoint."""

    def __init__(self, step: int, loss: float, fix: str, what: str = "loss") -> None:
        super().__init__(f"the {what} of step {step} is {loss}")
        self.step, self.fix = step, fix


def advice(model: nn.Module, batch: Mapping[str, Tensor], *, begun: bool) -> str:
    """By where it comes from: weights, an empty batch, or training. ``begun``: there were steps before."""
    if not all(bool(weight.isfinite().all()) for weight in map(local, model.parameters())):
        before = "before this step" if begun else "in what it starts from"
        return f"the weights are not finite {before}: start from another checkpoint"
    if not batch["attention_mask"].any():
        return "the loss mask of this batch counts no token: prepare the data without such samples"
    return "lower the learning rate, or clip gradients; the last good checkpoint is kept"
