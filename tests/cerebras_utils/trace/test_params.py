"""The config as ModelZoo's trainer gets it for a trace, and data that stand in for the real ones."""

import copy

import h5py
import pytest

from cerebras_utils.cszoo_yaml import load_config
from cerebras_utils.trace.asked import Asked, asked
from cerebras_utils.trace.modelzoo import traced_params
from pruning.problems import ProblemError


def test_only_the_training_step_is_left(write_config, tmp_path):
    config = write_config(
        loggers=[{"WandbLogger": {"project": "p"}}],
        autorestart={"max_num_restarts": 3},
        checkpoint={"steps": 1, "save_initial_checkpoint": True, "checkpoint_root": "/elsewhere"},
        backend={"backend_type": "CPU", "cluster_config": {"num_csx": 2, "mount_dirs": ["/not/here"]}},
    )
    (phase,) = load_config(config)
    phase.params["fit"]["val_dataloader"] = phase.params["fit"]["train_dataloader"]
    before = copy.deepcopy(dict(phase.params))
    params = traced_params(phase, tmp_path, stand_in_data=False)
    assert phase.params == before
    assert params["init"]["backend"] == {"backend_type": "CSX", "cluster_config": {"num_csx": 2}}
    assert params["init"]["model_dir"] == str(tmp_path / "model_dir")
    assert params["init"]["loggers"] == []
    assert "autorestart" not in params["init"]
    assert params["init"]["checkpoint"] == {"steps": 1, "save_initial_checkpoint": False}
    assert params["fit"] == {"train_dataloader": before["fit"]["train_dataloader"]}
    assert params["init"]["model"] == before["init"]["model"]


def test_data_that_stand_in_have_the_shape_of_a_batch(write_config, tmp_path):
    (phase,) = load_config(write_config())
    loader = traced_params(phase, tmp_path, stand_in_data=True)["fit"]["train_dataloader"]
    assert loader["batch_size"] == 2
    with h5py.File(next((tmp_path / "data").iterdir())) as file:
        assert file["data"].shape == (4, 3, 8)
    assert loader["data_dir"] == str(tmp_path / "data")


def test_data_of_another_processor_cannot_be_stood_in_for(write_config, tmp_path):
    (phase,) = load_config(write_config())
    phase.params["fit"]["train_dataloader"]["data_processor"] = "BertHDF5DataProcessor"
    with pytest.raises(ProblemError, match="'BertHDF5DataProcessor'"):
        traced_params(phase, tmp_path, stand_in_data=True)


def test_what_is_asked_for(write_config):
    def plan(*callbacks, **init):
        return asked(load_config(write_config(*callbacks, **init))[0])

    masks = {"SparseMaskCallback": {"mask_path": "m"}}
    once = {"sparsemaskcallback": {"mask_path": "m", "apply_every_step": False}}
    assert plan() == Asked()
    assert plan(masks) == Asked(mask_path="m", every_step=True)
    assert plan(once) == Asked(mask_path="m", every_step=False)
    assert plan(sparsity=0.5) == Asked(native=True)


@pytest.mark.parametrize(
    ("callbacks", "init", "says"),
    [
        ([{"SparseMaskCallback": {"mask_path": "m"}}] * 2, {}, "holds 2 of SparseMaskCallback"),
        ([{"SparseMaskCallback": {"mask_path": "m"}}], {"sparsity": 0.5}, "both set the masks"),
        ([{"SparseMaskCallback": {}}], {}, "has no mask_path"),
        (["SparseMaskCallback"], {}, "is no list of callbacks"),
        ([{"SparseMaskCallback": "m"}], {}, "is no list of callbacks"),
    ],
)
def test_what_cannot_be_meant(write_config, callbacks, init, says):
    with pytest.raises(ProblemError, match=says):
        asked(load_config(write_config(*callbacks, **init))[0])
