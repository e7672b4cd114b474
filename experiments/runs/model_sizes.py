"""How large the parts of a model are, by its config."""

from collections.abc import Mapping
from typing import Any


def model_sizes(model: Mapping[str, Any]) -> tuple[float, float] | None:
    """Weights of the decoder's linear layers; operations per token of attention scores and head."""
    try:
        width, layers = int(model["hidden_size"]), int(model["num_hidden_layers"])
        heads, filters = int(model["num_heads"]), int(model["filter_size"])
        vocabulary = int(model["vocab_size"])
    except (KeyError, TypeError, ValueError):
        return None
    length = int(model.get("max_position_embeddings") or 1024)
    inner = int(model.get("attention_inner_dim") or width)
    groups = int((model.get("extra_attention_params") or {}).get("num_kv_groups") or 1)
    if model.get("attention_module", "aiayn_attention") == "aiayn_attention":
        groups = heads
    gated = 3 if str(model.get("nonlinearity", "gelu")).endswith("glu") else 2
    attention = 2 * width * inner + 2 * width * inner * groups // heads
    linear = layers * (attention + gated * width * filters)
    window = int(model.get("attention_sliding_window_length") or length)
    return float(linear), float(12 * layers * min(length, window) * inner + 6 * width * vocabulary)
