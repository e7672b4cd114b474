"""gpt2, llama and mistral: which tensor of HuggingFace is which of ModelZoo, in both directions.

ModelZoo stores every linear layer as (out, in). GPT-2 of HuggingFace stores the transpose, with q, k and
v as one layer. Llama's q and k have the same rows in another order: ModelZoo rotates neighbouring pairs,
HuggingFace the two halves of a head.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from cerebras_utils.conversion.layout import (
    Build,
    Rule,
    halves_from_pairs,
    pairs_from_halves,
    rows,
    stacked,
    stacked_transposed,
    transposed,
    zeros,
)
from cerebras_utils.fallback.models.options import Options
from pruning.checkpoint.source import TensorInfo
from pruning.problems import Problem, ProblemError
from pruning.registry import suggest

Infos = Mapping[str, TensorInfo]
Rules = dict[str, Rule]
Shape = tuple[int, ...]
_LAYER = "model.transformer_decoder.layers.{n}"
_TWICE = "model.transformer_decoder.norm"  # the final norm under its second name
_BUFFERS = (".attn.bias", ".attn.masked_bias", "rotary_emb.inv_freq")  # that old checkpoints hold
_QKV = tuple(f"self_attn.proj_{x}_dense_layer" for x in "qkv")


@dataclass(frozen=True)
class Linear:
    """A linear layer of ModelZoo, and the one of HuggingFace's that it is, or is a part of."""

    ours: str
    theirs: str
    turned: bool = False  # theirs is stored as (in, out)
    heads: int = 0  # rows are reordered within so many heads


@dataclass(frozen=True)
class Names:
    """Everything but the layers that q, k and v of GPT-2 share."""

    copied: dict[str, str]  # ours → theirs
    linears: tuple[Linear, ...]
    fused: tuple[tuple[tuple[str, ...], str], ...] = ()  # (q, k, v), theirs


def names_of(options: Options) -> Names:
    """Stems and whole names for all layers of a model."""
    return _gpt2(options) if family(options) == "gpt2" else _llama(options)


def family(options: Options) -> str:
    return options.name if options.name in ("llama", "mistral") else "gpt2"


def _norms(kinds: Mapping[str, str], biased: bool) -> dict[str, str]:
    ends = ("weight", "bias") if biased else ("weight",)
    return {f"{ours}.{end}": f"{theirs}.{end}" for ours, theirs in kinds.items() for end in ends}


def _gpt2(options: Options) -> Names:
    copied = {
        "model.embedding_layer.word_embeddings.weight": "transformer.wte.weight",
        "model.embedding_layer.position_embeddings.embed.weight": "transformer.wpe.weight",
    }
    norms = {"model.ln_f": "transformer.ln_f"}
    linears, fused = [], []
    for n in range(options.num_hidden_layers):
        ours, theirs = _LAYER.format(n=n), f"transformer.h.{n}"
        norms |= {f"{ours}.norm1": f"{theirs}.ln_1", f"{ours}.norm3": f"{theirs}.ln_2"}
        fused.append((tuple(f"{ours}.{x}" for x in _QKV), f"{theirs}.attn.c_attn"))
        linears += [
            Linear(f"{ours}.self_attn.proj_output_dense_layer", f"{theirs}.attn.c_proj", turned=True),
            Linear(f"{ours}.ffn.ffn.0.linear_layer", f"{theirs}.mlp.c_fc", turned=True),
            Linear(f"{ours}.ffn.ffn.1.linear_layer", f"{theirs}.mlp.c_proj", turned=True),
        ]
    return Names({**copied, **_norms(norms, True), **_head(options)}, tuple(linears), tuple(fused))


def _llama(options: Options) -> Names:
    copied = {"model.embedding_layer.word_embeddings.weight": "model.embed_tokens.weight"}
    norms = {"model.ln_f": "model.norm"}
    linears = []
    for n in range(options.num_hidden_layers):
        ours, theirs = _LAYER.format(n=n), f"model.layers.{n}"
        norms[f"{ours}.norm1"] = f"{theirs}.input_layernorm"
        norms[f"{ours}.norm3"] = f"{theirs}.post_attention_layernorm"
        q, k, v = (f"{ours}.{x}" for x in _QKV)
        linears += [
            Linear(q, f"{theirs}.self_attn.q_proj", heads=options.num_heads),
            Linear(k, f"{theirs}.self_attn.k_proj", heads=options.num_kv_groups),
            Linear(v, f"{theirs}.self_attn.v_proj"),
            Linear(f"{ours}.self_attn.proj_output_dense_layer", f"{theirs}.self_attn.o_proj"),
            Linear(f"{ours}.ffn.ffn.0.linear_layer_for_glu", f"{theirs}.mlp.gate_proj"),
            Linear(f"{ours}.ffn.ffn.0.linear_layer", f"{theirs}.mlp.up_proj"),
            Linear(f"{ours}.ffn.ffn.1.linear_layer", f"{theirs}.mlp.down_proj"),
        ]
    return Names({**copied, **_norms(norms, False), **_head(options)}, tuple(linears))


def _head(options: Options) -> dict[str, str]:
    return {} if options.share_embedding_weights else {"model.lm_head.weight": "lm_head.weight"}


