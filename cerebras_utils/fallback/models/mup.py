"""Which initializer each kind of weight gets, and what muP scales: weights, logits, learning rates."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cerebras_utils.fallback.models.initializers import Initializer, initializer
from cerebras_utils.fallback.models.options import Options


@dataclass(frozen=True)
class Initializers:
    embedding: Initializer
    projection: Initializer  # queries, keys, values
    attention_output: Initializer
    ffn: Initializer
    ffn_output: Initializer


@dataclass(frozen=True)
class LearningRateGroup:
    """Parameters whose learning rate is scaled together. Patterns are globs over names of parameters."""

    patterns: tuple[str, ...]
    scale: float = 1.0


def initializers(options: Options) -> Initializers:
    """As ModelZoo resolves them, including what it does not pass on.

    An ``initializer`` also serves the outputs of attention, but not those of muP; without one, outputs are
    narrower by the square root of twice the depth.
    """
    default = initializer({"name": "truncated_normal", "std": options.initializer_range})
    general = _given(options.initializer)
    projection = general or default
    ffn = _given(options.ffn_initializer) or projection
    output = _given(options.output_layer_initializer)
    ffn_output = _given(options.ffn_output_layer_initializer)
    depth = (2 * options.num_hidden_layers) ** -0.5
    if options.mup:
        width, filters = _widths(options)
        projection, ffn = projection.scaled(width**-0.5), ffn.scaled(width**-0.5)
        output = (output or default).scaled(width**-0.5 * depth)
        ffn_output = (ffn_output or default).scaled(filters**-0.5 * depth)
    elif output is None and general is None:
        output = default.scaled(depth)
    return Initializers(
        embedding=_given(options.embedding_initializer) or default,
        projection=projection,
        attention_output=output or projection,
        ffn=ffn,
        ffn_output=ffn_output or output or ffn,
    )


def output_scale(options: Options) -> float:
    """The factor of the logits."""
    if not options.mup:
        return options.output_logits_scale or 1.0
    width, _ = _widths(options)
    return (options.output_logits_alpha or 1.0) / (width if options.scale_output_logits_by_d else width**0.5)


def keys_are_scaled(options: Options) -> bool:
    """Whether queries and keys are both divided by the root of the head size: 1/d in all."""
    if options.attention_type == "dot_product":
        return False
    return options.mup if options.scale_qk_dot_by_d is None else options.scale_qk_dot_by_d


def learning_rate_groups(options: Options) -> Mapping[str, LearningRateGroup]:
    """The groups that ``adjust_learning_rate`` of an optimizer names, with the scales that muP gives them."""
    attention = ffn_input = ffn_output = 1.0
    if options.mup:
        width, filters = _widths(options)
        attention = ffn_input = 1 / width
        ffn_output = 1 / filters
    dense = ("*decoder*dense*weight", "*decoder*linear*weight", "*decoder*linear*expert_weights")
    inputs = ("*decoder*ffn.ffn.[!1]*weight", "*decoder*ffn.ffn.[!1]*expert_weights")
    outputs = ("*decoder*ffn.ffn.[1]*weight", "*decoder*ffn.ffn.[1]*expert_weights")
    return {
        "embedding": LearningRateGroup(("*embedding*weight",)),
        "decoder_kernel": LearningRateGroup(dense),
        "decoder_attention": LearningRateGroup(("*decoder*attn*dense*weight",), attention),
        "decoder_input_ffn": LearningRateGroup(inputs, ffn_input),
        "decoder_output_ffn": LearningRateGroup(outputs, ffn_output),
    }


def _given(spec: str | Mapping[str, Any] | None) -> Initializer | None:
    return None if spec is None else initializer(spec)


def _widths(options: Options) -> tuple[float, float]:
    hidden, filters = options.mup_base_hidden_size, options.mup_base_filter_size
    assert hidden is not None, "asked outside of muP"
    assert filters is not None, "a rule checks that both are set"
    return options.hidden_size / hidden, options.filter_size / filters
