"""Masks of a module or a state dict in memory, in one call. For files, see ``pruning.engine.compute``."""

from collections.abc import Mapping
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from pruning.checkpoint.open import open_checkpoint
from pruning.engine.compute import packed_masks
from pruning.masks.bits import unpack
from pruning.planning.amount import parse_sparsity
from pruning.planning.plan import make_plan
from pruning.planning.spec import LayerMap, MaskSpec
from pruning.registry import Registry

if TYPE_CHECKING:
    from torch import nn

Masks = dict[str, Tensor]
_METHODS: Registry[dict[str, str]] = Registry("method")
_METHODS.register("unstructured")({})
_METHODS.register("structured")({"pattern": "row"})
_METHODS.register("random")({"score": "random"})


class MaskGenerator:
    """What to prune and how hard, held until ``generate_masks``.

    ``method``: "unstructured", "structured" (whole output channels, or the ``pattern`` given) or
    "random". ``sparsity`` is a number, or a map from globs on parameter names to numbers.
    """

    def __init__(
        self,
        model: "nn.Module | Mapping[str, Tensor]",
        sparsity: "float | Decimal | Mapping[str, float] | None" = None,
        method: str = "unstructured",
        importance_metric: str | None = None,
        *,
        pattern: str | None = None,
        allocation: str = "uniform",
        include: tuple[str, ...] = (),
        exclude: tuple[str, ...] = (),
        seed: int = 0,
        nan_as_pruned: bool = False,
    ) -> None:
        self.model = model
        options: dict[str, Any] = dict(_METHODS[method])
        if method == "random" and importance_metric not in (None, "random"):
            raise ValueError(
                f"method 'random' does not look at the weights: {importance_metric!r} would have no effect"
            )
        if method != "random" and importance_metric is not None:
            options["score"] = importance_metric
        if (
            method != "structured"
            and pattern is not None
            and not pattern[0].isdigit()
            and pattern != "unstructured"
        ):
            raise ValueError(f"pattern {pattern!r} goes with method 'structured'")
        if pattern is not None:
            options["pattern"] = pattern
        level, layers = _levels(sparsity)
        self.spec = MaskSpec(
            sparsity=level,
            layers=layers,
            allocation=allocation,
            include=include,
            exclude=exclude,
            seed=seed,
            nan_as_pruned=nan_as_pruned,
            **options,
        )

    def generate_masks(self) -> Masks:
        """Bool masks, True = keep, by full parameter name."""
        with open_checkpoint(self.model) as source:
            plan = make_plan(source, [self.spec])
            (packed,) = packed_masks(source, plan)
        shapes = {info.name: info.shape for info in plan.tensors}
        return {
            name: torch.from_numpy(unpack(packed.pop(name), torch.Size(shape).numel())).view(shape)
            for name, shape in shapes.items()
        }


def compute_unstructured_mask(
    model: "nn.Module",
    sparsity: "float | Decimal | Mapping[str, float]",
    importance_metric: str = "magnitude",
    global_pruning: bool = False,
    **options: Any,
) -> Masks:
    """Single weights: in every layer alike, or with one threshold for all of them."""
    allocation = options.pop("allocation", "global" if global_pruning else "uniform")
    if global_pruning and allocation != "global":
        raise ValueError(
            f"global_pruning shares one threshold, allocation {allocation!r} does not; give one of them"
        )
    return MaskGenerator(
        model, sparsity, "unstructured", importance_metric, allocation=allocation, **options
    ).generate_masks()


def compute_structured_mask(
    model: "nn.Module",
    sparsity: "float | Decimal | Mapping[str, float]",
    importance_metric: str = "magnitude",
    pattern: str = "row",
    **options: Any,
) -> Masks:
    """Whole rows, columns, blocks (``block:16x16``) or heads (``head:12``)."""
    return MaskGenerator(
        model, sparsity, "structured", importance_metric, pattern=pattern, **options
    ).generate_masks()


def compute_random_mask(
    model: "nn.Module", sparsity: "float | Decimal | Mapping[str, float]", seed: int = 0, **options: Any
) -> Masks:
    """The baseline: weights chosen by a generator keyed by seed and parameter name."""
    return MaskGenerator(model, sparsity, "random", seed=seed, **options).generate_masks()


def compute_masks_for_state_dict(
    state_dict: Mapping[str, Any],
    sparsity: "float | Decimal | Mapping[str, float]",
    method: str = "unstructured",
    **options: Any,
) -> Masks:
    """As ``MaskGenerator``, for tensors without a model."""
    return MaskGenerator(state_dict, sparsity, method, **options).generate_masks()


def _levels(sparsity: "float | Decimal | Mapping[str, float] | None") -> tuple[Decimal | None, LayerMap]:
    if isinstance(sparsity, Mapping):
        return None, tuple(
            (glob, parse_sparsity(value, f"sparsity of {glob}")) for glob, value in sparsity.items()
        )
    return (None if sparsity is None else parse_sparsity(sparsity)), ()
