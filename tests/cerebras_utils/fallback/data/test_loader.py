"""Batches: what is in them, and that a resumed run cannot tell."""

import multiprocessing
from itertools import chain, islice

import h5py
import numpy as np
import pytest
import torch

from cerebras_utils.fallback.data import files
from cerebras_utils.fallback.data.loader import data_notes, make_loader
from cerebras_utils.fallback.data.readers import Mixture
from pruning.problems import ProblemError


def loader(section, **options):
    return make_loader(section, **{"seed": 0, "where": "c.yaml: trainer.fit.train_dataloader"} | options)


def stored(directory, *numbers):
    parts = []
    for number in numbers:
        with h5py.File(f"{directory}/{number}.h5") as file:
            parts.append(file["data"][:])
    return np.concatenate(parts)


def passes(loader, count):
    return list(chain.from_iterable(list(loader) for _ in range(count)))


def take(loader, count):
    seen = []
    while len(seen) < count:
        seen += islice(loader, count - len(seen))
    return seen


def same(ours, others):
    assert len(ours) == len(others)
    for one, other in zip(ours, others, strict=True):
        assert one.keys() == other.keys()
        assert all(torch.equal(one[key], other[key]) for key in one)


@pytest.mark.parametrize("dtype", ["i4", "i8", "u2"])
def test_a_batch_is_what_the_files_hold(samples, section, dtype):
    directory = samples("a", 3, 1, 3, dtype=dtype)
    batches = list(loader(section(data_dir=directory, batch_size=3)))
    data = stored(directory, 0, 1, 2)
    assert len(batches) == 2
    for i, batch in enumerate(batches):
        assert list(batch) == ["input_ids", "attention_mask", "labels"]
        for feature, tensor in enumerate(batch.values()):
            assert tensor.dtype == torch.int32
            assert tensor.is_contiguous()
            assert tensor.tolist() == data[3 * i : 3 * i + 3, feature].tolist()


def test_files_are_sorted_across_directories(samples, section):
    b, a = samples("b", 2), samples("a", 2)
    first, second = loader(section(data_dir=[b, a]))
    assert first["labels"].tolist() == stored(a, 0)[:, 2].tolist()
    assert second["labels"].tolist() == stored(b, 0)[:, 2].tolist()


def test_a_corpus_is_cut_across_files_and_labels_follow(corpus, section):
    directory = corpus("k", 9, 1, 12)
    batches = loader(section(data_dir=directory, max_sequence_length=5, batch_size=1))
    tokens = stored(directory, 0, 1, 2)
    assert (len(batches), batches.sequence_length) == (4, 5)
    for i, batch in enumerate(batches):
        assert batch["input_ids"][0].tolist() == tokens[5 * i : 5 * i + 5].tolist()
        assert batch["labels"][0].tolist() == tokens[5 * i + 1 : 5 * i + 6].tolist()
        assert batch["attention_mask"].tolist() == [[1] * 5]


def test_a_fourth_feature_is_left_alone(samples, section):
    directory = samples("a", 2, features=5)
    (batch,) = loader(section(data_dir=directory))
    assert batch["labels"].tolist() == stored(directory, 0)[:, 2].tolist()


def test_a_part_of_the_data(samples, section):
    directory = samples("a", 6, 4)
    batches = list(loader(section(data_dir=directory, data_subset="0.0-0.25,0.5-0.9", batch_size=1)))
    kept = stored(directory, 0, 1)[[0, 1, 5, 6, 7, 8]]
    assert [batch["input_ids"][0].tolist() for batch in batches] == kept[:, 0].tolist()


class Numbered:
    """A data set whose samples say which they are."""

    sequence_length = 1

    def __init__(self, size, first):
        self.size, self.first = size, first

    def __len__(self):
        return self.size

    def read(self, numbers):
        assert numbers.max() < self.size
        return np.broadcast_to((numbers + self.first)[:, None, None], (len(numbers), 3, 1)).astype(np.int32)

    def close(self):
        pass


