"""The edit that is asked for, on parsed values: what the config is to say afterwards."""

from collections.abc import Iterator, Mapping
from typing import Any

from cerebras_utils.cszoo_yaml import Phase, config_problems, phases_of
from cerebras_utils.rewriting.callbacks import edit_callbacks
from cerebras_utils.rewriting.request import Request
from cerebras_utils.rewriting.settings import apply_settings
from cerebras_utils.yaml_values import in_flow
from pruning.problems import Problem, ProblemError, fail
from pruning.strict_yaml import Document

OURS = ("SparseMaskCallback", "SparseLora")
_STRICT = "disable_strict_checkpoint_loading"


def intended(document: Document, request: Request) -> tuple[Any, list[str]]:
    """The values of ``document`` with what is asked for in them, and lines on what was set right.

    ``document.value`` is not touched, and the result shares nothing with it: what was one map by an alias
    is as many maps as it is written for.
    """
    phases = phases_of(document)
    value = unshared(document.value)
    lines: list[str] = []
    problems: list[Problem] = []
    for index, phase in enumerate(_chosen(phases, request.phase)):
        params = value["trainer"]
        if phase.key != "trainer":
            params = params[phases.index(phase)]["trainer"]
        try:
            lines += _edit(params, phase, request, is_first=index == 0)
        except ProblemError as error:
            problems += error.problems
    if problems:
        raise ProblemError([document.locate(problem) for problem in problems])
    return value, lines


def unshared(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: unshared(inner) for key, inner in value.items()}
    return [unshared(inner) for inner in value] if isinstance(value, list) else value


def new_problems(base: Document, result: Document) -> list[Problem]:
    """What is wrong with the keys of the result and was not with those of the base.

    Whether a callback can run here, on plain PyTorch, is not the question: the config is for cszoo.
    """
    known = {(_key(base, problem), problem.what) for problem in config_problems(phases_of(base), OURS)}
    return [
        problem
        for problem in config_problems(phases_of(result), OURS)
        if (_key(result, problem), problem.what) not in known and ".callbacks[" not in problem.where
    ]


def _key(document: Document, problem: Problem) -> str:
    """Without the file and the line, which an edit moves."""
    return problem.where.removeprefix(document.path).lstrip(":0123456789").strip()


def _chosen(phases: list[Phase], asked: str | None) -> list[Phase]:
    if asked is not None and asked != "all":
        if int(asked) >= len(phases):
            what = f"there is no trainer {asked}: {phases[0].document.path} has {len(phases)}"
            raise fail(f"--phase {asked}", what, f"use a number from 0 to {len(phases) - 1}, or all")
        return [phases[int(asked)]]
    if asked is None and len(phases) > 1:
        what = f"has {len(phases)} trainers, and it is not said which of them to change"
        raise fail(
            phases[0].document.path, what, f"add --phase all, or --phase N with N from 0 to {len(phases) - 1}"
        )
    return phases


def _edit(params: dict[str, Any], phase: Phase, request: Request, *, is_first: bool) -> list[str]:
    """Change one trainer. The settings come first: what is checked is what they leave."""
    lines = apply_settings(params, request.settings, phase.key)
    if not isinstance(params.get("init"), dict):
        raise fail(phase.where("init"), "is no map any more", "set keys below it")
    init = params["init"]
    problems: list[Problem] = []
    lines += _sparsity(init, phase, request, problems)
    lines += _strict(init, phase, request, problems)
    if isinstance(init.get("model"), dict) and "lora_params" in init["model"]:
        fix = "remove it, and give --lora"
        problems.append(
            Problem(phase.where("init.model.lora_params"), "is refused by cszoo's trainer form", fix)
        )
    said, wrong = edit_callbacks(init, phase.where("init.callbacks"), request)
    lines += [line.removeprefix(f"{phase.document.path}: ") for line in said]
    problems += wrong
    lines += _start(params, phase, request, problems, is_first=is_first)
    if problems:
        raise ProblemError(problems)
    return lines


def _sparsity(init: dict[str, Any], phase: Phase, request: Request, problems: list[Problem]) -> Iterator[str]:
    found = init.get("sparsity")
    if found is not None and not request.replace_sparsity:
        kind = found.get("algorithm", "static") if isinstance(found, Mapping) else "native"
        what = f"the config has a sparsity of its own ({kind}), and a weight can have one mask"
        fix = "remove it, or add --replace-sparsity to put the masks in its place"
        problems.append(Problem(phase.where("init.sparsity"), what, fix))
        return
    if found is not None:
        yield f"{phase.key}.init.sparsity: replaced, it was {_brief(found)}"
        del init["sparsity"]
    if request.groups:
        init["sparsity"] = [dict(group) for group in request.groups]


def _strict(init: dict[str, Any], phase: Phase, request: Request, problems: list[Problem]) -> Iterator[str]:
    section = init.get("checkpoint")
    if not isinstance(section, dict) or section.get(_STRICT) is not True:
        return
    if any(setting.key.endswith(_STRICT) for setting in request.settings):
        what = "loading is asked to be lenient: with masks, one wrong key would train from random weights"
        problems.append(Problem(phase.where(f"init.checkpoint.{_STRICT}"), what, "leave this --set out"))
        return
    section[_STRICT] = False
    yield (
        f"{phase.key}.init.checkpoint.{_STRICT}: true -> false, "
        "or a checkpoint that does not fit would train from random weights without a word"
    )


def _start(
    params: dict[str, Any], phase: Phase, request: Request, problems: list[Problem], *, is_first: bool
) -> Iterator[str]:
    stage = next((name for name in ("fit", "validate") if isinstance(params.get(name), dict)), None)
    if request.checkpoint is not None and is_first:
        if stage is None:
            what = "has neither `fit:` nor `validate:` to start from a checkpoint"
            problems.append(Problem(phase.where(), what, "leave --checkpoint out"))
            return
        before = params[stage].get("ckpt_path")
        if before not in (None, request.checkpoint):
            yield f"{phase.key}.{stage}.ckpt_path: replaced, it was {before}"
        params[stage]["ckpt_path"] = request.checkpoint
    elif request.checkpoint is not None:
        yield f"{phase.key}: goes on from the trainer before it, its ckpt_path is left as it is"
    elif is_first and stage == "fit" and not params["fit"].get("ckpt_path") and request.masks.checkpoint:
        yield (
            f"{phase.key}.fit has no ckpt_path: it starts from random weights, while the masks were made "
            "from a checkpoint; add --checkpoint, or give cszoo --checkpoint_path"
        )


def _brief(value: Any) -> str:
    text = in_flow(value)
    return text if len(text) <= 160 else f"{text[:157]}..."
