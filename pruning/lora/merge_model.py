"""Factors of a model into its weights, in place; and whether the zeros are still there."""

import logging
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from pruning.lora.apply import adapted
from pruning.lora.layers import FACTORS, Adapted, detach
from pruning.lora.merge import MergeCost, merge_rows, report
from pruning.masks.bits import unpack
from pruning.masks.collection import Masks, opened, resolve_names
from pruning.problems import Problem, ProblemError, fail

_LOG = logging.getLogger(__name__)


def merge_all_lora_weights(
    model: nn.Module,
    preserve_sparsity: bool | None = None,
    *,
    evaluate: Callable[[nn.Module], float] | None = None,
) -> nn.Module:
    """Put every update into its weight, take the factors away, and return the model.

    ``preserve_sparsity``: whether a dense update is cut to the masks; None: as the configuration says. What
    is trained with a mask, or multiplicatively, merges exactly either way. A cut changes the function that
    was trained; a warning says how far. ``model.lora_merge_report`` holds the costs, with the losses before
    and after where ``evaluate`` gives them.
    """
    layers = adapted(model)
    keep = _checked(model, layers, preserve_sparsity)
    before = None if evaluate is None else evaluate(model)  # before anything is changed
    costs: dict[str, MergeCost] = {}
    with torch.no_grad():
        for name, layer in layers.items():
            left, right = layer.sides()
            merged, costs[name] = merge_rows(
                layer.weight,
                left,
                right,
                scaling=layer.lora.scaling,
                trained=_kind(layer),
                mask=getattr(layer, "weight_mask", None),
                keep_sparsity=keep,
                where=name,
            )
            assert isinstance(layer, nn.Module)
            detach(layer, merged)
    _thaw(model)
    found = report(costs)
    if evaluate is not None:
        found["loss_before"], found["loss_after"] = before, evaluate(model)
    model.lora_merge_report = found  # type: ignore[assignment]
    _say(found)
    return model


def validate_sparsity_preserved(
    model: nn.Module, masks: Masks, tolerance: float = 1e-6
) -> tuple[bool, dict[str, Any]]:
    """Whether every weight that the masks drop is zero, give or take ``tolerance``.

    A layer whose factors are not merged yet is judged by the weight that it computes with. NaN is no zero.
    """
    layers = {f"{name}.weight".lstrip("."): layer for name, layer in adapted(model).items()}
    per_layer: dict[str, dict[str, Any]] = {}
    with opened(masks) as source, torch.no_grad():
        parameters = dict(model.named_parameters(remove_duplicate=False))
        owners = resolve_names(source.names, parameters)
        problems = [
            Problem(
                f"mask {mask}",
                f"is of shape {source.shape(mask)}, its parameter of {tuple(parameters[owner].shape)}",
                "take the masks that were computed for this model",
            )
            for mask, owner in owners.items()
            if source.shape(mask) != tuple(parameters[owner].shape)
        ]
        if problems:
            raise ProblemError(problems)
        for mask, owner in owners.items():
            weight = layers[owner].effective_weight() if owner in layers else parameters[owner]
            keep = torch.from_numpy(unpack(source.packed(mask), weight.numel())).reshape(weight.shape)
            per_layer[owner] = _violations(weight, keep.to(weight.device), tolerance)
    total = sum(layer["total_violations"] for layer in per_layer.values())
    dropped = sum(layer["dropped"] for layer in per_layer.values())
    everything = {
        "total_violations": total,
        "dropped": dropped,
        "violation_rate": total / dropped if dropped else 0.0,
        "max_violation": max((layer["max_violation"] for layer in per_layer.values()), default=0.0),
    }
    return total == 0, {"global": everything, "per_layer": per_layer}


def _violations(weight: Tensor, keep: Tensor, tolerance: float) -> dict[str, Any]:
    hidden = weight[~keep].abs()
    violations = int((~(hidden <= tolerance)).sum())
    return {
        "total_violations": violations,
        "dropped": hidden.numel(),
        "violation_rate": violations / hidden.numel() if hidden.numel() else 0.0,
        "max_violation": float(hidden.max()) if hidden.numel() else 0.0,
    }


def _kind(layer: Adapted) -> str:
    """What was done with the update in the forward pass."""
    if layer.lora.mode == "multiplicative":
        return "multiplicative"
    return "dense" if layer.gate() is None else "masked"


def _checked(model: nn.Module, layers: dict[str, Adapted], preserve_sparsity: bool | None) -> bool:
    """Whether dense updates are cut; everything that forbids the merge, before anything is changed."""
    if not layers:
        merged = hasattr(model, "lora_merge_report")
        what = "were merged already" if merged else "are not there: no layer of the model has any"
        raise fail(
            "LoRA factors", what, "merge once" if merged else "call apply_sparse_lora(model, masks, config)"
        )
    problems = []
    for name, layer in layers.items():
        for factor in FACTORS:
            values = getattr(layer, factor, None)
            if values is None:
                what = f"has no {factor}"
                problems.append(Problem(name, what, "load the whole checkpoint of the LoRA run"))
            elif not bool(values.isfinite().all()):
                what = f"its {factor} is NaN or infinite"
                problems.append(Problem(name, what, "merge a checkpoint from before the loss broke"))
    if problems:
        raise ProblemError(problems)
    origin = getattr(model, "lora_origin", None)
    keep = preserve_sparsity
    if keep is None:
        keep = origin.keep_sparsity if origin is not None else True
    kinds = {_kind(layer) for layer in layers.values()}
    if not keep and "dense" not in kinds:
        what = "is false, and every update was trained under its mask: no merge makes it dense"
        raise fail("preserve_sparsity", what, "leave it out, or train with sparse_to_dense")
    masked = any(getattr(layer, "weight_mask", None) is not None for layer in layers.values())
    if keep and kinds == {"dense"} and not masked:
        what = "is true, and no layer with factors has a mask"
        raise fail("preserve_sparsity", what, "merge densely: preserve_sparsity=False")
    return keep


def _thaw(model: nn.Module) -> None:
    """What was trained before the factors came is trained again."""
    origin = getattr(model, "lora_origin", None)
    if origin is not None:
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name in origin.trained)
        del model.lora_origin


def _say(found: dict[str, Any]) -> None:
    total = found["global"]
    if total["max_dropped"]:
        losses = (
            f", the loss from {found['loss_before']:.6g} to {found['loss_after']:.6g}"
            if "loss_after" in found
            else ""
        )
        _LOG.warning(
            "the merge cut a dense update to the masks: %.1f %% of its norm is gone, at most %.3g each%s",
            100 * total["dropped_share"],
            total["max_dropped"],
            losses,
        )
    elif total["resurrected"]:
        _LOG.warning("the merge is dense: %d weights that were zero are not", total["resurrected"])
