"""Sharded checkpoints, of both formats that have them."""

import json

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from pruning.checkpoint.open import open_checkpoint

FORMATS = {
    "safetensors": (save_file, "model.safetensors.index.json"),
    "bin": (torch.save, "pytorch_model.bin.index.json"),
}


@pytest.fixture(params=FORMATS)
def shard(request, tmp_path):
    """Write ``{shard: {name: tensor}}`` with an index; returns the path of the index."""
    save, index = FORMATS[request.param]

    def write(parts, weight_map=None):
        for name, tensors in parts.items():
            save(tensors, tmp_path / f"{name}.{request.param}")
        if weight_map is None:
            weight_map = {key: part for part, tensors in parts.items() for key in tensors}
        table = {key: f"{part}.{request.param}" for key, part in weight_map.items()}
        (tmp_path / index).write_text(json.dumps({"metadata": {}, "weight_map": table}))
        return tmp_path / index

    return write


ONE, TWO = {"a": torch.ones(2)}, {"b": torch.zeros(3)}


def test_any_split_is_the_same_checkpoint(shard, tensors, same):
    @settings(max_examples=10, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(st.data())
    def check(data):
        parts = {}
        for name, tensor in tensors.items():
            part = data.draw(st.sampled_from(["x", "y", "z"]))
            parts.setdefault(part, {})[name] = tensor
        with open_checkpoint(shard(parts)) as source:
            same(source, tensors)

    check()


def test_missing_shard(shard, refused):
    index = shard({"x": ONE}, {"a": "x", "b": "y"})
    refused(index, "names the shard y.", index)


def test_index_and_shards_that_disagree(shard, refused):
    problems = refused(shard({"x": ONE, "y": TWO}, {"a": "x", "c": "y"}), ": c", "is not in y.", ": b")
    assert len(problems) == 2


def test_a_tensor_in_two_shards(shard, refused, tmp_path):
    index = shard({"x": ONE, "y": {**TWO, **ONE}}, {"a": "x", "b": "y"})
    refused(index, ": a", "is also in", tmp_path / "x.", tmp_path / "y.")


@pytest.mark.parametrize("outside", ["../x", "/tmp/x", "sub/../../x"])
def test_a_shard_outside_the_directory(shard, refused, outside):
    refused(shard({"x": ONE}, {"a": outside}), "outside the directory", outside)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "not valid JSON"),
        ("\ud800".encode("utf-8", "surrogatepass"), "not valid JSON"),
        ("[]", "no weight_map"),
        ("{}", "no weight_map"),
        ('{"weight_map": ["a"]}', "no weight_map"),
        ('{"weight_map": {"a": 1}}', "no weight_map"),
        ('{"weight_map": {}}', "not of one known kind"),
        ('{"weight_map": {"a": "x.bin", "b": "y.safetensors"}}', "not of one known kind"),
    ],
)
def test_broken_indices(tmp_path, refused, text, words):
    index = tmp_path / "model.safetensors.index.json"
    index.write_bytes(text if isinstance(text, bytes) else text.encode())
    refused(index, index, words)
    refused(tmp_path, index, words)


def test_every_broken_shard_is_reported(shard, refused, tmp_path):
    index = shard({"x": ONE, "y": TWO})
    broken = [file for file in tmp_path.iterdir() if file != index]
    for file in broken:
        file.write_bytes(b"nothing")
    assert {problem.where for problem in refused(index)} >= {str(file) for file in broken}