@pytest.mark.parametrize(
    ("interleave", "expected"),
    [
        (True, "100 101 0 1 2 102 100 101 102 100 101 3 102 100 4 101 102 5 6 200 7 8 100 101 102"),
        (False, "0 1 2 3 4 5 6 7 8 100 101 102 100 101 102 100 101 102 100 101 102 100 101 102 200"),
    ],
)
def test_the_recorded_order_of_a_mixture(interleave, expected):
    """Recorded from ModelZoo 2.10. The set of 4 is not measured: it has less than 5 % of the weight."""
    sets = [Numbered(9, 0), Numbered(3, 100), Numbered(4, 200)]
    mixture = Mixture(sets, [2, 3.5, 0.25], interleave=interleave, seed=4)
    assert mixture.read(np.arange(len(mixture)))[:, 0, 0].tolist() == list(map(int, expected.split()))


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("drop_last", [True, False])
def test_a_resumed_run_sees_what_an_uninterrupted_one_sees(samples, section, workers, drop_last):
    settings = section(
        data_dir=samples("a", 4, 7),
        batch_size=3,
        shuffle=True,
        shuffle_seed=9,
        drop_last=drop_last,
        num_workers=workers,
        prefetch_factor=2,
    )
    whole = passes(loader(settings | {"num_workers": 0}), 3)
    for taken in (2, 5) if workers else (0, 1, 2, 3, 4, 5, 6):
        first = loader(settings)
        seen = take(first, taken)
        state = first.state_dict()
        first.close()
        second = loader(settings)
        second.load_state_dict(state)
        same(seen + passes(second, 3)[: len(whole) - taken], whole)
        second.close()


def test_num_samples_survives_a_resume(samples, section):
    settings = section(data_dir=samples("a", 4), num_samples=10, shuffle=True)
    whole = list(first := loader(settings))
    assert len(whole) == len(first) == 5
    second = loader(settings)
    second.load_state_dict(first.state_dict() | {"samples_streamed": 4})
    same(list(second), whole[2:])


def test_resuming_reads_nothing_twice(samples, section, monkeypatch):
    read = []
    original = files.Rows.read
    monkeypatch.setattr(files.Rows, "read", lambda rows, *span: read.append(span) or original(rows, *span))
    batches = loader(section(data_dir=samples("a", 9)))
    batches.load_state_dict(batches.state_dict() | {"samples_streamed": 6})
    next(iter(batches))
    assert read == [(6, 8)]


def test_what_workers_read_ahead_does_not_count(samples, section):
    batches = loader(section(data_dir=samples("a", 12), num_workers=1, prefetch_factor=5))
    next(iter(batches))
    assert batches.state_dict()["samples_streamed"] == 2
    assert (batches.remaining, len(batches)) == (5, 6)
    batches.close()


@pytest.mark.parametrize("workers", [0, 1])
def test_an_iteration_goes_on_where_the_last_one_stopped(samples, section, workers):
    settings = section(data_dir=samples("a", 10), num_workers=workers)
    whole = list(loader(section(data_dir=settings["data_dir"])))
    batches = loader(settings)
    same(take(batches, 2) + list(batches), whole)
    same(list(batches), whole)
    batches.close()


def test_rewind_and_restart(samples, section):
    batches = loader(section(data_dir=samples("a", 5), shuffle=True))
    first, second = list(batches), list(batches)
    next(iter(batches))
    batches.rewind()
    third = list(batches)
    batches.rewind()
    same(list(batches), third)
    batches.restart()
    same(list(batches) + list(batches), first + second)


def test_a_loader_that_was_moved_ends_its_iteration(samples, section):
    batches = loader(section(data_dir=samples("a", 8)))
    old = iter(batches)
    next(old)
    next(iter(batches))
    with pytest.raises(RuntimeError, match="iterated anew"):
        next(old)
    assert batches.position == 4


@pytest.mark.parametrize("persistent", [True, False])
def test_workers_give_the_same_batches_leave_torch_alone_and_end(samples, section, persistent):
    settings = section(data_dir=samples("a", 5, 6), shuffle=True, batch_size=3)
    torch.manual_seed(1)
    state = torch.get_rng_state()
    many = loader(settings | {"num_workers": 2, "persistent_workers": persistent})
    same(passes(many, 3), passes(loader(settings), 3))
    assert torch.equal(torch.get_rng_state(), state)
    assert bool(multiprocessing.active_children()) == persistent
    many.close()
    assert not multiprocessing.active_children()


@pytest.mark.parametrize("workers", [0, 1])
def test_a_file_that_is_damaged_while_it_is_used(samples, section, workers):
    directory = samples("a", 2, 2)
    batches = loader(section(data_dir=directory, num_workers=workers))
    with open(f"{directory}/1.h5", "r+b") as file:
        file.truncate(100)
    seen = []
    with pytest.raises(ProblemError, match=r"1\.h5\n.*HDF5 cannot open it"):
        seen.extend(batches)
    batches.close()


