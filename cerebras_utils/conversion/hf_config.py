"""``config.json`` of HuggingFace and the ``model:`` section of cszoo: what each says of the same model.

What one cannot express of the other is an error: the logits would be others.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from cerebras_utils.conversion.huggingface import family
from cerebras_utils.fallback.models.options import OPTIONS, Options, options
from pruning.problems import Problem, ProblemError, fail

# Activations under both names. GLU variants are named by ModelZoo after the pair.
_PLAIN = {
    **{
        n: n for n in ("gelu", "gelu_new", "gelu_fast", "quick_gelu", "relu", "relu6", "silu", "mish", "tanh")
    },
    **{"sigmoid": "sigmoid", "linear": "linear", "leaky_relu": "leaky_relu", "swish": "silu"},
    "squared_relu": "relu2",
}
_GATED = {"swiglu": "silu", "geglu": "gelu", "reglu": "relu", "liglu": "linear"}
_OF_TRAINING = (  # that no logit of an evaluation depends on
    *("dropout_rate", "embd_pdrop", "attention_dropout_rate", "initializer_range", "initializer"),
    *("embedding_initializer", "output_layer_initializer", "ffn_initializer", "ffn_output_layer_initializer"),
    *("loss_scaling", "loss_weight", "compute_eval_metrics", "attention_softmax_fp32", "fold_rope_consts"),
)
_SIZES = (
    *("vocab_size", "hidden_size", "num_hidden_layers", "num_heads", "filter_size", "attention_inner_dim"),
    *("max_position_embeddings", "share_embedding_weights", "nonlinearity", "layer_norm_epsilon"),
    *("attention_module", "extra_attention_params", "norm_type", "position_embedding_type"),
    *("use_projection_bias_in_attention", "use_ffn_bias_in_attention", "use_ffn_bias"),
)
_ROTARY = (
    "rotary_dim", "rope_theta", "pos_scaling_type", "pos_scaling_factor", "pos_scaling_extra_args",
    "attention_sliding_window_length",
)  # fmt: skip
_LLAMA3 = ("low_freq_factor", "high_freq_factor", "original_max_position_embeddings")


def to_config(section: Mapping[str, Any], where: str) -> dict[str, Any]:
    """``config.json`` for a ``model:`` section; all that it cannot say is reported at once."""
    model = options(section, where)
    llama = family(model) != "gpt2"
    problems = [*_unsayable(model, where, llama)]
    if problems:
        raise ProblemError(problems)
    return _llama_config(model) if llama else _gpt2_config(model)


def _unsayable(model: Options, where: str, llama: bool) -> Iterator[Problem]:
    theirs = {"gpt2": "GPT-2", "llama": "Llama", "mistral": "Mistral"}[family(model)]
    handled = {*_OF_TRAINING, *_SIZES, *(_ROTARY if llama else ())}
    wrong = [
        name
        for name, option in OPTIONS.items()
        if name not in handled and not option.idle and getattr(model, name) != option.default
    ]
    expected: dict[str, tuple[Any, ...]] = {
        "position_embedding_type": ("rotary",) if llama else ("learned",),
        "norm_type": ("rmsnorm",) if llama else ("layernorm",),
        "nonlinearity": tuple(_GATED if llama else _PLAIN),
    }
    wrong += [name for name, values in expected.items() if getattr(model, name) not in values]
    if llama:
        if model.rotary_size != model.head_size:
            wrong.append("rotary_dim")
        if model.pos_scaling_type not in ("linear", "llama3"):
            wrong.append("pos_scaling_type")
        if family(model) == "llama" and model.attention_sliding_window_length is not None:
            wrong.append("attention_sliding_window_length")
        if model.use_projection_bias_in_attention != model.use_ffn_bias_in_attention:
            wrong.append("use_ffn_bias_in_attention")
        if family(model) == "mistral" and (model.use_projection_bias_in_attention or model.use_ffn_bias):
            wrong.append("use_ffn_bias")
    elif model.num_kv_groups != model.num_heads:
        wrong.append("extra_attention_params")
    elif model.inner_size != model.hidden_size:
        wrong.append("attention_inner_dim")
    for name in dict.fromkeys(wrong):
        value = getattr(model, name)
        if name == "rotary_dim":
            value = f"{model.rotary_size} of the {model.head_size} dimensions of a head"
        what = f"{value!r} cannot be said in a config of HuggingFace's {theirs}"
        yield Problem(f"{where}.{name}", what, "convert another model, or keep this one in ModelZoo's form")


def _gpt2_config(model: Options) -> dict[str, Any]:
    return {
        "architectures": ["GPT2LMHeadModel"],
        "model_type": "gpt2",
        "vocab_size": model.vocab_size,
        "n_positions": model.max_position_embeddings,
        "n_embd": model.hidden_size,
        "n_layer": model.num_hidden_layers,
        "n_head": model.num_heads,
        "n_inner": model.filter_size,
        "activation_function": _PLAIN[str(model.nonlinearity)],
        "layer_norm_epsilon": model.layer_norm_epsilon,
        "initializer_range": model.initializer_range,
        "resid_pdrop": model.dropout_rate,
        "embd_pdrop": model.dropout_rate if model.embd_pdrop is None else model.embd_pdrop,
        "attn_pdrop": model.attention_dropout_rate or 0.0,
        "tie_word_embeddings": model.share_embedding_weights,
    }


def _llama_config(model: Options) -> dict[str, Any]:
    mistral = family(model) == "mistral"
    config = {
        "architectures": ["MistralForCausalLM" if mistral else "LlamaForCausalLM"],
        "model_type": family(model),
        "vocab_size": model.vocab_size,
        "max_position_embeddings": model.max_position_embeddings,
        "hidden_size": model.hidden_size,
        "intermediate_size": model.filter_size,
        "num_hidden_layers": model.num_hidden_layers,
        "num_attention_heads": model.num_heads,
        "num_key_value_heads": model.num_kv_groups,
        "head_dim": model.head_size,
        "hidden_act": _GATED[str(model.nonlinearity)],
        "rms_norm_eps": model.layer_norm_epsilon,
        "initializer_range": model.initializer_range,
        "rope_theta": model.rope_theta,
        "attention_dropout": model.attention_dropout_rate or 0.0,
        "tie_word_embeddings": model.share_embedding_weights,
    }
    if mistral:
        return {**config, "sliding_window": model.attention_sliding_window_length}
    config |= {"attention_bias": model.use_projection_bias_in_attention, "mlp_bias": model.use_ffn_bias}
    if model.pos_scaling_type == "llama3":
        given = model.pos_scaling_extra_args or {}
        scaling = {"rope_type": "llama3", "factor": model.pos_scaling_factor}
        config["rope_scaling"] = {**scaling, **{key: given[key] for key in _LLAMA3}}
    elif model.pos_scaling_factor != 1:
        config["rope_scaling"] = {"rope_type": "linear", "factor": model.pos_scaling_factor}
    return config


def to_section(config: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The ``model:`` section for a ``config.json``."""
    known: dict[str, Callable[[Mapping[str, Any], str], dict[str, Any]]] = {
        "gpt2": _gpt2_section,
        "llama": _llama_section,
        "mistral": _llama_section,
    }
    kind = config.get("model_type")
    if kind not in known:
        raise fail(f"{where}: model_type", f"is {kind!r}", f"convert one of {', '.join(known)}")
    try:
        section = known[str(kind)](config, where)
    except KeyError as error:
        raise fail(where, f"lacks {error}", "use the config.json that came with the weights") from None
    options(section, f"{where}: as a model section")
    return section


