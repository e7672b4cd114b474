"""``lora_params`` of a YAML, checked: ModelZoo's keys, and those that this project adds. Imports no torch."""

import json
import shlex
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from cerebras_utils.vendor_names import named_entries
from pruning.lora.config import SparseLoRAConfig
from pruning.problems import Problem, ProblemError
from pruning.registry import suggest

LORA, SPARSE_LORA, MASKS = "Lora", "SparseLora", "SparseMaskCallback"
_VENDOR = ("r", "alpha", "dropout", "fan_in_fan_out", "merge_weights", "target_modules")
_OURS = ("sparsity_mode", "rank_stabilized", "ranks", "train_norms", "train_bias")
_DEFAULTS: Mapping[str, Any] = {"alpha": 1, "dropout": 0.0, "target_modules": None}  # ModelZoo's
_REFUSED = {
    "merge_weights": (
        "is true: validation would merge the update into the weights that masks and checkpoints are of",
        "set it to false, and merge afterwards",
    ),
    "fan_in_fan_out": (
        "is true, and layers of ModelZoo keep (out, in): it would multiply by their transpose",
        "set it to false",
    ),
}


def groups(name: str, lora_params: Any, where: str) -> list[SparseLoRAConfig]:
    """The groups of a ``Lora`` or ``SparseLora`` callback, or everything that is wrong with them."""
    problems = [*params_problems(name, lora_params, where)]
    if problems:
        raise ProblemError(problems)
    return [_config(name, group) for group in _listed(lora_params)]


def params_problems(name: str, lora_params: Any, where: str) -> Iterator[Problem]:
    listed, known = _listed(lora_params), _known(name)
    if not listed or not all(isinstance(group, Mapping) for group in listed):
        yield Problem(
            where, "is no group of settings, and no list of them", "write `lora_params: {r: 8, ...}`"
        )
        return
    for index, group in enumerate(listed):
        here = group_place(where, lora_params, index)
        for key in group:
            if key not in known:
                what = f"is no setting of {name}.{suggest(str(key), list(known))}"
                yield Problem(f"{here}.{key}", what, f"remove it; known: {', '.join(known)}")
        for key, (what, fix) in _REFUSED.items():
            if group.get(key):
                yield Problem(f"{here}.{key}", what, fix)
        if "r" not in group:
            yield Problem(here, "lacks 'r', the rank", "write `r: 8`")
        try:
            _config(name, {"r": 1, **{key: value for key, value in group.items() if key in known}})
        except ProblemError as error:
            for problem in error.problems:
                key = problem.where.removeprefix("SparseLoRAConfig")
                yield Problem(f"{here}{key}", problem.what, problem.fix)


def callback_problems(callbacks: Any, where: str) -> Iterator[Problem]:
    """What is wrong with LoRA in the ``callbacks`` of a YAML: each by itself, and with the masks."""
    named = {
        name.lower(): (f"{where}[{index}].{name}", arguments)
        for index, name, arguments in named_entries(callbacks)
    }
    for name in (LORA, SPARSE_LORA):
        if (found := named.get(name.lower())) and "lora_params" in found[1]:
            yield from params_problems(name, found[1]["lora_params"], f"{found[0]}.lora_params")
    ours = named.get(SPARSE_LORA.lower())
    if ours is None:
        return
    if LORA.lower() in named:
        yield Problem(ours[0], "stands beside Lora, and a layer has one pair of factors", "keep one of them")
    if _masks_are_needed(ours[1].get("lora_params")):
        masks = named.get(MASKS.lower())
        if masks is None:
            what = f"masks the update by the masks of {MASKS}, which is not there"
            yield Problem(ours[0], what, f"add `- {MASKS}: {{mask_path: ...}}`, or use Lora")
        elif masks[1].get("apply_every_step", True) is False:
            what = f"applies the masks once, and {SPARSE_LORA} needs them in every step"
            yield Problem(f"{masks[0]}.apply_every_step", what, "set it to true, or use Lora")


def group_place(where: str, lora_params: Any, index: int) -> str:
    return f"{where}[{index}]" if isinstance(lora_params, list) else where


def _masks_are_needed(lora_params: Any) -> bool:
    groups = [group for group in _listed(lora_params) if isinstance(group, Mapping)]
    return any(group.get("sparsity_mode", "sparse_to_sparse") == "sparse_to_sparse" for group in groups)


def _config(name: str, group: Mapping[str, Any]) -> SparseLoRAConfig:
    given = {key: value for key, value in group.items() if key not in _REFUSED}
    mode = {"sparsity_mode": "sparse_to_sparse"} if name == SPARSE_LORA else {}
    return SparseLoRAConfig(**{**_DEFAULTS, **mode, **given})


def _known(name: str) -> tuple[str, ...]:
    return (*_VENDOR, *_OURS) if name == SPARSE_LORA else _VENDOR


def _listed(lora_params: Any) -> Sequence[Any]:
    return lora_params if isinstance(lora_params, list) else [lora_params]


def weights_command(checkpoint: str) -> str:
    """For a shell: what writes the weights of a checkpoint alone, without its optimizer."""
    source, target = (
        json.dumps(name, ensure_ascii=False)
        for name in (checkpoint, f"{checkpoint.removesuffix('.mdl')}.weights.mdl")
    )
    code = (
        "from pathlib import Path; "
        "from cerebras_utils.fallback.checkpoint_reading import read_checkpoint; "
        "from cerebras_utils.fallback.mdl_writer import save_mdl; "
        f'save_mdl(Path({target}), {{"model": read_checkpoint(Path({source}))["model"]}})'
    )
    return f"python -c {shlex.quote(code)}"
