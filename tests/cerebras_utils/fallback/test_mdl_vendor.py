"""Files go both ways through cstorch itself: equal trees, types and bits."""

import copy
import gc

import pytest
import torch

from cerebras_utils.fallback.mdl_reader import load_mdl
from cerebras_utils.fallback.mdl_writer import save_mdl
from cerebras_utils.fallback.optim.build import make_optimizer, make_schedulers

cstorch = pytest.importorskip("cerebras.pytorch", reason="cerebras.pytorch is not installed")
pytestmark = [
    pytest.mark.cerebras,
    pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning"),  # cstorch reads lazily
]


@pytest.fixture(autouse=True)
def close_files():
    """While the warning is ignored."""
    yield
    gc.collect()


@pytest.fixture
def trained():
    """The states of a run of a few steps."""
    named = [
        (f"model.{n}", torch.nn.Parameter(torch.randn(5, 3))) for n in ("a.weight", "a.bias", "b.weight")
    ]
    optimizer = make_optimizer(
        {"AdamW": {"weight_decay": 0.1, "params": {"params": "*bias", "tag": "t"}}}, named
    )
    line = {"initial_learning_rate": 0.0, "end_learning_rate": 0.1, "total_iters": 3}
    sequence = {"SequentialLR": {"schedulers": [{"LinearLR": line}, {"CosineDecayLR": line}]}}
    schedulers = make_schedulers([sequence], optimizer)
    for _ in range(4):
        for _, parameter in named:
            parameter.grad = torch.randn(parameter.shape)
        optimizer.step()
        schedulers[0].step()
    return {
        "model": {name: parameter.detach() for name, parameter in named},
        "optimizer": optimizer.state_dict(),
        "schedulers": [scheduler.state_dict() for scheduler in schedulers],
    }


def test_cstorch_loads_ours(tmp_path, full_state, trained, same_tree):
    for index, state in enumerate((full_state, trained)):
        save_mdl(tmp_path / f"{index}.mdl", state)
        same_tree(cstorch.load(str(tmp_path / f"{index}.mdl")), state)
        same_tree(cstorch.load(str(tmp_path / f"{index}.mdl"), map_location="cpu"), state)


def test_we_load_what_cstorch_saves(tmp_path, full_state, trained, same_tree):
    for index, state in enumerate((full_state, trained)):
        cstorch.save(copy.deepcopy(state), str(tmp_path / f"{index}.mdl"))
        same_tree(load_mdl(tmp_path / f"{index}.mdl"), state)


def test_tied_tensors_are_one_again(tmp_path, full_state):
    save_mdl(tmp_path / "c.mdl", full_state)
    model = cstorch.load(str(tmp_path / "c.mdl"))["model"]
    assert model["model.tied"] is model["model.weight"]


def test_cstorch_saves_again_what_it_loaded_from_ours(tmp_path, full_state, same_tree):
    save_mdl(tmp_path / "ours.mdl", full_state)
    cstorch.save(cstorch.load(str(tmp_path / "ours.mdl")), str(tmp_path / "theirs.mdl"))
    same_tree(load_mdl(tmp_path / "theirs.mdl"), full_state)
