"""Validation of a language model: loss per batch averaged, perplexity and accuracy over tokens.

The loss is the mean of the batches' losses, as ModelZoo logs it. Perplexity and accuracy are
over all tokens that count, so they do not depend on how the tokens were batched.
"""

import math

from torch import Tensor
from torch.nn import functional


class Evaluation:
    def __init__(self) -> None:
        self._losses, self._batches = 0.0, 0
        self._nll, self._correct, self._tokens = 0.0, 0.0, 0.0

    def add(self, loss: Tensor, logits: Tensor, batch: dict[str, Tensor]) -> None:
        labels, counts = batch["labels"].long(), batch["attention_mask"].float()
        self._losses += loss.item()
        self._batches += 1
        flat = logits.float().flatten(0, 1)
        each = functional.cross_entropy(flat, labels.flatten(), reduction="none").view_as(counts)
        self._nll += float((each * counts).sum())
        self._correct += float(((logits.argmax(-1) == labels) * counts).sum())
        self._tokens += float(counts.sum())

    def results(self) -> dict[str, float]:
        if not self._batches:
            return {}
        tokens = max(self._tokens, 1.0)
        mean = self._nll / tokens
        return {
            "loss": self._losses / self._batches,
            "eval/lm_perplexity": math.exp(mean) if mean < 700 else math.inf,
            "eval/accuracy": self._correct / tokens,
        }
