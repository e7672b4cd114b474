"""A model from the ``model:`` section of a cszoo configuration."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from torch import Tensor, nn

from cerebras_utils.fallback.models.decoder import LanguageModel
from cerebras_utils.fallback.models.loss import language_model_loss
from cerebras_utils.fallback.models.mup import LearningRateGroup, learning_rate_groups
from cerebras_utils.fallback.models.options import Options, options
from cerebras_utils.fallback.models.rules import model_problems, options_without_effect

__all__ = ["Model", "Output", "build_model", "model_problems", "options_without_effect"]

_INPUTS = {"input_ids", "attention_mask", "labels"}


class Output(NamedTuple):
    loss: Tensor
    logits: Tensor


class Model(nn.Module):
    """The language model with its loss. The keys of its state dict begin with ``model.``, as in ModelZoo."""

    def __init__(self, options: Options) -> None:
        super().__init__()
        self.options = options
        self.model = LanguageModel(options)

    def forward(self, batch: Mapping[str, Tensor]) -> Output:
        """``attention_mask`` says which labels count; attention itself is causal and hides nothing else."""
        assert batch.keys() == _INPUTS, f"inputs that this model does not read: {batch.keys() ^ _INPUTS}"
        logits = self.model(batch["input_ids"])
        loss = language_model_loss(logits, batch["labels"], batch["attention_mask"], self.options)
        return Output(loss, logits)

    @property
    def learning_rate_groups(self) -> Mapping[str, LearningRateGroup]:
        """What ``adjust_learning_rate`` of an optimizer may name, and the scales that muP sets."""
        return learning_rate_groups(self.options)


def build_model(params: Mapping[str, Any], where: str = "model") -> Model:
    """With fresh weights from torch's default generator: after the same seed, those of ModelZoo.

    A ``ProblemError`` lists everything that is wrong with the section.
    """
    return Model(options(params, where))
