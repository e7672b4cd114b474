"""Runs as the reader would tell of them, without a disk."""

from pathlib import Path
from typing import Any

from experiments.compare.metrics import METRICS
from experiments.runs.record import RunRecord, Sparsity
from tests.experiments.runs_on_disk import params


def record(
    name: str,
    perplexity: float | None = 10.0,
    *,
    seed: int | None = 1,
    masks: str = "",
    sparsity: float | None = 0.5,
    sha256: str = "",
    trainer: dict[str, Any] | None = None,
    last: dict[str, float] | None = None,
    config: dict[str, Any] | None = None,
    **more: Any,
) -> RunRecord:
    """Finished, dense, unless said otherwise. ``masks`` is the path of a mask file."""
    given = params(seed=seed, masks=Path(masks) if masks else None, **(config or {}))
    found = {"validate_0/eval/lm_perplexity": perplexity, **(last or {})}
    values = {
        "path": f"/runs/{name}",
        "name": name.split("/")[-1],
        "state": "finished",
        "seed": seed,
        "params": given if trainer is None else trainer,
        "steps": 20,
        "last": {tag: (20, value) for tag, value in found.items() if value is not None},
        "sparsity": Sparsity(requested=sparsity, effective=sparsity, sha256=sha256, masked=100)
        if masks
        else Sparsity(requested=0.0),
    }
    return RunRecord(**{**values, **more})


PERPLEXITY = METRICS["perplexity"]
