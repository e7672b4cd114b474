"""What a seed changes in a run: what is drawn, and the order of the training data."""

from collections.abc import Mapping
from typing import Any

from cerebras_utils.checks.case import section
from cerebras_utils.rewriting.request import Setting

ORDER = "fit.train_dataloader.shuffle_seed"
_PROCESSOR = "GptHDF5MapDataProcessor"
_RATES = ("dropout_rate", "attention_dropout_rate")  # 0.1 where a config does not say 0


def seed_settings(params: Mapping[str, Any], seed: int) -> tuple[Setting, ...]:
    """``init.seed`` alone changes nothing in a run that starts from a checkpoint, without dropout and LoRA.

    The order of the samples has a seed of its own. Left as the base has it, all seeds would be one run.
    ``params`` is the trainer with the other settings of the run.
    """
    loader = _loader(params)
    order = loader.get("shuffle") is True and ("shuffle_seed" in loader or _is_known(loader))
    return (Setting("init.seed", seed), *([Setting(ORDER, seed)] if order else []))


def is_same_run(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two trainers that differ in their seeds, and have no LoRA, surely do the same."""
    loader = _loader(one)
    known = _is_known(loader) or loader.get("shuffle") is not True
    return known and not _has_dropout(one) and _without_seed(one) == _without_seed(other)


def _loader(params: Mapping[str, Any]) -> Mapping[str, Any]:
    return section(section(params, "fit"), "train_dataloader")


def _is_known(loader: Mapping[str, Any]) -> bool:
    """Another processor may draw from ``init.seed``, and may know no ``shuffle_seed``."""
    return loader.get("data_processor") == _PROCESSOR


def _has_dropout(params: Mapping[str, Any]) -> bool:
    model = section(section(params, "init"), "model")
    rates = [model.get(name, 0.1) for name in _RATES]
    rates += [value for name, value in model.items() if "drop" in str(name)]
    return any(rates)


def _without_seed(params: Mapping[str, Any]) -> dict[str, Any]:
    """What acts: a seed for shuffling does nothing where nothing is shuffled."""
    init = {name: value for name, value in section(params, "init").items() if name != "seed"}
    loader = dict(_loader(params))
    if loader.get("shuffle") is not True:
        loader.pop("shuffle_seed", None)
    return {**params, "init": init, "fit": {**section(params, "fit"), "train_dataloader": loader}}