def _expect(config: Mapping[str, Any], where: str, **values: Any) -> None:
    """Settings that ModelZoo's model does not have, where they are not off."""
    problems = [
        Problem(f"{where}: {key}", f"is {config[key]!r}, which ModelZoo's model cannot do", "convert another")
        for key, value in values.items()
        if config.get(key, value) != value
    ]
    if problems:
        raise ProblemError(problems)


def _named(table: Mapping[str, str], theirs: str, where: str) -> str:
    ours = {value: key for key, value in reversed(list(table.items()))}
    if theirs == "gelu_pytorch_tanh" and "gelu_new" in ours:
        return "gelu_new"
    if theirs == "swish":
        theirs = "silu"
    if theirs not in ours:
        raise fail(where, f"{theirs!r} is not known here", f"one of {', '.join(ours)}")
    return ours[theirs]


def _gpt2_section(config: Mapping[str, Any], where: str) -> dict[str, Any]:
    _expect(
        config,
        where,
        scale_attn_weights=True,
        scale_attn_by_inverse_layer_idx=False,
        add_cross_attention=False,
    )
    return {
        "name": "gpt2",
        "vocab_size": config["vocab_size"],
        "max_position_embeddings": config["n_positions"],
        "hidden_size": config["n_embd"],
        "num_hidden_layers": config["n_layer"],
        "num_heads": config["n_head"],
        "filter_size": config.get("n_inner") or 4 * config["n_embd"],
        "nonlinearity": _named(_PLAIN, config.get("activation_function", "gelu_new"), where),
        "layer_norm_epsilon": config.get("layer_norm_epsilon", 1e-5),
        "dropout_rate": config.get("resid_pdrop", 0.1),
        "embedding_dropout_rate": config.get("embd_pdrop", 0.1),
        "attention_dropout_rate": config.get("attn_pdrop", 0.1),
        "share_embedding_weights": config.get("tie_word_embeddings", True),
        "use_projection_bias_in_attention": True,
        "use_ffn_bias_in_attention": True,
        "use_ffn_bias": True,
    }


