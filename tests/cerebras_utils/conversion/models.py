"""Tiny models of each family, as cszoo describes them."""

from typing import Any

import torch

_SIZES = {
    "vocab_size": 61,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_heads": 4,
    "filter_size": 24,
    "max_position_embeddings": 12,
    "dropout_rate": 0.0,
    "attention_dropout_rate": 0.0,
}
_ROTARY = {
    "position_embedding_type": "rotary",
    "rotary_dim": 4,
    "norm_type": "rmsnorm",
    "nonlinearity": "swiglu",
    "use_projection_bias_in_attention": False,
    "use_ffn_bias_in_attention": False,
    "use_ffn_bias": False,
    "share_embedding_weights": False,
    "attention_module": "multiquery_attention",
    "extra_attention_params": {"num_kv_groups": 2},
}
SECTIONS: dict[str, dict[str, Any]] = {
    "gpt2": {"name": "gpt2", **_SIZES, "nonlinearity": "gelu_new"},
    "gpt2_untied_without_biases": {
        **{"name": "gpt2", **_SIZES, "share_embedding_weights": False},
        **{"use_projection_bias_in_attention": False, "use_ffn_bias_in_attention": False},
    },
    "gpt3": {"name": "gpt3", **_SIZES, "nonlinearity": "squared_relu"},
    "llama": {"name": "llama", **_SIZES, **_ROTARY},
    "llama_biased_tied": {
        **{"name": "llama", **_SIZES, **_ROTARY, "share_embedding_weights": True},
        **{"use_projection_bias_in_attention": True, "use_ffn_bias_in_attention": True, "use_ffn_bias": True},
    },
    "llama_scaled": {
        **{"name": "llama", **_SIZES, **_ROTARY},
        **{"pos_scaling_type": "llama3", "pos_scaling_factor": 4.0, "rope_theta": 500.0},
        "pos_scaling_extra_args": {
            **{"low_freq_factor": 1.0, "high_freq_factor": 4.0},
            "original_max_position_embeddings": 8,
        },
    },
    "mistral": {"name": "mistral", **_SIZES, **_ROTARY, "attention_sliding_window_length": 5},
}


def built(section: dict[str, Any], seed: int = 0) -> torch.nn.Module:
    """With values in every tensor: a bias of zero would hide a bias that is lost."""
    from cerebras_utils.fallback.models.build import build_model

    torch.manual_seed(seed)
    model = build_model(section)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(torch.randn_like(weight) * 0.1)
    return model.eval()


def logits(model: torch.nn.Module, ids: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids}
        found: torch.Tensor = model(batch).logits
    return found
