"""The command through ModelZoo's own trainer, with data that stand in for those of the config."""

import importlib.util

import pytest

from .conftest import LORA

if importlib.util.find_spec("cerebras") is None or importlib.util.find_spec("cerebras.modelzoo") is None:
    pytest.skip("cerebras.modelzoo is not installed", allow_module_level=True)
pytestmark = pytest.mark.cszoo

THROUGH = ("--through", "modelzoo", "--stand-in-data")


def test_the_callback_in_modelzoos_trainer(twelve, write_config, traced):
    callback = {"SparseMaskCallback": {"mask_path": str(twelve[0])}}
    code, report, _ = traced(write_config(callback), *THROUGH)
    assert code == 0
    assert (report["hints"], report["masks"], report["problems"]) == (36, 12, [])
    assert {row["weight"]: row["hint"] for row in report["weights"]} == pytest.approx(twelve[1], abs=1e-7)


def test_lora_with_a_masked_update(twelve, write_config, traced):
    callbacks = [{"SparseMaskCallback": {"mask_path": str(twelve[0])}}, {"SparseLora": {"lora_params": LORA}}]
    code, report, _ = traced(write_config(*callbacks), *THROUGH)
    assert code == 0
    assert (report["hints"], report["masks"]) == (12, 12)


def test_the_vendors_own_sparsity(write_config, traced):
    """Its masks are counted in what would be sent, and its hints held against them."""
    section = {"sparsity": 0.3, "init_method": "random", "param_filter": "*ffn*linear_layer.weight"}
    code, report, _ = traced(write_config(sparsity=section), *THROUGH)
    assert code == 0
    assert (report["hints"], report["masks"]) == (12, 4)
    assert {row["sparsity"] for row in report["weights"]} == {1 - 358 / 512}  # 0.3 of 512 is no whole number


def test_a_config_that_modelzoo_refuses_is_one_problem(write_config, traced):
    code, report, said = traced(write_config({"SparseMasksCallback": {}}), *THROUGH)
    assert (code, report) == (1, None)
    assert "sparsemaskscallback" in said.lower()
    assert "Traceback" not in said
