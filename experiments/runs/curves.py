"""The curves of a run that was started once or several times: one per tag, thinned out for pictures."""

from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from cerebras_utils.event_curves import Curve, read_curves
from experiments.runs.record import Points
from pruning.problems import ProblemError

_POINTS = 300  # of a curve that is kept: more than a picture has pixels for


def joined(files: Iterable[Path]) -> tuple[dict[str, Curve], list[str]]:
    """All tags of a run, and what could not be read.

    A run that was continued has a file for each start, each from the step of its checkpoint: what an earlier
    file says of later steps was undone, and is left out.
    """
    parts: dict[str, list[Curve]] = {}
    problems = []
    for file in files:
        try:
            for tag, curve in read_curves(file).items():
                parts.setdefault(tag, []).append(curve)
        except ProblemError as error:
            problems += [f"{p.where}: {p.what}" for p in error.problems]
    return {tag: _one_line(curves) for tag, curves in parts.items()}, problems


def _one_line(parts: list[Curve]) -> Curve:
    if len(parts) == 1:
        return parts[0]
    kept: list[Curve] = []
    undone = None  # from this step on, a later start said it again
    for curve in sorted(parts, key=lambda curve: float(curve.times[0]), reverse=True):
        keep = slice(None) if undone is None else curve.steps < undone
        kept.insert(0, Curve(curve.steps[keep], curve.values[keep], curve.times[keep]))
        first = int(curve.steps[0])
        undone = first if undone is None else min(undone, first)
    return Curve(*(np.concatenate([getattr(c, name) for c in kept]) for name in ("steps", "values", "times")))


def thinned(curve: Curve) -> Points:
    """At most ``_POINTS`` of it, the first and the last among them."""
    chosen = np.unique(
        np.linspace(0, len(curve.steps) - 1, min(_POINTS, len(curve.steps))).round().astype(int)
    )
    return [[int(curve.steps[i]), float(curve.values[i])] for i in chosen]


def last_of(curves: Mapping[str, Curve]) -> dict[str, tuple[int, float]]:
    return {tag: (int(c.steps[-1]), float(c.values[-1])) for tag, c in curves.items() if len(c.steps)}
