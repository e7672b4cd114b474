"""What is written in a sweep: every key known, all mistakes at once, with lines and what was meant."""

from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from experiments.sweep.spec import read_spec
from pruning.problems import ProblemError
from tests.experiments.sweep.sweeps import write_sweep

HALF: dict[str, Any] = {"masks": {"sparsity": 0.5}}
pytestmark = pytest.mark.usefixtures("place")


def refused(**changes: Any) -> list[str]:
    with pytest.raises(ProblemError) as error:
        read_spec(write_sweep(**changes))
    return [f"{p.where} | {p.what} | {p.fix}" for p in error.value.problems]


def test_all_mistakes_are_told_at_once_with_their_lines() -> None:
    Path("sweep.yaml").write_text(
        "name: a b\nbase: base.yaml\ncheckpiont: dense.pt\ndevice: TPU\ndata: {trian: train}\n"
        "axes:\n  masks:\n    sparsty: [0.5]\n  mode: sparse_to_dens\n  lora: {alpha: 2}\n"
        "  set: {init.seed: [1]}\n  seeds: [1]\nexclude:\n- {mask: {}}\n"
    )
    with pytest.raises(ProblemError) as error:
        read_spec(Path("sweep.yaml"))
    text = str(error.value)
    for said in (
        *("sweep.yaml:3: checkpiont", "Did you mean 'checkpoint'?", "lacks 'checkpoint'"),
        *("sweep.yaml:4: device", "sweep.yaml:5: data.trian", "Did you mean 'train'?"),
        *("sweep.yaml:8: axes.masks.sparsty", "Did you mean 'sparsity'?", "sweep.yaml:9: axes.mode"),
        *("Did you mean 'sparse_to_dense'?", "lacks 'r', the rank", "use the axis `seed`"),
        *("sweep.yaml:12: axes.seeds", "Did you mean 'seed'?", "sweep.yaml:14: exclude[0]"),
        "a name for the directory",
    ):
        assert said in text, said


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"axes": {"masks": {"sparsity": 1.5}}}, "outside [0, 1)"),
        ({"axes": {"masks": {"sparsity": [0.5], "score": ["magnitud"]}}}, "Did you mean 'magnitude'"),
        ({"axes": {"masks": {"sparsity": [0.5], "seed": [1]}}}, "seed 1 has no effect on score 'magnitude'"),
        ({"axes": {"masks": {"sparsity": []}}}, "the grid would be empty"),
        ({"axes": {"masks": {"sparsity": 0.5}, "set": {"init.loop.max_steps": []}}}, "would be empty"),
        ({"axes": {"masks": [None]}}, "the dense baseline is always in"),
        ({"axes": {"masks": {"sparsity": 0.5}, "seed": ["1"]}}, "no list of whole numbers"),
        ({"axes": {"masks": {"sparsity": 0.5}, "set": {"init.model_dir": ["x"]}}}, "decided by the sweep"),
        ({"data": {"train": "nowhere"}}, "nowhere is no directory"),
        ({"baseline": "none"}, "it is always in"),
        ({"points": [{"lora": None}]}, "no combination with masks"),
        ({"points": [{"masks": {"sparsity": [0.5, 0.6]}}]}, "stands for 2 masks"),
        ({"points": [{**HALF, "seed": "x"}]}, "points[0].seed | 'x' is no list of whole numbers"),
        ({"axes": {**HALF, "seed": []}}, "axes.seed | is an empty list"),
        ({"axes": {**HALF, "lora": []}}, "axes.lora | is an empty list"),
        ({"axes": {**HALF, "mode": []}}, "axes.mode | is an empty list"),
        ({"exclude": [{"set": 5}]}, "exclude[0].set | 5 is no map"),
        ({"exclude": [{"set": ["a"]}]}, "exclude[0].set | ['a'] is no map"),
        ({"exclude": [{"masks": None}]}, "exclude[0].masks | None is no map"),
        ({"exclude": [{"masks": {"sparsty": 0.5}}]}, "Did you mean 'sparsity'?"),
        ({"exclude": [{"masks": {"pattern": "2:4", "sparsity": 0.7}}]}, "cannot have sparsity 0.7"),
        ({"exclude": [{"mode": "sparse_to_dens"}]}, "Did you mean 'sparse_to_dense'?"),
        ({"exclude": [{"lora": 8}]}, "exclude[0].lora | 8 is no part of lora_params"),
        ({"exclude": [{"seed": "1"}]}, "exclude[0].seed | '1' is no list"),
        ({"set": {"init": 5}}, "is decided by the sweep | set keys below it"),
        ({"set": {"init.callbacks[0].x": 5}}, "is decided by the sweep"),
        ({"set": {"trainer.init.a": 1, "init.a": 2}}, "written above, in another spelling"),
        ({"set": {"init.a[0]": 1}, "axes": {**HALF, "set": {"init.a.0": 2}}}, "spell it in one way"),
        ({"set": {"init.a": date(2020, 1, 1)}}, "is no value of a config"),
        ({"name": "a" * 300}, "has 300 characters"),
        ({"backend": "torch", "device": "CSX"}, ": device | is a CS-3, which"),
    ],
)
def test_one_mistake(changes: dict[str, Any], said: str) -> None:
    assert any(said in line for line in refused(**changes)), refused(**changes)


def test_what_is_not_a_map() -> None:
    Path("sweep.yaml").write_text("- 1\n")
    with pytest.raises(ProblemError, match="is a list, not a map"):
        read_spec(Path("sweep.yaml"))


def test_numbers_that_yaml_takes_for_text() -> None:
    Path("sweep.yaml").write_text(
        "name: a\nbase: base.yaml\ncheckpoint: dense.pt\n"
        "axes: {masks: {sparsity: 0.5}, set: {init.optimizer.AdamW.learning_rate: [1e-4]}}\n"
    )
    with pytest.raises(ProblemError, match=r"write 1\.0e-4"):
        read_spec(Path("sweep.yaml"))


def test_the_seed_of_the_base_is_the_default() -> None:
    assert read_spec(write_sweep(axes={"masks": {"sparsity": 0.5}})).axes.seeds == (1,)


def test_globs_in_a_list_are_one_value() -> None:
    masks = {"sparsity": 0.5, "include": ["*proj*", "*ffn*"], "layers": {"*proj_q*": 0.2}}
    (spec,) = read_spec(write_sweep(axes={"masks": masks})).axes.masks
    assert spec.include == ("*proj*", "*ffn*")
    assert spec.layers == (("*proj_q*", Decimal("0.2")),)


def test_a_base_that_is_not_there_is_not_one_without_a_seed() -> None:
    (said,) = refused(base="nope.yaml", axes={"masks": {"sparsity": 0.5}})
    assert said.startswith("nope.yaml | cannot be read")
