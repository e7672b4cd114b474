"""What tests of checkpoints and of runs have in common."""

from collections import OrderedDict

import pytest
import torch

from tests.cerebras_utils.fallback.tiny_runs import write_data


@pytest.fixture
def full_state():
    """Everything that a file can hold."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(6, 40, generator=generator)
    model = OrderedDict(
        {
            "model.weight": weight,
            "model.transposed": weight.t(),
            "model.half": weight.half(),
            "model.brain": weight.bfloat16(),
            "model.double": weight.double(),
            "model.mask": weight > 0,
            "model.bytes": torch.arange(5, dtype=torch.uint8),
            "model.shorts": torch.arange(5, dtype=torch.int16) - 2,
            "model.ints": torch.arange(5, dtype=torch.int32) - 2,
            "model.longs": torch.arange(5) - 2,
            "model.scalar": torch.tensor(2.5),
            "model.empty": torch.empty(0, 3),
            "model.tied": weight,
            "model.a/b.ö": torch.ones(1),
        }
    )
    groups = [{"lr": torch.tensor(0.1), "betas": (0.9, 0.95), "tags": {"a", "b"}, "params": [0, 7]}]
    return {
        "model": model,
        "optimizer": {"state": {0: {"exp_avg": torch.ones(2, 2)}, 7: {}}, "param_groups": groups},
        "global_step": 7,
        "numbers": (True, False, 0, 1, -(2**70), 0.1, float("inf"), 1e-300),
        "texts": ["", "é\n", None],
        "empty": [{}, [], (), set(), OrderedDict()],
    }


@pytest.fixture
def same_tree():
    """Containers and values of equal types, tensors equal to the bit."""

    def check(one, other, path=""):
        if isinstance(one, torch.Tensor):
            assert isinstance(other, torch.Tensor), path
            assert (one.dtype, one.shape) == (other.dtype, other.shape), path
            bits = [t.detach().to("cpu").contiguous().view(-1).view(torch.uint8) for t in (one, other)]
            assert torch.equal(*bits), path
            return
        assert type(one) is type(other), path
        if isinstance(one, dict):
            assert list(one) == list(other), path
            for key in one:
                check(one[key], other[key], f"{path}.{key}")
        elif isinstance(one, list | tuple):
            assert len(one) == len(other), path
            for index, pair in enumerate(zip(one, other, strict=True)):
                check(*pair, f"{path}.{index}")
        else:
            assert one == other, path

    return check


@pytest.fixture
def place(tmp_path, monkeypatch):
    """Data of 40 and 8 samples, 16 tokens each, vocabulary 32; runs are left here.

    On one thread: sums are cut by the number of threads, and this machine's is not the next one's.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    monkeypatch.chdir(tmp_path)
    write_data("train", 40)
    write_data("valid", 8, seed=1)
    yield tmp_path
    torch.set_num_threads(before)
