"""Factors and masks onto a model, in place: all is checked before the first tensor changes."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from pruning.lora.config import SparseLoRAConfig
from pruning.lora.layers import FACTORS, Adapted, Settings, attach, mask_layer
from pruning.lora.targets import Layer, choose, class_name, layers_of, parameter_name
from pruning.mask_generator import compute_unstructured_mask
from pruning.masks.apply import apply_masks_to_model
from pruning.masks.bits import Bytes, count, unpack
from pruning.masks.collection import Masks, MaskSet, opened, resolve_names
from pruning.problems import Problem, ProblemError, fail

_TOLERANCE = 0.01  # of a stated sparsity, as in validate_mask


@dataclass(frozen=True)
class Origin:
    """What a model with factors was like before; kept on it until they are merged."""

    trained: frozenset[str]  # parameters that required gradients
    keep_sparsity: bool  # what its configuration says about merging


def apply_sparse_lora(model: nn.Module, masks: Masks | None, config: SparseLoRAConfig) -> nn.Module:
    """Prune the weights with ``masks``, freeze them, and give the targeted layers factors.

    The model is changed in place and returned; every parameter keeps its name. ``masks`` are tensors by name,
    or a mask file; they may cover more than the targeted layers, and may mask factors (``LAYER.lora_A``).
    None: no masks, or those of the lowest magnitudes where ``initial_sparsity`` says how many.
    """
    if masks is None and config.initial_sparsity is not None:
        masks = _magnitude_masks(model, config)
    if masks is None:
        _refuse_no_masks(config)
        attach_factors(model, [config])
    else:
        with opened(masks) as source:
            _apply(model, source, config)
    model.lora_origin = Origin(_freeze(model, config), config.preserve_sparsity_on_merge)  # type: ignore[assignment]
    return model


def attach_factors(
    model: nn.Module,
    groups: Sequence[SparseLoRAConfig],
    *,
    where: Sequence[str] = ("SparseLoRAConfig",),
    named: Callable[[nn.Module], str] = class_name,
    draw_as_modelzoo: bool = False,
) -> dict[str, Settings]:
    """Only the factors, for the first group that targets a layer. What each layer was given, by its name."""
    plan, problems = choose(layers_of(model, named), groups, where)
    if problems:
        raise ProblemError(problems)
    _attach(model, plan, draw_as_modelzoo)
    return {layer.name: settings for layer, _, settings in plan}


def freeze(
    model: nn.Module, *, train_norms: bool = False, train_bias: bool = False, where: str = "SparseLoRAConfig"
) -> frozenset[str]:
    """Leave the factors to train, and the norms and biases that are asked for. What was trained before."""
    before = frozenset(name for name, parameter in model.named_parameters() if parameter.requires_grad)
    asked = [key for key, wanted in (("train_norms", train_norms), ("train_bias", train_bias)) if wanted]
    kept = {name for key in asked for name in _trained_too(model, key, where)}
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.rsplit(".", 1)[-1] in FACTORS or name in kept)
    return before


def adapted(model: nn.Module) -> dict[str, Adapted]:
    """The layers with factors, by name."""
    return {name: module for name, module in model.named_modules() if isinstance(module, Adapted)}


def _apply(model: nn.Module, source: MaskSet, config: SparseLoRAConfig) -> None:
    plan, problems = choose(layers_of(model), [config], ["SparseLoRAConfig"])
    of_factors = {name for name in source.names if name.rsplit(".", 1)[-1] in FACTORS}
    weights = _Some(source, [name for name in source.names if name not in of_factors])
    problems += _factor_problems(source, of_factors, plan)
    problems += _weight_problems(model, weights)
    if not problems:
        problems += [*_level_problems(model, weights, plan, config)]
    if problems:
        raise ProblemError(problems)
    # Of a tied weight one name may have the mask: found by the tensor, before a copy is made for the factors.
    parameters = dict(model.named_parameters(remove_duplicate=False))
    owners = resolve_names(weights.names, parameters)
    masked = {id(parameters[owner]): mask for mask, owner in owners.items()}
    mask_of = {layer.name: masked.get(id(layer.module.weight)) for layer, _, _ in plan}
    apply_masks_to_model(model, weights)
    _attach(model, plan, False)
    for layer, _, _ in plan:
        for part, name in (
            ("weight", mask_of[layer.name]),
            *((factor, parameter_name(layer.name, factor)) for factor in FACTORS),
        ):
            if name is not None and (part == "weight" or name in of_factors):
                _set_mask(layer.module, part, source, name)


def _set_mask(module: nn.Module, part: str, source: MaskSet, name: str) -> None:
    parameter = getattr(module, part)
    keep = torch.from_numpy(unpack(source.packed(name), parameter.numel())).reshape(parameter.shape)
    mask_layer(module, part, keep)
    if part in FACTORS:
        with torch.no_grad():
            parameter.mul_(keep.to(parameter.device))


def _attach(
    model: nn.Module, plan: Sequence[tuple[Layer, SparseLoRAConfig, Settings]], draw_as_modelzoo: bool
) -> None:
    users = Counter(
        id(parameter) for module in model.modules() for parameter in module.parameters(recurse=False)
    )
    generators = {
        id(config): torch.Generator().manual_seed(config.seed)
        for _, config, _ in plan
        if config.seed is not None
    }
    for layer, config, settings in plan:
        weight = layer.module.weight
        assert isinstance(weight, nn.Parameter)
        if (
            users[id(weight)] > 1
        ):  # tied to a layer without this update: from here on they differ, as in ModelZoo
            users[id(weight)] -= 1
            layer.module.weight = nn.Parameter(weight.detach().clone(), weight.requires_grad)
        generator = generators.get(id(config))
        attach(layer.module, settings, generator=generator, draw_as_modelzoo=draw_as_modelzoo)


def _freeze(model: nn.Module, config: SparseLoRAConfig) -> frozenset[str]:
    return freeze(model, train_norms=config.train_norms, train_bias=config.train_bias)


def _trained_too(model: nn.Module, key: str, where: str) -> list[str]:
    if key == "train_norms":
        names = [
            parameter_name(path, name)
            for path, module in model.named_modules()
            if "norm" in class_name(module).lower()
            for name, _ in module.named_parameters(recurse=False)
        ]
    else:
        names = [name for name, _ in model.named_parameters() if name.rsplit(".", 1)[-1] == "bias"]
    if not names:
        raise fail(f"{where}.{key}", "has no effect: the model has no such parameters", "leave it out")
    return names


def _magnitude_masks(model: nn.Module, config: SparseLoRAConfig) -> Masks:
    assert config.initial_sparsity is not None
    return compute_unstructured_mask(model, config.initial_sparsity)


def _refuse_no_masks(config: SparseLoRAConfig) -> None:
    if config.sparsity_mode == "sparse_to_sparse":
        what = "is sparse_to_sparse, and there are no masks that the update would keep to"
        raise fail(
            "SparseLoRAConfig.sparsity_mode", what, "give masks, or initial_sparsity to prune by magnitude"
        )


def _factor_problems(
    source: MaskSet, names: set[str], plan: Sequence[tuple[Layer, SparseLoRAConfig, Settings]]
) -> Iterator[Problem]:
    shapes = {}
    for layer, _, settings in plan:
        rows, columns = layer.module.weight.shape  # type: ignore[misc]
        if isinstance(layer.module, nn.Embedding):
            rows, columns = columns, rows
        shapes[parameter_name(layer.name, "lora_A")] = (settings.r, columns)
        shapes[parameter_name(layer.name, "lora_B")] = (rows, settings.r)
    for name in sorted(names):
        if name not in shapes:
            fix = "target its layer, or leave the mask out"
            yield Problem(f"mask {name}", "is of a layer that gets no factors", fix)
        elif source.shape(name) != shapes[name]:
            what = f"is of shape {source.shape(name)}, its factor of {shapes[name]}"
            yield Problem(f"mask {name}", what, "make it for this rank")
        elif not count(source.packed(name)):
            what = "drops the whole factor, so its layer would never train"
            yield Problem(f"mask {name}", what, "leave the layer out of target_modules")


def _weight_problems(model: nn.Module, source: MaskSet) -> list[Problem]:
    """What ``apply_masks_to_model`` says of names and shapes, and of a merge whose zeros are gone."""
    parameters = dict(model.named_parameters(remove_duplicate=False))
    try:
        owners = resolve_names(source.names, parameters)
    except ProblemError as error:
        return list(error.problems)
    problems = []
    merged = getattr(model, "lora_merge_report", None)
    for mask, owner in owners.items():
        if source.shape(mask) != tuple(parameters[owner].shape):
            shapes = f"{source.shape(mask)}, its parameter of {tuple(parameters[owner].shape)}"
            fix = "take the masks that were computed for this model"
            problems.append(Problem(f"mask {mask}", f"is of shape {shapes}", fix))
    if merged is not None and merged["global"]["resurrected"]:
        what = (
            f"were merged densely: {merged['global']['resurrected']:,} weights under their masks are not zero"
        )
        fix = "start from the sparse weights; or compute new masks, and delete model.lora_merge_report"
        problems.append(Problem("the weights", what, fix))
    return problems


def _level_problems(
    model: nn.Module,
    source: MaskSet,
    plan: Sequence[tuple[Layer, SparseLoRAConfig, Settings]],
    config: SparseLoRAConfig,
) -> Iterator[Problem]:
    parameters = dict(model.named_parameters(remove_duplicate=False))
    owners = resolve_names(source.names, parameters)
    covered = {id(parameters[owner]) for owner in owners.values()}
    if config.sparsity_mode == "sparse_to_sparse" and not any(
        id(x.module.weight) in covered for x, _, _ in plan
    ):
        what = "is sparse_to_sparse, and no layer that gets factors has a mask"
        yield Problem("SparseLoRAConfig.sparsity_mode", what, "target layers that the masks cover")
    if config.initial_sparsity is not None:
        numel = sum(parameters[owner].numel() for owner in owners.values())
        kept = sum(count(source.packed(name)) for name in source.names)
        found = 1 - kept / numel if numel else 0.0
        if abs(found - config.initial_sparsity) > _TOLERANCE:
            what = f"is {config.initial_sparsity:g}, and the masks drop {found:.4f} of their weights"
            yield Problem("SparseLoRAConfig.initial_sparsity", what, "leave it out, or take other masks")


class _Some:
    """Some of the masks of a set."""

    def __init__(self, source: MaskSet, names: Sequence[str]) -> None:
        self._source, self.names = source, tuple(names)

    def shape(self, name: str) -> tuple[int, ...]:
        return self._source.shape(name)

    def packed(self, name: str) -> Bytes:
        return self._source.packed(name)
