"""What a training step costs beside a dense one, by arithmetic on shapes: an estimate, not a measurement."""

import math
from collections.abc import Iterator, Mapping

from cerebras_utils.checks.case import MASKS, Case, whole
from cerebras_utils.checks.lora import trains_lora
from cerebras_utils.checks.registry import Estimate, Finding, NotMade, check
from cerebras_utils.checks.weights import FAMILIES

_HOW = (
    "per token: 6 operations for each kept weight of the linear layers (2 forward, 2 for gradients of the "
    "inputs, 2 for those of the weights; the last fall away where LoRA freezes them), against 6 for each "
    "weight; attention scores and the output head are dense; embeddings, norms, LoRA factors and the "
    "optimizer are left out; how time on a CS-3 follows operations is not said by this"
)


@check("estimate")
def training_flops(case: Case) -> Iterator[Finding]:
    """Operations of a training step against the dense run's."""
    if "fit" not in case.phase.params:
        raise NotMade("the config does not train: it has no `fit:`")
    if case.model.get("name") not in FAMILIES:
        raise NotMade(
            f"which matrices of {case.model.get('name')} a token passes is known for {', '.join(FAMILIES)}"
        )
    linear = _linear(case)
    kept = _kept(case, linear)
    frozen = trains_lora(case)
    weights, dense_weights = 0.0, 0.0
    for name, numel in linear.items():
        dense_weights += 6 * numel
        weights += (4 if frozen else 6) * kept.get(name, numel)
    attention, head = _attention(case), _head(case)
    dense = dense_weights + attention + 6 * head
    ratio = (weights + attention + (4 if frozen else 6) * head) / dense
    text = f"{ratio:.3f} of the dense run's operations in a training step (estimated)"
    yield Estimate(case.where("init.model"), "training_flop_ratio", ratio, text, _HOW)


def _linear(case: Case) -> dict[str, int]:
    return {
        name: math.prod(shape)
        for name, shape in case.weights.items()
        if ".layers." in name and len(shape) == 2 and name.endswith(".weight")
    }


def _kept(case: Case, linear: Mapping[str, int]) -> dict[str, float]:
    callback = case.callback(MASKS)
    if callback is not None:
        if callback.arguments.get("apply_every_step", True) is not True:
            return {}
        return {name: case.masks.kept(name) for name in case.masks.names if name in linear}
    if case.init.get("sparsity") in (None, []):
        return {}
    from cerebras_utils.checks.sparsity import groups

    kept: dict[str, float] = {}
    for group in groups(case):
        if not isinstance(group.level, float):
            raise NotMade("the sparsity of a native group is a schedule: it changes during the run")
        for name, numel in linear.items():
            if name not in kept and group.matches(name, (2, 2)):
                kept[name] = (1 - group.level) * numel
    return kept


def _attention(case: Case) -> float:
    """Scores, and their products with values: 2 + 2 a pair and channel forward, twice that back."""
    layers, width = whole(case.model.get("num_hidden_layers")), whole(case.model.get("hidden_size"))
    length = whole(case.model.get("max_position_embeddings")) or 1024
    inner = whole(case.model.get("attention_inner_dim")) or width or 768
    window = whole(case.model.get("attention_sliding_window_length")) or length
    return 12.0 * (layers or 12) * min(length, window) * inner


def _head(case: Case) -> int:
    return math.prod(case.weights.get("model.lm_head.weight", (0,)))
