"""A sweep as it is written: one YAML, every key known, everything wrong with it said at once."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cerebras_utils.cszoo_yaml import numbers_that_are_text
from experiments.sweep.axes import Axes, parse_axes, parse_point, parse_settings
from experiments.sweep.exclude import Exclusion, parse_exclude
from experiments.sweep.point import Point, plain_path
from pruning.problems import Problem, ProblemError
from pruning.registry import suggest
from pruning.strict_yaml import Document, read_yaml

KEYS = {
    "name": "a name for the directory: letters, digits, - and _",
    "base": "a cszoo YAML of one trainer",
    "checkpoint": "what every run starts from, and the masks are computed from",
    "checkpoint_states": "model (the default), or all: optimizer, schedule and step too",
    "data": "a map: train and val, directories of data",
    "backend": "torch or cszoo",
    "device": "CSX, GPU or CPU",
    "set": "a map of settings that all runs share, by dotted path below `trainer`",
    "axes": "a map: masks, lora, mode, set, seed, with lists of values",
    "points": "a list of combinations beside the grid",
    "exclude": "a list of partial combinations that are left out",
    "baseline": "dense: it is always in",
    "slurm": "a map of submitit's parameters, such as slurm_partition and timeout_min",
    "dask": "a map: scheduler, or cluster (local, slurm, pbs) with the parameters of dask-jobqueue",
}
_REQUIRED = ("name", "base", "checkpoint")
_CHOICES = {
    "checkpoint_states": ("model", "all"),
    "backend": ("torch", "cszoo"),
    "device": ("CSX", "GPU", "CPU"),
    "baseline": ("dense",),
}
_LONGEST = 100  # of a name
_TEXTS = ("name", "base", "checkpoint")


@dataclass(frozen=True, kw_only=True)
class SweepSpec:
    path: str
    name: str
    base: Path
    checkpoint: Path
    states: str = "model"  # of the checkpoint, which are loaded at the start
    data: Mapping[str, str]  # "train" and "val", absolute
    backend: str | None = None
    device: str | None = None
    settings: Mapping[str, Any]  # of every run, the baseline too; no part of a name
    places: Mapping[str, str]  # of each setting, as errors name it: where it is written
    axes: Axes
    points: tuple[Point, ...] = ()
    exclude: tuple[Exclusion, ...] = ()
    slurm: Mapping[str, Any]
    dask: Mapping[str, Any]


def read_spec(path: Path) -> SweepSpec:
    """Paths are as in a cszoo YAML: relative to where the command is called."""
    document = read_yaml(path)
    value = document.value
    if not isinstance(value, dict):
        what = "is empty" if value is None else f"is a {type(value).__name__}, not a map"
        fix = f"write lines such as `base: configs/gpt2_1m.yaml`; known: {', '.join(KEYS)}"
        raise ProblemError([Problem(str(path), what, fix)])
    problems = [*_top_problems(document), *numbers_that_are_text(document)]
    seed, of_base = _base_seed(value.get("base"))
    problems += of_base
    try:
        axes = parse_axes(document, value.get("axes"), seed)
    except ProblemError as error:
        problems += error.problems
        axes = Axes()
    settings: Mapping[str, Any] = {}
    try:
        settings = parse_settings(document, "set", value.get("set"))
    except ProblemError as error:
        problems += error.problems
    points = []
    for index, point in enumerate(_listed(document, "points", problems)):
        try:
            points += parse_point(document, f"points[{index}]", point, axes.seeds)
        except ProblemError as error:
            problems += error.problems
    exclude: list[Exclusion] = []
    try:
        exclude = parse_exclude(document, _listed(document, "exclude", problems))
    except ProblemError as error:
        problems += error.problems
    places = _places(document, problems)
    if problems:
        raise ProblemError(dict.fromkeys(problems))
    return SweepSpec(
        path=str(path),
        name=value["name"],
        base=Path(value["base"]),
        checkpoint=Path(value["checkpoint"]).absolute(),
        states=value.get("checkpoint_states", "model"),
        data={kind: str(Path(place).absolute()) for kind, place in (value.get("data") or {}).items()},
        backend=value.get("backend"),
        device=value.get("device"),
        settings=settings,
        places=places,
        axes=axes,
        points=tuple(points),
        exclude=tuple(exclude),
        slurm=value.get("slurm") or {},
        dask=value.get("dask") or {},
    )


def _top_problems(document: Document) -> Iterator[Problem]:
    value = document.value
    for key in value:
        if key not in KEYS:
            hint = suggest(str(key), list(KEYS)).strip() or f"known: {', '.join(KEYS)}"
            yield Problem(document.at(str(key)), "is no key of a sweep", hint)
    for key in _REQUIRED:
        if key not in value:
            yield Problem(document.path, f"lacks {key!r}", f"write `{key}:`, {KEYS[key]}")
    for key in _TEXTS:
        if key in value and not (isinstance(value[key], str) and value[key]):
            yield Problem(document.at(key), f"{value[key]!r} is not {KEYS[key]}", "mend the value")
    name = value.get("name")
    if isinstance(name, str) and (set(name) - _NAME or name.startswith((".", "-"))):
        yield Problem(document.at("name"), f"{name!r} is not {KEYS['name']}", "choose another name")
    elif isinstance(name, str) and len(name) > _LONGEST:
        what = f"has {len(name)} characters, and is the name of a directory"
        yield Problem(document.at("name"), what, f"choose one of {_LONGEST} or fewer")
    for key, choices in _CHOICES.items():
        if key in value and value[key] not in choices:
            hint = suggest(str(value[key]), list(choices)).strip() or f"use {' or '.join(choices)}"
            yield Problem(document.at(key), f"{value[key]!r} is not {KEYS[key]}", hint)
    if value.get("backend") == "torch" and value.get("device") == "CSX":
        what = "is a CS-3, which `backend: torch` cannot use"
        yield Problem(document.at("device"), what, "use CPU or GPU, or `backend: cszoo`")
    for key in ("data", "slurm", "dask"):
        if value.get(key) is not None and not isinstance(value[key], dict):
            yield Problem(document.at(key), f"{value[key]!r} is not {KEYS[key]}", "write keys below it")
    yield from _data_problems(document)


_NAME = set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.")


def _data_problems(document: Document) -> Iterator[Problem]:
    data = document.value.get("data")
    for kind, place in data.items() if isinstance(data, dict) else ():
        where = document.at(f"data.{kind}")
        if kind not in ("train", "val"):
            hint = suggest(str(kind), ["train", "val"]).strip() or "known: train, val"
            yield Problem(where, "is no kind of data", hint)
        elif not isinstance(place, str) or not place:
            yield Problem(where, f"{place!r} is no directory", "write its path")
        elif not Path(place).is_dir():
            yield Problem(where, f"{place} is no directory", "make the data first, or mend the path")


def _listed(document: Document, key: str, problems: list[Problem]) -> Sequence[Any]:
    value = document.value.get(key)
    if value is None:
        return []
    if isinstance(value, list):
        return value
    problems.append(Problem(document.at(key), f"is not {KEYS[key]}", "begin each with `- `"))
    return []


def _places(document: Document, problems: list[Problem]) -> dict[str, str]:
    """A setting is written in one way in all of a sweep: else equal runs would have several names."""
    value = document.value
    axes, points = value.get("axes"), value.get("points")
    maps = {"set": value.get("set"), "axes.set": axes.get("set") if isinstance(axes, dict) else None}
    for index, point in enumerate(points if isinstance(points, list) else []):
        maps[f"points[{index}].set"] = point.get("set") if isinstance(point, dict) else None
    found: dict[str, str] = {}
    spelled: dict[str, str] = {}
    for key, settings in maps.items():
        for name in settings if isinstance(settings, dict) else ():
            path = str(name).removeprefix("trainer.")
            found.setdefault(path, document.at(f"{key}.{name}"))
            first = spelled.setdefault(plain_path(path), path)
            if first != path and first not in settings:
                what = f"is {first} of {found[first]}, in another spelling"
                problems.append(Problem(document.at(f"{key}.{name}"), what, "spell it in one way"))
    return found


def _base_seed(base: Any) -> tuple[int | None, Sequence[Problem]]:
    """Of the base config. Where it cannot be read, that is what is wrong, and not that it has no seed."""
    if not isinstance(base, str) or not base:
        return 0, ()
    try:
        seed = read_yaml(Path(base)).value["trainer"]["init"]["seed"]
    except ProblemError as error:
        return 0, error.problems
    except (TypeError, KeyError, IndexError):
        return None, ()
    return (seed if type(seed) is int else None), ()
