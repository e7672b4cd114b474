"""Validation of a language model: loss per batch averaged, perplexity and accuracy over tokens.

The loss is the mean of the batches' losses, as ModelZoo logs it. Perplexity and accuracy are
over all tokens that count, so they do not depend on how the tokens were batched.
"""

import math
from collections.abc import Callable, Sequence

from torch import Tensor
from torch.nn import functional


class Evaluation:
    def __init__(self, *, metrics: bool = True) -> None:
        """``metrics``: perplexity and accuracy besides the loss."""
        self._metrics = metrics
        self._losses, self._batches = 0.0, 0
        self._nll, self._correct, self._tokens = 0.0, 0.0, 0.0

    def add(self, loss: Tensor, logits: Tensor, batch: dict[str, Tensor]) -> None:
        self._losses += loss.item()
        self._batches += 1
        if not self._metrics:
            return
        labels, counts = batch["labels"].long(), batch["attention_mask"].float()
        flat = logits.float().flatten(0, 1)
        each = functional.cross_entropy(flat, labels.flatten(), reduction="none").view_as(counts)
        self._nll += float((each * counts).sum())
        self._correct += float(((logits.argmax(-1) == labels) * counts).sum())
        self._tokens += float(counts.sum())

    def results(self, sums: Callable[[Sequence[float]], Sequence[float]] = tuple) -> dict[str, float]:
        """``sums`` adds up what several processes have counted, each in its part of the batches."""
        if not self._batches:
            return {}
        found = {"loss": self._losses / self._batches}
        if self._metrics:
            nll, correct, counted = sums((self._nll, self._correct, self._tokens))
            tokens = max(counted, 1.0)
            mean = nll / tokens
            found["eval/lm_perplexity"] = math.exp(mean) if mean < 700 else math.inf
            found["eval/accuracy"] = correct / tokens
        return found
