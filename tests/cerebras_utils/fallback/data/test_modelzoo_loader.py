"""ModelZoo's own loader as the oracle: the same batches, and states that go both ways."""

import importlib.util
import itertools
import logging
import warnings

import pytest
import torch

from cerebras_utils.fallback.data.loader import data_problems, make_loader

_HERE = importlib.util.find_spec("cerebras") and importlib.util.find_spec("cerebras.modelzoo")
pytestmark = [
    pytest.mark.cszoo,
    pytest.mark.filterwarnings("ignore:Found deprecated fields:FutureWarning"),  # ModelZoo's, of its own
    pytest.mark.skipif(not _HERE, reason="cerebras.modelzoo is not installed"),
]


@pytest.fixture
def modelzoo(monkeypatch):
    """A function that makes ModelZoo's loader of a dataloader section."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from cerebras.modelzoo.data.nlp.gpt.GptHDF5MapDataProcessor import GptHDF5MapDataProcessor
    monkeypatch.setattr(logging.root, "disabled", True)
    return lambda section: GptHDF5MapDataProcessor(dict(section)).create_dataloader()


@pytest.fixture(
    params=["directory", "list", "extra", "long", "corpus", "part", "corpus part", "mixture", "mixed corpora"]
)
def data(request, samples, corpus):
    a, b, wide = samples("a", 5, 1, 7), samples("b", 9), samples("c", 4, 4, features=5)
    k, m = corpus("k", 40, 3, 60), corpus("m", 33)
    return {
        "directory": {"data_dir": a},
        "list": {"data_dir": [b, a]},
        "extra": {"data_dir": wide},
        "long": {"data_dir": samples("w", 3, 4, dtype="i8")},
        "corpus": {"data_dir": [m, k], "max_sequence_length": 7},
        "part": {"data_dir": a, "data_subset": "0.1-0.3,0.5-1.0"},
        "corpus part": {"data_dir": k, "max_sequence_length": 4, "data_subset": "0.2-0.9"},
        "mixture": {
            "mixture": [
                {"data_dir": a, "weight": 3},
                {"data_dir": b, "weight": 0.1, "data_subset": "0.0-0.6"},
                {"data_dir": [a, b], "weight": 1.3},
            ]
        },
        "mixed corpora": {
            "mixture": [{"data_dir": k, "weight": 0.4}, {"data_dir": m, "weight": 0.6}],
            "max_sequence_length": 4,
        },
    }[request.param]


def same(ours, theirs):
    assert len(ours) == len(theirs)
    for one, other in zip(ours, theirs, strict=True):
        assert one.keys() == other.keys()
        for key in one:
            assert one[key].dtype == other[key].dtype
            assert torch.equal(one[key], other[key])


def test_the_batches_of_three_passes(modelzoo, data, section):
    grid = itertools.product([1, 4], [False, True], [True, False], [None, 30])
    for batch_size, shuffle, drop_last, num_samples in grid:
        settings = section(
            batch_size=batch_size,
            shuffle=shuffle,
            shuffle_seed=7,
            drop_last=drop_last,
            num_samples=num_samples,
            **data,
        )
        assert data_problems(settings, {"vocab_size": 100}, "c.yaml") == []
        ours, theirs = make_loader(settings, seed=1, where="c.yaml"), modelzoo(settings)
        assert len(ours) == len(theirs)
        for _ in range(3):
            same(list(ours), list(theirs))


def test_states_go_both_ways(modelzoo, data, section):
    settings = section(batch_size=3, shuffle=True, shuffle_seed=2, **data)
    ours = make_loader(settings, seed=1, where="c.yaml")
    list(ours)
    next(iter(ours))
    theirs = modelzoo(settings)
    theirs.load_state_dict(ours.state_dict())
    same(list(ours), list(theirs))

    state = modelzoo(settings).aggregate_state_dict([{"samples_streamed": 6, "previous_samples_streamed": 0}])
    ours.load_state_dict(state)
    theirs.load_state_dict(state)
    same(list(ours) + list(ours), list(theirs) + list(theirs))


def test_modelzoo_on_a_cpu_rewinds_between_validations(modelzoo, samples, section, tmp_path):
    """What ``Loader.rewind`` is for. Every part of a training iterates the loader anew."""
    import cerebras.pytorch as cstorch

    settings = section(data_dir=samples("a", 10), batch_size=3)
    ours = make_loader(settings, seed=1, where="c.yaml")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        backend = cstorch.backend("CPU", artifact_dir=str(tmp_path / "artifacts"))
        cstorch.compile(torch.nn.Linear(2, 2), backend)
        theirs = cstorch.utils.data.DataLoader(modelzoo, settings)
        for steps in (2, 3, 3, 5, 2):
            ours.rewind()
            seen = list(cstorch.utils.data.DataExecutor(theirs, num_steps=steps))
            mine = []
            while len(mine) < steps:
                mine += itertools.islice(ours, steps - len(mine))
            same(mine, seen)