def _llama_section(config: Mapping[str, Any], where: str) -> dict[str, Any]:
    _expect(config, where, partial_rotary_factor=1.0)
    heads = config["num_attention_heads"]
    groups = config.get("num_key_value_heads") or heads
    size = config.get("head_dim") or config["hidden_size"] // heads
    mistral = config["model_type"] == "mistral"
    section = {
        "name": config["model_type"],
        "vocab_size": config["vocab_size"],
        "max_position_embeddings": config.get("max_position_embeddings", 2048),
        "hidden_size": config["hidden_size"],
        "num_hidden_layers": config["num_hidden_layers"],
        "num_heads": heads,
        "filter_size": config["intermediate_size"],
        "nonlinearity": _named(_GATED, config.get("hidden_act", "silu"), where),
        "norm_type": "rmsnorm",
        "layer_norm_epsilon": config.get("rms_norm_eps", 1e-6),
        "position_embedding_type": "rotary",
        "rotary_dim": size,
        "dropout_rate": 0.0,
        "attention_dropout_rate": config.get("attention_dropout", 0.0),
        "share_embedding_weights": config.get("tie_word_embeddings", False),
        "use_projection_bias_in_attention": not mistral and config.get("attention_bias", False),
        "use_ffn_bias_in_attention": not mistral and config.get("attention_bias", False),
        "use_ffn_bias": not mistral and config.get("mlp_bias", False),
    }
    if groups != heads:
        section["attention_module"] = "multiquery_attention"
        section["extra_attention_params"] = {"num_kv_groups": groups}
    if size * heads != config["hidden_size"]:
        section["attention_inner_dim"] = size * heads
    if mistral and config.get("sliding_window") is not None:
        section["attention_sliding_window_length"] = config["sliding_window"]
    return {**section, **_rope(config, where)}


def _rope(config: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Old configs have ``rope_theta`` and ``rope_scaling``, new ones both in ``rope_parameters``."""
    scaling = dict(config.get("rope_parameters") or config.get("rope_scaling") or {})
    theta = float(scaling.pop("rope_theta", config.get("rope_theta", 10000.0)))
    kind = scaling.pop("rope_type", scaling.pop("type", "default"))
    if kind == "default":
        return {"rope_theta": theta}
    if kind not in ("linear", "llama3"):
        what = f"scales positions by {kind!r}, which is not converted"
        raise fail(f"{where}: rope_scaling", what, "convert a model with linear or llama3 scaling")
    found = {"rope_theta": theta, "pos_scaling_type": kind, "pos_scaling_factor": float(scaling["factor"])}
    if kind == "llama3":
        found["pos_scaling_extra_args"] = {key: scaling[key] for key in _LLAMA3}
    return found
