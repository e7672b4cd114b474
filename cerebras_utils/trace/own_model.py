"""A training step of this project's own model on cerebras-pytorch, where ModelZoo is not installed.

Parameters have ModelZoo's names, shapes and order, and the optimizer is the vendor's; what a trainer adds
around them (data, learning rates, norms, loss scaling) is not there. A batch is zeros: its shape is traced.

Imports Cerebras software: import this module inside functions only.
"""

import logging
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cerebras.pytorch as cstorch
import torch
from torch import Tensor, nn

from cerebras_utils.algorithm import FileMaskSparsity
from cerebras_utils.cszoo_yaml import Phase
from cerebras_utils.fallback.models.build import build_model, model_problems
from cerebras_utils.fallback.optim.groups import decays
from cerebras_utils.fallback.optim.optimizer_section import optimizer_problems, read_optimizer
from cerebras_utils.fallback.run import OURS
from cerebras_utils.trace.asked import CALLBACK, asked, callbacks
from cerebras_utils.vendor_names import CALLBACKS, Effect
from pruning.masks.collection import resolve_names
from pruning.masks.file import MaskFile
from pruning.problems import Problem, ProblemError, fail

_INPUTS = ("input_ids", "attention_mask", "labels")


def own_problems(phase: Phase) -> list[Problem]:
    """What keeps this project's own model from standing in for ModelZoo's."""
    init = phase.init
    problems = [*model_problems(init["model"], phase.where("init.model"))]
    problems += optimizer_problems(init.get("optimizer") or {}, phase.where("init.optimizer"))
    for name, _ in callbacks(phase):
        known = CALLBACKS.get(name.lower())
        if name not in OURS and (known is None or known.effect is Effect.REFUSED):
            problems.append(_beyond(phase, f"init.callbacks: {name}"))
    if init.get("sparsity") is not None:
        problems.append(_beyond(phase, "init.sparsity"))
    return problems


def _beyond(phase: Phase, key: str) -> Problem:
    what = "is done by ModelZoo alone, which is not used here"
    return Problem(phase.where(key), what, "trace where ModelZoo is installed, or take it out of the config")


def run_own(phase: Phase, directory: Path) -> None:
    """Ends in ``ReachedEndError`` under ``intercepted``."""
    if problems := own_problems(phase):
        raise ProblemError(problems)
    init, plan = phase.init, asked(phase)
    torch.manual_seed(init.get("seed") or 0)
    cluster = cstorch.distributed.ClusterConfig(num_csx=_num_csx(init))
    backend = cstorch.backend("CSX", artifact_dir=directory, cluster_config=cluster)
    cstorch.amp.set_half_dtype((init.get("precision") or {}).get("fp16_type", "bfloat16"))
    with backend.device:
        model = build_model(init["model"], phase.where("init.model"))
        state = _loaded(phase)
        has_factors = state is not None and any(name.endswith((".lora_A", ".lora_B")) for name in state)
        if state is not None and not has_factors:
            model.load_state_dict(state)
        made = {name: OURS[name](**given) for name, given in callbacks(phase) if name in OURS}
        for callback in made.values():
            callback.change_model(model)
        if state is not None and has_factors:
            model.load_state_dict(state)
        if plan.mask_path is not None and not plan.every_step:
            _mask_once(model, plan.mask_path)
    compiled = cstorch.compile(model, backend)
    optimizer = _optimizer(init["optimizer"], model)
    held: dict[str, Any] = dict(made)
    if plan.every_step and plan.mask_path is not None:
        algorithm = FileMaskSparsity(plan.mask_path)
        model.apply(algorithm)
        optimizer.apply(algorithm)
        held["sparsity"] = SimpleNamespace(sparsity=algorithm)  # where ModelZoo's trainer has it
    for name, callback in made.items():
        if name != CALLBACK:  # whose part is done above
            callback.post_setup(_trainer(model, optimizer, held))
    _step(compiled, optimizer, _batches(phase))


def _trainer(model: nn.Module, optimizer: Any, held: Mapping[str, Any]) -> Any:
    """As much of a trainer as callbacks look at when everything is made."""
    logger = logging.getLogger("wafersparse.trace")
    return SimpleNamespace(model=model, optimizer=optimizer, callbacks=held, logger=logger)


def _step(compiled: Any, optimizer: Any, batches: Callable[[], Iterator[Mapping[str, Tensor]]]) -> None:
    @cstorch.trace  # type: ignore[untyped-decorator]  # untyped where Cerebras is not installed
    def step(batch: Mapping[str, Tensor]) -> Tensor:
        loss: Tensor = compiled(batch).loss
        torch.autograd.backward(loss)
        optimizer.step()
        optimizer.zero_grad()
        return loss

    loader = cstorch.utils.data.DataLoader(batches)
    for batch in cstorch.utils.data.DataExecutor(loader, num_steps=1):
        step(batch)


def _batches(phase: Phase) -> Callable[[], Iterator[Mapping[str, Tensor]]]:
    loader: Mapping[str, Any] = (phase.params.get("fit") or {}).get("train_dataloader") or {}
    rows, init = loader.get("batch_size", 1), phase.init
    columns = loader.get("max_sequence_length") or init["model"].get("max_position_embeddings") or 128

    def batches() -> Iterator[Mapping[str, Tensor]]:
        for _ in range(2):
            yield {name: torch.zeros(rows, columns, dtype=torch.int32) for name in _INPUTS}

    return batches


def _optimizer(section: Mapping[str, Any], model: Any) -> Any:
    """Over two groups, as ModelZoo's: what is decayed, and what is not."""
    read = read_optimizer(section)
    trained = [(name, weight) for name, weight in model.named_parameters() if weight.requires_grad]
    groups: list[dict[str, Any]] = [
        {"params": [weight for name, weight in trained if decays(name)]},
        {"params": [weight for name, weight in trained if not decays(name)], "weight_decay": 0.0},
    ]
    kinds = {name.lower(): getattr(cstorch.optim, name) for name in ("Adam", "AdamW", "SGD")}
    return kinds[read.name.lower()]([group for group in groups if group["params"]], **read.settings)


def _loaded(phase: Phase) -> dict[str, Tensor] | None:
    """The model's part of the checkpoint that the run would start from, but for masks in it."""
    path = (phase.params.get("fit") or {}).get("ckpt_path")
    if path is None:
        return None
    if not Path(path).is_file():
        raise fail(phase.where("fit.ckpt_path"), f"{path} is no file", "name a checkpoint, or leave it out")
    state: dict[str, Tensor] = cstorch.load(path)["model"]
    return {name: value for name, value in state.items() if not name.endswith("_mask")}


def _mask_once(model: nn.Module, path: str) -> None:
    weights = dict(model.named_parameters(remove_duplicate=False))
    with MaskFile(path) as file, torch.no_grad():
        for mask, name in resolve_names(file.names, weights).items():
            weights[name].mul_(file.mask(mask).to(weights[name].device))


def _num_csx(init: Mapping[str, Any]) -> int:
    backend = init.get("backend")
    cluster = (backend.get("cluster_config") if isinstance(backend, dict) else None) or {}
    return int(cluster.get("num_csx", 1))
