"""The factors of a run as a PEFT adapter for the HuggingFace model.

GPT-2 has q, k and v in one layer: their factors become one pair of three times the rank, block by block,
with alpha scaled alike, which is the same update.
"""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from cerebras_utils.conversion.factors import Factors
from cerebras_utils.conversion.huggingface import Linear, names_of
from cerebras_utils.conversion.layout import halves_from_pairs
from cerebras_utils.conversion.tensors import tensor_of
from cerebras_utils.fallback.models.options import Options
from pruning.checkpoint.source import TensorSource
from pruning.problems import Problem, ProblemError

_PREFIX = "base_model.model."


def adapter(
    source: TensorSource, factors: Mapping[str, Factors], options: Options, where: str
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors and ``adapter_config.json``."""
    names = names_of(options)
    left = dict(factors)
    layers: dict[str, tuple[Tensor, Tensor, float]] = {}  # theirs → A, B, scaling
    for linear in names.linears:
        pair = left.pop(f"{linear.ours}.weight", None)
        if pair is not None:
            layers[linear.theirs] = _of_linear(source, pair, linear)
    for parts, theirs in names.fused:
        pairs = [left.pop(f"{part}.weight", None) for part in parts]
        if any(pairs):
            layers[theirs] = _fused(source, pairs, options.inner_size)
    if left:
        fix = "merge it instead: an adapter for these layers is not written"
        raise ProblemError(Problem(f"{where}: {n}", "is no linear layer of the decoder", fix) for n in left)
    tensors = {}
    for theirs, (a, b, _) in layers.items():
        tensors[f"{_PREFIX}{theirs}.lora_A.weight"] = a.contiguous()
        tensors[f"{_PREFIX}{theirs}.lora_B.weight"] = b.contiguous()
    turned = any(linear.turned for linear in names.linears)
    return tensors, _config(layers, turned)


def _of_linear(source: TensorSource, pair: Factors, linear: Linear) -> tuple[Tensor, Tensor, float]:
    a, b = tensor_of(source, pair.a), tensor_of(source, pair.b)
    if linear.heads:  # the rows of the update are those of B
        b = torch.from_numpy(halves_from_pairs(linear.heads)(b.float().numpy())).to(b.dtype)
    return a, b, pair.scaling


def _fused(source: TensorSource, pairs: list[Factors | None], size: int) -> tuple[Tensor, Tensor, float]:
    there = [pair for pair in pairs if pair is not None]
    a = torch.cat([tensor_of(source, pair.a) for pair in there])
    b = a.new_zeros(len(pairs) * size, len(a))
    column = 0
    for index, pair in enumerate(pairs):
        if pair is not None:
            # One scaling for the pair of all: what differs goes into B.
            part = tensor_of(source, pair.b) * (pair.scaling / there[0].scaling)
            b[index * size : (index + 1) * size, column : column + pair.rank] = part
            column += pair.rank
    return a, b, there[0].scaling


def _config(layers: Mapping[str, tuple[Tensor, Tensor, float]], turned: bool) -> dict[str, Any]:
    ranks = {name: len(a) for name, (a, _, _) in layers.items()}
    alphas = {name: scaling * ranks[name] for name, (_, _, scaling) in layers.items()}
    alphas = {name: int(a) if math.isclose(a, round(a)) else a for name, a in alphas.items()}
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": None,
        "inference_mode": True,
        "r": max(ranks.values()),
        "lora_alpha": max(alphas.values()),
        "rank_pattern": ranks,
        "alpha_pattern": alphas,
        "target_modules": sorted(layers),
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": turned,
        "use_rslora": False,
    }
