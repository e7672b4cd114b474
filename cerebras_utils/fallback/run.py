"""From a config file to finished runs: everything is checked first, then each trainer of the file runs."""

import os
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from cerebras_utils.cszoo_yaml import Phase, config_problems, lines_without_effect, load_config, located
from cerebras_utils.fallback.checkpoints import Checkpoints
from cerebras_utils.fallback.data.loader import Loader, data_notes, data_problems, make_loader
from cerebras_utils.fallback.models.build import build_model
from cerebras_utils.fallback.models.rules import model_problems, options_without_effect
from cerebras_utils.fallback.optim.build import (
    make_optimizer,
    make_schedulers,
    optimizer_problems,
    scheduler_problems,
)
from cerebras_utils.fallback.report import RunReport
from cerebras_utils.fallback.run_outputs import RunDirectory
from cerebras_utils.fallback.schedule import Loop
from cerebras_utils.fallback.trainer import Precision, Trainer
from cerebras_utils.hooks import Hooks
from cerebras_utils.sparse_callback import SparseMaskCallback
from cerebras_utils.trainer_keys import DATALOADERS, settings
from cerebras_utils.vendor_names import DEFAULT_CALLBACKS, with_defaults
from pruning.problems import Problem, ProblemError

OURS: Mapping[str, type[Hooks]] = {"SparseMaskCallback": SparseMaskCallback}


@dataclass(frozen=True, kw_only=True)
class Overrides:
    """What the command line says instead of the file; None where it says nothing."""

    device: str | None = None  # CPU or GPU
    model_dir: str | None = None
    checkpoint_path: str | None = None
    keep: int | None = None


def check(phases: Sequence[Phase], verb: str) -> list[Problem]:
    """Everything that is wrong with a config, before anything is built or written."""
    problems = config_problems(phases)
    for phase in phases:
        init, model = phase.init, phase.init.get("model") or {}
        problems += model_problems(model, phase.where("init.model"))
        if verb == "fit":
            problems += optimizer_problems(init.get("optimizer") or {}, phase.where("init.optimizer"))
            problems += scheduler_problems(_listed(init.get("schedulers")), phase.where("init.schedulers"))
        for where, section in _data_sections(phase, verb):
            problems += data_problems(section, model, where)
        problems += _sparsity_problems(phase)
        if verb not in phase.params:
            fix = f"write `{verb}:` with a {DATALOADERS[verb][0]} below it"
            problems.append(Problem(phase.where(), f"has no {verb!r} section", fix))
    return located(problems, phases)


def notes(phases: Sequence[Phase], verb: str) -> list[str]:
    """Settings that are accepted and change nothing here, one line each."""
    lines = lines_without_effect(phases)
    for phase in phases:
        said = options_without_effect(phase.init["model"], phase.where("init.model"))
        lines += [f"{where} has no effect here: {why}" for where, why in said]
        for where, section in _data_sections(phase, verb):
            lines += data_notes(section, where)
    return lines


def run(config: Path, verb: str, overrides: Overrides) -> list[dict[str, Any]]:
    """Run every trainer of a file. Returns what each found: steps and last metrics."""
    phases = load_config(config)
    if problems := check(phases, verb):
        raise ProblemError(problems)
    return [_run_phase(config, phase, verb, overrides) for phase in phases]


def device_of(init: Mapping[str, Any], asked: str | None) -> torch.device:
    """What the command line says, else the file; CSX in a file means: the best that is here."""
    backend = init.get("backend")
    written = asked or init.get("device") or (backend or {}).get("backend_type") or "CSX"
    wants_gpu = written.upper() == "GPU" or (written.upper() == "CSX" and torch.cuda.is_available())
    if wants_gpu and not torch.cuda.is_available():
        raise ProblemError(
            [Problem("--target_device GPU", "torch sees no GPU here", "use --target_device CPU")]
        )
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0))) if wants_gpu else torch.device("cpu")


