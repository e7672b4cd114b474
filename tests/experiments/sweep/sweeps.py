"""Sweeps to test with: a tiny model with its data, and runs whose command is none that trains."""

import sys
from pathlib import Path
from typing import Any

import torch
import yaml

from experiments.sweep.claim import STATE
from experiments.sweep.states import CONFIG, FORMAT, PLANNED_FILE, VERSION, write_once
from pruning.planning.spec import MaskSpec
from tests.cerebras_utils.fallback import tiny_runs

AXES: dict[str, Any] = {"masks": {"sparsity": [0.5, 0.75]}, "seed": [1, 2]}


def write_sweep(path: str = "sweep.yaml", **changes: Any) -> Path:
    """``None`` takes a key out."""
    written = {
        "name": "tiny",
        "base": "base.yaml",
        "checkpoint": "dense.pt",
        "backend": "torch",
        "device": "CPU",
        "data": {"train": "train", "val": "valid"},
        "axes": AXES,
        **changes,
    }
    Path(path).write_text(yaml.safe_dump({k: v for k, v in written.items() if v is not None}))
    return Path(path)


def write_base(path: str = "base.yaml", *, steps: int = 2, rate: float = 0.01, **init: Any) -> None:
    constant = [{"ConstantLR": {"learning_rate": rate, "total_iters": steps}}]
    tiny_runs.config(path, steps=steps, schedulers=constant, **{"checkpoint": {"steps": 1}, **init})


def write_checkpoint(path: str = "dense.pt") -> None:
    """Of the model of ``write_base``, weights by a seed."""
    from cerebras_utils.fallback.models.build import build_model

    torch.manual_seed(0)
    section = yaml.safe_load(Path("base.yaml").read_text())["trainer"]["init"]["model"]
    torch.save({"model": build_model(section).state_dict()}, path)


def all_files() -> None:
    tiny_runs.write_data("train", 16)
    tiny_runs.write_data("valid", 8, seed=1)
    write_base()
    write_checkpoint()


def planned_run(out: Path, name: str = "dense-00000000/seed1", code: str = "pass", **more: Any) -> Path:
    """A run whose command is ``python -c code``; what is in ``more`` replaces keys of its plan."""
    run = out / name
    (run / STATE).mkdir(parents=True)
    (run / CONFIG).write_text(yaml.safe_dump({"trainer": {"init": {"seed": 1, "model": {"name": "gpt2"}}}}))
    plan = {
        **{"format": FORMAT, "version": VERSION, "sweep": "tiny", "name": name.partition("/")[0]},
        **{"command": [sys.executable, "-c", code], "start": [], "directory": str(out), "steps": 4, **more},
    }
    write_once(run / STATE / PLANNED_FILE, plan)
    return run


def half(**more: Any) -> MaskSpec:
    from decimal import Decimal

    return MaskSpec(sparsity=Decimal("0.5"), **more)
