"""Writing a checkpoint, and ``torch.save`` of the same state, in turns.

    python tests/benchmarks/saving.py WORK RUNS

The state is that of configs/gpt2_10m.yaml after a step of AdamW. With fsync both have it, without it
neither has. The last line on stdout is JSON: bytes, parameters, and seconds for each way and repetition.
"""

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

REPOSITORY = Path(__file__).resolve().parents[2]
CONFIG = REPOSITORY / "configs" / "gpt2_10m.yaml"


def state() -> dict[str, Any]:
    import torch
    import yaml

    from cerebras_utils.fallback.models.build import build_model
    from cerebras_utils.fallback.optim.build import make_optimizer

    init = yaml.safe_load(CONFIG.read_text())["trainer"]["init"]
    model = build_model(init["model"])
    optimizer = make_optimizer(init["optimizer"], model.named_parameters())
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter)
    optimizer.step()
    return {"model": dict(model.state_dict()), "optimizer": optimizer.state_dict(), "global_step": 1}


def ways() -> dict[str, Callable[[Path, dict[str, Any]], None]]:
    import torch

    from cerebras_utils.fallback.mdl_writer import save_mdl

    def plain(path: Path, tree: dict[str, Any]) -> None:
        with path.open("wb") as stream:
            torch.save(tree, stream)
            stream.flush()
            os.fsync(stream.fileno())

    return {"mdl": save_mdl, "torch": plain}


def measure(work: Path, runs: int) -> dict[str, Any]:
    tree = state()
    seconds: dict[str, list[float]] = {}
    nbytes: dict[str, int] = {}
    for repetition in range(runs + 1):  # the first is the warm-up
        for synced in (True, False):
            for name, save in ways().items():
                path = work / f"checkpoint-{os.getpid()}.{name}"
                with patch("os.fsync", os.fsync if synced else lambda fd: None):
                    begun = time.perf_counter()
                    save(path, tree)
                    took = time.perf_counter() - begun
                nbytes[name] = path.stat().st_size
                path.unlink()
                os.sync()  # off the clock: what comes next does not wait for what was written before it
                if repetition:
                    seconds.setdefault(f"{name} {'synced' if synced else 'cached'}", []).append(took)
    return {"bytes": nbytes, "seconds": seconds}


if __name__ == "__main__":
    sys.path.insert(0, str(REPOSITORY))
    print(json.dumps(measure(Path(sys.argv[1]), int(sys.argv[2]))))
