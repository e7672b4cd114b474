"""Runs as they lie on the disk, without training anything: event files, receipts, configs, masks."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import yaml

from cerebras_utils.events_file import record, scalar_event, version_event
from pruning.mask_ops import save_mask

BEGUN = 1_760_000_000.0
LAYER = "model.transformer_decoder.layers.0.ffn.ffn.0.linear_layer.weight"


def params(
    *, seed: int | None = 1, masks: Path | None = None, rate: float = 0.01, **more: Any
) -> dict[str, Any]:
    model = {"name": "gpt2", "hidden_size": 8, "num_hidden_layers": 1, "num_heads": 2, "filter_size": 16}
    init: dict[str, Any] = {
        "device": "CPU",
        "model_dir": "somewhere",
        "model": {**model, "vocab_size": 50, "max_position_embeddings": 16},
        "optimizer": {"AdamW": {"learning_rate": rate}},
        "loop": {"max_steps": 20},
        "logging": {"log_steps": 1},
        "callbacks": [] if masks is None else [{"SparseMaskCallback": {"mask_path": str(masks)}}],
        **more,
    }
    if seed is not None:
        init["seed"] = seed
    return {"init": init, "fit": {"train_dataloader": {"data_dir": "data"}}}


def mask_file(path: Path, sparsity: float) -> Path:
    """100 weights."""
    mask = torch.ones(100, dtype=torch.bool)
    mask[: round(100 * sparsity)] = False
    save_mask({LAYER: mask.reshape(10, 10)}, path)
    return path


def write_run(
    path: Path,
    trainer: Mapping[str, Any],
    *,
    perplexity: float = 10.0,
    steps: int = 20,
    state: str = "finished",
    error: Mapping[str, str] | None = None,
    effective: float | None = None,
    resurrected: int = 0,
    receipt: bool = True,
    peak: float = 0.01,
    batches: int = 20,
    data: str = "",
    launch: int = 0,
    first: int = 1,
    layers: Mapping[str, float] | None = None,
    recovery: Mapping[int, float] | None = None,
    rate: float = 50.0,
    verb: str = "fit",
    linked: bool = False,
    log: str = "INFO: training\n",
) -> Path:
    """A model directory. ``receipt=False`` leaves what plain cszoo leaves; ``launch`` counts restarts.

    ``layers``: effective sparsity by weight, of several. ``recovery``: perplexities of earlier validations.
    ``verb``: another leaves a validation without training. ``linked``: the launch tells its event file.
    """
    stamp = f"2026010{launch + 1}_000000"
    here, events, logs = path / stamp, path / "events", path / "cerebras_logs" / stamp
    for directory in (here, events, logs):
        directory.mkdir(parents=True, exist_ok=True)
    (here / "trainer_params.yaml").write_text(yaml.safe_dump({"trainer": dict(trainer)}))
    (logs / "run.log").write_text(log)
    link = path / "latest_run.log"
    link.unlink(missing_ok=True)
    link.symlink_to(logs / "run.log")
    time = BEGUN + 1000 * launch
    out = [record(version_event(time))]
    for step in range(first, steps + 1) if verb == "fit" else ():
        for tag, value in (("loss", 3.0 / step), ("lr/0", peak), ("avg_samples_per_sec", rate)):
            out.append(record(scalar_event(tag, value, step, time + step)))
    for step, early in (recovery or {}).items():
        out.append(record(scalar_event("validate_0/eval/lm_perplexity", early, step, time + step)))
    if state == "finished":
        out += [record(scalar_event("validate_0/val_loss", 2.0, steps, time)) for _ in range(batches)]
        final = {"loss": perplexity / 4, "eval/lm_perplexity": perplexity, "eval/accuracy": 1 / perplexity}
        out += [record(scalar_event(f"validate_0/{tag}", v, steps, time)) for tag, v in final.items()]
    file = events / f"events.out.tfevents.{int(time)}.host.1.0"
    file.write_bytes(b"".join(out))
    if linked:
        (here / "tf_events").symlink_to(Path("..", "events", file.name))
    if receipt:
        found = {LAYER: effective} if layers is None else layers
        counts = {"resurrected": resurrected, "newly_dead": 0}
        by_layer = {name: {"sparsity": value, **counts} for name, value in found.items()}
        counted = [] if effective is None and layers is None else [{**counts, "layers": by_layer}]
        (here / "run.json").write_text(
            json.dumps(
                {
                    **{"format": "wafersparse-run", "version": 1, "state": state, "error": error},
                    **{"verb": verb, "backend": "torch", "steps": steps, "metrics": {}, "checkpoints": []},
                    **{"started": "2026-01-01T00:00:00+00:00", "updated": "2026-01-01T00:01:40+00:00"},
                    **{"mask_receipts": counted, "environment": {"device": "cpu"}, "data": data},
                    **{"process": {"host": "elsewhere", "pid": 1, "boot": "", "pids": "", "started": 1}},
                }
            )
        )
    return path
