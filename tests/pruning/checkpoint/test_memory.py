import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from pruning.checkpoint.open import open_checkpoint


def test_every_dtype(tensors, same):
    with open_checkpoint(tensors) as source:
        same(source, tensors)
        assert source.kind == "memory"
    same(open_checkpoint({"model": tensors, "step": 3}), tensors)


@settings(max_examples=50)
@given(st.integers(0, 60), st.integers(0, 60))
def test_any_range_of_a_strided_tensor(a, b):
    start, stop = sorted((a, b))
    strided = torch.arange(120).view(4, 5, 6)[::2].permute(2, 0, 1)
    out = np.zeros(8 * (stop - start), np.uint8)
    open_checkpoint({"w": strided}).read("w", start, out)
    assert out.view(np.int64).tolist() == strided.reshape(-1)[start:stop].tolist()


def test_ties_are_the_same_memory():
    weight = torch.randn(4, 4)
    state = {"a": weight, "tied": weight, "part": weight[:2], "turned": weight.t(), "copy": weight.clone()}
    storage = {name: info.storage for name, info in open_checkpoint(state).infos.items()}
    assert [name for name in state if storage[name] == storage["a"]] == ["a", "tied"]
    empty = open_checkpoint({"a": torch.empty(0), "b": torch.empty(0)}).infos
    assert empty["a"].storage is None


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(5, 3)
        self.body = nn.Sequential(nn.Linear(3, 3), nn.LayerNorm(3))
        self.head = nn.Linear(3, 5, bias=False)
        self.head.weight = self.embed.weight
        self.own = nn.Parameter(torch.ones(2))


def test_modules(same):
    net = Net()
    source = open_checkpoint(net)
    same(source, dict(net.named_parameters(remove_duplicate=False)))
    assert {name: info.module for name, info in source.infos.items()} == {
        "body.0.bias": "Linear",
        "body.0.weight": "Linear",
        "body.1.bias": "LayerNorm",
        "body.1.weight": "LayerNorm",
        "embed.weight": "Embedding",
        "head.weight": "Linear",
        "own": "Net",
    }
    assert source.infos["head.weight"].storage == source.infos["embed.weight"].storage


def test_gradients_are_context():
    net = Net()
    source = open_checkpoint(net)
    assert source.context("own") == {}
    net.own.sum().backward()
    assert source.context("own")["grad"] is net.own.grad


def test_values_are_read_when_they_are_asked_for():
    net = Net()
    source = open_checkpoint(net)
    with torch.no_grad():
        net.own.fill_(3)
    assert source.array("own").view(np.float32).tolist() == [3, 3]


def test_fingerprint_follows_names_and_values():
    weight = torch.zeros(300_000)
    prints = {open_checkpoint({"w": weight}).fingerprint() for _ in range(2)}
    assert len(prints) == 1
    prints.add(open_checkpoint({"v": weight}).fingerprint())
    for index in (0, -1):
        changed = weight.clone()
        changed[index] = 1
        prints.add(open_checkpoint({"w": changed}).fingerprint())
    assert len(prints) == 4


@pytest.mark.parametrize(
    ("state", "words"),
    [
        ({}, ["no tensor"]),
        ({"w": np.ones(3)}, ["no tensor", "'w'"]),
        ({"a": torch.ones(1), "step": 3}, [": step", "is a int", "'model'"]),
        ({"w": torch.ones(2, device="meta")}, [": w", "meta device"]),
        ({"w": torch.eye(2).to_sparse()}, [": w", "sparse"]),
        ({"w": torch.ones(2, dtype=torch.complex64)}, [": w", "complex64"]),
        (nn.LazyLinear(3), [": weight", "one forward pass"]),
        (nn.ReLU(), ["ReLU", "no parameters"]),
    ],
)
def test_refused(refused, state, words):
    refused(state, *words)


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")
def test_quantised_tensors_are_refused(refused):
    refused({"w": torch.quantize_per_tensor(torch.ones(2), 1.0, 0, torch.qint8)}, ": w", "quantised")
