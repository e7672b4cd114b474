"""The curves of a run that was started once or several times: one per tag, thinned out for pictures."""

from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

import numpy as np

from cerebras_utils.event_curves import Curve, read_curves
from experiments.runs.record import Points
from pruning.problems import ProblemError

_POINTS = 300  # of a curve that is kept: more than a picture has pixels for
Curves = Mapping[str, Curve]  # by tag


def joined(files: Iterable[Path]) -> tuple[dict[str, Curve], list[str]]:
    """All tags of a run, and what could not be read."""
    parts, problems = read_files(files)
    return one_line(parts.values()), problems


def read_files(files: Iterable[Path]) -> tuple[dict[Path, Curves], list[str]]:
    """The tags of each event file, and what could not be read. A file without any is left out."""
    parts: dict[Path, Curves] = {}
    problems = []
    for file in files:
        try:
            if found := {tag: curve for tag, curve in read_curves(file).items() if len(curve.steps)}:
                parts[file] = found
        except ProblemError as error:
            problems += [f"{p.where}: {p.what}" for p in error.problems]
    return parts, problems


def one_line(parts: Collection[Curves]) -> dict[str, Curve]:
    """One curve for each tag.

    A run that was continued has a file for each start, each from the step of its checkpoint: what an earlier
    file says of later steps was undone, and is left out.
    """
    if len(parts) == 1:
        return dict(next(iter(parts)))
    kept: dict[str, list[Curve]] = {}
    undone = None  # from this step on, a later start said it again
    for part in sorted(parts, key=_begun, reverse=True):
        for tag, curve in part.items():
            keep = slice(None) if undone is None else curve.steps < undone
            kept.setdefault(tag, []).insert(
                0, Curve(curve.steps[keep], curve.values[keep], curve.times[keep])
            )
        first = _first_step(part)
        undone = first if undone is None else min(undone, first)
    lines = {
        tag: Curve(
            *(np.concatenate([getattr(c, name) for c in curves]) for name in ("steps", "values", "times"))
        )
        for tag, curves in kept.items()
    }
    return {tag: curve for tag, curve in lines.items() if len(curve.steps)}


def seconds_of(parts: Iterable[Curves]) -> float | None:
    """From the first to the last event of each file, together: what lay between two starts does not count."""
    spans = [max(float(c.times.max()) for c in part.values()) - _begun(part) for part in parts]
    return sum(spans) if any(spans) else None


def trains(part: Curves) -> bool:
    """Whether a file tells of training, and not of a validation alone."""
    return any(tag == "loss" or tag.startswith("lr/") for tag in part)


def _begun(part: Curves) -> float:
    return min(float(curve.times[0]) for curve in part.values())


def _first_step(part: Curves) -> int:
    training = [part["loss"]] if "loss" in part else part.values()
    return min(int(curve.steps[0]) for curve in training)


def thinned(curve: Curve) -> Points:
    """The curve itself, or the means of ``_POINTS`` stretches of it: some of its points would be its noise.

    What is not finite is left out of a mean.
    """
    if len(curve.steps) <= _POINTS:
        return [[int(step), float(value)] for step, value in zip(curve.steps, curve.values, strict=True)]
    starts = np.arange(_POINTS) * len(curve.steps) // _POINTS
    finite = np.isfinite(curve.values)
    counts = np.add.reduceat(finite, starts, dtype=np.int64)
    sums = np.add.reduceat(np.where(finite, curve.values, 0.0), starts, dtype=np.float64)
    lengths = np.diff(np.append(starts, len(curve.steps)))
    steps = np.add.reduceat(curve.steps, starts) // lengths
    return [[int(steps[i]), float(sums[i] / counts[i])] for i in np.flatnonzero(counts)]


def last_of(curves: Mapping[str, Curve]) -> dict[str, tuple[int, float]]:
    return {tag: (int(c.steps[-1]), float(c.values[-1])) for tag, c in curves.items()}