def to_huggingface(options: Options, infos: Infos, where: str) -> Rules:
    """Rules for every tensor of the HuggingFace checkpoint."""
    names = names_of(options)
    used = {*_implied(options, infos)}
    rules: Rules = {}
    absent: list[str] = []

    def take(theirs: str, ours: tuple[str, ...], build: Build | None, *, turned: bool = False) -> None:
        used.update(ours)
        lacking = [name for name in ours if name not in infos]
        absent.extend(lacking)
        if not lacking:
            shapes = [infos[name].shape for name in ours]
            shape = (sum(s[0] for s in shapes), *shapes[0][1:])
            rules[theirs] = Rule(ours, shape[::-1] if turned else shape, build)

    for ours, theirs in names.copied.items():
        take(theirs, (ours,), None)
    for linear in names.linears:
        reordered = halves_from_pairs(linear.heads) if linear.heads else None
        take(
            f"{linear.theirs}.weight",
            (f"{linear.ours}.weight",),
            transposed if linear.turned else reordered,
            turned=linear.turned,
        )
        if f"{linear.ours}.bias" in infos:
            take(f"{linear.theirs}.bias", (f"{linear.ours}.bias",), reordered)
    for parts, theirs in names.fused:
        take(f"{theirs}.weight", tuple(f"{x}.weight" for x in parts), stacked_transposed, turned=True)
        if f"{parts[0]}.bias" in infos:
            take(f"{theirs}.bias", tuple(f"{x}.bias" for x in parts), stacked)
    _complain(infos, used, absent, where, "ModelZoo's")
    if names.fused:
        rules |= {name: rule for name, rule in _zero_biases(names, infos).items() if name not in rules}
    return rules


def _zero_biases(names: Names, infos: Infos) -> Rules:
    """GPT-2 of HuggingFace has every bias; a model without them has zeros there."""
    of: dict[str, tuple[str, ...]] = {linear.theirs: (f"{linear.ours}.weight",) for linear in names.linears}
    of |= {theirs: tuple(f"{x}.weight" for x in parts) for parts, theirs in names.fused}
    rules = {}
    for theirs, weights in of.items():
        size = sum(infos[name].shape[0] for name in weights)
        rules[f"{theirs}.bias"] = Rule(weights[:1], (size,), zeros(size))
    return rules


def from_huggingface(options: Options, infos: Infos, where: str) -> Rules:
    """Rules for every tensor of ModelZoo's state dict, the final norm and a tied head under both names."""
    names, used, absent = names_of(options), set[str](), list[str]()
    rules: Rules = {}

    def take(ours: str, theirs: str, build: Build | None, shape: Callable[[Shape], Shape] = tuple) -> None:
        used.add(theirs)
        if theirs in infos:
            rules[ours] = Rule((theirs,), shape(infos[theirs].shape), build)
        elif theirs.endswith(".weight"):
            absent.append(theirs)

    for ours, theirs in names.copied.items():
        take(ours, theirs, None)
    for linear in names.linears:
        reordered = pairs_from_halves(linear.heads) if linear.heads else None
        build, shape = (transposed, _reversed) if linear.turned else (reordered, tuple)
        take(f"{linear.ours}.weight", f"{linear.theirs}.weight", build, shape)
        take(f"{linear.ours}.bias", f"{linear.theirs}.bias", reordered)
    size = options.inner_size
    for parts, theirs in names.fused:
        for i, ours in enumerate(parts):
            cut = (i * size, (i + 1) * size)
            take(f"{ours}.weight", f"{theirs}.weight", rows(*cut, turned=True), lambda s: (size, s[0]))
            take(f"{ours}.bias", f"{theirs}.bias", rows(*cut, turned=False), lambda s: (size,))
    used |= {name for name in infos if name.endswith(_BUFFERS)}
    if options.share_embedding_weights:
        used.add("lm_head.weight")
    _complain(infos, used, absent, where, "HuggingFace's")
    for end in ("weight", "bias"):
        if f"model.ln_f.{end}" in rules:
            rules[f"{_TWICE}.{end}"] = rules[f"model.ln_f.{end}"]
    if options.share_embedding_weights:
        rules["model.lm_head.weight"] = rules["model.embedding_layer.word_embeddings.weight"]
    return rules


def _reversed(shape: Shape) -> Shape:
    return shape[::-1]


def _implied(options: Options, infos: Infos) -> Iterator[str]:
    """Tensors of ModelZoo's that are others under a second name."""
    for name in infos:
        head = name == "model.lm_head.weight" and options.share_embedding_weights
        if head or name.startswith(f"{_TWICE}."):
            yield name


def _complain(infos: Infos, used: set[str], absent: list[str], where: str, whose: str) -> None:
    problems = [
        Problem(f"{where}: {name}", f"is missing.{suggest(name, list(infos))}", "use the whole checkpoint")
        for name in absent
    ]
    for name in infos:
        if name not in used:
            what = f"is no tensor of {whose} that is known here"
            problems.append(Problem(f"{where}: {name}", what, "use a checkpoint of the model in the config"))
    if problems:
        raise ProblemError(problems)
