"""The axes of a sweep and their grid: lists of values in, points out."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Any

from cerebras_utils.lora_settings import LORA, SPARSE_LORA, params_problems
from cerebras_utils.rewriting.request import MODES, SPARSE_TO_DENSE
from experiments.recipe import KEYS as MASK_KEYS
from experiments.recipe import checked_option
from experiments.sweep.point import DEFAULT_MODE, Point, plain_path
from pruning.planning.spec import MaskSpec
from pruning.problems import Problem, ProblemError, fail
from pruning.registry import suggest
from pruning.strict_yaml import Document

AXES = ("masks", "lora", "mode", "set", "seed")
_OURS = {  # settings that the sweep itself decides
    "init": "set keys below it",
    "init.seed": "use the axis `seed`",
    "init.model_dir": "each run has its own directory, below --out",
    "fit.ckpt_path": "write `checkpoint:` at the top",
    "init.callbacks": "use the axes `masks` and `lora`, or write the callback into the base",
}
_EMPTY = "is an empty list: the grid would be empty"


@dataclass(frozen=True, kw_only=True)
class Axes:
    masks: tuple[MaskSpec, ...] = ()
    lora: tuple[Mapping[str, Any] | None, ...] = (None,)
    modes: tuple[str, ...] = (DEFAULT_MODE,)
    settings: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    seeds: tuple[int, ...] = ()

    def grid(self) -> Iterator[Point]:
        """Every combination, the seeds of one beside each other."""
        keys = list(self.settings)
        for values in product(*(self.settings[key] for key in keys)):
            for masks, lora, mode, seed in product(self.masks, self.lora, self.modes, self.seeds):
                settings = dict(zip(keys, values, strict=True))
                yield Point(masks=masks, lora=lora, mode=mode, settings=settings, seed=seed)


def parse_axes(document: Document, given: Any, seed: int | None) -> Axes:
    """``seed`` is what the base has, for a sweep that names none."""
    given = {} if given is None else given
    problems: list[Problem] = []
    if not isinstance(given, dict):
        raise fail(document.at("axes"), f"is {given!r}, not a map of axes", f"known: {', '.join(AXES)}")
    problems += unknown_axes(document, "axes", given)
    masks: list[MaskSpec] = []
    for place, entry in _places("axes.masks", given.get("masks")):
        masks += collected(problems, lambda e=entry, p=place: _mask_grid(document, p, e))
    modes = tuple(values_of(given.get("mode", DEFAULT_MODE)))
    lora = tuple(values_of(given.get("lora")))
    problems += mode_problems(document, "axes.mode", modes)
    for place, entry in _places("axes.lora", given.get("lora")):
        problems += _lora_problems(document, place, entry, modes)
    settings = collected(problems, lambda: parse_settings(document, "axes.set", given.get("set")))
    problems += [
        Problem(document.at(f"axes.{name}"), _EMPTY, "write a value")
        for name in ("lora", "mode")
        if given.get(name) == []
    ]
    seeds: Sequence[int] = [] if seed is None else [seed]
    if given.get("seed") is not None:
        seeds = collected(problems, lambda: seeds_of(document, "axes.seed", given["seed"]))
    elif seed is None:
        what = "names no seed, and the base has none either"
        problems.append(Problem(document.path, what, "write `axes: {seed: [1]}`"))
    if problems:
        raise ProblemError(dict.fromkeys(problems))
    return Axes(
        masks=tuple(dict.fromkeys(masks)),
        lora=lora,
        modes=modes,
        settings={key: tuple(values_of(value)) for key, value in dict(settings).items()},
        seeds=tuple(seeds),
    )


def parse_point(document: Document, key: str, given: Any, seeds: Sequence[int]) -> list[Point]:
    """One combination that is written out; without a seed, one for each seed of the axes."""
    if not isinstance(given, dict) or not isinstance(given.get("masks"), dict):
        fix = "write `masks: {...}` in it; the dense baseline is always in"
        raise fail(document.at(key), "is no combination with masks", fix)
    problems = [*unknown_axes(document, key, given)]
    masks = collected(problems, lambda: _mask_grid(document, f"{key}.masks", given["masks"]))
    mode, lora = given.get("mode", DEFAULT_MODE), given.get("lora")
    problems += mode_problems(document, f"{key}.mode", [mode])
    problems += _lora_problems(document, f"{key}.lora", lora, [mode])
    settings = collected(problems, lambda: parse_settings(document, f"{key}.set", given.get("set")))
    if "seed" in given:
        seeds = collected(problems, lambda: seeds_of(document, f"{key}.seed", given["seed"]))
    if len(masks) > 1:
        what = f"stands for {len(masks)} masks"
        problems.append(Problem(document.at(f"{key}.masks"), what, "write single values, or use the axes"))
    if problems:
        raise ProblemError(problems)
    return [Point(masks=masks[0], lora=lora, mode=mode, settings=dict(settings), seed=seed) for seed in seeds]


def unknown_axes(document: Document, key: str, given: Mapping[Any, Any]) -> Iterator[Problem]:
    for name in given:
        if name not in AXES:
            hint = suggest(str(name), list(AXES)).strip() or f"known: {', '.join(AXES)}"
            yield Problem(document.at(f"{key}.{name}"), "is no axis", hint)


def values_of(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _places(key: str, value: Any) -> list[tuple[str, Any]]:
    if isinstance(value, list):
        return [(f"{key}[{index}]", entry) for index, entry in enumerate(value)]
    return [] if value is None else [(key, value)]


def collected(problems: list[Problem], make: Any) -> Any:
    try:
        return make()
    except ProblemError as error:
        problems += error.problems
        return []


def mask_options(document: Document, key: str, given: Any) -> dict[str, list[Any]]:
    """A map of options of ``masks``, each a value or a list of them: checked, and as a list."""
    if not isinstance(given, dict) or not given:
        fix = "write `masks: {sparsity: [0.5, 0.75]}`; the dense baseline is always in"
        raise fail(document.at(key), f"{given!r} is no map of mask options", fix)
    problems: list[Problem] = []
    axes: dict[str, list[Any]] = {}
    for name, value in given.items():
        where = document.at(f"{key}.{name}")
        if name not in MASK_KEYS:
            hint = suggest(str(name), MASK_KEYS).strip() or f"known: {', '.join(MASK_KEYS)}"
            problems.append(Problem(where, "is no option of masks", hint))
            continue
        nested = name in ("include", "exclude")  # a list of globs is one value
        several = isinstance(value, list) and (not nested or any(isinstance(v, list) for v in value))
        values = value if several else [value]
        checked = collected(
            problems, lambda n=name, vs=values, w=where: [checked_option(n, v, w) for v in vs]
        )
        axes[name] = [v[0] if name == "sparsity" else v for v in checked]
        if not values:
            problems.append(Problem(where, _EMPTY, "write a value"))
    if problems:
        raise ProblemError(dict.fromkeys(problems))
    return axes


def _mask_grid(document: Document, key: str, given: Any) -> list[MaskSpec]:
    axes = mask_options(document, key, given)
    problems: list[Problem] = []
    specs = []
    for values in product(*axes.values()):
        try:
            specs.append(MaskSpec(**dict(zip(axes, values, strict=True))))
        except (ValueError, LookupError) as error:
            problems.append(Problem(document.at(key), str(error), "mend it, or write two maps of masks"))
    if problems:
        raise ProblemError(dict.fromkeys(problems))
    return specs


def mode_problems(document: Document, key: str, modes: Sequence[Any]) -> Iterator[Problem]:
    for mode in modes:
        if mode not in MODES:
            hint = suggest(str(mode), list(MODES)).strip() or f"use {' or '.join(MODES)}"
            yield Problem(document.at(key), f"{mode!r} is no mode", hint)


def _lora_problems(document: Document, key: str, lora: Any, modes: Sequence[Any]) -> Iterator[Problem]:
    if lora is None:
        return
    for mode in modes:
        yield from params_problems(LORA if mode == SPARSE_TO_DENSE else SPARSE_LORA, lora, document.at(key))


def parse_settings(document: Document, key: str, given: Any) -> dict[str, Any]:
    if given is None:
        return {}
    if not isinstance(given, dict):
        raise fail(
            document.at(key), f"{given!r} is no map", "write `init.loop.max_steps: [100, 200]` below it"
        )
    problems = []
    found: dict[str, Any] = {}
    written: dict[str, str] = {}
    for name, value in given.items():
        path = str(name).removeprefix("trainer.")
        where, plain = document.at(f"{key}.{name}"), plain_path(path)
        for ours, fix in _OURS.items():
            if plain == ours or (plain.startswith(f"{ours}.") and ours != "init"):
                problems.append(Problem(where, "is decided by the sweep", fix))
        if plain in written:
            what = f"is {written[plain]}, which is written above, in another spelling"
            problems.append(Problem(where, what, "keep one of them"))
        if value == []:
            problems.append(Problem(where, _EMPTY, "write a value"))
        try:
            json.dumps(value)
        except TypeError as error:  # YAML knows dates, sets and bytes, too
            what = f"{value!r} is no value of a config: {error}"
            problems.append(Problem(where, what, "put it in quotes, or write a number, a list or a map"))
        written[plain] = str(name)
        found[path] = value
    if problems:
        raise ProblemError(problems)
    return found


def seeds_of(document: Document, key: str, given: Any) -> list[int]:
    seeds = values_of(given)
    if not seeds:
        raise fail(document.at(key), _EMPTY, "write a value")
    if not all(type(seed) is int and seed >= 0 for seed in seeds):
        raise fail(document.at(key), f"{given!r} is no list of whole numbers", "write [1, 2, 3]")
    return list(dict.fromkeys(seeds))
