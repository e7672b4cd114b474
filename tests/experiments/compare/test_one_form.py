"""What a backend fills in, or calls by another name, is no difference; what somebody chose is one."""

from copy import deepcopy
from typing import Any

import pytest

from experiments.compare.groups import grouped, unknown_keys
from experiments.compare.one_form import one_form
from experiments.compare.settings import config_diff
from experiments.runs.record import RunRecord
from tests.experiments.compare.records import record

SET = {"data_processor": "GptHDF5MapDataProcessor", "data_dir": "valid", "batch_size": 16, "num_workers": 0}
WARM = {"LinearLR": {"initial_learning_rate": 0.0, "end_learning_rate": 0.1, "total_iters": 2}}
LAST = {"CosineDecayLR": {"initial_learning_rate": 0.1, "end_learning_rate": 0.0, "total_iters": 6}}
MODEL: dict[str, Any] = {
    **{"name": "gpt2", "hidden_size": 8, "num_hidden_layers": 1, "num_heads": 2, "filter_size": 16},
    **{"vocab_size": 50, "max_position_embeddings": 16, "dropout_rate": 0.0, "embedding_dropout_rate": 0.0},
}


def torch_form() -> dict[str, Any]:
    """As somebody writes it."""
    return {
        "init": {
            "model": deepcopy(MODEL),
            "model_dir": "somewhere",
            "schedulers": [{"SequentialLR": {"schedulers": [WARM, LAST]}}],
        },
        "fit": {"train_dataloader": {**SET, "data_dir": "train"}, "val_dataloader": dict(SET)},
        "validate": {"val_dataloader": dict(SET)},
    }


def cszoo_form() -> dict[str, Any]:
    """The same, as cszoo writes down what it made of it."""
    found = torch_form()
    init = found["init"]
    init["model"]["embd_pdrop"] = init["model"].pop("embedding_dropout_rate")
    init["model"] |= {"share_embedding_weights": True, "attention_dropout_rate": 0.1}
    init["model"]["lr_adjustment_groups"] = groups()
    init["model_dir"] = "elsewhere"
    init["schedulers"][0]["SequentialLR"]["milestones"] = [2]
    init["loggers"] = [{"ProgressLogger": {}}, {"TensorBoardLogger": {}}, {"TelemetryLogger": {}}]
    for stage, key in (
        ("fit", "train_dataloader"),
        ("fit", "val_dataloader"),
        ("validate", "val_dataloader"),
    ):
        found[stage][key] |= {"persistent_workers": False, "prefetch_factor": None, "shuffle": False}
    found["fit"]["val_dataloader"] = [found["fit"]["val_dataloader"]]
    return found


def groups() -> dict[str, Any]:
    inside, layers = "*decoder*ffn.ffn.", ("*decoder*dense*weight", "*decoder*linear*weight")
    patterns: dict[str, Any] = {
        "embedding": "*embedding*weight",
        "decoder_kernel": [*layers, "*decoder*linear*expert_weights"],
        "decoder_attention": "*decoder*attn*dense*weight",
        "decoder_input_ffn": [f"{inside}[!1]*weight", f"{inside}[!1]*expert_weights"],
        "decoder_output_ffn": [f"{inside}[1]*weight", f"{inside}[1]*expert_weights"],
    }
    return {name: {"param_filter_patterns": given, "scale": 1.0} for name, given in patterns.items()}


def pair(cszoo: dict[str, Any]) -> tuple[RunRecord, RunRecord]:
    return record("torch", trainer=torch_form()), record("cszoo", 10.5, trainer=cszoo, backend="cszoo")


def test_one_config_on_two_backends_is_one_row_without_differences() -> None:
    torch, cszoo = pair(cszoo_form())
    assert config_diff(torch, cszoo) == {}
    assert [len(group.runs) for group in grouped([torch, cszoo])] == [2]


@pytest.mark.parametrize(
    ("path", "value", "key"),
    [
        (("init", "model", "embd_pdrop"), 0.1, "init.model.embd_pdrop"),
        (("init", "model", "share_embedding_weights"), False, "init.model.share_embedding_weights"),
        (
            ("init", "model", "lr_adjustment_groups", "embedding", "scale"),
            0.5,
            "init.model.lr_adjustment_groups.embedding.scale",
        ),
        (
            ("init", "schedulers", 0, "SequentialLR", "milestones"),
            [3],
            "init.schedulers[0].SequentialLR.milestones",
        ),
        (("fit", "val_dataloader", 0, "data_dir"), "other", "fit.val_dataloader.data_dir"),
        (("fit", "train_dataloader", "num_workers"), 2, "fit.train_dataloader.num_workers"),
    ],
)
def test_what_differs_in_meaning_stays_a_difference(path: tuple[Any, ...], value: Any, key: str) -> None:
    written: Any = cszoo_form()
    trainer = written
    for step in path[:-1]:
        trainer = trainer[step]
    trainer[path[-1]] = value
    assert key in config_diff(*pair(written))


def test_an_older_name_of_an_option_is_one_to_group_by() -> None:
    runs = pair(cszoo_form())
    assert unknown_keys(runs, ["embedding_dropout_rate"]) == []
    assert [len(group.runs) for group in grouped(runs, ["embedding_dropout_rate"])] == [2]


@pytest.mark.parametrize("model", [{"name": "falcon", "a": 1}, {"name": "gpt2", "hidden_size": "x"}, 3, None])
def test_a_model_that_is_not_known_or_not_sound_is_left_as_it_is(model: Any) -> None:
    assert one_form({"init": {"model": model}}) == {"init": {"model": model}}


@pytest.mark.parametrize("inner", [[WARM, {"ConstantLR": {}}], [{}, LAST], [None, LAST], "x", None])
def test_schedules_of_any_shape_take_no_table_down(inner: Any) -> None:
    trainer = {"init": {"schedulers": [{"SequentialLR": {"schedulers": inner}}, "x", {}]}, "fit": 3}
    assert one_form(trainer)["fit"] == 3
