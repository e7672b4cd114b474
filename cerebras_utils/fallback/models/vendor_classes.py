"""What ModelZoo calls the class of a module of this backend: configs choose LoRA's layers by it."""

from torch import nn

from cerebras_utils.fallback.models.attention import Attention
from cerebras_utils.fallback.models.build import Model
from cerebras_utils.fallback.models.decoder import Decoder, DecoderLayer, Embedding, LanguageModel
from cerebras_utils.fallback.models.layers import Dense, FeedForward
from cerebras_utils.fallback.models.positions import Alibi, Fixed, Learned, Relative

_MODELS = {"gpt2": "Gpt2Model", "gpt3": "GPT3Model", "llama": "LlamaModel", "mistral": "MistralModel"}
_CLASSES: dict[type[nn.Module], str] = {
    LanguageModel: "GPT2LMHeadModel",
    Embedding: "EmbeddingLayer",
    Learned: "LearnedPositionEmbeddingLayer",
    Fixed: "FixedPositionEmbeddingLayer",
    Alibi: "AlibiPositionEmbeddingLayer",
    Relative: "RelativePositionEmbeddingLayer",
    Decoder: "TransformerDecoder",
    DecoderLayer: "TransformerDecoderLayer",
    FeedForward: "FeedForwardNetwork",
    Dense: "SingleFeedForwardLayer",
}


def vendor_class(module: nn.Module) -> str:
    """The module's own class name where it has no counterpart, as those of torch and of ModelZoo."""
    if isinstance(module, Model):
        return _MODELS[module.options.name.lower()]
    if isinstance(module, Attention):
        return "MultiQueryAttention" if module._shared else "MultiheadAttention"
    return _CLASSES.get(type(module), type(module).__name__)
