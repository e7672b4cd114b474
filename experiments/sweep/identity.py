"""What makes a run this run: a folder that was planned for another is a conflict, not the same run."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cerebras_utils.checks.case import section
from experiments.sweep.expand import PlannedRun
from experiments.sweep.point import Point
from experiments.sweep.states import RunState
from pruning.problems import Problem

if TYPE_CHECKING:
    from experiments.sweep.plan import Row, SweepPlan


def identity(plan: "SweepPlan", run: PlannedRun) -> dict[str, Any]:
    """As it is written into the run's folder."""
    return {
        "point": run.point.to_json(),
        "base": {
            "path": str(plan.base.path),
            "sha256": hashlib.sha256(plan.base.text.encode()).hexdigest(),
        },
        "checkpoint": {"fingerprint": plan.fingerprint, "states": plan.spec.states},
        "data": dict(plan.spec.data),
        "set": dict(plan.spec.settings),
    }


def device_of(backend: str | None, device: str | None, params: Mapping[str, Any]) -> str:
    """What the command line of a run says, else its config. Plain PyTorch takes what is there for a CS-3."""
    init = section(params, "init")
    written = device or init.get("device") or section(init, "backend").get("backend_type") or "CSX"
    return "GPU or CPU" if backend == "torch" and str(written).upper() == "CSX" else str(written).upper()


def conflicts(plan: "SweepPlan") -> list[Problem]:
    return [problem for row in plan.rows if (problem := conflict(plan, row)) is not None]


def conflict(plan: "SweepPlan", row: "Row") -> Problem | None:
    """Whoever planned it, and with whatever release: compared is what counts in both."""
    held = row.status.plan
    if not held:
        return None
    folder = plan.out / row.run.folder
    words = list(held.get("command", ()))
    # Through JSON, as what is held was: a key of a map may be a number in YAML alone.
    wanted = json.loads(json.dumps(identity(plan, row.run)))
    pairs = {
        "point": (_point(held.get("point"), plan.shared), _point(wanted["point"], plan.shared)),
        **{key: (_plain(held.get(key)), _plain(wanted[key])) for key in wanted if key != "point"},
        "backend": (flag(words, "--backend"), plan.spec.backend),
        "device": (
            device_of(flag(words, "--backend"), flag(words, "--target_device"), plan.shared),
            plan.device,
        ),
    }
    fix = "choose another --out, or remove this run to have it again"
    if changed := [key for key, (one, other) in pairs.items() if one != other]:
        return Problem(str(folder), f"was planned from another {' and '.join(changed)}", fix)
    place = flag(words, "-o")
    if place and row.status.state != RunState.DONE and Path(place).resolve() != folder.resolve():
        what = f"was planned in {place}: it would be trained there, with the config and the masks of there"
        return Problem(str(folder), what, fix)
    return None


def flag(words: list[str], name: str) -> str | None:
    return words[words.index(name) + 1] if name in words[:-1] else None


def _point(plain: Any, shared: Mapping[str, Any]) -> str | None:
    try:
        point = Point.from_json(plain).canonical(shared)
    except (TypeError, ValueError, LookupError, AttributeError):
        return None  # of a newer release, or damaged: not this one
    return json.dumps({**point.changed, "seed": point.seed}, sort_keys=True, default=str)


def _plain(value: Any) -> str:
    """A file that was moved is the same file."""
    if isinstance(value, dict):
        value = {key: inner for key, inner in value.items() if key != "path"}
    return json.dumps(value, sort_keys=True)
