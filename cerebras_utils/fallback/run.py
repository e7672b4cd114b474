"""From a config file to finished runs: everything is checked first, then each trainer of the file runs."""

from collections import Counter, OrderedDict
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from cerebras_utils.cszoo_yaml import Phase, load_config
from cerebras_utils.fallback.bystander import NoDirectory, NoReport
from cerebras_utils.fallback.callbacks.groups import LogOptimizerParamGroup
from cerebras_utils.fallback.callbacks.norms import ComputeNorm
from cerebras_utils.fallback.callbacks.rates import DurationProfiler, RateProfiler, SavePerformanceData
from cerebras_utils.fallback.callbacks.sparsity import LogSparsity
from cerebras_utils.fallback.checking import find_notes, find_problems, listed
from cerebras_utils.fallback.checkpoints import Checkpoints
from cerebras_utils.fallback.compiled import compile_errors, compile_model
from cerebras_utils.fallback.data.loader import Loader, make_loader
from cerebras_utils.fallback.devices import device_of, devices_of, make_current, memory_errors
from cerebras_utils.fallback.interruption import Interruption
from cerebras_utils.fallback.models.build import build_model
from cerebras_utils.fallback.models.draws import OwnGenerators
from cerebras_utils.fallback.optim.build import make_optimizer, make_schedulers
from cerebras_utils.fallback.precision import precision_of
from cerebras_utils.fallback.processes import Processes
from cerebras_utils.fallback.report import RunReport
from cerebras_utils.fallback.run_outputs import RunDirectory
from cerebras_utils.fallback.schedule import Loop, NothingLeftError
from cerebras_utils.fallback.states import states_asked
from cerebras_utils.fallback.trainer import Trainer
from cerebras_utils.hooks import Hooks
from cerebras_utils.lora_callbacks import Lora, SparseLora
from cerebras_utils.sparse_callback import SparseMaskCallback
from cerebras_utils.trainer_keys import DATALOADERS, settings
from cerebras_utils.vendor_names import DEFAULT_CALLBACKS, DEFAULT_LOGGERS, with_defaults
from pruning.problems import Problem, ProblemError

# Callbacks of a YAML that are classes here, by cszoo's name: made with the arguments of the YAML.
OURS: Mapping[str, type[Hooks]] = {
    "SparseMaskCallback": SparseMaskCallback,
    "Lora": Lora,
    "SparseLora": SparseLora,
}
# Those that only measure. They are called after all others: what they see is what the step used.
MEASURES: Mapping[str, type[Hooks]] = {
    "ComputeNorm": ComputeNorm,
    "DurationProfiler": DurationProfiler,
    "LogOptimizerParamGroup": LogOptimizerParamGroup,
    "LogSparsity": LogSparsity,
    "RateProfiler": RateProfiler,
    "SavePerformanceData": SavePerformanceData,
}


@dataclass(frozen=True, kw_only=True)
class Overrides:
    """What the command line says instead of the file; None where it says nothing."""

    device: str | None = None  # CPU or GPU
    model_dir: str | None = None
    checkpoint_path: str | None = None
    keep: int | None = None
    states: str | None = None  # of a checkpoint, which are loaded: "model,optimizer"
    log_level: str | None = None
    compiled: bool = False  # by torch.compile


def check(phases: Sequence[Phase], verb: str, overrides: Overrides | None = None) -> list[Problem]:
    """Everything that is wrong with a config and the command line, before anything is built or written."""
    given = overrides or Overrides()
    return find_problems(
        phases,
        verb,
        OURS,
        checkpoint_path=given.checkpoint_path,
        model_dir=given.model_dir,
        states=given.states,
    )


def notes(phases: Sequence[Phase], verb: str) -> list[str]:
    """Settings that are accepted and mean nothing here, or not what one might think; one line each."""
    return find_notes(phases, verb)


def run(
    config: Path, verb: str, overrides: Overrides, processes: Processes | None = None
) -> list[dict[str, Any]]:
    """Run every trainer of a file. Returns what each found: steps and last metrics.

    A trainer of several that has reached its steps already is passed over, so that the same command
    continues where an interrupted one was.
    """
    processes = processes or Processes()
    phases = processes.together(lambda: _checked(config, verb, overrides))
    results = []
    with Interruption() as interruption:
        for index, phase in enumerate(phases):
            try:
                results.append(_run_phase(config, phase, verb, overrides, interruption, processes))
            except NothingLeftError as error:
                if index == len(phases) - 1:
                    raise
                results.append({"steps": error.step, "masks": [], "skipped": str(error.problems[0].what)})
    return results


def _checked(config: Path, verb: str, overrides: Overrides) -> list[Phase]:
    phases = load_config(config)
    if problems := check(phases, verb, overrides):
        raise ProblemError(problems)
    devices_of(phases, overrides.device)
    return phases


def make_callbacks(named: Sequence[tuple[str, Mapping[str, Any]]]) -> "OrderedDict[str, Hooks]":
    """Those that act in the order of the YAML, then those that measure; a second of a name is NAME_2."""
    made: OrderedDict[str, Hooks] = OrderedDict()
    count: Counter[str] = Counter()
    for table in (OURS, MEASURES):
        for name, arguments in named:
            if name in table:
                count[name] += 1
                made[name if count[name] == 1 else f"{name}_{count[name]}"] = table[name](**arguments)
    return made


