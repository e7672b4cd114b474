from pathlib import Path

import h5py
import pytest
import torch

from cerebras_utils.fallback.mdl_reader import load_mdl
from cerebras_utils.fallback.mdl_writer import save_mdl
from pruning.problems import ProblemError

DATA = Path(__file__).parents[2] / "data" / "mdl"


def test_what_the_vendor_wrote():
    tree = load_mdl(DATA / "training.mdl")
    assert list(tree) == ["model", "optimizer", "global_step", "name", "none"]
    assert tree["model"]["model.head.weight"] is tree["model"]["model.embed.weight"]
    assert tree["model"]["model.brain"].dtype == torch.bfloat16
    assert tree["model"]["model.flags"].tolist() == [True, False, True]
    assert tree["model"]["model.scale"] == 2.5
    assert tree["model"]["model.empty"].shape == (0, 3)
    assert torch.equal(tree["optimizer"]["state"][0]["exp_avg"], torch.ones(2, 2))
    assert tree["optimizer"]["param_groups"] == [{"lr": 0.1, "params": [0, 7]}]
    assert (tree["global_step"], tree["name"], tree["none"]) == (7, "a", None)


def test_what_is_stored_as_one_value():
    model = load_mdl(DATA / "filled.mdl")["model"]
    assert torch.equal(model["model.fill"], torch.full((3, 2), 0.1, dtype=torch.bfloat16))
    assert torch.equal(model["model.lazy"], torch.ones(2))


@pytest.fixture
def spoiled(tmp_path):
    def write(edit):
        path = tmp_path / "c.mdl"
        save_mdl(path, {"w": torch.ones(3), "n": [1, "a"]})
        with h5py.File(path, "r+") as file:
            edit(file)
        return path

    return write


def replaced(attribute, old, new):
    def edit(file):
        assert old in file.attrs[attribute]
        file.attrs[attribute] = file.attrs[attribute].replace(old, new)

    return edit


@pytest.mark.parametrize(
    ("edit", "match"),
    [
        (lambda file: file.attrs.pop("__SUCCESS__"), "is incomplete"),
        (lambda file: file.pop("w"), "its data is not in the file"),
        (lambda file: file.attrs.pop("w.__metadata__"), r"the tree cannot be understood: KeyError\('w'\)"),
        (replaced("__spec__", "builtins.list", "builtins.eval"), "a container of the type builtins.eval"),
        (replaced("__spec__", '"[1, ', '"[2, '), "the protocol 2"),
        (replaced("n.0.__metadata__", "ScalarSerializer", "ObjectSerializer"), "n.0\n.*is a pickled object"),
        (replaced("w.__metadata__", "[3]", "[4]"), "is said to have the shape"),
        (replaced("n.1.__metadata__", "{", ""), "is not valid JSON"),
    ],
)
def test_damaged_files(spoiled, edit, match):
    with pytest.raises(ProblemError, match=match):
        load_mdl(spoiled(edit))


def test_no_checkpoint(tmp_path):
    with pytest.raises(ProblemError, match="there is no such file"):
        load_mdl(tmp_path / "absent.mdl")
    (tmp_path / "text.mdl").write_text("hello")
    with pytest.raises(ProblemError, match="is not an HDF5 file"):
        load_mdl(tmp_path / "text.mdl")
    with pytest.raises(ProblemError, match="DeferredGraphTensor"):
        load_mdl(DATA / "initial.mdl")
