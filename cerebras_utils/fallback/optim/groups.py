"""Parameter groups as ModelZoo forms them: by tag, then by weight decay, then by learning rate."""

import fnmatch
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

from torch import Tensor

from cerebras_utils.fallback.optim.base import Group
from pruning.problems import Problem, ProblemError, fail
from pruning.registry import suggest

Named = tuple[str, Tensor]
_NORM = re.compile(r"(.*norm.*|ln(_.*)?)", re.IGNORECASE)  # the module's own name: norm1, norm3, norm, ln_f


class Scaled(Protocol):
    """Parameters whose learning rates a model scales together; patterns are globs over whole names."""

    @property
    def patterns(self) -> Sequence[str]: ...
    @property
    def scale(self) -> float: ...


def decays(name: str) -> bool:
    """Whether a parameter of this name is decayed: no bias, and nothing of a normalisation layer."""
    module = name.split(".")[-2] if "." in name else ""
    return "bias" not in name and not _NORM.fullmatch(module)


def param_groups(
    parameters: Iterable[Named],
    *,
    weight_decay: float,
    tagged: Sequence[Mapping[str, Any]] = (),
    scaled: Mapping[str, Scaled] | None = None,
    scales: Mapping[str, float] | None = None,
    where: str,
) -> list[Group]:
    """Groups in ModelZoo's order, which is that of the states in a checkpoint.

    ``tagged`` is the optimizer's ``params``, ``scales`` its ``adjust_learning_rate``: scales for some of
    the model's groups ``scaled``, in the place of the model's own.
    """
    named = [(name, parameter) for name, parameter in parameters if parameter.requires_grad]
    groups: list[Group] = []
    for tags, members in _by_tags(named, tagged, where).items():
        for decay, kept in ((weight_decay, True), (0.0, False)):
            group: Group = {
                "weight_decay": decay,
                "params": [pair for pair in members if decays(pair[0]) == kept],
            }
            if tags:
                group["tags"] = set(tags)
            if group["params"] or not tagged:  # ModelZoo keeps an empty group, unless there are tags
                groups.append(group)
    by_scale = _filters(scaled or {}, scales or {}, where)
    if by_scale:
        groups = [part for group in groups for part in _by_scale(group, by_scale, where)]
    for group in groups:
        group["params"] = [parameter for _, parameter in group.pop("params")]
    return groups


def _by_tags(
    named: Sequence[Named], tagged: Sequence[Mapping[str, Any]], where: str
) -> dict[frozenset[str], list[Named]]:
    tags: dict[str, set[str]] = {name: set() for name, _ in named}
    problems = []
    for index, entry in enumerate(tagged):
        globs = [entry["params"]] if isinstance(entry["params"], str) else entry["params"]
        # Searched, not matched: a glob may begin anywhere in a name, and has to reach its end.
        patterns = [re.compile(fnmatch.translate(glob)) for glob in globs]
        found = [name for name in tags if any(pattern.search(name) for pattern in patterns)]
        if not found:
            what = f"{', '.join(globs)} matches no parameter"
            fix = f"name parameters of the model, as {next(iter(tags), 'none')}"
            problems.append(Problem(f"{where}.params[{index}]", what, fix))
        for name in found:
            tags[name].add(entry["tag"])
    if problems:
        raise ProblemError(problems)
    groups: dict[frozenset[str], list[Named]] = {}
    for name, parameter in named:
        groups.setdefault(frozenset(tags[name]), []).append((name, parameter))
    return groups


def _filters(
    scaled: Mapping[str, Scaled], scales: Mapping[str, float], where: str
) -> list[tuple[float, list[re.Pattern[str]]]]:
    """Each scale other than 1, in the model's order, with what it applies to."""
    problems = [
        Problem(
            f"{where}.adjust_learning_rate.{name}",
            f"the model has no such group of learning rates.{suggest(name, [*scaled])}",
            f"use one of {', '.join(scaled)}" if scaled else "remove adjust_learning_rate",
        )
        for name in scales
        if name not in scaled
    ]
    if problems:
        raise ProblemError(problems)
    filters: dict[float, list[re.Pattern[str]]] = {}
    for name, group in scaled.items():
        scale = scales.get(name, group.scale)
        if scale != 1.0:
            patterns = [re.compile(fnmatch.translate(glob)) for glob in group.patterns]
            filters.setdefault(scale, []).extend(patterns)
    return list(filters.items())


def _by_scale(
    group: Group, filters: Sequence[tuple[float, Sequence[re.Pattern[str]]]], where: str
) -> list[Group]:
    """The group in parts of one scale each, that of 1 last, without empty ones."""
    parts = {scale: group | {"adjust_learning_rate": scale, "params": []} for scale, _ in filters}
    rest = group | {"adjust_learning_rate": 1.0, "params": []}
    for name, parameter in group["params"]:
        scales = [scale for scale, globs in filters if any(glob.fullmatch(name) for glob in globs)]
        if len(scales) > 1:
            what = f"{name} is in groups of the learning rates {' and '.join(map(str, scales))}"
            raise fail(f"{where}.adjust_learning_rate", what, "give the groups that overlap one scale")
        part = parts[scales[0]] if scales else rest
        part["params"].append((name, parameter))
    return [part for part in (*parts.values(), rest) if part["params"]]
