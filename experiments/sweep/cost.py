"""What a run will cost, by arithmetic on its config and its checkpoint: estimated, never measured."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cerebras_utils.checks.case import Case, Files, section, whole
from cerebras_utils.checks.loop import checkpoint_bytes
from cerebras_utils.checks.registry import NotMade
from cerebras_utils.cszoo_yaml import phases_of
from cerebras_utils.lora_settings import LORA
from experiments.compare.flops import flop_ratio
from experiments.runs.model_sizes import model_sizes
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


@dataclass(frozen=True)
class Held:
    """What the masks of a run hold."""

    weights: Mapping[str, int]  # names and sizes
    sparsity: float  # of all of them together


def cost_of(
    point: Point, params: Mapping[str, Any], held: Held, checkpoint: str, files: Files, done: int = 0
) -> Cost:
    """``params`` is the dense trainer with the settings of the run; ``done`` the step that it begins with."""
    init, loop = section(params, "init"), section(section(params, "init"), "loop")
    steps = whole(loop.get("max_steps"))  # the last one
    if steps is not None:
        loop = {**loop, "max_steps": max(steps - done, 0)}
    params = {**params, "init": {**init, "loop": loop}}
    return Cost(_flops(point, params, held), _bytes(point, params, held, checkpoint, files), steps)


def _flops(point: Point, params: Mapping[str, Any], held: Held) -> float | None:
    init = dict(params["init"])
    model = section(init, "model")
    batch = whole(section(section(params, "fit"), "train_dataloader").get("batch_size"))
    length = whole(model.get("max_position_embeddings"))
    steps = whole(init["loop"].get("max_steps"))
    sizes = model_sizes(model)
    if sizes is None or not (batch and length and steps):
        return None
    sparsity = held.sparsity
    if point.lora is not None:
        init["callbacks"] = [*(init.get("callbacks") or []), {LORA: {"lora_params": dict(point.lora)}}]
    elif point.mode != DEFAULT_MODE:
        sparsity = 0.0  # applied once: all weights are trained again
    asked = Sparsity(requested=sparsity, masked=sum(held.weights.values()))
    ratio = flop_ratio(RunRecord(path="", name="", state="planned", params={"init": init}, sparsity=asked))
    linear, rest = sizes
    return None if ratio is None else ratio * (6 * linear + rest) * batch * length * steps


def _bytes(point: Point, params: Mapping[str, Any], held: Held, checkpoint: str, files: Files) -> int | None:
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
    return number * (each + (sum(held.weights.values()) if every_step else 0))
