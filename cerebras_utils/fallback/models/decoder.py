"""The decoder: embedding, layers, head.

Modules are registered in ModelZoo's order under ModelZoo's names, so that state dicts and lists of
parameters are the same. They also draw their first weights in its order, and as often: it builds one layer,
copies it and draws every copy anew. The same seed then gives the same weights.
"""

import copy

import torch
from torch import Tensor, nn

from cerebras_utils.fallback.models.attention import Attention
from cerebras_utils.fallback.models.layers import FeedForward, norm, times
from cerebras_utils.fallback.models.mup import Initializers, initializers, output_scale
from cerebras_utils.fallback.models.options import Options
from cerebras_utils.fallback.models.positions import Alibi, Fixed, Learned, Relative
from cerebras_utils.fallback.models.rotary import Rotation, rotation
from pruning.problems import fail


class DecoderLayer(nn.Module):
    def __init__(self, options: Options, weights: Initializers) -> None:
        super().__init__()
        self.self_attn = Attention(options, weights)
        self.norm1 = norm(options)
        self.dropout1 = nn.Dropout(options.dropout_rate)
        self.norm3 = norm(options)
        self._sandwich = options.norm_first_sandwich
        if self._sandwich:
            self.norm1_post = norm(options)
            self.norm3_post = norm(options)
        self.ffn = FeedForward(options, weights)
        self.draw()

    def forward(self, x: Tensor, bias: Tensor, rotation: Rotation | None, layer: int) -> Tensor:
        attended: Tensor = self.dropout1(self.self_attn(self.norm1(x), bias, rotation, layer))
        x = x + (self.norm1_post(attended) if self._sandwich else attended)
        transformed: Tensor = self.ffn(self.norm3(x))
        return x + (self.norm3_post(transformed) if self._sandwich else transformed)

    def draw(self) -> None:
        self.self_attn.draw()
        self.ffn.draw()


class Decoder(nn.Module):
    def __init__(self, options: Options, weights: Initializers, last: nn.Module) -> None:
        super().__init__()
        first = DecoderLayer(options, weights)
        copies = [copy.deepcopy(first) for _ in range(options.num_hidden_layers)]
        self.layers = nn.ModuleList(copies)
        self.norm = last
        for each in copies:
            each.draw()
        self._alternate = options.sliding_window_every_other_decoder_layer
        window_first = options.sliding_window_every_other_decoder_layer_pattern == "sliding_window_first"
        self._windowed = 0 if window_first else 1

    def forward(self, x: Tensor, biases: tuple[Tensor, Tensor], rotation: Rotation | None) -> Tensor:
        """``biases``: without and with the sliding window."""
        for index, layer in enumerate(self.layers):
            narrow = not self._alternate or index % 2 == self._windowed
            x = layer(x, biases[narrow], rotation, index)
        normed: Tensor = self.norm(x)
        return normed


class Embedding(nn.Module):
    def __init__(self, options: Options, weights: Initializers) -> None:
        super().__init__()
        self.word_embeddings = nn.Embedding(options.vocab_size, options.hidden_size)
        self.position_embeddings: Learned | Fixed | None = None
        self.position_embed_helper: Alibi | Relative | None = None
        match options.position_embedding_type:
            case "learned":
                self.position_embeddings = Learned(options, weights.embedding)
            case "fixed":
                self.position_embeddings = Fixed(options)
            case "alibi":
                self.position_embed_helper = Alibi(options)
            case "relative":
                self.position_embed_helper = Relative(options)
        weights.embedding(self.word_embeddings.weight.data)

    def forward(self, input_ids: Tensor) -> Tensor:
        words: Tensor = self.word_embeddings(input_ids)
        if self.position_embeddings is None:
            return words
        vectors: Tensor = self.position_embeddings(input_ids.shape[1])
        return words + vectors


class LanguageModel(nn.Module):
    """From token ids to logits."""

    def __init__(self, options: Options) -> None:
        super().__init__()
        weights = initializers(options)
        self.options = options
        self.embedding_layer = Embedding(options, weights)
        if options.embedding_layer_norm:
            self.embedding_ln_f = norm(options)
        rate = options.embd_pdrop
        self.drop_embd = nn.Dropout(options.dropout_rate if rate is None else rate)
        self.ln_f = norm(options)
        self.transformer_decoder = Decoder(options, weights, self.ln_f)
        self.lm_head = nn.Linear(options.hidden_size, options.vocab_size, bias=options.use_bias_in_output)
        if options.share_embedding_weights:
            self.lm_head.weight = self.embedding_layer.word_embeddings.weight
        else:
            self.lm_head.weight.data.normal_(mean=0.0, std=options.initializer_range)
        if options.use_bias_in_output:
            self.lm_head.bias.data.zero_()

    def forward(self, input_ids: Tensor) -> Tensor:
        options = self.options
        length = input_ids.shape[1]
        limited = options.position_embedding_type in ("learned", "fixed", "rotary")
        if limited and length > options.max_position_embeddings:
            what = f"{length} tokens in a sequence; the model has {options.max_position_embeddings} positions"
            raise fail("model.max_position_embeddings", what, f"set it to {length}, or use shorter sequences")
        x: Tensor = self.embedding_layer(input_ids)
        if options.embedding_layer_norm:
            x = self.embedding_ln_f(x)
        x = self.drop_embd(times(x, options.embeddings_scale))
        turn = rotation(options, length, x.device) if options.position_embedding_type == "rotary" else None
        logits: Tensor = self.lm_head(self.transformer_decoder(x, self._biases(length, x), turn))
        logits = times(logits, output_scale(options))
        if options.final_logit_softcapping is not None:
            logits = torch.tanh(logits / options.final_logit_softcapping) * options.final_logit_softcapping
        return logits

    def _biases(self, length: int, x: Tensor) -> tuple[Tensor, Tensor]:
        """What is added to the logits of attention: without and with the sliding window."""
        places = torch.arange(length, device=x.device)
        behind = places[:, None] - places[None, :]
        window = self.options.attention_sliding_window_length or length
        helper = self.embedding_layer.position_embed_helper
        added = torch.zeros(length, length, device=x.device) if helper is None else helper(length)
        full = added.masked_fill(behind < 0, -torch.inf)
        return full, full.masked_fill(behind >= window, -torch.inf)
