"""``lora_params`` as a YAML has them: ModelZoo's meaning, our additions, and what is refused."""

import subprocess
import sys

import pytest

from cerebras_utils.lora_settings import callback_problems, groups
from pruning.problems import ProblemError

WHERE = "c.yaml: trainer.init.callbacks"
MASKS = {"SparseMaskCallback": {"mask_path": "m.safetensors"}}


def problems(*callbacks):
    return list(callback_problems(list(callbacks), WHERE))


def lora(name="Lora", **params):
    return {name: {"lora_params": {"r": 4, **params}}}


def test_modelzoos_defaults():
    (found,) = groups("Lora", {"r": 4}, WHERE)
    assert (found.alpha, found.dropout, found.target_modules, found.sparsity_mode) == (
        1,
        0.0,
        None,
        "sparse_to_dense",
    )
    (found,) = groups("SparseLora", {"r": 4, "merge_weights": False, "fan_in_fan_out": False}, WHERE)
    assert found.sparsity_mode == "sparse_to_sparse"


@pytest.mark.parametrize(
    ("params", "where", "what"),
    [
        ({"merge_weights": True}, "merge_weights", "validation would merge"),
        ({"fan_in_fan_out": True}, "fan_in_fan_out", "transpose"),
        ({"alfa": 2}, "alfa", "Did you mean 'alpha'"),
        ({"alpha": 0}, "alpha", "multiplied by it"),
        ({"rank_stabilized": True}, "rank_stabilized", "no setting of Lora"),
        ({"dropout": "0.1"}, "dropout", "'0.1'"),
    ],
)
def test_wrong_settings_of_modelzoos_callback(params, where, what):
    (found,) = problems(lora(**params))
    assert found.where == f"{WHERE}[0].Lora.lora_params.{where}"
    assert what in found.what


def test_groups_in_a_list_are_numbered_and_all_problems_told():
    found = problems(
        {"SparseLora": {"lora_params": [{"r": 4}, {"alpha": 2}, {"r": 0, "alpha": -1, "x": 1}]}}, MASKS
    )
    start = f"{WHERE}[0].SparseLora.lora_params"
    assert [p.where for p in found] == [f"{start}[1]", f"{start}[2].x", f"{start}[2].r", f"{start}[2].alpha"]
    assert "lacks 'r'" in found[0].what


@pytest.mark.parametrize("params", [None, [], "r=8", [4]])
def test_params_that_are_no_groups(params):
    (found,) = problems({"Lora": {"lora_params": params}})
    assert "no group of settings" in found.what
    with pytest.raises(ProblemError):
        groups("Lora", params, WHERE)


def test_the_masked_update_needs_masks_in_every_step():
    (found,) = problems(lora("SparseLora"))
    assert "SparseMaskCallback, which is not there" in found.what
    once = {"SparseMaskCallback": {**MASKS["SparseMaskCallback"], "apply_every_step": False}}
    (found,) = problems(once, lora("SparseLora"))
    assert found.where.endswith("SparseMaskCallback.apply_every_step")
    assert problems(MASKS, lora("SparseLora", rank_stabilized=True, ranks={"*q*": 2})) == []
    assert problems(lora("SparseLora", sparsity_mode="multiplicative")) == []
    assert problems(once, lora()) == []


def test_two_kinds_of_lora_are_one_too_many():
    (found,) = problems(MASKS, lora(), lora("SparseLora"))
    assert "one pair of factors" in found.what


def test_other_forms_of_callbacks_are_not_its_business():
    assert problems("Lora", {"Lora": None}, {"Lora": {}}, 3) == []
    assert list(callback_problems(None, WHERE)) == []


def test_checking_imports_no_torch():
    code = "import sys, cerebras_utils.lora_settings; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
