"""The config of a run as flat keys: what makes two runs the same configuration, and how two differ."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from experiments.compare.one_form import one_form
from experiments.runs.callbacks import LORA, SPARSE_LORA, callbacks_of, spelled
from experiments.runs.callbacks import MASKS as MASKS_CALLBACK
from experiments.runs.record import RunRecord, short

MASKS = "masks"  # stands for the path of a mask file: the name of the file tells what is in it
START = "checkpoint"  # the digest of the checkpoint that a run began with
STATES = "init.callbacks.LoadCheckpointStates.load_checkpoint_states"  # of that checkpoint
LEVEL = "sparsity"  # of masks whose file name other masks have as well
KIND = "kind"  # of the runs of a row, where the keys that it is grouped by do not tell
_NOT_PART = (  # what may differ within a configuration: where things are, and what is only written
    *("init.seed", "init.model_dir", "init.logging", "init.loggers", "init.checkpoint", "init.autorestart"),
    "fit.train_dataloader.shuffle_seed",  # the other half of a seed
    *("init.backend", "init.device", "fit.ckpt_path", "validate.ckpt_path", "validate_all.ckpt_paths"),
)
MASK_CALLBACK = "init.callbacks.SparseMaskCallback"
_PLACE = "init.model_dir"
_WRITERS = {
    *("computenorm", "checkloss", "logoptimizerparamgroup", "modelevalmetrics", "rateprofiler"),
    *("durationprofiler", "floputilization", "saveperformancedata", "dumpavailabletensornames"),
    *("modelzooparamsmetadata", "samplesstreamedinfo", "logsparsity", "progresslogger"),
    *("tensorboardlogger", "telemetrylogger"),
}

Flat = dict[str, Any]


def flat(run: RunRecord) -> Flat:
    """Every setting that makes a run what it is, by dotted key."""
    found = {
        key: value
        for key, value in _flatten(one_form(run.params), "")
        if not any(key == part or key.startswith(f"{part}.") for part in _NOT_PART)
    }
    if (path := f"{MASK_CALLBACK}.mask_path") in found:
        found[MASKS] = Path(str(found.pop(path))).stem
    if run.start:
        found[START] = short(run.start)
    return found


def is_sparse(run: RunRecord) -> bool:
    """Masks, LoRA or native sparsity. A run without a config is neither that nor dense."""
    init = run.params.get("init") or {}
    named = callbacks_of(init).keys()
    return bool({MASKS_CALLBACK, LORA, SPARSE_LORA} & named) or init.get("sparsity") is not None


def is_dense(run: RunRecord) -> bool:
    return bool(run.params) and not is_sparse(run)


def differences(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Keys whose values differ; None for one that is not there."""
    keys = sorted(one.keys() | other.keys())
    return {key: (one.get(key), other.get(key)) for key in keys if one.get(key) != other.get(key)}


def config_diff(one: RunRecord, other: RunRecord) -> dict[str, tuple[Any, Any]]:
    """Of any two runs: everything that differs in their configs, paths and seeds as well."""
    return differences(every_setting(one), every_setting(other))


def every_setting(run: RunRecord) -> Flat:
    """The whole config by dotted key, but for what only writes, and for where: a run may lie elsewhere."""
    return {key: value for key, value in _flatten(one_form(run.params), "") if key != _PLACE}


def _flatten(value: Any, key: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        for name, inner in value.items():
            yield from _flatten(inner, f"{key}.{name}" if key else str(name))
    elif key in ("init.callbacks", "init.loggers") and isinstance(value, list):
        for entry in value:  # in any order, by name; what only writes is left out
            if isinstance(entry, Mapping):
                kept = {
                    name: given or {} for name, given in entry.items() if str(name).lower() not in _WRITERS
                }
                for name, given in kept.items():
                    yield from _flatten(given if given else "on", f"{key}.{spelled(str(name))}")
    elif isinstance(value, list) and any(isinstance(entry, Mapping | list) for entry in value):
        for index, entry in enumerate(value):
            yield from _flatten(entry, f"{key}[{index}]")
    else:
        yield key, value if not isinstance(value, list) else json.dumps(value)
