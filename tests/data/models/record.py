"""Records what ModelZoo computes, so that machines without it are still held to its numbers.

    python tests/data/models/record.py      # where cerebras.modelzoo 2.10 is importable

Weights and batches are formulas, the same bits everywhere; recorded are ModelZoo's names and shapes of
parameters in its order, its loss, some logits, the sizes of its gradients, and the first values it draws
after a seed.
"""

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

RECORDED = Path(__file__).with_name("recorded.json")
SEED = 7
LENGTH, VOCABULARY = 16, 61
POINTS = [-9.0, -6.5, -3.0, -1.0, -0.25, 0.0, 0.5, 2.0, 6.5, 9.0]  # of nonlinearities

TINY = dict(
    vocab_size=VOCABULARY,
    hidden_size=32,
    num_heads=4,
    num_hidden_layers=2,
    filter_size=48,
    max_position_embeddings=LENGTH,
    dropout_rate=0.0,
    attention_dropout_rate=0.0,
)
ROTARY = dict(position_embedding_type="rotary", rotary_dim=8)
GROUPED = dict(attention_module="multiquery_attention", extra_attention_params=dict(num_kv_groups=2))
BARE = dict(
    norm_type="rmsnorm",
    nonlinearity="swiglu",
    share_embedding_weights=False,
    use_projection_bias_in_attention=False,
    use_ffn_bias_in_attention=False,
    use_ffn_bias=False,
)
EVERY_OTHER = dict(attention_sliding_window_length=4, sliding_window_every_other_decoder_layer=True)
MUP = dict(mup_base_hidden_size=8, mup_base_filter_size=16)


def scaled(kind: str, factor: float = 1.0, **arguments: Any) -> dict[str, Any]:
    arguments = {"original_max_position_embeddings": 8, **arguments}
    return dict(**ROTARY, pos_scaling_type=kind, pos_scaling_factor=factor, pos_scaling_extra_args=arguments)


LLAMA3 = scaled("llama3", 8.0, low_freq_factor=1.0, high_freq_factor=4.0)
YARN = dict(truncate=False, beta_fast=4, beta_slow=0.5, mscale_a=0.2, mscale_b=0.9, extrapolation_factor=0.8)
FACTORS = [1.0, 1.1, 1.2, 2.0]

VARIANTS: dict[str, dict[str, Any]] = {
    "gpt2": dict(name="gpt2"),
    "gpt3": dict(
        name="gpt3",
        nonlinearity="squared_gelu",
        use_bias_in_output=True,
        loss_scaling="batch_size",
        loss_weight=0.0625,
    ),
    "llama": dict(name="llama", **BARE, **GROUPED, **LLAMA3, rope_theta=500000.0),
    "mistral": dict(name="mistral", **ROTARY, **BARE, **GROUPED, attention_sliding_window_length=4),
    "untied with bias": dict(share_embedding_weights=False, use_bias_in_output=True),
    "one key and value": dict(attention_module="multiquery_attention"),
    "rotary by default": dict(position_embedding_type="rotary"),
    "rotary, linear": dict(**ROTARY, pos_scaling_factor=2.0),
    "rotary, yarn": scaled("YaRN", 4.0),
    "rotary, yarn with arguments": {**scaled("yarn", 4.0, **YARN), "rotary_dim": 4},
    "rotary, longrope": scaled("longrope", long_factor=FACTORS),
    "rotary, longrope within": scaled(
        "longrope", original_max_position_embeddings=16, short_factor=FACTORS, short_mscale=1.1
    ),
    "rotary, folded": dict(**ROTARY, fold_rope_consts=True),
    "alibi": dict(position_embedding_type="alibi", pos_scaling_factor=2.0),
    "alibi, six trained slopes": dict(
        position_embedding_type="alibi", num_heads=6, hidden_size=36, alibi_trainable_slopes=True
    ),
    "relative": dict(position_embedding_type="relative", num_relative_attention_buckets=6),
    "fixed": dict(position_embedding_type="fixed"),
    "no positions": dict(position_embedding_type=None),
    "learned, with offset": dict(position_embedding_offset=3),
    "window in odd layers": EVERY_OTHER,
    "window in even layers": dict(
        **EVERY_OTHER, sliding_window_every_other_decoder_layer_pattern="sliding_window_first"
    ),
    "sink tokens, unread": dict(attention_sliding_window_length=4, attention_sink_tokens=2),
    "muP": dict(
        **MUP,
        embeddings_scale=10,
        output_logits_alpha=2.0,
        initializer=dict(name="truncated_normal", std=0.08, a=-0.16),
        embedding_initializer=dict(name="normal", std=0.08),
    ),
    "muP by roots": dict(
        **MUP,
        scale_output_logits_by_d=False,
        scale_qk_dot_by_d=False,
        output_layer_initializer=dict(name="normal", std=0.08),
    ),
    "caps and sandwich": dict(
        attention_logit_softcapping=2.0,
        final_logit_softcapping=3.0,
        norm_first_sandwich=True,
        attention_logits_alpha=0.7,
    ),
    "unscaled products": dict(attention_type="dot_product"),
    "products by layer and size": dict(scale_qk_dot_by_d=True, scale_qk_dot_by_layer_idx=True),
    "wide heads, norm of the embedding": dict(**GROUPED, attention_inner_dim=48, embedding_layer_norm=True),
    "biasless norm, scaled logits": dict(norm_type="biasless-layernorm", output_logits_scale=0.5),
    "norm without weights": dict(norm_type="nonparametric-layernorm"),
    "no norm": dict(norm_type=None),
    "initializers": dict(
        initializer="xavier_uniform",
        ffn_initializer="lecun_uniform",
        embedding_initializer=dict(name="variance_scaling", scale=0.5, mode="fan_avg"),
        output_layer_initializer="lecun_normal",
        ffn_output_layer_initializer=dict(name="kaiming_normal", mode="fan_out"),
    ),
    "one initializer": dict(initializer=dict(name="uniform", a=-0.1), initializer_range=0.03),
}


