"""One form of a config that can be written in several ways, so that equal settings read alike.

cszoo writes down what it fills in: defaults, the newer name of an option, a list around a single set. Plain
PyTorch keeps what the YAML says. What stands in neither has the default of both.
"""

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from itertools import accumulate
from typing import Any

from cerebras_utils.checks.case import section, whole
from cerebras_utils.fallback.data.settings import read_settings
from cerebras_utils.fallback.models.mup import learning_rate_groups
from cerebras_utils.fallback.models.options import FAMILIES, OPTIONS, Options, read_options

_GROUPS = "lr_adjustment_groups"
_STAGES = ("fit", "validate", "validate_all")
_ALIASES = {option.alias: name for name, option in OPTIONS.items() if option.alias}
_OF_WORKERS = ("prefetch_factor", "persistent_workers")
_OF_SOURCES = ("sources", "mixed")  # what the settings of data are read into, and no key of a config


def one_form(trainer: Mapping[str, Any]) -> dict[str, Any]:
    """With defaults filled in; what is no sound section is left as it is written."""
    found = dict(trainer)
    if isinstance(init := found.get("init"), Mapping):
        found["init"] = dict(init)
        if isinstance(model := init.get("model"), Mapping):
            found["init"]["model"] = _model(model)
        if isinstance(schedulers := init.get("schedulers"), list):
            found["init"]["schedulers"] = [_scheduler(entry) for entry in schedulers]
    for stage in _STAGES:
        if isinstance(loaders := found.get(stage), Mapping):
            found[stage] = dict(_loaders(loaders))
    return found


def newest_name(key: str) -> str:
    """Of an option of the model, which a config may call by an older one."""
    return _ALIASES.get(key, key)


def _model(written: Mapping[str, Any]) -> dict[str, Any]:
    if written.get("name") not in FAMILIES:
        return dict(written)
    named = {newest_name(key): value for key, value in written.items()}
    groups = named.pop(_GROUPS, None)
    options, _ = read_options(named, "model")
    if options is None:
        return {**named, **({} if groups is None else {_GROUPS: groups})}
    filled = {key: value for key, value in asdict(options).items() if value is not None and key != _GROUPS}
    for key in ("embd_pdrop", "attention_dropout_rate"):
        filled.setdefault(key, options.dropout_rate)
    return filled if groups is None or _are_default(groups, options) else {**filled, _GROUPS: groups}


def _are_default(groups: Any, options: Options) -> bool:
    """The scales of muP are set when the model is built: before that, all are 1."""
    if options.mup and options.mup_base_filter_size is None:
        return False
    known = learning_rate_groups(options)
    if not isinstance(groups, Mapping) or groups.keys() != known.keys():
        return False
    return all(
        _listed(section(groups, name).get("param_filter_patterns")) == list(group.patterns)
        and section(groups, name).get("scale", 1.0) in (1.0, group.scale)
        for name, group in known.items()
    )


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _scheduler(written: Any) -> Any:
    """Schedulers in sequence change where their lengths say, unless milestones are written."""
    if not isinstance(written, Mapping) or len(written) != 1:
        return written
    ((name, given),) = written.items()
    inner = given.get("schedulers") if isinstance(given, Mapping) else None
    if str(name).lower() != "sequentiallr" or not isinstance(inner, list) or given.get("milestones"):
        return written
    lengths = [_length(entry) for entry in inner[:-1]]
    known = [length for length in lengths if length is not None]
    return written if len(known) < len(lengths) else {name: {**given, "milestones": list(accumulate(known))}}


def _length(scheduler: Any) -> int | None:
    settings = list(scheduler.values()) if isinstance(scheduler, Mapping) else []
    return whole(settings[0].get("total_iters")) if settings and isinstance(settings[0], Mapping) else None


def _loaders(stage: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """The first of several sets stands where a single one would: what the others add is what differs."""
    for key, written in stage.items():
        if "dataloader" not in key:
            yield key, written
            continue
        for index, one in enumerate(_listed(written)):
            yield f"{key}[{index}]" if index else key, _loader(one)


def _loader(written: Any) -> Any:
    if not isinstance(written, Mapping):
        return written
    settings, problems = read_settings(written, "dataloader")
    filled = dict(written)
    if settings is not None and not problems:
        given = asdict(settings)
        filled |= {key: value for key, value in given.items() if key not in _OF_SOURCES}
    if not filled.get("num_workers"):
        filled = {key: value for key, value in filled.items() if key not in _OF_WORKERS}
    return {key: value for key, value in filled.items() if value is not None}
