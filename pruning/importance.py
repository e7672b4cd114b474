"""Saliency scores: one weight in, one score of the same shape out. Larger means keep.

A score never sees a model, a device or a file, so it can be tested in one line. What it needs
beside the weight it names as keyword-only parameters; ``grad`` is what is known so far.
Register your own with ``@SCORES.register("name")``.
"""

import hashlib
import inspect
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from pruning.registry import Registry

if TYPE_CHECKING:
    from torch import Tensor, nn

SCORES: Registry[Callable[..., "Tensor"]] = Registry("score")


def _widened(tensor: "Tensor") -> "Tensor":
    """fp32, or fp64 where it is: a score must not overflow where its weight does not."""
    import torch

    return tensor if tensor.dtype == torch.float64 else tensor.float()


@SCORES.register("magnitude")
def magnitude(weight: "Tensor") -> "Tensor":
    return _widened(weight).abs()


@SCORES.register("l2")
def l2(weight: "Tensor") -> "Tensor":
    """Orders single weights as magnitude does; differs for groups of weights."""
    return weight.double().square()


@SCORES.register("random")
def random(weight: "Tensor", *, name: str, seed: int = 0) -> "Tensor":
    """Keyed by seed and full parameter name: the same on every machine, in any order."""
    import numpy as np
    import torch

    from pruning.engine.radix import random_keys

    keys = np.empty(weight.numel(), np.uint32)
    random_keys(np.uint64(random_stream(seed, name)), 0, keys)
    return torch.from_numpy(keys.astype(np.float64)).view(weight.shape)


@SCORES.register("taylor")
def taylor(weight: "Tensor", *, grad: "Tensor") -> "Tensor":
    """|w * g|: the change of the loss, to first order, when the weight is removed (arXiv:1611.06440)."""
    return (_widened(weight) * _widened(grad)).abs()


def random_stream(seed: int, name: str) -> int:
    """The 64-bit key of one tensor's random numbers."""
    return int.from_bytes(hashlib.sha256(f"{seed}\0{name}".encode()).digest()[:8], "little")


def needs(score: Callable[..., Any]) -> tuple[str, ...]:
    """The keywords that a score requires beside the weight."""
    return tuple(
        p.name
        for p in inspect.signature(score).parameters.values()
        if p.kind is p.KEYWORD_ONLY and p.default is p.empty
    )


def beyond_weights(method: str) -> tuple[str, ...]:
    """What a score needs that no checkpoint holds, as ``grad`` of a live module."""
    return tuple(name for name in needs(SCORES[method]) if name not in ("name", "seed"))


def accepts(method: str, keyword: str) -> bool:
    parameter = inspect.signature(SCORES[method]).parameters.get(keyword)
    return parameter is not None and parameter.kind is parameter.KEYWORD_ONLY


def evaluate(method: str, weight: "Tensor", known: Mapping[str, Any], where: str) -> "Tensor":
    """The score of one weight; what it needs and is not ``known`` is an error that says so."""
    score = SCORES[method]
    wanted = {p.name for p in inspect.signature(score).parameters.values() if p.kind is p.KEYWORD_ONLY}
    missing = [name for name in needs(score) if name not in known]
    if missing:
        fix = (
            "call loss.backward() first"
            if missing == ["grad"]
            else "choose a score that needs the weight alone"
        )
        raise ValueError(f"{where}: score {method!r} needs {', '.join(missing)}, which is not there; {fix}")
    try:
        result = score(weight, **{name: known[name] for name in wanted & set(known)})
    except Exception as error:
        raise ValueError(f"{where}: score {method!r} raised {type(error).__name__}: {error}") from error
    if not hasattr(result, "detach"):
        raise ValueError(f"{where}: score {method!r} gives a {type(result).__name__}, not a tensor")
    if result.shape != weight.shape:
        raise ValueError(
            f"{where}: score {method!r} gives {tuple(result.shape)} for a weight of {tuple(weight.shape)}"
        )
    return result


def magnitude_importance(layer: "nn.Module | Tensor") -> "Tensor":
    """|w| of a layer's ``weight``, or of a tensor."""
    return magnitude(_weight(layer).detach())


def taylor_importance(layer: "nn.Module | Tensor") -> "Tensor":
    """|w * grad| of a layer's ``weight``: run a backward pass first."""
    weight = _weight(layer)
    known = {} if weight.grad is None else {"grad": weight.grad}
    return evaluate("taylor", weight.detach(), known, type(layer).__name__)


def compute_layer_importance(
    model: "nn.Module", method: str = "magnitude", *, seed: int = 0
) -> "dict[str, Tensor]":
    """Scores of every weight of two and more dimensions, by full parameter name.

    Embeddings, norms and the head are scored too: what is pruned is decided elsewhere.
    """
    SCORES[method]
    scores = {}
    for name, parameter in model.named_parameters():
        if parameter.ndim >= 2:
            known: dict[str, Any] = {"name": name, "seed": seed}
            if parameter.grad is not None:
                known["grad"] = parameter.grad
            scores[name] = evaluate(method, parameter.detach(), known, name)
    return scores


def _weight(layer: "nn.Module | Tensor") -> "Tensor":
    import torch

    if isinstance(layer, torch.Tensor):
        return layer
    weight = getattr(layer, "weight", None)
    if not isinstance(weight, torch.Tensor):
        raise ValueError(
            f"{type(layer).__name__} has no weight tensor; pass a layer that has one, such as nn.Linear"
        )
    return weight
