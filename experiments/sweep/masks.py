"""The masks of a sweep: each computed once, all levels of one question in the same reads."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from experiments.progress import reading
from experiments.sweep.expand import PlannedRun
from pruning.atomic import TargetExistsError
from pruning.checkpoint.source import TensorSource
from pruning.engine.compute import bytes_to_read, write_mask_files
from pruning.masks.file import MaskFile
from pruning.planning.plan import Plan, make_plan, replace_level
from pruning.planning.spec import MaskSpec
from pruning.problems import Problem, ProblemError, fail


@dataclass(frozen=True)
class MaskPlans:
    """What to compute, from headers alone: one plan for all levels that share their reads."""

    plans: tuple[Plan, ...]

    def weights(self, spec: MaskSpec) -> dict[str, int]:
        """The tensors under masks, and how large they are."""
        plan = next(plan for plan in self.plans if spec in plan.specs)
        return {info.name: info.numel for info in plan.tensors}

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
    """Those that are not there yet; how many were written."""
    written = 0
    for plan in plans.plans:
        missing = [spec for spec in plan.specs if not _is_there(mask_path(out, spec), source, spec)]
        if not missing:
            continue
        todo = make_plan(source, missing)
        try:
            with reading(
                bytes_to_read(source, todo), f"masks ({', '.join(s.name for s in missing)})"
            ) as told:
                write_mask_files(source, todo, [mask_path(out, spec) for spec in missing], progress=told)
            written += len(missing)
        except TargetExistsError:  # another sweep on this directory was faster with the same masks
            if not all(_is_there(mask_path(out, spec), source, spec) for spec in missing):
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
