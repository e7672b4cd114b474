"""The file that autorestart starts a child from has links to a checkpoint in the place of tensors."""

import json

import h5py
import pytest

from cerebras_utils.trainer_state import checkpoint_behind

LINK = {
    "__objects__": ["model.model.w.0"],
    "model.model.w.0.__metadata__": {
        "deferred_object_cls": "DeferredNumpyArray",
        "path": "run/checkpoint_5.mdl",
        "key": "model.model.w",
    },
    "model.model.w.1.__metadata__": {"__TYPE__": "DeferredTorchTensor"},
}


def state(path, **attributes):
    with h5py.File(path, "w") as file:
        file.attrs["global_step.__metadata__"] = json.dumps(LINK)
        for name, value in attributes.items():
            file.attrs[f"model.{name}.__metadata__"] = value
    return str(path)


def test_the_checkpoint_is_the_one_that_the_weights_are_linked_to(tmp_path):
    path = state(tmp_path / "trainer_state_5.mdl", bias=json.dumps({"a": {}}), weight=json.dumps(LINK))
    assert checkpoint_behind(path) == "run/checkpoint_5.mdl"


@pytest.mark.parametrize("value", ["no JSON", "[1]", "{}"])
def test_a_state_without_such_a_link_is_left_to_what_loads_it(tmp_path, value):
    path = state(tmp_path / "trainer_state_5.mdl", weight=value)
    assert checkpoint_behind(path) == path


@pytest.mark.parametrize("name", ["checkpoint_5.mdl", "trainer_state_5.mdl"])
def test_other_paths_are_as_they_are(tmp_path, name):
    path = str(tmp_path / name)
    assert checkpoint_behind(path) == path
    assert checkpoint_behind(f"s3://bucket/{name}") == f"s3://bucket/{name}"
    assert checkpoint_behind(state(tmp_path / "checkpoint_6.mdl", w=json.dumps(LINK))).endswith("_6.mdl")
