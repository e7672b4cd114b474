"""LoRA beside masks: what frozen weights, merging and default filters do to each other."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from cerebras_utils.checks.case import MASKS, Case, Shapes
from cerebras_utils.checks.registry import Doubt, Finding, NotMade, check
from cerebras_utils.checks.weights import FAMILIES, model_without_values, no_values
from cerebras_utils.lora_settings import LORA, SPARSE_LORA, callback_problems
from cerebras_utils.lora_settings import groups as lora_groups
from pruning.problems import Problem, ProblemError

if TYPE_CHECKING:
    from torch import nn

_NO_LORA = f"the config has neither {LORA} nor {SPARSE_LORA}"
_MERGES = ".merge_weights"


def is_lora(name: str) -> bool:
    return name.endswith((".lora_A", ".lora_B", ".lora_A_mask", ".lora_B_mask"))


def trains_lora(case: Case) -> bool:
    return any(case.callback(name) is not None for name in (LORA, SPARSE_LORA))


def parameters(case: Case) -> list[tuple[str, Mapping[str, Any]]]:
    """Each ``lora_params`` with its key: a callback has a map, or a list of them."""
    found = []
    for callback in (case.callback(LORA), case.callback(SPARSE_LORA)):
        written = callback.arguments.get("lora_params") if callback else None
        listed = written if isinstance(written, list) else [written]
        for index, entry in enumerate(listed):
            if callback and isinstance(entry, Mapping):
                key = f"{callback.key}.lora_params"
                found.append((f"{key}[{index}]" if isinstance(written, list) else key, entry))
    return found


def factors(case: Case, weights: Shapes) -> dict[str, tuple[int, ...]]:
    """The factors that the run makes beside linear weights at most, so that a mask may name them."""
    ranks = [r for _, entry in parameters(case) if type(r := entry.get("r")) is int and r > 0]
    found: dict[str, tuple[int, ...]] = {}
    for name, shape in weights.items():
        if ranks and len(shape) == 2 and name.endswith(".weight") and "embedding" not in name:
            linear = name.removesuffix(".weight")
            found[f"{linear}.lora_A"] = (max(ranks), shape[1])
            found[f"{linear}.lora_B"] = (shape[0], max(ranks))
    return found


def adapted_model(case: Case) -> "nn.Module | None":
    """The model with its factors, frozen as in training, without values; None where it is not known here."""
    if case.model.get("name") not in FAMILIES:
        return None
    from cerebras_utils.fallback.models.vendor_classes import vendor_class
    from pruning.lora.apply import attach_factors, freeze

    name = LORA if case.callback(LORA) else SPARSE_LORA
    written = parameters(case)
    # Merging in validation changes nothing of what is trained, and has a check of its own.
    entries = [{k: v for k, v in entry.items() if k != _MERGES.strip(".")} for _, entry in written]
    try:
        groups = lora_groups(name, entries, f"{name}.lora_params")
        model = model_without_values(case.model, case.where("init.model"))
        with no_values():
            attach_factors(model, groups, where=[key for key, _ in written], named=vendor_class)
        norms, bias = (any(getattr(g, key) for g in groups) for key in ("train_norms", "train_bias"))
        freeze(model, train_norms=norms, train_bias=bias, where=name)
    except ProblemError as error:
        problem = error.problems[0]
        raise NotMade(f"{name} cannot be put on the model: {problem.where}: {problem.what}") from None
    return model


@check("lora")
def settings(case: Case) -> Iterator[Finding]:
    """Settings that LoRA does not have or that it lacks, two kinds of LoRA, SparseLora without masks."""
    if not trains_lora(case):
        raise NotMade(_NO_LORA)
    for problem in callback_problems(case.init.get("callbacks"), case.where("init.callbacks")):
        if not problem.where.endswith(_MERGES):
            yield problem
    for name in (LORA, SPARSE_LORA):
        if (callback := case.callback(name)) and "lora_params" not in callback.arguments:
            yield Problem(case.where(callback.key), "lacks lora_params", "write `lora_params: {r: 8}`")


@check("lora")
def merge_weights(case: Case) -> Iterator[Finding]:
    """`merge_weights: true`: validation merges, so zeros are gone, or the loss is of another model."""
    if not trains_lora(case):
        raise NotMade(_NO_LORA)
    masked = case.callback(MASKS) is not None or case.init.get("sparsity") not in (None, [])
    for key, entry in parameters(case):
        if entry.get("merge_weights") is True:
            where, fix = case.where(f"{key}{_MERGES}"), "set merge_weights: false"
            if masked:
                yield Problem(where, "merges in validation, and masks what it merged: the loss is wrong", fix)
            else:
                what = "merges in validation: of the zeros in the base, none is left there"
                yield Doubt(where, what, fix)


@check("lora")
def in_model(case: Case) -> Iterator[Finding]:
    """`lora_params` in the model section, where cszoo rejects them."""
    if "lora_params" in case.model:
        fix = "move it to trainer.init.callbacks: `- Lora: {lora_params: {...}}`"
        yield Problem(case.where("init.model.lora_params"), "is rejected here: LoRA is a callback", fix)


@check("lora")
def masked_update(case: Case) -> Iterator[Finding]:
    """A mask in the forward pass on the CS-3: whether its compiler takes one is not established."""
    own = case.callback(SPARSE_LORA)
    if own is None:
        raise NotMade(f"the config has no {SPARSE_LORA}")
    if case.device == "CSX":
        what = "masks the update in the forward pass: that the CS-3 compiler takes this is not established, "
        what += "it was seen in the trace only"
        fix = f"look at `wafersparse trace`; sure to be native are sparse_to_dense (ModelZoo's {LORA} beside "
        fix += f"{MASKS}) with a masked merge, and sparse fine-tuning of the weights themselves without LoRA"
        yield Doubt(case.where(own.key), what, fix)