def test_a_file_that_another_takes_the_place_of(samples, section, tmp_path):
    batches = loader(section(data_dir=samples("a", 2)))
    samples("a", 3)
    with pytest.raises(ProblemError, match="changed while it was in use"):
        list(batches)


def test_more_files_than_a_process_may_open(samples, section, monkeypatch):
    settings = section(data_dir=samples("a", *[1] * 9), shuffle=True, batch_size=3)
    whole = passes(loader(settings), 4)
    monkeypatch.setattr(files, "_OPEN_FILES", 2)
    few = loader(settings)
    same(passes(few, 4), whole)
    assert len(few._reader.rows._open) == 2


def test_numbers_that_are_no_tokens(tmp_path, section):
    with h5py.File(tmp_path / "0.h5", "w") as file:
        file["data"] = np.full((2, 3, 4), 2**32 + 5)
    with pytest.raises(ProblemError, match="no 32-bit integers in rows 0 to 1"):
        list(loader(section(data_dir=str(tmp_path))))


def test_processes_share_every_batch(samples, section):
    settings = section(data_dir=samples("a", 11), batch_size=4, shuffle=True)
    whole = passes(loader(settings), 2)
    shares = [passes(loader(settings, rank=rank, world=2), 2) for rank in range(2)]
    same([{key: torch.cat([a[key], b[key]]) for key in a} for a, b in zip(*shares, strict=True)], whole)
    with pytest.raises(ProblemError, match="3 processes cannot share it"):
        loader(settings, world=3)


def test_the_state_is_that_of_modelzoo(samples, section):
    settings = section(data_dir=samples("a", 6), shuffle=True)
    batches = loader(settings)
    next(iter(batches))
    assert batches.state_dict() == {
        "samples_streamed": 2,
        "__version__": 1,
        "dataset": {
            "use_worker_cache": False,
            "max_sequence_length": None,
            "shuffle": True,
            "shuffle_seed": 0,
            "data_dir": settings["data_dir"],
            "mixture_params": None,
            "batch_size": 2,
            "drop_last": True,
            "num_samples": None,
            "sort_files": True,
            "use_vsl": False,
            "pad_last": False,
        },
        "samples": 6,
    }


def test_a_state_of_other_data_is_refused(samples, section):
    directory = samples("a", 8)
    state = loader(section(data_dir=directory, shuffle=True, shuffle_seed=3)).state_dict()
    other = loader(section(data_dir=samples("b", 9), batch_size=4))
    with pytest.raises(ProblemError) as caught:
        other.load_state_dict(state)
    assert [problem.where.rsplit(".", 1)[-1] for problem in caught.value.problems[:3]] == [
        "data_dir",
        "shuffle",
        "shuffle_seed",
    ]
    assert "data of 8 samples, and there are 9 now" in str(caught.value)
    assert other.position == 0
    other.load_state_dict(state | {"samples_streamed": 4}, strict=False)
    assert other.position == 4


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"__version__": 0}, "has version 0, not 1"),
        ({"dataset": None}, "not 1"),
        ({"samples_streamed": -1}, "samples_streamed: -1"),
        ({"samples_streamed": None}, "samples_streamed: None"),
    ],
)
def test_a_state_that_is_none(samples, section, change, message):
    batches = loader(section(data_dir=samples("a", 8)))
    with pytest.raises(ProblemError, match=message):
        batches.load_state_dict(batches.state_dict() | change)


def test_another_batch_size_goes_on_at_the_same_sample(samples, section):
    settings = section(data_dir=samples("a", 12))
    first = loader(settings)
    next(iter(first))
    second = loader(settings | {"batch_size": 5})
    second.load_state_dict(first.state_dict())
    assert next(iter(second))["labels"].tolist() == stored(settings["data_dir"], 0)[2:7, 2].tolist()


def test_settings_without_effect_are_told(section):
    settings = section(
        data_dir="x",
        vocab_size=5,
        use_worker_cache=True,
        prefetch_factor=3,
        shuffle_seed=1,
        pad_last=True,
        persistent_workers=False,
    )
    told = data_notes(settings, "s")
    keys = [
        "vocab_size",
        "use_worker_cache",
        "prefetch_factor",
        "persistent_workers",
        "shuffle_seed",
        "pad_last",
    ]
    assert [line.split(":")[0] for line in told] == [f"s.{key}" for key in keys]
    assert data_notes(section(data_dir="x", shuffle=True, shuffle_seed=1), "s") == []
    assert "999 workers share" in data_notes(section(data_dir="x", num_workers=999), "s")[0]
