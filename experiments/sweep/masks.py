"""The masks of a sweep: each computed once, all levels of one question in the same reads."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cerebras_utils.rewriting.request import MaskInfo, MaskSummary
from experiments.progress import reading
from experiments.sweep.expand import PlannedRun
from pruning.atomic import TargetExistsError
from pruning.checkpoint.source import TensorSource
from pruning.engine.compute import bytes_to_read, write_mask_files
from pruning.masks.file import MaskFile
from pruning.planning.patterns import NOfM
from pruning.planning.plan import Plan, make_plan, replace_level
from pruning.planning.spec import MaskSpec
from pruning.problems import Problem, ProblemError, fail


@dataclass(frozen=True)
class MaskPlans:
    """What to compute, from headers alone: one plan for all levels that share their reads."""

    plans: tuple[Plan, ...]

    def weights(self, spec: MaskSpec) -> dict[str, int]:
        """The tensors under masks, and how large they are."""
        return {info.name: info.numel for info in self._plan(spec).tensors}

    def sparsity(self, spec: MaskSpec) -> float:
        """Of all weights under these masks together: a layer map has its part in it."""
        plan = self._plan(spec)
        if isinstance(plan.pattern, NOfM):
            return 1 - plan.pattern.n / plan.pattern.m
        pools = plan.pools[plan.specs.index(spec)]
        sizes = [sum(math.prod(layer.shape) for layer in pool.layers) for pool in pools]
        dropped = sum(size * pool.drop / pool.units for size, pool in zip(sizes, pools, strict=True))
        return dropped / sum(sizes)

    def summary(self, spec: MaskSpec, out: Path) -> MaskSummary:
        """Of a file that is not there yet: all that a config says of masks but their bits."""
        masks = {info.name: MaskInfo(info.shape, info.numel) for info in self._plan(spec).tensors}
        return MaskSummary(str(mask_path(out, spec).absolute()), "", masks, None, spec.to_json())

    def _plan(self, spec: MaskSpec) -> Plan:
        return next(plan for plan in self.plans if spec in plan.specs)

    @property
    def reads(self) -> int:
        return len(self.plans)


def plan_masks(source: TensorSource, runs: Sequence[PlannedRun]) -> MaskPlans:
    """Everything that is wrong with any of them, at once."""
    questions: dict[str, list[MaskSpec]] = {}
    for run in runs:
        if (spec := run.point.masks) is not None:
            levels = questions.setdefault(repr(replace_level(spec, None)), [])
            if spec not in levels:
                levels.append(spec)
    plans: list[Plan] = []
    problems: list[Problem] = []
    for levels in questions.values():
        try:
            plans.append(make_plan(source, sorted(levels, key=lambda one: one.sparsity or 0)))
        except ProblemError as error:
            problems += error.problems
    if problems:
        raise ProblemError(dict.fromkeys(problems))
    return MaskPlans(tuple(plans))


def mask_path(out: Path, spec: MaskSpec) -> Path:
    """The name holds the digest of what was asked: equal masks are one file, whichever run uses it."""
    return out / "masks" / f"{spec.name}.safetensors"


def compute_masks(source: TensorSource, plans: MaskPlans, out: Path) -> int:
    """Those that are not there yet; how many were written.

    Another sweep on this directory may write some of them meanwhile: what is missing then is computed anew.
    """
    written = 0
    for plan in plans.plans:
        while missing := [spec for spec in plan.specs if not _is_there(mask_path(out, spec), source, spec)]:
            todo = make_plan(source, missing)
            paths = [mask_path(out, spec) for spec in missing]
            names = ", ".join(spec.name for spec in missing)
            try:
                with reading(bytes_to_read(source, todo), f"masks ({names})") as told:
                    write_mask_files(source, todo, paths, progress=told)
                written += len(missing)
            except TargetExistsError:
                if not any(_is_there(path, source, spec) for path, spec in zip(paths, missing, strict=True)):
                    raise
    return written


def _is_there(path: Path, source: TensorSource, spec: MaskSpec) -> bool:
    if not path.exists():
        return False
    with MaskFile(path) as masks:
        if masks.checkpoint != source.fingerprint():
            what = f"was made from another checkpoint than {source.where}"
            raise ProblemError([Problem(str(path), what, "choose another --out")])
        if masks.spec != spec.to_json():
            raise fail(path, "was made by other options", "choose another --out")
        masks.verify()
    return True
