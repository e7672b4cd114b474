"""What a ``model:`` section must not combine, and which of its settings change nothing."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from cerebras_utils.fallback.models.initializers import initializer
from cerebras_utils.fallback.models.options import OPTIONS, Options, read_options
from pruning.problems import Problem

Said = tuple[str, str, str]  # option, what, fix

_LEARNED_LIMIT = 65535
_SCALING_ARGUMENTS = {
    "llama3": ("original_max_position_embeddings", "low_freq_factor", "high_freq_factor"),
    "yarn": (
        *("original_max_position_embeddings", "extrapolation_factor", "beta_fast", "beta_slow"),
        *("mscale_a", "mscale_b", "truncate"),
    ),
    "longrope": (
        *("original_max_position_embeddings", "long_factor", "short_factor"),
        *("long_mscale", "short_mscale", "attention_factor"),
    ),
}


def model_problems(params: object, where: str) -> list[Problem]:
    """Everything that is wrong with a ``model:`` section, at once.

    Combinations are only judged where every single value is right: half of them would be misleading.
    """
    if not isinstance(params, Mapping):
        return [Problem(where, "is not a mapping of options", "write at least a name: gpt2")]
    read, problems = read_options(params, where)
    if read is None:
        return problems
    return [Problem(f"{where}.{name}", what, fix) for rule in _RULES for name, what, fix in rule(read)]


def options_without_effect(params: Mapping[str, Any], where: str = "model") -> list[tuple[str, str]]:
    """Settings that differ from the default and change nothing here, each with the reason.

    For a section without problems.
    """
    read, problems = read_options(params, where)
    assert read is not None, problems
    changed = {option.name for option in OPTIONS.values() if getattr(read, option.name) != option.default}
    idle = {name: OPTIONS[name].idle for name in OPTIONS} | dict(_idle(read))
    return [(name, reason) for name, reason in idle.items() if reason and name in changed]


def _heads(o: Options) -> Iterator[Said]:
    if o.hidden_size % o.num_heads:
        yield "hidden_size", *_not_divisible(o.hidden_size, "num_heads", o.num_heads)
    if o.attention_inner_dim is not None and o.attention_inner_dim % o.num_heads:
        yield "attention_inner_dim", *_not_divisible(o.attention_inner_dim, "num_heads", o.num_heads)
    if "num_kv_groups" not in o.extra_attention_params:
        return
    key = "extra_attention_params.num_kv_groups"
    if o.attention_module != "multiquery_attention":
        what = f"{o.attention_module} has as many keys and values as heads"
        yield key, what, "set attention_module: multiquery_attention, or remove num_kv_groups"
    elif o.num_heads % o.num_kv_groups:
        what = f"num_heads {o.num_heads} is not divisible by num_kv_groups {o.num_kv_groups}"
        yield key, what, f"choose a divisor of {o.num_heads}"


def _positions(o: Options) -> Iterator[Said]:
    kind = o.position_embedding_type
    if kind is None:
        return
    if o.position_embedding_offset and kind != "learned":
        yield "position_embedding_offset", f"{kind} positions take no offset", "remove it"
    if o.pos_scaling_factor != 1 and kind not in ("rotary", "alibi"):
        yield "pos_scaling_factor", f"{kind} positions cannot be scaled", "remove it"
    if o.pos_scaling_type != "linear" and kind == "alibi":
        yield "pos_scaling_type", "alibi positions are scaled linearly only", "set linear"
    rows = o.max_position_embeddings + o.position_embedding_offset
    if kind == "learned" and rows > _LEARNED_LIMIT:
        what = f"{rows} learned positions; ModelZoo allows {_LEARNED_LIMIT}"
        yield "max_position_embeddings", what, "use fewer, or position_embedding_type: rotary"
    if kind == "fixed" and (o.hidden_size < 4 or o.max_position_embeddings < 2):
        yield "position_embedding_type", "fixed needs 4 dimensions and 2 positions", "set learned"
    if kind == "rotary":
        yield from _rotary(o)


def _rotary(o: Options) -> Iterator[Said]:
    size = o.rotary_size
    given = "" if o.rotary_dim is not None else " (a quarter of hidden_size / num_heads, as it is not set)"
    if size < 2 or size % 2:
        yield "rotary_dim", f"{size}{given} is not a positive even number", "set an even rotary_dim"
    elif size > o.inner_size / o.num_heads:
        what = f"{size}{given} is more than a head has: {o.inner_size} / {o.num_heads}"
        yield "rotary_dim", what, f"set at most {o.head_size}"
    yield from _scaling(o)


def _scaling(o: Options) -> Iterator[Said]:
    kind, given, key = o.pos_scaling_type.lower(), o.pos_scaling_extra_args, "pos_scaling_extra_args"
    if kind == "linear":
        return
    for name in given or {}:
        if name not in _SCALING_ARGUMENTS[kind]:
            known = ", ".join(_SCALING_ARGUMENTS[kind])
            yield f"{key}.{name}", f"{kind} has no such argument", f"use of these: {known}"
    if kind == "llama3":
        if given is None:
            yield (
                key,
                "llama3 needs its arguments",
                "set original_max_position_embeddings and the two factors",
            )
        elif given.get("low_freq_factor", 1) == given.get("high_freq_factor", 4):
            yield f"{key}.high_freq_factor", "equals low_freq_factor", "set a larger one (llama: 1 and 4)"
        return
    if "original_max_position_embeddings" not in (given or {}):
        yield f"{key}.original_max_position_embeddings", f"{kind} needs it", "set the length before scaling"
    elif kind == "longrope":
        yield from _long(o, given or {})


def _long(o: Options, given: Mapping[str, Any]) -> Iterator[Said]:
    longer = o.max_position_embeddings > given["original_max_position_embeddings"]
    name = "long_factor" if longer else "short_factor"
    count = len(given.get(name, ()))
    if count != o.rotary_size // 2:
        what = f"{name} has {count} factors for {o.rotary_size // 2} rotated pairs"
        yield f"pos_scaling_extra_args.{name}", what, f"give {o.rotary_size // 2} of them"


def _windows(o: Options) -> Iterator[Said]:
    alternate = "sliding_window_every_other_decoder_layer"
    if o.sliding_window_every_other_decoder_layer:
        if o.attention_sliding_window_length is None:
            yield alternate, "there is no window", "set attention_sliding_window_length"
    elif o.sliding_window_every_other_decoder_layer_pattern != "full_attention_first":
        yield f"{alternate}_pattern", "every layer has the same window", f"set {alternate}: true"


def _mup(o: Options) -> Iterator[Said]:
    base, other = "mup_base_hidden_size", "mup_base_filter_size"
    if o.mup != bool(o.mup_base_filter_size):
        missing, given = (other, base) if o.mup else (base, other)
        yield missing, f"muP needs both base sizes, and only {given} is set", f"set {missing}"
    if not o.mup:
        return
    if o.output_logits_scale:
        fix = "remove it, and set output_logits_alpha"
        yield "output_logits_scale", "is the muP of version 2.2, beside that of mup_base_*", fix
    names = ("initializer", "ffn_initializer", "output_layer_initializer", "ffn_output_layer_initializer")
    for name in names:
        spec = getattr(o, name)
        if spec is not None and not initializer(spec).scales:
            what = f"muP cannot scale {initializer(spec).name}"
            yield name, what, "use normal or truncated_normal"


_RULES: tuple[Callable[[Options], Iterator[Said]], ...] = (_heads, _positions, _windows, _mup)


def _idle(o: Options) -> Iterator[tuple[str, str]]:
    """Settings that other settings leave without a meaning."""
    kind = o.position_embedding_type
    for name, owner in _OWNED_BY_POSITIONS.items():
        if kind not in owner:
            yield name, f"it is read with position_embedding_type {' or '.join(owner)} only"
    if kind == "rotary" and o.pos_scaling_type == "linear":
        yield "pos_scaling_extra_args", "linear scaling takes none"
    if kind == "rotary" and o.pos_scaling_type == "longrope":
        yield "pos_scaling_factor", "longrope takes it from the lengths"
    if o.attention_type == "dot_product":
        yield "scale_qk_dot_by_d", "it is read with attention_type: scaled_dot_product only"
    if o.loss_scaling == "num_tokens":
        yield "loss_weight", "it is read with loss_scaling: batch_size only"
    if not o.mup:
        for name in ("output_logits_alpha", "scale_output_logits_by_d"):
            yield name, "it is read in muP only: set mup_base_hidden_size and mup_base_filter_size"


_OWNED_BY_POSITIONS = {
    "rotary_dim": ("rotary",),
    "rope_theta": ("rotary",),
    "fold_rope_consts": ("rotary",),
    "pos_scaling_type": ("rotary",),
    "pos_scaling_extra_args": ("rotary",),
    "alibi_trainable_slopes": ("alibi",),
    "num_relative_attention_buckets": ("relative",),
    "position_embedding_offset": ("learned",),
}


def _not_divisible(value: int, name: str, by: int) -> tuple[str, str]:
    below = value // by * by
    fix = f"set {below} or {below + by}" if below else f"set {by}"
    return f"{value} is not divisible by {name} {by}", fix
