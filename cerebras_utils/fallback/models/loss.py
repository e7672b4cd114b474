"""The loss of a causal language model, and what it is divided by."""

from torch import Tensor
from torch.nn import functional

from cerebras_utils.fallback.models.options import Options


def language_model_loss(logits: Tensor, labels: Tensor, loss_mask: Tensor, options: Options) -> Tensor:
    """Cross entropy over the places that the mask keeps.

    ``num_tokens`` divides by their number, ``batch_size`` by the number of sequences, times
    ``loss_weight``. The mask takes the type of the logits, so that under autocast it counts as ModelZoo does.
    """
    each = functional.cross_entropy(
        logits.view(-1, logits.shape[-1]), labels.view(-1).long(), reduction="none"
    )
    mask = loss_mask.to(logits.dtype)
    total = (each * mask.view(-1)).sum()
    if options.loss_scaling == "num_tokens":
        return total / mask.sum()
    return total / labels.shape[0] * options.loss_weight
