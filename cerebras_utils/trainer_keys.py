"""The sections of ``trainer.init`` that a trainer reads by itself: every key, its default, what it may be.

As in ModelZoo 2.10, except that nothing is cast: ModelZoo takes the text "100" for the number 100.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from cerebras_utils.value_kinds import (
    BOOL,
    CHECKPOINT_NAME,
    COUNT,
    FREQUENCY,
    FROM_ZERO,
    LEVEL,
    LOCAL,
    MAP,
    POSITIVE,
    SCALE,
    TEXT,
    Kind,
    one_of,
    or_null,
)
from pruning.problems import Problem
from pruning.registry import suggest

DEVICES = ("CPU", "GPU", "CSX")
INIT = (
    *("device", "backend", "model_dir", "seed", "model", "optimizer", "schedulers", "precision", "sparsity"),
    *("loop", "checkpoint", "logging", "callbacks", "loggers", "autorestart"),
)
DATALOADERS = {  # the stages of a trainer: (key of the data, key of the checkpoint)
    "fit": ("train_dataloader", "ckpt_path"),
    "validate": ("val_dataloader", "ckpt_path"),
    "validate_all": ("val_dataloaders", "ckpt_paths"),
}


@dataclass(frozen=True)
class Key:
    kind: Kind
    default: Any = None
    no_effect: str = ""  # the reason, where it changes nothing on plain PyTorch
    required: bool = False


_CLUSTER = "there is no cluster"
_BACKENDS_GPU = "torchrun says how processes find each other"

SECTIONS: Mapping[str, Mapping[str, Key]] = {
    "loop": {
        "num_steps": Key(or_null(COUNT)),
        "max_steps": Key(or_null(COUNT)),
        "num_epochs": Key(or_null(COUNT)),
        "steps_per_epoch": Key(or_null(COUNT)),
        "eval_frequency": Key(or_null(FREQUENCY), 1.0),
        "eval_steps": Key(or_null(COUNT)),
        "grad_accum_steps": Key(COUNT, 1),
    },
    "checkpoint": {
        "steps": Key(or_null(FROM_ZERO)),
        "autoload_last_checkpoint": Key(BOOL, True),
        "disable_strict_checkpoint_loading": Key(BOOL, False),
        "save_initial_checkpoint": Key(BOOL, False),
        "checkpoint_root": Key(or_null(LOCAL)),
        "checkpoint_name": Key(CHECKPOINT_NAME, "checkpoint_{step}.mdl"),
        "strict_version": Key(BOOL, True),
    },
    "logging": {
        "log_steps": Key(FROM_ZERO, required=True),
        "log_level": Key(LEVEL, "INFO"),
        "wsc_log_level": Key(or_null(MAP), no_effect=_CLUSTER),
        "enable_act_frequency": Key(BOOL, False, no_effect="it sets how often a CS-3 sends activations"),
    },
    "precision": {
        "enabled": Key(BOOL, True),
        "fp16_type": Key(one_of("float16", "bfloat16", "cbfloat16"), "bfloat16"),
        "precision_opt_level": Key(or_null(one_of(0, 1, 2)), no_effect="it is for the CS-3 compiler"),
        "loss_scaling_factor": Key(or_null(SCALE), 1.0),
        "initial_loss_scale": Key(or_null(POSITIVE)),
        "steps_per_increase": Key(COUNT, 2000),
        "min_loss_scale": Key(or_null(POSITIVE)),
        "max_loss_scale": Key(or_null(POSITIVE)),
        "max_gradient_norm": Key(or_null(POSITIVE)),
        "max_gradient_value": Key(or_null(POSITIVE)),
        "log_loss_scale": Key(or_null(BOOL)),
    },
    "autorestart": {
        "max_num_restarts": Key(or_null(FROM_ZERO), no_effect="a run here is started again by its user"),
        "min_num_csx": Key(COUNT, 1, no_effect=_CLUSTER),
    },
    "backend": {
        "backend_type": Key(
            or_null(Kind("CPU, GPU or CSX", lambda v: isinstance(v, str) and v.upper() in DEVICES))
        ),
        "artifact_dir": Key(or_null(TEXT), no_effect="the trainer sets it, in ModelZoo too"),
        "compile_dir": Key(or_null(TEXT), no_effect=_CLUSTER),
        "compile_only": Key(BOOL, False, no_effect="there is nothing to compile for a CS-3"),
        "validate_only": Key(BOOL, False, no_effect="there is nothing to compile for a CS-3"),
        "cluster_config": Key(or_null(MAP), no_effect=_CLUSTER),
        "enable_distributed": Key(BOOL, False, no_effect=_BACKENDS_GPU),
        "main_process_id": Key(FROM_ZERO, 0, no_effect=_BACKENDS_GPU),
        "dist_backend": Key(TEXT, "nccl", no_effect=_BACKENDS_GPU),
        "init_method": Key(or_null(TEXT), no_effect=_BACKENDS_GPU),
        "sync_batchnorm": Key(BOOL, False, no_effect="no model here has a batch norm"),
    },
}
# What a section that is left out, or null, means. Without ``precision`` nothing is clipped either.
_LEFT_OUT: Mapping[str, Mapping[str, Any]] = {"loop": {"num_epochs": 1}, "logging": {"log_steps": 1}}


def settings(init: Mapping[str, Any], section: str) -> dict[str, Any] | None:
    """All keys of a section of ``trainer.init``, with defaults for those not written.

    None for ``precision`` and ``autorestart`` where they are left out: they are then off.
    """
    written = init.get(section)
    if written is None:
        if section in ("precision", "autorestart"):
            return None
        written = _LEFT_OUT.get(section, {})
    return {key: written.get(key, about.default) for key, about in SECTIONS[section].items()}


def section_problems(written: Any, section: str, where: str) -> Iterator[Problem]:
    """What is wrong with one of ``SECTIONS``: unknown keys, and values that are not what they may be."""
    keys = SECTIONS[section]
    if written is None:
        return
    if not isinstance(written, dict):
        yield Problem(
            where, f"is {written!r}, not a map", f"write keys such as `{next(iter(keys))}:` below it"
        )
        return
    for key, value in written.items():
        if section == "backend" and str(key).startswith("csx."):
            continue  # ModelZoo passes over it, and so does no_effect_lines below, with a line
        if key not in keys:
            yield unknown(key, list(keys), where, f"trainer.init.{section}")
        elif not keys[key].kind.holds(value):
            yield Problem(f"{where}.{key}", f"{value!r} is not {keys[key].kind.says}", "mend the value")
    for key, about in keys.items():
        if about.required and key not in written:
            yield Problem(where, f"lacks {key!r}: {about.kind.says}", f"write `{key}:` below it")
    for one, other in (("num_steps", "num_epochs"), ("max_gradient_norm", "max_gradient_value")):
        if written.get(one) is not None and written.get(other) is not None:
            yield Problem(f"{where}.{other}", f"excludes {one}, which is set as well", "remove one of them")


def no_effect_lines(init: Mapping[str, Any], where: str) -> Iterator[str]:
    """A line for each key that is written, valid, and changes nothing on plain PyTorch."""
    for section, keys in SECTIONS.items():
        for key, value in (init.get(section) or {}).items():
            if section == "backend" and str(key).startswith("csx."):
                reason = "ModelZoo passes over it too: such flags belong in the callback GlobalFlags"
            elif not keys[key].no_effect or value == keys[key].default:
                continue
            else:
                reason = keys[key].no_effect
            yield f"{where}.{section}.{key} has no effect here: {reason}"


def unknown(key: object, known: list[str], where: str, section: str) -> Problem:
    """The problem of a key that nothing reads: what was probably meant, or where it belongs."""
    homes = [name for name, keys in SECTIONS.items() if key in keys] if isinstance(key, str) else []
    fix = f"move it to trainer.init.{homes[0]}" if homes else f"remove it; known: {', '.join(known)}"
    meant = suggest(str(key), known)
    return Problem(f"{where}.{key}", f"is no key of {section}.{meant}", fix)
