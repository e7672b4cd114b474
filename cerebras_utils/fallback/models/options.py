"""The ``model:`` section: every option that ModelZoo 2.10 knows for gpt2, gpt3, llama and mistral.

One table for all four, as in ModelZoo, where they are one model under four names. It holds each option's
default, its kind, and what this backend says about it; ``rules.py`` holds what involves more than one.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, field, fields
from typing import Any

from cerebras_utils.fallback.models.initializers import InitializerKind
from cerebras_utils.fallback.models.kinds import (
    Anything,
    Choice,
    Flag,
    Kind,
    Number,
    Numbers,
    Only,
    Table,
    Whole,
    unknown_key,
)
from pruning.problems import Problem, ProblemError

FAMILIES = ("gpt2", "gpt3", "llama", "mistral")
_OLD_NAMES = {"LlamaModel": "llama"}

NONLINEARITIES = (
    *("gelu", "gelu_new", "gelu_fast", "quick_gelu", "squared_gelu", "relu", "squared_relu", "relu6"),
    *("leaky_relu", "silu", "swish", "mish", "tanh", "sigmoid", "linear"),
    *("liglu", "geglu", "reglu", "swiglu", "swiglu_clamped"),
)
NORMS = ("layernorm", "rmsnorm", "biasless-layernorm", "nonparametric-layernorm")
_OTHER_NORMS = (
    *("adalayer", "batchchannel2d", "batchnorm1d", "batchnorm2d", "batchnorm3d", "frozenbatchnorm2d"),
    *("group", "group_instance", "instance1d", "instance2d", "instance3d"),
)

_RATE = Number(0, 1)
_ARGUMENTS = Table(  # of a position scaling; which of them a type takes is a rule
    {
        "original_max_position_embeddings": Whole(),
        "low_freq_factor": Number(above=0),
        "high_freq_factor": Number(above=0),
        "extrapolation_factor": Number(),
        "beta_fast": Number(above=0),
        "beta_slow": Number(above=0),
        "mscale_a": Number(),
        "mscale_b": Number(),
        "truncate": Flag(),
        "long_factor": Numbers(),
        "short_factor": Numbers(),
        "long_mscale": Number(),
        "short_mscale": Number(),
        "attention_factor": Number(),
    }
)

_INFERENCE = "it is read when text is generated, not in training and validation"
_PRECISION = "the precision of the run decides"
_UNREAD = "ModelZoo 2.10 accepts it and never reads it"


@dataclass(frozen=True)
class Option:
    """What is known about one key of the section."""

    name: str
    default: Any
    kind: Kind
    null: bool  # whether null is a value
    alias: str | None  # the other key that ModelZoo takes for it
    idle: str | None  # why it changes nothing on a CPU or GPU, whatever its value


def _of(
    kind: Kind, default: Any = None, *, null: bool = False, alias: str | None = None, idle: str | None = None
) -> Any:
    metadata = {"kind": kind, "null": null or default is None, "alias": alias, "idle": idle}
    if isinstance(default, dict | list):
        return field(default_factory=default.copy, metadata=metadata)
    return field(default=default, metadata=metadata)


@dataclass(frozen=True, kw_only=True)
class Options:
    """A ``model:`` section, checked, with ModelZoo's defaults for what it leaves out."""

    name: str

    # sizes
    vocab_size: int = _of(Whole(1, 512_000), 50257)
    hidden_size: int = _of(Whole(), 768)
    num_hidden_layers: int = _of(Whole(), 12)
    num_heads: int = _of(Whole(), 12)
    filter_size: int = _of(Whole(), 3072)
    attention_inner_dim: int | None = _of(Whole())
    max_position_embeddings: int = _of(Whole(), 1024)

    # embedding and positions
    position_embedding_type: str | None = _of(
        Choice(("learned", "rotary", "alibi", "relative", "fixed")), "learned", null=True
    )
    position_embedding_offset: int = _of(Whole(0), 0)
    share_embedding_weights: bool = _of(Flag(), True)
    embedding_layer_norm: bool = _of(Flag(), False)
    num_relative_attention_buckets: int = _of(Whole(2), 32)
    alibi_trainable_slopes: bool = _of(Flag(), False)
    rotary_dim: int | None = _of(Whole(2))
    rope_theta: float = _of(Number(above=0), 10000.0)
    fold_rope_consts: bool = _of(Flag(), False)
    pos_scaling_type: str = _of(Choice(("linear", "yarn", "YaRN", "llama3", "longrope")), "linear")
    pos_scaling_factor: float = _of(Number(above=0), 1.0)
    pos_scaling_extra_args: Mapping[str, Any] | None = _of(_ARGUMENTS)

    # attention
    attention_module: str = _of(Choice(("aiayn_attention", "multiquery_attention")), "aiayn_attention")
    extra_attention_params: Mapping[str, Any] = _of(
        Table({"num_kv_groups": Whole(), "attention_kernel": Anything()}), {}
    )
    attention_type: str = _of(Choice(("scaled_dot_product", "dot_product")), "scaled_dot_product")
    scale_qk_dot_by_d: bool | None = _of(Flag())
    scale_qk_dot_by_layer_idx: bool = _of(Flag(), False)
    attention_logits_alpha: float = _of(Number(), 1.0)
    attention_logit_softcapping: float | None = _of(Number(above=0))
    attention_softmax_fp32: bool = _of(Flag(), True)
    attention_sliding_window_length: int | None = _of(Whole())
    sliding_window_every_other_decoder_layer: bool = _of(Flag(), False)
    sliding_window_every_other_decoder_layer_pattern: str | None = _of(
        Choice(("full_attention_first", "sliding_window_first")), "full_attention_first"
    )
    use_projection_bias_in_attention: bool = _of(Flag(), True)
    use_ffn_bias_in_attention: bool = _of(Flag(), True)

    # layers and head
    nonlinearity: str | None = _of(Choice(NONLINEARITIES), "gelu", null=True)
    use_ffn_bias: bool = _of(Flag(), True)
    norm_type: str | None = _of(Choice(NORMS, _OTHER_NORMS), "layernorm", null=True)
    layer_norm_epsilon: float = _of(Number(above=0), 1.0e-5)
    norm_first_sandwich: bool = _of(Flag(), False)
    use_bias_in_output: bool = _of(Flag(), False)
    final_logit_softcapping: float | None = _of(Number(above=0))

    # dropouts; null means that of dropout_rate
    dropout_rate: float = _of(_RATE, 0.1)
    embd_pdrop: float | None = _of(_RATE, alias="embedding_dropout_rate")
    attention_dropout_rate: float | None = _of(_RATE, 0.1, null=True)

    # initial weights
    initializer_range: float = _of(Number(above=0), 0.02)
    initializer: str | Mapping[str, Any] | None = _of(InitializerKind())
    embedding_initializer: str | Mapping[str, Any] | None = _of(InitializerKind())
    output_layer_initializer: str | Mapping[str, Any] | None = _of(InitializerKind())
    ffn_initializer: str | Mapping[str, Any] | None = _of(InitializerKind())
    ffn_output_layer_initializer: str | Mapping[str, Any] | None = _of(InitializerKind())

    # muP
    mup_base_hidden_size: float | None = _of(Number(above=0))
    mup_base_filter_size: float | None = _of(Number(above=0))
    embeddings_scale: float = _of(Number(), 1.0)
    output_logits_alpha: float | None = _of(Number())
    scale_output_logits_by_d: bool | None = _of(Flag(), True, null=True)
    output_logits_scale: float | None = _of(Number())

    # loss
    loss_scaling: str = _of(Choice(("num_tokens", "batch_size")), "num_tokens")
    loss_weight: float = _of(Number(), 1.0)
    compute_eval_metrics: bool = _of(Flag(), True)

    # of no effect on a CPU or GPU
    attention_kernel: object = _of(Anything(), idle="it names a kernel of the CS-3, with the same result")
    use_experimental_flex_api: bool = _of(
        Flag(), False, idle="it changes how the mask is compiled for the CS-3, not the mask"
    )
    boundary_casting: bool | None = _of(Flag(), False, null=True, idle=_UNREAD)
    attention_sink_tokens: int | None = _of(Whole(0), idle=_UNREAD)
    attention_chunk_size: int | None = _of(Whole(), idle=_UNREAD)
    attention_vertical_column_spacing: int | None = _of(Whole(), idle=_UNREAD)
    attention_vertical_column_width: int | None = _of(Whole(), idle=_UNREAD)
    attention_qk_norm_eps: float = _of(Number(above=0), 1.0e-5, idle="there is no attention_qk_norm_layer")
    rel_distance_extra_args: object = _of(Anything(), idle="it is read with another rel_distance_mode only")
    dtype: object = _of(Anything(), idle=_PRECISION)
    start_token: object = _of(Anything(), idle=_INFERENCE)
    loop_dim: object = _of(Anything(), 1, idle=_INFERENCE)
    stop_sequences: object = _of(Anything(), idle=_INFERENCE)
    max_tokens: object = _of(Anything(), idle=_INFERENCE)
    temperature: object = _of(Anything(), idle=_INFERENCE)
    top_k: object = _of(Anything(), idle=_INFERENCE)
    top_p: object = _of(Anything(), idle=_INFERENCE)

    # not in this backend
    num_extra_input_vocab_tokens: int = _of(Only((0,), "it belongs to vision models"), 0)
    constant_pos_embedding: None = _of(Only((None,), "it belongs to vision models"))
    cross_attention_layers: Sequence[int] = _of(Only(([],), "it belongs to vision models"), [])
    extra_ffn_params: Mapping[str, Any] = _of(
        Only(({}, {"static_dual_expert": False}), "it belongs to vision models"), {}
    )
    rel_distance_mode: str = _of(Choice(("default",), ("capped", "grouped")), "default")
    attention_qk_norm_layer: None = _of(
        Only((None,), "ModelZoo 2.10 makes the weights of these norms and never applies them")
    )
    use_sink_token: bool = _of(
        Only((False,), "ModelZoo 2.10 starts from sinks that it never initialises"), False
    )
    fixed_sparse_attention: None = _of(
        Only((None,), "ModelZoo 2.10 adds 1 to the logits that it should drop, future tokens included")
    )
    memory_tokens_config: Mapping[str, Any] = _of(
        Only(({},), "memory tokens need their own data"), {}, alias="memory_tokens"
    )
    moe_params: Mapping[str, Any] = _of(
        Only(({}, {"num_experts": 0}, {"num_experts": 1}), "mixtures of experts"), {}, alias="moe"
    )
    lr_adjustment_groups: None = _of(
        Only((None,), "set adjust_learning_rate of the optimizer, which names the groups of muP")
    )

    @property
    def inner_size(self) -> int:
        """The width of all heads together."""
        return self.hidden_size if self.attention_inner_dim is None else self.attention_inner_dim

    @property
    def head_size(self) -> int:
        return self.inner_size // self.num_heads

    @property
    def num_kv_groups(self) -> int:
        """How many heads keys and values have."""
        if self.attention_module == "aiayn_attention":
            return self.num_heads
        return int(self.extra_attention_params.get("num_kv_groups", 1))

    @property
    def rotary_size(self) -> int:
        """How many dimensions of a head are rotated; ModelZoo's default is a quarter of them."""
        return int(self.hidden_size // self.num_heads * 0.25) if self.rotary_dim is None else self.rotary_dim

    @property
    def mup(self) -> bool:
        return bool(self.mup_base_hidden_size)


def _option(of: "Field[Any]") -> Option:
    default = of.default if of.default_factory is MISSING else of.default_factory()
    return Option(of.name, default, **of.metadata)


OPTIONS: dict[str, Option] = {of.name: _option(of) for of in fields(Options) if of.metadata}
_KEYS = {key: option for option in OPTIONS.values() for key in (option.name, option.alias) if key}

# Keys of the days before the trainer, and of LoRA: where they are now.
_MOVED = {
    "mixed_precision": "set trainer.init.precision.enabled",
    "fp16_type": "set trainer.init.precision.fp16_type",
    "lora_params": "give it to the callback Lora in trainer.init.callbacks",
}


def read_options(params: Mapping[str, Any], where: str) -> tuple[Options | None, list[Problem]]:
    """The options, where every value alone is right; or what is wrong with them."""
    problems = list(_name_problems(params.get("name"), where))
    known = ["name", *_KEYS]
    given: dict[str, Any] = {}
    for key, value in params.items():
        option = _KEYS.get(key)
        if key == "name":
            continue
        if option is None:
            problems.append(_unknown(where, key, known))
        elif option.name in given:
            what = f"{option.name} and {option.alias} are two names of one option"
            problems.append(Problem(f"{where}.{key}", what, f"remove {option.name}"))
        else:
            given[option.name] = value
            if not (value is None and option.null):
                problems.extend(option.kind.problems(f"{where}.{key}", value))
    if problems:
        return None, problems
    return Options(name=_OLD_NAMES.get(params["name"], params["name"]), **given), []


def options(params: Mapping[str, Any], where: str) -> Options:
    """The options of a section without problems; a ``ProblemError`` with all of them otherwise."""
    from cerebras_utils.fallback.models.rules import model_problems

    if problems := model_problems(params, where):
        raise ProblemError(problems)
    read, _ = read_options(params, where)
    assert read is not None
    return read


def _name_problems(name: object, where: str) -> Iterator[Problem]:
    if name is None:
        yield Problem(f"{where}.name", "the model has no name", f"use one of: {', '.join(FAMILIES)}")
    elif name not in _OLD_NAMES:
        yield from Choice(FAMILIES).problems(f"{where}.name", name)


def _unknown(where: str, key: object, known: list[str]) -> Problem:
    if key in _MOVED:
        fix = _MOVED[str(key)]
        return Problem(f"{where}.{key}", "is no longer an option of the model", f"{fix}, and remove it here")
    return unknown_key(where, key, known)
