"""A checkpoint that a config is to start from: what cszoo would do with it, known from its listing."""

from collections.abc import Iterator
from pathlib import Path

from cerebras_utils.lora_settings import weights_command
from cerebras_utils.rewriting.request import MaskSummary
from pruning.checkpoint.open import open_checkpoint
from pruning.checkpoint.source import TensorSource
from pruning.masks.collection import resolve_names
from pruning.problems import Problem, ProblemError


def checkpoint_problems(path: str, masks: MaskSummary, *, lora: bool) -> tuple[list[Problem], list[str]]:
    """What would go wrong, and what should be known."""
    with open_checkpoint(path) as source:
        problems = [*_form_problems(path, source), *_mask_problems(masks, source)]
        if lora and (problem := optimizer_problem(path, source)):
            problems.append(problem)
        lines = []
        if masks.checkpoint is not None and masks.checkpoint != source.fingerprint():
            lines.append(f"{masks.path} was made from another checkpoint than {path} (by its fingerprint)")
        return problems, lines


def optimizer_problem(path: str, source: TensorSource) -> Problem | None:
    """LoRA trains other parameters than those whose state the checkpoint holds."""
    if not any(key.startswith("optimizer.") for key in _others(path, source)):
        return None
    return Problem(
        path,
        "holds the state of an optimizer: with LoRA its groups have another size, and loading fails",
        f"give a checkpoint of the model alone: {weights_command(path)}",
    )


def _form_problems(path: str, source: TensorSource) -> Iterator[Problem]:
    if source.kind == "safetensors":
        fix = "save it as {'model': state_dict} with torch.save, or as .mdl"
        yield Problem(path, "is safetensors: cszoo finds no weights in it, and trains from random ones", fix)
        return
    if not _is_nested(path, source):
        what = 'has no weights under "model" at its top: cszoo would load nothing'
        yield Problem(path, what, "save it as {'model': state_dict}")
    foreign = [name for name in source.infos if not name.startswith("model.")]
    if foreign:
        what = f"{len(foreign)} keys do not begin with 'model.': {', '.join(foreign[:4])}"
        fix = "rename them; cszoo would load nothing and train from random weights"
        yield Problem(path, what, fix)


def _mask_problems(masks: MaskSummary, source: TensorSource) -> Iterator[Problem]:
    try:
        owners = resolve_names(masks.masks, source.infos)
    except ProblemError as error:
        found = len(error.problems)
        yield from error.problems[:4]
        if found > 4:
            what = f"{found - 4} more masks have no weight in {source.where}"
            yield Problem(masks.path, what, "take the masks of this model")
        return
    for name, owner in owners.items():
        info = source.infos[owner]
        if info.shape != masks.masks[name].shape:
            what = f"is of shape {masks.masks[name].shape}, its weight in {source.where} of {info.shape}"
            yield Problem(f"{masks.path}: {name}", what, "take the masks of this model")


def _is_nested(path: str, source: TensorSource) -> bool:
    if source.kind == "mdl":
        from pruning.checkpoint.mdl_file import open_state

        with open_state(Path(path), path) as state:
            return all(f"model.{name}" in state.infos for name in source.infos)
    return "model" in _torch_keys(path)


def _others(path: str, source: TensorSource) -> list[str]:
    if source.kind == "mdl":
        return list(getattr(source, "others", ()))
    return [f"{key}." for key in _torch_keys(path)] if source.kind == "torch" else []


def _torch_keys(path: str) -> list[str]:
    """Of a ``torch.save`` file: its top. Its tensors are mapped, not read."""
    import torch

    if not Path(path).is_file():
        return []
    loaded = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    return [str(key) for key in loaded] if isinstance(loaded, dict) else []
