"""The config of each run: the base with its masks, LoRA, settings, data and seed, and otherwise as it was."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from cerebras_utils.checks.case import section
from cerebras_utils.config_rewriter import read_text, rewrite
from cerebras_utils.cszoo_yaml import phases_of
from cerebras_utils.rewriting.header import START
from cerebras_utils.rewriting.intended import new_problems, unshared
from cerebras_utils.rewriting.request import MaskSummary, Request, Setting, read_masks
from cerebras_utils.rewriting.settings import apply_settings
from cerebras_utils.yaml_edit import edited
from experiments.sweep.expand import PlannedRun
from experiments.sweep.masks import mask_path
from experiments.sweep.point import Point, plain_path
from experiments.sweep.seeding import seed_settings
from experiments.sweep.spec import SweepSpec
from pruning.problems import Problem, ProblemError, fail
from pruning.strict_yaml import Document, parse_yaml

_LOADERS = {
    "train": ("fit.train_dataloader",),
    "val": ("fit.val_dataloader", "validate.val_dataloader", "validate_all.val_dataloaders"),
}
_SPARSE = ("sparsemaskcallback", "lora", "sparselora")


@dataclass
class Base:
    """The base config, read once; its one trainer must be dense, for the baseline is made of it."""

    path: Path
    text: str
    document: Document
    _masks: dict[Path, MaskSummary] = field(default_factory=dict)

    @cached_property
    def params(self) -> Mapping[str, Any]:
        params: Mapping[str, Any] = self.document.value["trainer"]
        return params

    def masks(self, path: Path) -> MaskSummary:
        if path not in self._masks:
            self._masks[path] = read_masks(path)
        return self._masks[path]


def read_base(path: Path) -> Base:
    text = read_text(path)
    document = parse_yaml(text, str(path))
    phases = phases_of(document)
    if len(phases) > 1:
        raise fail(path, f"has {len(phases)} trainers", "give a base of one trainer")
    if phases[0].key != "trainer":
        raise fail(
            phases[0].at(), "is a list of one trainer", "write its `init:` and `fit:` below `trainer:`"
        )
    problems = []
    init, params = phases[0].init, phases[0].params
    if "fit" not in params:
        problems.append(Problem(phases[0].at(), "does not train: it has no `fit:`", "write one"))
    if init.get("sparsity") is not None:
        what = "is sparse already, and the dense baseline is made of it"
        problems.append(Problem(phases[0].at("init.sparsity"), what, "remove it from the base"))
    callbacks = init.get("callbacks")
    for index, entry in enumerate(callbacks if isinstance(callbacks, list) else []):
        name = str(next(iter(entry), "")) if isinstance(entry, dict) else ""
        if name.lower() in _SPARSE:
            what = f"has {name} already, and the dense baseline is made of it"
            problems.append(Problem(phases[0].at(f"init.callbacks[{index}]"), what, "use the sweep's axes"))
    if problems:
        raise ProblemError(problems)
    return Base(path, text, document)


def config_of(run: PlannedRun, base: Base, spec: SweepSpec, out: Path) -> tuple[str, tuple[str, ...]]:
    """Its text, and lines that should be known."""
    point = run.point
    masks = None if point.masks is None else base.masks(mask_path(out, point.masks).absolute())
    return configured(run, base, spec, masks)


def configured(
    run: PlannedRun, base: Base, spec: SweepSpec, masks: MaskSummary | None
) -> tuple[str, tuple[str, ...]]:
    point = run.point
    settings = settings_of(point, base, spec)
    command = f"run {run.folder} of the sweep {spec.name}"
    with located(spec):
        if masks is None:
            return _dense(base, settings, command)
        lora = None if point.lora is None else dict(point.lora)
        request = Request(masks=masks, mode=point.mode, lora=lora, settings=settings)
        result = rewrite(base.path, base.text, request, command)
    return result.text, tuple(line for line in result.lines if _matters(line))


def settings_of(point: Point, base: Base, spec: SweepSpec) -> tuple[Setting, ...]:
    chosen = {**spec.settings, **point.settings}
    written = tuple(Setting(key, value) for key, value in chosen.items())
    data = tuple(
        Setting(f"{key}.data_dir", place)
        for kind, place in spec.data.items()
        for key in _loaders(base.params, kind)
    )
    acting = _applied(base, (*data, *written), spec)
    seeds = (one for one in seed_settings(acting, point.seed) if one.key not in map(plain_path, chosen))
    return (*seeds, *data, *written)


def params_of(point: Point, base: Base, spec: SweepSpec) -> dict[str, Any]:
    """The trainer of a run before its masks and LoRA, as values alone."""
    return _applied(base, settings_of(point, base, spec), spec)


def shared_params(base: Base, spec: SweepSpec) -> dict[str, Any]:
    """What all runs have alike: with a seed that none of them has, for that is their own."""
    return params_of(Point(seed=-1), base, spec)


def _loaders(params: Mapping[str, Any], kind: str) -> Iterator[str]:
    for key in _LOADERS[kind]:
        stage, loader = key.split(".")
        written = section(params, stage).get(loader)
        if isinstance(written, list):
            yield from (f"{key}.{index}" for index in range(len(written)))
        elif written:
            yield key


def _applied(base: Base, settings: tuple[Setting, ...], spec: SweepSpec) -> dict[str, Any]:
    value = unshared(base.document.value)
    with located(spec):
        apply_settings(value["trainer"], settings, f"{base.path}: trainer")
    params: dict[str, Any] = value["trainer"]
    return params


@contextmanager
def located(spec: SweepSpec) -> Iterator[None]:
    """A sweep has no `--set`: what is wrong with a setting is told where it is written."""
    try:
        yield
    except ProblemError as error:
        raise ProblemError([_located(problem, spec) for problem in error.problems]) from None


def _located(problem: Problem, spec: SweepSpec) -> Problem:
    where, flag, key = problem.where.partition("--set ")
    if not flag or where:
        return problem
    return Problem(spec.places.get(key, f"{spec.path}: data"), problem.what, problem.fix)


def _dense(base: Base, settings: tuple[Setting, ...], command: str) -> tuple[str, tuple[str, ...]]:
    value = unshared(base.document.value)
    lines = apply_settings(value["trainer"], settings, "trainer")
    text, result = edited(f"{START}{command}\n{base.text}", value, base.document)
    if problems := new_problems(base.document, result):
        raise ProblemError(problems)
    return text, tuple(line for line in lines if _matters(line))


def _matters(line: str) -> bool:
    """In a list of values one may be the base's; and the start is given on the command line."""
    return "has no effect: it is" not in line and "has no ckpt_path" not in line