def _run_phase(config: Path, phase: Phase, verb: str, overrides: Overrides) -> dict[str, Any]:
    init = dict(phase.init)
    device = device_of(init, overrides.device)
    model_dir = overrides.model_dir or init.get("model_dir") or "./model_dir"
    checkpoint, logging = settings(init, "checkpoint") or {}, settings(init, "logging") or {}
    named = with_defaults(init.get("callbacks") or [], DEFAULT_CALLBACKS)
    callbacks = OrderedDict((name, OURS[name](**given)) for name, given in named if name in OURS)
    masks = [Path(c.mask_path) for c in callbacks.values() if isinstance(c, SparseMaskCallback)]
    seed = init.get("seed")
    if seed is not None:
        torch.manual_seed(seed)
    with RunDirectory(
        model_dir,
        verb=verb,
        config=config,
        params=dict(phase.params),
        device=str(device),
        masks=masks,
        log_level=logging.get("log_level", "INFO"),
        checkpoint_name=checkpoint["checkpoint_name"],
    ) as directory:
        report = RunReport(directory)
        try:
            model = build_model(init["model"], phase.where("init.model"))
            optimizer, schedulers = None, []
            if verb == "fit":
                optimizer = make_optimizer(
                    init["optimizer"],
                    model.named_parameters(),
                    learning_rate_groups=model.learning_rate_groups,
                )
                schedulers = make_schedulers(_listed(init.get("schedulers")), optimizer)
            keep = overrides.keep or next((g["n"] for n, g in named if n == "KeepNCheckpoints"), None)
            trainer = Trainer(
                model=model,
                optimizer=optimizer,
                schedulers=schedulers,
                loop=Loop(**(settings(init, "loop") or {})),
                precision=_precision(init),
                report=report,
                checkpoints=Checkpoints(
                    directory,
                    phase.params,
                    autoload=checkpoint["autoload_last_checkpoint"],
                    strict=not checkpoint["disable_strict_checkpoint_loading"],
                    keep=keep,
                    states=next(
                        (
                            g.get("load_checkpoint_states", "all")
                            for n, g in named
                            if n == "LoadCheckpointStates"
                        ),
                        "all",
                    ),
                ),
                device=device,
                log_steps=logging["log_steps"],
                checkpoint_steps=checkpoint["steps"],
                callbacks=callbacks,
            )
            return _execute(trainer, phase, verb, overrides, seed or 0)
        finally:
            report.close()


def _execute(trainer: Trainer, phase: Phase, verb: str, overrides: Overrides, seed: int) -> dict[str, Any]:
    stage = phase.params[verb] or {}
    data_key, checkpoint_key = DATALOADERS[verb]
    start = overrides.checkpoint_path or stage.get(checkpoint_key) or ...
    if verb == "fit":
        train = make_loader(stage[data_key], seed=seed, where=phase.where(f"fit.{data_key}"))
        validation = _loaders(phase, "fit", "val_dataloader", seed)
        trainer.fit(train, validation, start)
    else:
        loaders = _loaders(phase, verb, data_key, seed)
        starts = start if isinstance(start, list) else [start]
        trainer.validate_all(loaders, starts)
    receipts = [c.receipt() for c in trainer.callbacks.values() if isinstance(c, SparseMaskCallback)]
    return {"steps": trainer.global_step, "masks": receipts}


def _loaders(phase: Phase, stage: str, key: str, seed: int) -> list[Loader]:
    sections = _listed((phase.params[stage] or {}).get(key)) or []
    return [make_loader(s, seed=seed, where=phase.where(f"{stage}.{key}")) for s in sections]


def _data_sections(phase: Phase, verb: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    stage = phase.params.get(verb) or {}
    for key in ("train_dataloader", "val_dataloader", "val_dataloaders"):
        written = stage.get(key)
        for index, section in enumerate(_listed(written) or []):
            place = f"{verb}.{key}[{index}]" if isinstance(written, list) else f"{verb}.{key}"
            yield phase.where(place), section


def _listed(value: Any) -> Any:
    return value if value is None or isinstance(value, list) else [value]


def _precision(init: Mapping[str, Any]) -> Precision:
    written = settings(init, "precision")
    if written is None:
        return Precision()
    names = ("enabled", "max_gradient_norm", "max_gradient_value")
    return Precision(**{name: written[name] for name in names})


def _sparsity_problems(phase: Phase) -> Iterator[Problem]:
    if phase.init.get("sparsity") is not None:
        yield Problem(
            phase.where("init.sparsity"),
            "the vendor's own sparsity algorithms are not run here",
            "compute masks with `wafersparse masks` and add the SparseMaskCallback",
        )
    written = settings(phase.init, "precision")
    if (
        written
        and written["enabled"]
        and (written["fp16_type"] == "float16" or written["loss_scaling_factor"] != 1.0)
    ):
        yield Problem(
            phase.where("init.precision"),
            "float16 and loss scaling are not run here, only bf16 autocast or full precision",
            "set fp16_type: bfloat16 without loss scaling, or enabled: false",
        )
