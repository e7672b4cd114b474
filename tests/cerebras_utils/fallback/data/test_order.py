"""The order of the samples. The recorded ones are those of cerebras-pytorch 2.10's DistributedSampler."""

import hashlib
import importlib.util
import itertools
import warnings

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from cerebras_utils.fallback.data.order import Order

RECORDED = {  # three passes over the data
    "in order, the rest of a pass begins the next": (
        {"samples": 7, "batch_size": 3},
        [[[0, 1, 2], [3, 4, 5]], [[6, 0, 1], [2, 3, 4]], [[5, 6, 0], [1, 2, 3], [4, 5, 6]]],
    ),
    "shuffled": (
        {"samples": 7, "batch_size": 3, "shuffle": True, "seed": 5},
        [[[1, 0, 4], [2, 6, 5]], [[3, 2, 4], [5, 3, 0]], [[6, 1, 5], [0, 3, 1], [2, 6, 4]]],
    ),
    "with smaller last batches": (
        {"samples": 7, "batch_size": 3, "drop_last": False, "shuffle": True},
        [[[4, 0, 5], [3, 2, 6], [1]], [[0, 6, 1], [3, 5, 2], [4]], [[2, 4, 3], [0, 6, 1], [5]]],
    ),
    "less than a batch": (
        {"samples": 4, "batch_size": 6, "drop_last": False, "shuffle": True, "seed": 5},
        [[[2, 1, 3, 0]], [[3, 2, 0, 1]], [[3, 2, 0, 1]]],
    ),
    "an epoch of more than all, shuffled": (
        {"samples": 4, "batch_size": 3, "num_samples": 10, "shuffle": True, "seed": 1},
        [
            [[1, 0, 3], [2, 3, 0], [2, 1, 3]],
            [[1, 0, 1], [1, 1, 2], [0, 3, 3]],
            [[2, 0, 3], [2, 1, 1], [3, 2, 0], [2, 3, 0]],
        ],
    ),
    "an epoch of less than all, shuffled": (
        {"samples": 8, "batch_size": 2, "num_samples": 5, "shuffle": True, "seed": 1},
        [[[5, 4], [2, 6]], [[7, 0], [4, 7], [2, 6]], [[2, 4], [3, 5]]],
    ),
    "an epoch of more than all": (
        {"samples": 4, "batch_size": 3, "num_samples": 6},
        [[[0, 1, 2], [3, 0, 1]]] * 3,
    ),
}


def passes(order, count):
    position = 0
    for _ in range(count):
        batches = list(order.batches(position))
        assert len(batches) == order.remaining(position)
        yield batches
        for _ in batches:
            position = order.after(position)


@pytest.mark.parametrize("name", RECORDED)
def test_recorded_orders(name):
    settings, expected = RECORDED[name]
    assert list(passes(Order(**settings), 3)) == expected


def test_the_recorded_order_of_many():
    """torch promises no stable randperm: a release that changes it would change every shuffled run."""
    (batch,) = Order(samples=100_000, batch_size=100_000, shuffle=True, seed=3).batches()
    digest = hashlib.sha256(np.array(batch, "<i8").tobytes()).hexdigest()
    assert digest == "ba48682d8889e7a32cf74acec2d6435e438b8389cdafb543d38805bb63f09b7b"


def test_an_order_of_very_many_takes_no_memory():
    order = Order(samples=10**15, batch_size=3)
    assert next(order.batches(10**14)) == [10**14, 10**14 + 1, 10**14 + 2]


orders = st.builds(
    dict,
    samples=st.integers(1, 30),
    batch_size=st.integers(1, 12),
    shuffle=st.booleans(),
    drop_last=st.booleans(),
    num_samples=st.none() | st.integers(1, 50),
)


@given(orders, st.data())
def test_from_any_position_the_rest_of_the_pass_is_the_same(settings, data):
    length = settings["num_samples"] or settings["samples"]
    assume(length >= settings["batch_size"] or not settings["drop_last"])
    order = Order(**settings)
    whole = [batch for batches in passes(order, 4) for batch in batches]
    position = 0
    for _ in range(data.draw(st.integers(0, len(whole) - 1))):
        position = order.after(position)
        whole.pop(0)
    rest = list(order.batches(position))
    assert rest
    assert rest == whole[: len(rest)]


@given(orders, st.integers(1, 4))
def test_every_epoch_has_every_sample_once(settings, epochs):
    settings["num_samples"] = None
    assume(settings["samples"] >= settings["batch_size"] or not settings["drop_last"])
    samples = settings["samples"]
    stream = [i for batches in passes(Order(**settings), epochs) for batch in batches for i in batch]
    assert len(stream) > epochs * samples - settings["batch_size"]
    for start in range(0, len(stream) - samples + 1, samples):
        assert sorted(stream[start : start + samples]) == list(range(samples))


@pytest.mark.cerebras
@pytest.mark.skipif(importlib.util.find_spec("cerebras") is None, reason="cerebras.pytorch is not installed")
def test_the_order_is_that_of_cerebras_pytorch():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from cerebras.pytorch.utils.data import DistributedSampler
    grid = itertools.product([1, 2, 7, 12], [1, 3, 10], [False, True], [True, False], [None, 5, 25])
    for samples, batch_size, shuffle, drop_last, num_samples in grid:
        if drop_last and (num_samples or samples) < batch_size:
            continue
        same = {
            "batch_size": batch_size,
            "shuffle": shuffle,
            "seed": 3,
            "drop_last": drop_last,
            "num_samples": num_samples,
        }
        sampler, order = DistributedSampler(range(samples), **same), Order(samples=samples, **same)
        assert len(sampler) == order.remaining()
        position = 0
        for batches in passes(order, 4):
            assert list(sampler) == batches
            if num_samples is None and drop_last:  # resuming, the sampler forgets the one and loses the other
                resumed = DistributedSampler(range(samples), **same)
                resumed.set_state(position)
                assert list(resumed) == batches
            for _ in batches:
                position = order.after(position)