def params(variant: str) -> dict[str, Any]:
    return {"name": "gpt2", **TINY, **VARIANTS[variant]}


def set_weights(model: torch.nn.Module) -> None:
    """Every trained parameter by a formula of its place: integers modulo a prime, so that no bit differs."""
    with torch.no_grad():
        for index, parameter in enumerate(p for p in model.parameters() if p.requires_grad):
            places = torch.arange(parameter.numel()) * 7919 + index * 104729
            values = (places % 1009).double() / 1009 - 0.5
            parameter.copy_((values * 0.3).float().view(parameter.shape))


def batch() -> dict[str, Tensor]:
    places = torch.arange(3 * LENGTH).view(3, LENGTH)
    return {
        "input_ids": (places * 37 % 59).int(),
        "labels": (places * 23 % 53).int(),
        "attention_mask": (places % 5 != 3).int(),
    }


def summary(model: torch.nn.Module, loss: Tensor, logits: Tensor) -> dict[str, Any]:
    """Of one step from ``set_weights``: what must agree."""
    loss.backward()
    return {
        "loss": loss.item(),
        "logits": digits(logits.flatten()[:: logits.numel() // 16]),
        "gradients": {
            name: digits(p.grad.flatten()[:2], p.grad.abs().sum())
            for name, p in model.named_parameters()
            if p.grad is not None
        },
    }


def digits(*tensors: Tensor) -> list[float]:
    """As many as fp32 has."""
    return [float(f"{value:.8g}") for tensor in tensors for value in tensor.flatten().tolist()]


def first_weights(model: torch.nn.Module) -> dict[str, list[float]]:
    """The beginning of what was drawn, and how wide it is."""
    return {
        name: digits(p.detach().flatten()[:2], p.detach().std())
        for name, p in model.named_parameters()
        if p.dim() > 1
    }


def record() -> dict[str, Any]:
    """Of ModelZoo."""
    from cerebras.modelzoo.layers.activations import ACT2FN, GLU_ACTIVATIONS
    from cerebras.modelzoo.models.nlp.gpt2.model import Gpt2Model, GPT2ModelConfig

    torch.set_num_threads(1)
    variants = {}
    for variant in VARIANTS:
        torch.manual_seed(SEED)
        model = Gpt2Model(GPT2ModelConfig(**{**params(variant), "name": "gpt2"}))
        drawn = first_weights(model)
        set_weights(model)
        variants[variant] = {
            "params": params(variant),
            "shapes": {name: list(tensor.shape) for name, tensor in model.state_dict().items()},
            "first": drawn,
            **summary(model, *model(batch(), output_logits=True)),
        }
    points = torch.tensor(POINTS)
    functions = {name: function for name, function in ACT2FN.items() if name is not None}
    plain = {name: digits(f(points)) for name, f in functions.items() if name not in GLU_ACTIVATIONS}
    gated = {name: digits(functions[name](points.flip(0), points)) for name in sorted(GLU_ACTIVATIONS)}
    return {"variants": variants, "nonlinearities": {**plain, **gated}}


if __name__ == "__main__":
    RECORDED.write_text(json.dumps(record(), separators=(",", ":")).replace('},"', '},\n"') + "\n")
