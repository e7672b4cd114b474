"""Which layers of a model get factors, and of what rank; and every reason why one that is named cannot."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from torch import nn

from pruning.lora.config import SparseLoRAConfig
from pruning.lora.layers import KINDS, Adapted, Settings
from pruning.problems import Problem
from pruning.registry import suggest

# They read the weights of these children past their forward methods: factors there would do nothing.
_READ_PAST: dict[type[nn.Module], tuple[str, ...]] = {
    nn.MultiheadAttention: ("out_proj",),
    nn.TransformerEncoderLayer: ("linear1", "linear2"),
}


@dataclass(frozen=True)
class Layer:
    """A Linear or Embedding, its name, and the class names on the path to it, its own included."""

    name: str
    module: nn.Module
    path: tuple[str, ...]
    parent: nn.Module | None

    @property
    def weight_name(self) -> str:
        return parameter_name(self.name, "weight")


def parameter_name(layer: str, parameter: str) -> str:
    return f"{layer}.{parameter}" if layer else parameter


def class_name(module: nn.Module) -> str:
    return type(module).__name__


def layers_of(model: nn.Module, named: Callable[[nn.Module], str] = class_name) -> list[Layer]:
    """Every Linear and Embedding once, children in their order, as ModelZoo visits them."""
    found: list[Layer] = []
    seen: set[int] = set()

    def walk(module: nn.Module, name: str, path: tuple[str, ...], parent: nn.Module | None) -> None:
        if id(module) in seen:
            return
        seen.add(id(module))
        path = (*path, named(module))
        for child_name, child in module.named_children():
            walk(child, f"{name}.{child_name}" if name else child_name, path, module)
        if isinstance(module, nn.Linear | nn.Embedding):
            found.append(Layer(name, module, path, parent))

    walk(model, "", (), None)
    return found


def choose(
    layers: Sequence[Layer], groups: Sequence[SparseLoRAConfig], where: Sequence[str]
) -> tuple[list[tuple[Layer, SparseLoRAConfig, Settings]], list[Problem]]:
    """Each chosen layer with the first group that targets it, and all that is wrong with the groups."""
    problems: list[Problem] = []
    chosen: dict[str, tuple[Layer, SparseLoRAConfig]] = {}
    for group, here in zip(groups, where, strict=True):
        unmatched = [*_unmatched(layers, group, here)]
        problems += unmatched
        targeted = [layer for layer in layers if _is_target(layer, group)]
        fresh = [layer for layer in targeted if layer.name not in chosen]
        if not fresh and not unmatched:
            what = "all their layers are taken by groups before" if targeted else "no layer fits all of them"
            problems.append(_problem(here, f"{_listed(group)}: {what}", "target other layers"))
        chosen |= {layer.name: (layer, group) for layer in fresh}
        problems += _rank_globs_unmatched(fresh, group, here)
    plan = []
    for layer, group in (chosen[layer.name] for layer in layers if layer.name in chosen):
        reasons = [*_reasons_against(layer, rank := _rank(layer, group))]
        problems += reasons
        if not reasons:
            dropout = 0.0 if isinstance(layer.module, nn.Embedding) else float(group.dropout)
            scaling = group.scaling(rank)
            settings = Settings(rank, float(group.alpha), scaling, dropout, group.sparsity_mode)
            plan.append((layer, group, settings))
    for group, here in zip(groups, where, strict=True):
        mine = [layer for layer, other in chosen.values() if other is group]
        if group.dropout and mine and all(isinstance(layer.module, nn.Embedding) for layer in mine):
            what = f"is {group.dropout}, and all layers that it is for are embeddings, which drop nothing"
            problems.append(Problem(f"{here}.dropout", what, "set it to 0"))
    return plan, problems


def is_glob(target: str) -> bool:
    return any(sign in target for sign in "*?[.")


def _is_target(layer: Layer, group: SparseLoRAConfig) -> bool:
    targets = group.target_modules
    if targets is None:
        return True
    globs = [target for target in targets if is_glob(target)]
    on_path = all(target in layer.path for target in targets if not is_glob(target))
    return on_path and (not globs or any(_matches(layer, glob) for glob in globs))


def _matches(layer: Layer, glob: str) -> bool:
    return fnmatchcase(layer.weight_name, glob) or fnmatchcase(layer.name, glob)


def _rank(layer: Layer, group: SparseLoRAConfig) -> int:
    return next((rank for glob, rank in group.ranks.items() if _matches(layer, glob)), group.r)


def _unmatched(layers: Sequence[Layer], group: SparseLoRAConfig, where: str) -> Iterator[Problem]:
    classes = dict.fromkeys(part for layer in layers for part in layer.path)
    for target in group.target_modules or ():
        if is_glob(target):
            if not any(_matches(layer, target) for layer in layers):
                names = [layer.weight_name for layer in layers]
                what = (
                    f"the glob {target!r} matches no weight of a Linear or Embedding.{_hint(target, names)}"
                )
                yield _problem(where, what, "name weights, as " + (names[0] if names else "none"))
        elif target not in classes:
            hint = suggest(target, list(classes))
            if not hint and any(target in layer.name for layer in layers):
                hint = f" It is in names of layers: did you mean '*{target}*'?"
            what = f"{target!r} is no class on the path to any Linear or Embedding.{hint}"
            yield _problem(where, what, f"use classes of the model ({', '.join(classes)}) or a glob")


def _rank_globs_unmatched(layers: Sequence[Layer], group: SparseLoRAConfig, where: str) -> Iterator[Problem]:
    for glob in group.ranks:
        if layers and not any(_matches(layer, glob) for layer in layers):
            names = [layer.weight_name for layer in layers]
            what = f"the glob matches none of the layers that get factors.{_hint(glob, names)}"
            yield Problem(f"{where}.ranks[{glob!r}]", what, f"name one of them, as {names[0]}")


def _reasons_against(layer: Layer, rank: int) -> Iterator[Problem]:
    module, name = layer.module, layer.name or "the model"
    if isinstance(module, Adapted):
        yield Problem(name, "has factors already", "merge them first: merge_all_lora_weights(model)")
        return
    if type(module) not in KINDS:
        what = f"is a {class_name(module)}, which may compute in its own way"
        yield Problem(name, what, "target nn.Linear and nn.Embedding only")
        return
    for kind, children in _READ_PAST.items():
        if isinstance(layer.parent, kind) and name.rsplit(".", 1)[-1] in children:
            what = f"is part of a torch.nn.{kind.__name__}, which reads the weight past its factors"
            yield Problem(name, what, "leave it out of target_modules")
    if isinstance(module, nn.Embedding) and module.max_norm is not None:
        what = f"has max_norm={module.max_norm}, which rewrites the frozen weight in every forward pass"
        yield Problem(name, what, "leave it out of target_modules")
    weight = module.weight
    assert isinstance(weight, nn.Parameter)
    if rank > min(weight.shape):
        what = f"has a weight of {tuple(weight.shape)}, and a rank of {rank} is above {min(weight.shape)}"
        yield Problem(name, what, f"choose a rank up to {min(weight.shape)}, for this layer by `ranks`")
    if not weight.is_floating_point():
        yield Problem(name, f"has a weight of {weight.dtype}", "leave it out of target_modules")


def _hint(glob: str, names: Sequence[str]) -> str:
    parts: Mapping[str, None] = dict.fromkeys(part for name in names for part in name.split("."))
    return suggest(glob.strip("*").strip("."), [*parts, *names])


def _listed(group: SparseLoRAConfig) -> str:
    return "null" if group.target_modules is None else ", ".join(group.target_modules)


def _problem(where: str, what: str, fix: str) -> Problem:
    return Problem(f"{where}.target_modules", what, fix)
