"""The sections of ``trainer.init`` that a trainer reads by itself: every key, its default, what it may be.

As in ModelZoo 2.10, except that nothing is cast: ModelZoo takes the text "100" for the number 100.
"""

import string
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

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
class Kind:
    says: str
    holds: Callable[[Any], bool]


def _whole(value: Any) -> bool:
    return type(value) is int  # bool is an int, but no number that someone wrote


def _number(value: Any) -> bool:
    return type(value) in (int, float) and value == value and abs(value) != float("inf")


def _or_null(kind: Kind) -> Kind:
    return Kind(f"{kind.says}, or null", lambda value: value is None or kind.holds(value))


def _one_of(*values: Any) -> Kind:
    return Kind(
        f"one of {', '.join(map(str, values))}", lambda v: any(type(v) is type(w) and v == w for w in values)
    )


_BOOL = Kind("true or false", lambda value: type(value) is bool)
_TEXT = Kind("text", lambda value: isinstance(value, str) and bool(value))
_MAP = Kind("a map", lambda value: isinstance(value, dict))
_COUNT = Kind("a whole number above 0", lambda value: _whole(value) and value > 0)
_FROM_ZERO = Kind("a whole number from 0", lambda value: _whole(value) and value >= 0)
_POSITIVE = Kind("a number above 0", lambda value: _number(value) and value > 0)
_FREQUENCY = Kind(
    "a whole number of steps, or a fraction of the run such as 0.5",
    lambda value: (_whole(value) and value >= 0) or (type(value) is float and 0 <= value <= 1),
)
_SCALE = Kind('a number above 0 or "dynamic"', lambda value: value == "dynamic" or _POSITIVE.holds(value))
_LEVEL = Kind(
    "a level such as INFO or DEBUG",
    lambda value: (
        isinstance(value, str)
        and value.upper()
        in ("CRITICAL", "FATAL", "ERROR", "WARNING", "WARN", "INFO", "DEBUG", "VERBOSE", "TRACE")
    ),
)


def _step_name(value: Any) -> bool:
    """A file name with ``{step}`` in it, and with no other field."""
    try:
        fields = {field for _, field, _, _ in string.Formatter().parse(value) if field is not None}
    except (TypeError, ValueError):
        return False
    return fields == {"step"} and "/" not in value


_CHECKPOINT_NAME = Kind("a file name with {step} in it", _step_name)
_LOCAL = Kind(
    "a directory (S3 is written by ModelZoo alone)",
    lambda value: _TEXT.holds(value) and not value.lower().startswith("s3://"),
)


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
        "num_steps": Key(_or_null(_COUNT)),
        "max_steps": Key(_or_null(_COUNT)),
        "num_epochs": Key(_or_null(_COUNT)),
        "steps_per_epoch": Key(_or_null(_COUNT)),
        "eval_frequency": Key(_or_null(_FREQUENCY), 1.0),
        "eval_steps": Key(_or_null(_COUNT)),
        "grad_accum_steps": Key(_COUNT, 1),
    },
    "checkpoint": {
        "steps": Key(_or_null(_FROM_ZERO)),
        "autoload_last_checkpoint": Key(_BOOL, True),
        "disable_strict_checkpoint_loading": Key(_BOOL, False),
        "save_initial_checkpoint": Key(_BOOL, False),
        "checkpoint_root": Key(_or_null(_LOCAL)),
        "checkpoint_name": Key(_CHECKPOINT_NAME, "checkpoint_{step}.mdl"),
        "strict_version": Key(_BOOL, True),
    },
    "logging": {
        "log_steps": Key(_FROM_ZERO, required=True),
        "log_level": Key(_LEVEL, "INFO"),
        "wsc_log_level": Key(_or_null(_MAP), no_effect=_CLUSTER),
        "enable_act_frequency": Key(_BOOL, False, no_effect="it sets how often a CS-3 sends activations"),
    },
    "precision": {
        "enabled": Key(_BOOL, True),
        "fp16_type": Key(_one_of("float16", "bfloat16", "cbfloat16"), "bfloat16"),
        "precision_opt_level": Key(_or_null(_one_of(0, 1, 2)), no_effect="it is for the CS-3 compiler"),
        "loss_scaling_factor": Key(_or_null(_SCALE), 1.0),
        "initial_loss_scale": Key(_or_null(_POSITIVE)),
        "steps_per_increase": Key(_COUNT, 2000),
        "min_loss_scale": Key(_or_null(_POSITIVE)),
        "max_loss_scale": Key(_or_null(_POSITIVE)),
        "max_gradient_norm": Key(_or_null(_POSITIVE)),
        "max_gradient_value": Key(_or_null(_POSITIVE)),
        "log_loss_scale": Key(_or_null(_BOOL)),
    },
    "autorestart": {
        "max_num_restarts": Key(_or_null(_FROM_ZERO), no_effect="a run here is started again by its user"),
        "min_num_csx": Key(_COUNT, 1, no_effect=_CLUSTER),
    },
    "backend": {
        "backend_type": Key(
            _or_null(Kind("CPU, GPU or CSX", lambda v: isinstance(v, str) and v.upper() in DEVICES))
        ),
        "artifact_dir": Key(_or_null(_TEXT), no_effect="the trainer sets it, in ModelZoo too"),
        "compile_dir": Key(_or_null(_TEXT), no_effect=_CLUSTER),
        "compile_only": Key(_BOOL, False, no_effect="there is nothing to compile for a CS-3"),
        "validate_only": Key(_BOOL, False, no_effect="there is nothing to compile for a CS-3"),
        "cluster_config": Key(_or_null(_MAP), no_effect=_CLUSTER),
        "enable_distributed": Key(_BOOL, False, no_effect=_BACKENDS_GPU),
        "main_process_id": Key(_FROM_ZERO, 0, no_effect=_BACKENDS_GPU),
        "dist_backend": Key(_TEXT, "nccl", no_effect=_BACKENDS_GPU),
        "init_method": Key(_or_null(_TEXT), no_effect=_BACKENDS_GPU),
        "sync_batchnorm": Key(_BOOL, False, no_effect="no model here has a batch norm"),
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
