"""The callbacks of a trainer: masks, and LoRA beside them."""

from collections.abc import Iterator
from typing import Any

from cerebras_utils.lora_settings import LORA, MASKS, SPARSE_LORA, callback_problems
from cerebras_utils.rewriting.request import (
    DEFAULT_TARGET,
    SPARSE_TO_SPARSE,
    Request,
)
from cerebras_utils.yaml_values import in_flow, same
from pruning.problems import Problem


def edit_callbacks(init: dict[str, Any], where: str, request: Request) -> tuple[list[str], list[Problem]]:
    """Change ``init``. cszoo compares names in lower case, and takes each but once."""
    written = init.get("callbacks")
    entries = [] if written is None else written
    if problem := _form_problem(entries, where):
        return [], [problem]
    twice = [name for name in (MASKS, LORA, SPARSE_LORA) if len(_find(entries, name)) > 1]
    if twice:
        fix = "keep one of them"
        return [], [Problem(where, f"{name} is there more than once", fix) for name in twice]
    lines: list[str] = []
    problems: list[Problem] = []
    found = [(name, index) for name in (LORA, SPARSE_LORA) for index in _find(entries, name)]
    if len(found) > 1:
        return [], [Problem(where, "Lora and SparseLora exclude each other", "keep one of them")]
    has_lora = bool(found) or request.lora is not None
    if request.groups is not None and has_lora:
        what = "LoRA freezes the masked weights, and the vendor's own sparsity then fails at the first step"
        fix = "leave --native out; with the SparseMaskCallback it works"
        return [], [Problem(where, what, fix)]
    lines += _masks(entries, where, request, has_lora)
    if request.lora is not None:
        lines += _write_lora(entries, where, request, problems)
    elif found:
        lines += _keep_lora(entries, *found[0], where, request, problems)
    problems += callback_problems(entries, where)
    if entries or written is not None:
        init["callbacks"] = entries
    return lines, problems


def _masks(entries: list[Any], where: str, request: Request, has_lora: bool) -> Iterator[str]:
    """With LoRA the base is frozen, and its masks hold throughout in either mode."""
    every_step = has_lora or request.mode == SPARSE_TO_SPARSE
    entry = {MASKS: {"mask_path": request.masks.path, "apply_every_step": every_step}}
    place = next(iter(_find(entries, MASKS)), None)
    if place is not None:
        before = next(iter(entries[place].values()))
        if request.groups is not None:
            yield f"{where}[{place}].{MASKS}: removed, the masks are in the checkpoint"
            del entries[place]
        elif not same(before, entry[MASKS]):
            yield f"{where}[{place}].{MASKS}: replaced, it was {in_flow(before)}"
            entries[place] = entry
    elif request.groups is None:
        entries.append(entry)


def _write_lora(entries: list[Any], where: str, request: Request, problems: list[Problem]) -> Iterator[str]:
    assert request.lora is not None
    name = request.lora_callback
    params = dict(request.lora)
    place = next((i for kind in (LORA, SPARSE_LORA) for i in _find(entries, kind)), None)
    if place is None:
        if "target_modules" not in params:
            params["target_modules"] = list(DEFAULT_TARGET)
            yield f"{name}: target_modules is {in_flow(DEFAULT_TARGET)}; say another with target=A+B"
        entries.append({name: {"lora_params": params}})
        return
    ((held, arguments),) = entries[place].items()
    sets = _sets(arguments)
    here = f"{where}[{place}].{held}"
    if len(sets) != 1:
        what = f"has {len(sets)} sets of parameters, and it is not said which to change"
        problems.append(Problem(here, what, "change it in the file, and leave --lora out"))
        return
    merged = {**sets[0], **params}
    if merged.get("merge_weights", False) is not False:
        merged["merge_weights"] = False
    changed = {
        key: value for key, value in merged.items() if key not in sets[0] or not same(sets[0][key], value)
    }
    for key, value in changed.items():
        yield f"{here}: {key} {in_flow(sets[0][key]) if key in sets[0] else 'not set'} -> {in_flow(value)}"
    if held.lower() != name.lower():
        yield f"{here}: becomes {name}, as --mode {request.mode} asks"
    several = isinstance(arguments["lora_params"], list)
    spelled = held if held.lower() == name.lower() else name
    entries[place] = {spelled: {"lora_params": [merged] if several else merged}}


def _keep_lora(
    entries: list[Any], name: str, place: int, where: str, request: Request, problems: list[Problem]
) -> Iterator[str]:
    """What the base has already, where it does not undo the masks."""
    ((held, arguments),) = entries[place].items()
    here = f"{where}[{place}].{held}"
    for params in _sets(arguments):
        if params.get("merge_weights", False) is not False:
            params["merge_weights"] = False
            yield f"{here}: merge_weights true -> false, or validation would merge the update and cut it"
    if name != request.lora_callback:
        kind = "dense" if name == LORA else "masked"
        what = f"trains a {kind} update, which --mode {request.mode} is not"
        fix = f"add --lora with its rank to make it {request.lora_callback}, or choose the other mode"
        problems.append(Problem(here, what, fix))


def _sets(arguments: Any) -> list[dict[str, Any]]:
    params = arguments.get("lora_params") if isinstance(arguments, dict) else None
    listed = params if isinstance(params, list) else [params]
    return [one for one in listed if isinstance(one, dict)]


def _find(entries: list[Any], name: str) -> list[int]:
    return [index for index, entry in enumerate(entries) if str(next(iter(entry))).lower() == name.lower()]


def _form_problem(entries: Any, where: str) -> Problem | None:
    if not isinstance(entries, list):
        return Problem(where, f"is a {type(entries).__name__}, not a list", "write a list of `- Name: {}`")
    for index, entry in enumerate(entries):
        if not isinstance(entry, dict) or len(entry) != 1:
            what = f"is {in_flow(entry)}, not one name with its arguments"
            return Problem(f"{where}[{index}]", what, "write `- Name: {}`")
    return None