def _run_phase(
    config: Path,
    phase: Phase,
    verb: str,
    overrides: Overrides,
    interruption: Interruption,
    processes: Processes,
) -> dict[str, Any]:
    init = dict(phase.init)
    device = processes.together(lambda: device_of(init, overrides.device))
    with memory_errors(device):
        make_current(device)
    model_dir = overrides.model_dir or init.get("model_dir") or "./model_dir"
    checkpoint, logging = settings(init, "checkpoint") or {}, settings(init, "logging") or {}
    named = with_defaults(init.get("callbacks") or [], DEFAULT_CALLBACKS)
    loggers = dict(with_defaults(init.get("loggers") or [], DEFAULT_LOGGERS))
    callbacks = make_callbacks(named)
    masks = [Path(c.mask_path) for c in callbacks.values() if isinstance(c, SparseMaskCallback)]
    seed = init.get("seed")
    if seed is not None:
        torch.manual_seed(seed)
    processes.one_seed()

    def make_directory() -> RunDirectory | NoDirectory:
        if not processes.first:
            return NoDirectory(model_dir, checkpoint["checkpoint_name"])
        return RunDirectory(
            model_dir,
            verb=verb,
            config=config,
            phase=phase.key,
            params=dict(phase.params),
            device=str(device),
            masks=masks,
            log_level=overrides.log_level or logging["log_level"],
            checkpoint_name=checkpoint["checkpoint_name"],
        )

    with processes.together(make_directory) as directory, memory_errors(device):
        report: RunReport | NoReport = NoReport()
        if isinstance(directory, RunDirectory):
            report = RunReport(directory, device=device.type, events=loggers.get("TensorBoardLogger"))
        try:
            with OwnGenerators():
                model = build_model(init["model"], phase.where("init.model"))
                for callback in callbacks.values():
                    callback.change_model(model)
            processes.place(model, device)
            processes.own_random_numbers()
            if overrides.compiled:
                compile_model(model, device)
            optimizer, schedulers = None, []
            if verb == "fit":
                optimizer = make_optimizer(
                    init["optimizer"],
                    model.named_parameters(),
                    learning_rate_groups=model.learning_rate_groups,
                )
                schedulers = make_schedulers(listed(init.get("schedulers")), optimizer)
            trainer = Trainer(
                model=model,
                optimizer=optimizer,
                schedulers=schedulers,
                loop=Loop(**(settings(init, "loop") or {})),
                precision=precision_of(init),
                report=report,
                checkpoints=_checkpoints(directory, phase, named, checkpoint, overrides),
                device=device,
                log_steps=logging["log_steps"],
                checkpoint_steps=checkpoint["steps"],
                save_initial_checkpoint=checkpoint["save_initial_checkpoint"],
                phase=phase.key,
                vocabulary=model.options.vocab_size,
                eval_metrics=model.options.compute_eval_metrics and "ModelEvalMetrics" in dict(named),
                asked_to_stop=lambda: interruption.asked,
                processes=processes,
                callbacks=callbacks,
            )
            with compile_errors() if overrides.compiled else nullcontext():
                results = _execute(trainer, phase, verb, overrides, seed or 0)
            if isinstance(directory, RunDirectory):
                directory.found_under_masks(results["masks"])
            return results
        finally:
            for callback in callbacks.values():
                callback.finalize()
            report.close()


def _checkpoints(
    directory: RunDirectory | NoDirectory,
    phase: Phase,
    named: Sequence[tuple[str, Mapping[str, Any]]],
    written: Mapping[str, Any],
    overrides: Overrides,
) -> Checkpoints:
    return Checkpoints(
        directory,
        phase.params,
        autoload=written["autoload_last_checkpoint"],
        strict=not written["disable_strict_checkpoint_loading"],
        strict_version=written["strict_version"],
        keep=overrides.keep or dict(named).get("KeepNCheckpoints", {}).get("n"),
        states=states_asked(phase, overrides.states),
        states_by="--load_checkpoint_states" if overrides.states else "the callback LoadCheckpointStates",
        root=written["checkpoint_root"],
    )


def _execute(trainer: Trainer, phase: Phase, verb: str, overrides: Overrides, seed: int) -> dict[str, Any]:
    stage = phase.params[verb]
    data_key, checkpoint_key = DATALOADERS[verb]
    start = overrides.checkpoint_path or stage.get(checkpoint_key, ...)  # null: none; absent: the last one
    found: dict[str, Any] = {}
    if verb == "fit":
        (train,) = _loaders(trainer.processes, phase, verb, data_key, seed)
        trainer.fit(train, _loaders(trainer.processes, phase, verb, "val_dataloader", seed), start)
    elif verb == "validate":
        (loader,) = _loaders(trainer.processes, phase, verb, data_key, seed)
        found["metrics"] = trainer.validate(loader, start)
    else:
        paths = trainer.checkpoints.matching(start, phase.where(f"{verb}.{checkpoint_key}"))
        loaders = _loaders(trainer.processes, phase, verb, data_key, seed)
        found["validations"] = trainer.validate_all(loaders, paths)
    receipts = [c.receipt() for c in trainer.callbacks.values() if isinstance(c, SparseMaskCallback)]
    return {"steps": trainer.global_step, "masks": receipts, **found}


def _loaders(processes: Processes, phase: Phase, stage: str, key: str, seed: int) -> list[Loader]:
    written = phase.params[stage].get(key)
    name = f"{stage}.{key}"
    places = [
        f"{name}[{i}]" if isinstance(written, list) else name for i in range(len(listed(written) or []))
    ]

    def make() -> list[Loader]:
        return [
            make_loader(
                section, seed=seed, where=phase.where(place), rank=processes.rank, world=processes.world
            )
            for place, section in zip(places, listed(written) or [], strict=True)
        ]

    return processes.together(make)
