"""The ``train_dataloader`` or ``val_dataloader`` section of a YAML, checked: names, defaults and types."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pruning.problems import Problem
from pruning.registry import suggest

PROCESSOR = "GptHDF5MapDataProcessor"
FOREIGN_PROCESSORS = (  # ModelZoo's others: known, but not read here
    "BertCSVDataProcessor",
    "BertCSVDynamicMaskDataProcessor",
    "BertHDF5DataProcessor",
    "BertSumCSVDataProcessor",
    "BertTokenClassifierDataProcessor",
    "DPRHDF5DataProcessor",
    "DpoHDF5DataProcessor",
    "DummyDataProcessor",
    "DummyIterableDataProcessor",
    "GptHDF5DataProcessor",
    "HuggingFaceDataProcessorEli5",
    "HuggingFaceIterableDataProcessorEli5",
    "ImageNet1KProcessor",
    "InferenceDataProcessor",
    "MNISTDataProcessor",
    "MNLIDataProcessor",
    "SST2DataProcessor",
    "T5DynamicDataProcessor",
    "TransformerDynamicDataProcessor",
)
_BOOL, _TEXT = "true or false", "a text"
_NATURAL, _POSITIVE = "an integer of 0 or more", "an integer of 1 or more"
_OR_NULL = " or null"
_KINDS = {  # key: what its value must be, ModelZoo's default
    "batch_size": (_POSITIVE, 1),  # required
    "shuffle": (_BOOL, False),
    "shuffle_seed": (_NATURAL, 0),
    "drop_last": (_BOOL, True),
    "pad_last": (_BOOL, False),
    "num_samples": (_POSITIVE + _OR_NULL, None),
    "max_sequence_length": (_POSITIVE + _OR_NULL, None),
    "data_subset": (_TEXT + _OR_NULL, None),
    "sort_files": (_BOOL, True),
    "use_vsl": (_BOOL, False),
    "use_worker_cache": (_BOOL, False),
    "num_workers": (_NATURAL, 0),
    "prefetch_factor": (_POSITIVE + _OR_NULL, 10),
    "persistent_workers": (_BOOL, True),
}
_UNTYPED = ("data_processor", "data_dir", "mixture", "dataset_map_fn", "data_transforms")
_DEPRECATED = ("vocab_size", "repeat")
KEYS = [*_KINDS, *_UNTYPED, *_DEPRECATED]


@dataclass(frozen=True, kw_only=True)
class Source:
    """One set of files; ``weight`` is its share where several are mixed."""

    directories: tuple[str, ...]
    data_subset: str | None = None
    weight: float = 1.0
    where: str = ""


@dataclass(frozen=True, kw_only=True)
class DataSettings:
    sources: tuple[Source, ...]
    mixed: bool
    batch_size: int
    shuffle: bool
    shuffle_seed: int
    drop_last: bool
    pad_last: bool
    num_samples: int | None
    max_sequence_length: int | None
    sort_files: bool
    num_workers: int
    prefetch_factor: int | None
    persistent_workers: bool


def read_settings(params: Any, where: str) -> tuple[DataSettings | None, list[Problem]]:
    """The settings, and everything that is wrong with them.

    Settings come back beside problems too, with defaults in the place of what is wrong, so that the files
    can be looked at as well; None where ``params`` is not even a section.
    """
    if not isinstance(params, Mapping):
        fix = f"write a section with data_processor: {PROCESSOR}, data_dir and batch_size"
        return None, [Problem(where, f"is {params!r}, not a section of keys and values", fix)]
    problems = [*_processor_problems(params, where), *_unknown_keys(params, KEYS, where)]
    values: dict[str, Any] = {}
    for key, (kind, default) in _KINDS.items():
        values[key] = default
        if key in params:
            if _is(kind, params[key]):
                values[key] = params[key]
            else:
                problems.append(_wrong_type(f"{where}.{key}", params[key], kind))
    if "batch_size" not in params:
        problems.append(Problem(f"{where}.batch_size", "is missing", "add batch_size: the samples of a step"))
    problems += _unsupported(params, values, where)
    sources, source_problems = _sources(params, values.pop("data_subset"), where)
    for key in ("use_vsl", "use_worker_cache"):
        del values[key]
    settings = DataSettings(sources=sources, mixed=params.get("mixture") is not None, **values)
    return settings, problems + source_problems


def data_notes(params: Mapping[str, Any], where: str) -> list[str]:
    """Settings that are right and have little or no effect here: a line each."""
    notes = [f"{where}.{key}: has no effect, ModelZoo ignores it too" for key in _DEPRECATED if key in params]
    if params.get("use_worker_cache"):
        notes.append(f"{where}.use_worker_cache: has no effect outside of a Cerebras cluster")
    if not params.get("num_workers"):
        idle = [key for key in ("prefetch_factor", "persistent_workers") if key in params]
        notes += [f"{where}.{key}: has no effect without num_workers" for key in idle]
    elif params["num_workers"] > (processors := len(os.sched_getaffinity(0))):
        notes.append(f"{where}.num_workers: {params['num_workers']} workers share {processors} processors")
    if params.get("shuffle_seed") and not params.get("shuffle") and params.get("mixture") is None:
        notes.append(f"{where}.shuffle_seed: has no effect without shuffle: true")
    if params.get("pad_last") and params.get("drop_last", True):
        notes.append(f"{where}.pad_last: has no effect without drop_last: false")
    return notes


def _processor_problems(params: Mapping[str, Any], where: str) -> list[Problem]:
    name, where = params.get("data_processor"), f"{where}.data_processor"
    if name == PROCESSOR:
        return []
    if name is None:
        return [Problem(where, "is missing", f"add data_processor: {PROCESSOR}")]
    if name == "GptHDF5DataProcessor":
        fix = f"write {PROCESSOR}: it reads the same files; or run with cszoo"
        return [Problem(where, f"{name} shuffles by buffers, which the fallback does not repeat", fix)]
    if name in FOREIGN_PROCESSORS:
        fix = f"use {PROCESSOR}, or run with cszoo"
        return [Problem(where, f"{name} is one of ModelZoo's that the fallback does not have", fix)]
    hint = suggest(str(name), [PROCESSOR, *FOREIGN_PROCESSORS])
    return [Problem(where, f"there is no data processor {name!r}.{hint}", f"write {PROCESSOR}")]


def _unknown_keys(params: Mapping[str, Any], known: list[str], where: str) -> list[Problem]:
    return [
        Problem(
            f"{where}.{key}",
            f"there is no such setting.{suggest(str(key), known)}",
            f"correct or remove it; known are {', '.join(known)}",
        )
        for key in params
        if key not in known
    ]


def _unsupported(params: Mapping[str, Any], values: Mapping[str, Any], where: str) -> list[Problem]:
    problems = []
    if values["use_vsl"]:
        what = "the fallback's models do not know attention spans and position ids"
        problems.append(Problem(f"{where}.use_vsl", what, "set use_vsl: false, or run with cszoo"))
    if params.get("data_transforms") is not None:
        what = "the fallback does not transform batches"
        problems.append(Problem(f"{where}.data_transforms", what, "remove it, or run with cszoo"))
    if params.get("dataset_map_fn") is not None:
        what = "a function cannot be given in a YAML"
        problems.append(Problem(f"{where}.dataset_map_fn", what, "remove it"))
    return problems


def _sources(
    params: Mapping[str, Any], subset: str | None, where: str
) -> tuple[tuple[Source, ...], list[Problem]]:
    directories, mixture = params.get("data_dir"), params.get("mixture")
    if (directories is None) == (mixture is None):
        what = "both are given" if mixture is not None else "neither is given"
        fix = "write one of them: data_dir for one set of files, mixture for several with weights"
        return (), [Problem(f"{where}: data_dir and mixture", what, fix)]
    if mixture is None:
        return _source(directories, subset, 1.0, f"{where}.data_dir")
    if not isinstance(mixture, list) or not mixture or not all(isinstance(m, Mapping) for m in mixture):
        what = f"is {mixture!r}, not a list of entries with data_dir and weight"
        return (), [Problem(f"{where}.mixture", what, "write  - {data_dir: DIR, weight: 0.5}  for each set")]
    sources: tuple[Source, ...] = ()
    problems: list[Problem] = []
    if subset is not None:
        what = "has no effect beside mixture"
        problems.append(Problem(f"{where}.data_subset", what, "write it in the entries of the mixture"))
    for i, entry in enumerate(mixture):
        inside = f"{where}.mixture[{i}]"
        problems += _unknown_keys(entry, ["data_dir", "weight", "data_subset"], inside)
        own, weight = entry.get("data_subset"), entry.get("weight")
        if not _is(_TEXT + _OR_NULL, own):
            problems.append(_wrong_type(f"{inside}.data_subset", own, _TEXT + _OR_NULL))
            own = None
        if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 < weight < float("inf"):
            fix = "write a number above 0; an entry that shall not count is to be removed"
            problems.append(Problem(f"{inside}.weight", f"is {weight!r}", fix))
            weight = 1.0
        source, found = _source(entry.get("data_dir"), own, weight, f"{inside}.data_dir")
        sources, problems = sources + source, problems + found
    return sources, problems


def _source(
    directories: Any, subset: str | None, weight: float, where: str
) -> tuple[tuple[Source, ...], list[Problem]]:
    listed = directories if isinstance(directories, list) else [directories]
    if not listed or not all(isinstance(directory, str) and directory for directory in listed):
        return (), [_wrong_type(where, directories, "a directory or a list of directories")]
    return (Source(directories=tuple(listed), data_subset=subset, weight=weight, where=where),), []


def _is(kind: str, value: Any) -> bool:
    if kind.endswith(_OR_NULL):
        return value is None or _is(kind.removesuffix(_OR_NULL), value)
    if kind == _BOOL:
        return isinstance(value, bool)
    if kind == _TEXT:
        return isinstance(value, str)
    least = 1 if kind == _POSITIVE else 0
    return isinstance(value, int) and not isinstance(value, bool) and least <= value < 2**63


def _wrong_type(where: str, value: Any, kind: str) -> Problem:
    return Problem(where, f"is {value!r} ({type(value).__name__}), not {kind}", f"write {kind}")
