"""Which runs are one row, what the row is called, and what it is compared with."""

import pytest

from experiments.compare.groups import grouped, unknown_keys
from experiments.compare.table import rows_of
from tests.experiments.compare.records import PERPLEXITY, record
from tests.experiments.runs_on_disk import params


def test_masks_of_one_file_name_and_two_sparsities_are_two_rows() -> None:
    runs = [record("d"), record("a", masks="m5/masks.safetensors"), record("a2", seed=2, masks="m5/masks.pt")]
    runs.append(record("b", seed=2, masks="m9/masks.safetensors", sparsity=0.9))
    found = {group.label: (len(group.runs), group.requested) for group in grouped(runs)}
    assert found == {"dense": (1, 0.0), "masks sparsity=0.5": (2, 0.5), "masks sparsity=0.9": (1, 0.9)}


def test_masks_that_each_seed_has_of_its_own_checkpoint_are_one_row() -> None:
    runs = [
        record("a", masks="s1/m-s0.5.safetensors", sparsity=0.5, start="aaaa", sha256="11"),
        record("b", seed=2, masks="s2/m-s0.5.safetensors", sparsity=0.500004, start="bbbb", sha256="22"),
        record("c", seed=3, masks="s3/m-s0.5.safetensors", sparsity=None),
    ]
    assert [(group.label, len(group.runs)) for group in grouped(runs)] == [("m-s0.5", 3)]


def test_a_seed_from_two_checkpoints_is_two_rows_each_with_its_own_baseline() -> None:
    runs = [record(f"d{start}", start=start * 8, perplexity=p) for start, p in (("ab", 10), ("cd", 20))]
    runs += [record(f"s{d.start}", 12, start=d.start, masks="m-s0.5.safetensors") for d in runs]
    groups = {group.label: group for group in grouped(runs)}
    assert list(groups) == [
        *("dense checkpoint=abababababab", "dense checkpoint=cdcdcdcdcdcd"),
        *("m-s0.5 checkpoint=abababababab", "m-s0.5 checkpoint=cdcdcdcdcdcd"),
    ]
    for label, group in groups.items():
        if group.sparse:
            assert group.baseline is groups[label.replace("m-s0.5", "dense")]


def test_a_run_without_a_config_is_not_dense() -> None:
    runs = [record("d"), record("pruned/seed1", 30, trainer={}), record("other", 31, trainer={})]
    rows = rows_of(grouped(runs), [PERPLEXITY])
    assert [row.group.label for row in rows] == ["dense", "other", "pruned/seed1"]
    lost = rows[-1]
    assert not lost.group.dense
    assert lost.group.requested is None
    assert (lost.group.baseline, lost.cells["perplexity"].test, lost.cells["perplexity"].change) == (
        None,
    ) * 3


def test_keys_that_say_nothing_of_masks_do_not_make_a_row_dense() -> None:
    runs = [record("d", config={"rate": 0.01})]
    runs += [
        record("s", 12, masks="m-s0.9.safetensors", sparsity=0.9, config={"rate": r}) for r in (0.01, 0.02)
    ]
    mixed, sparse = sorted(grouped(runs, ["learning_rate"]), key=lambda group: group.label)
    assert mixed.label == "dense and sparse learning_rate=0.01"
    assert sparse.label == "sparse learning_rate=0.02"
    assert (mixed.dense, mixed.sparse, mixed.requested, mixed.baseline) == (False, False, None, None)
    assert (sparse.dense, sparse.sparse, sparse.requested) == (False, True, 0.9)
    by_label = {row.group.label: row.flops for row in rows_of([mixed, sparse], [PERPLEXITY])}
    assert by_label[mixed.label] is None
    assert by_label[sparse.label] is not None


@pytest.mark.parametrize(
    ("key", "labels"),
    [
        ("seed", ["dense and sparse seed=1", "dense seed=2"]),
        ("mask_path", ["dense", "sparse mask_path=/m/m-s0.5.safetensors"]),
        ("masks", ["dense", "m-s0.5"]),
    ],
)
def test_grouping_by_what_no_configuration_is_made_of(key: str, labels: list[str]) -> None:
    runs = [record("d"), record("d2", seed=2), record("s", masks="/m/m-s0.5.safetensors")]
    assert sorted(group.label for group in grouped(runs, [key])) == labels
    assert unknown_keys(runs, [key, "typo", "sed"]) == ["typo", "sed"]


def test_sparsities_that_differ_by_rounding_do_not_order_the_table() -> None:
    levels = {"magnitude-s0.8": 0.799998, "global-s0.8": 0.8000005, "random-s0.8": 0.799998}
    runs = [record(name, masks=f"{name}.pt", sparsity=value) for name, value in levels.items()]
    assert [group.label for group in grouped(runs)] == sorted(levels)


def test_a_label_is_one_line() -> None:
    runs = [record("a", config={"note": "x\ny\n\n z"}), record("b", config={"note": "q"})]
    assert sorted(group.label for group in grouped(runs)) == ["dense note=q", "dense note=x y z"]


def test_two_validation_sets_are_told_by_their_place() -> None:
    one = {"data_dir": "valid", "batch_size": 16, "shuffle": False}
    trainers = [params(), params()]
    trainers[0]["fit"]["val_dataloader"] = one
    trainers[1]["fit"]["val_dataloader"] = [one, {**one, "data_dir": "other"}]
    runs = [record(str(i), 10.0 + i, trainer=trainer) for i, trainer in enumerate(trainers)]
    assert [group.label for group in grouped(runs)] == ["dense", "dense val_dataloader[1].data_dir=other"]
