"""Operations of a training step against a dense one, from the config of a run: estimated, never measured."""

from collections.abc import Mapping
from typing import Any

from experiments.runs.callbacks import LORA, SPARSE_LORA, callbacks_of, masks_apply_once
from experiments.runs.record import RunRecord


def flop_ratio(run: RunRecord) -> float | None:
    """None where the model's sizes or the sparsity are not known.

    Per token: 6 operations for each kept weight of the linear layers of the decoder (4 where LoRA freezes
    them), attention scores and the head dense in both.
    """
    init = run.params.get("init") or {}
    sizes = model_sizes(init.get("model") or {})
    sparsity = 0.0 if masks_apply_once(init) else run.sparsity.requested
    if sizes is None or sparsity is None:
        return None
    linear, rest = sizes
    frozen = bool({LORA, SPARSE_LORA} & callbacks_of(init).keys())
    masked = min(run.sparsity.masked, linear)
    kept = linear - masked * sparsity
    return ((4 if frozen else 6) * kept + rest) / (6 * linear + rest)


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
