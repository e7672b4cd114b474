"""What a run will cost, by arithmetic on its config and its checkpoint: estimated, never measured."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cerebras_utils.checks.case import Case, Files, section, whole
from cerebras_utils.checks.loop import checkpoint_bytes
from cerebras_utils.checks.registry import NotMade
from cerebras_utils.cszoo_yaml import phases_of
from cerebras_utils.lora_settings import LORA
from experiments.compare.flops import flop_ratio, model_sizes
from experiments.runs.record import RunRecord, Sparsity
from experiments.sweep.point import DEFAULT_MODE, Point
from pruning.problems import ProblemError
from pruning.strict_yaml import Document


@dataclass(frozen=True)
class Cost:
    """None where the model or the loop does not tell."""

    flops: float | None  # of the whole training
    bytes: int | None  # of all checkpoints that stay
    steps: int | None

    def to_json(self) -> dict[str, Any]:
        return {"estimated_training_flops": self.flops, "estimated_checkpoint_bytes": self.bytes}


def cost_of(
    point: Point, params: Mapping[str, Any], weights: Mapping[str, int], checkpoint: str, files: Files
) -> Cost:
    """``params`` is the dense trainer with the settings of the run; ``weights`` are those under its masks."""
    init = params.get("init") or {}
    steps = whole(section(init, "loop").get("max_steps"))
    return Cost(
        _flops(point, params, weights, steps), _bytes(point, params, weights, checkpoint, files), steps
    )


def _flops(
    point: Point, params: Mapping[str, Any], weights: Mapping[str, int], steps: int | None
) -> float | None:
    init = dict(params["init"])
    model = section(init, "model")
    batch = whole(section(section(params, "fit"), "train_dataloader").get("batch_size"))
    length = whole(model.get("max_position_embeddings"))
    sizes = model_sizes(model)
    if sizes is None or not (batch and length and steps):
        return None
    masked = sum(weights.values())
    sparsity = 0.0 if point.masks is None else _sparsity(point)
    if sparsity is None:
        return None
    if point.lora is not None:
        init["callbacks"] = [*(init.get("callbacks") or []), {LORA: {"lora_params": dict(point.lora)}}]
    elif point.mode != DEFAULT_MODE:
        sparsity = 0.0  # applied once: all weights are trained again
    asked = Sparsity(requested=sparsity, masked=masked)
    ratio = flop_ratio(RunRecord(path="", name="", state="planned", params={"init": init}, sparsity=asked))
    linear, rest = sizes
    return None if ratio is None else ratio * (6 * linear + rest) * batch * length * steps


def _sparsity(point: Point) -> float | None:
    masks = point.masks
    assert masks is not None
    if masks.sparsity is not None:
        return float(masks.sparsity)
    kept, colon, of = masks.pattern.partition(":")
    return 1 - int(kept) / int(of) if colon and kept.isdigit() and of.isdigit() else None


def _bytes(
    point: Point, params: Mapping[str, Any], weights: Mapping[str, int], checkpoint: str, files: Files
) -> int | None:
    params = {**params, "init": dict(params["init"])}
    if point.lora is not None:
        written = params["init"].get("callbacks") or []
        params["init"]["callbacks"] = [*written, {LORA: {"lora_params": dict(point.lora)}}]
    try:
        phases = phases_of(Document("plan", {"trainer": params}, {}, ()))
        number, each, _ = checkpoint_bytes(Case(phases[0], phases, files, checkpoint=checkpoint))
    except (NotMade, ProblemError):
        return None
    every_step = point.masks is not None and (point.lora is not None or point.mode == DEFAULT_MODE)
    return number * (each + (sum(weights.values()) if every_step else 0))
