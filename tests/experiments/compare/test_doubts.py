"""Warnings that need no disk: raised where they are due, silent where not."""

import math
from dataclasses import replace
from typing import Any

import pytest

from experiments.compare.findings import warnings_of
from experiments.compare.groups import grouped
from experiments.runs.record import RANDOM, RunRecord, Sparsity
from tests.experiments.compare.records import record

MASKS = "m-s0.5-0123abcd.safetensors"
ACCURACY, LOSS = "validate_0/eval/accuracy", "validate_0/loss"


def kinds(*runs: RunRecord) -> list[str]:
    return [warning.kind for warning in warnings_of(grouped(runs))]


def sparse(name: str, perplexity: float | None = 12.0, **more: Any) -> RunRecord:
    return record(name, perplexity, **{"masks": MASKS, **more})


def test_no_config() -> None:
    assert kinds(record("d"), record("lost", 30, trainer={})) == ["config missing"]


def test_a_run_and_its_baseline_from_two_checkpoints() -> None:
    assert kinds(record("d", start="aa"), sparse("s", start="bb")) == ["another checkpoint"]
    assert kinds(record("d", start="aa"), sparse("s", seed=2, start="bb")) == ["another checkpoint"]
    assert kinds(record("d", start="aa"), sparse("s", start="aa")) == []
    assert kinds(record("d"), sparse("s", start="bb")) == []


def test_a_row_from_several_checkpoints() -> None:
    dense = [record(f"d{seed}", 10 + seed, seed=seed, start=start) for seed, start in ((1, "aa"), (2, "bb"))]
    assert kinds(*dense) == ["several checkpoints"]
    halves = [sparse(f"s{d.seed}", 20.5 + (d.seed or 0), seed=d.seed, start=d.start) for d in dense]
    assert kinds(*dense, *halves) == [], "a checkpoint for each seed, and the baseline has the same"
    third = [record("d3", 14, seed=3, start="bb"), sparse("s3", 25, seed=3, start="bb")]
    assert kinds(*dense, *halves, *third) == ["several checkpoints"] * 2


def test_masks_of_a_row_that_are_not_one_file() -> None:
    def row(second: str, start: str) -> list[RunRecord]:
        dense = [record("d1", 10, start="aa"), record("d2", 10.5, seed=2, start=start)]
        return [
            *dense,
            sparse("s1", 12, start="aa", sha256="11"),
            sparse("s2", 12.5, seed=2, start=start, sha256=second),
        ]

    assert kinds(*row("22", "aa")) == ["several masks"]
    assert kinds(*row("11", "aa")) == []
    assert kinds(*row("22", "bb")) == []


@pytest.mark.parametrize(
    ("last", "perplexity", "expected"),
    [
        ({"loss": 2.0}, None, ["no result"]),
        ({}, None, ["no result"]),
        ({}, math.nan, ["not finite"]),
        ({}, math.inf, ["not finite"]),
        ({}, 12.0, []),
    ],
)
def test_a_finished_run_without_a_result(
    last: dict[str, float], perplexity: float | None, expected: list[str]
) -> None:
    assert kinds(record("d"), sparse("s", perplexity, last=last)) == expected


def test_a_study_without_validation_has_no_result_missing() -> None:
    assert kinds(record("d", None, last={"loss": 2.0}), sparse("s", None, last={"loss": 2.1})) == []


def test_a_metric_that_only_siblings_have() -> None:
    runs = [sparse(f"s{seed}", 12 + seed, seed=seed, last={LOSS: 3.0 + seed}) for seed in (1, 2)]
    assert kinds(record("d"), *runs) == []
    assert kinds(record("d"), *runs, sparse("s3", None, seed=3, last={LOSS: 9.0})) == ["no result"]


def test_identical_results_where_one_has_fewer_metrics() -> None:
    both = {ACCURACY: 0.4, LOSS: 2.5}
    dense = record("d", 10.0, last=both)
    assert kinds(dense, sparse("s", 10.0, last={LOSS: 2.5})) == ["identical results"]
    assert kinds(dense, sparse("s", 10.0, last={LOSS: 2.6})) == []
    assert kinds(dense, sparse("s", None, last={ACCURACY: 0.4})) == [], "accuracy alone may coincide"


def test_the_same_work_at_another_speed() -> None:
    def speeds(one: float, other: float) -> list[str]:
        second = record("e", 10.5, config={"rate": 0.02}, samples_per_second=other)
        return kinds(record("d", samples_per_second=one), second)

    assert speeds(50, 500) == ["uneven speed"]
    assert speeds(50, 70) == []
    assert kinds(record("d", samples_per_second=50), sparse("s", samples_per_second=500)) == []


def test_the_baseline_that_a_sparser_row_is_held_against_is_its_own() -> None:
    wide = {"model": {"name": "gpt2", "hidden_size": 64}}
    runs = [record("d", 20), record("wide", 5, config=wide), sparse("s", 6, config=wide)]
    assert "better when sparser" not in kinds(*runs)
    runs[2] = sparse("s", 4.5, config=wide)
    assert "better when sparser" in kinds(*runs)


def test_a_run_in_its_warm_up_has_yet_to_reach_its_rate() -> None:
    assert kinds(record("d"), sparse("s", peak_rate=0.001, state="running")) == ["not finished"]
    assert kinds(record("d"), sparse("s", peak_rate=0.001)) == ["learning rate not reached"]


def test_a_row_of_dense_and_sparse_runs_is_said_to_be_one() -> None:
    groups = grouped([record("d"), sparse("s", seed=2)], ["learning_rate"])
    assert [warning.kind for warning in warnings_of(groups)] == ["dense and sparse in one row"]


def test_zeros_may_come_back_where_masks_shape_the_start_alone_however_rows_are_grouped() -> None:
    once = sparse("s")
    once.params["init"]["callbacks"][0]["SparseMaskCallback"]["apply_every_step"] = False
    regrown = replace(once, sparsity=Sparsity(requested=0.5, effective=0.2, resurrected=9))
    for by in ([], ["hidden_size"], ["masks"]):
        found = {warning.kind for warning in warnings_of(grouped([regrown], by))}
        assert found == {"no baseline"}


def test_a_baseline_from_random_weights_and_a_run_from_a_checkpoint() -> None:
    runs = [record("d", start=RANDOM), sparse("s", start="b" * 64)]
    (found,) = warnings_of(grouped(runs))
    assert found.kind == "another checkpoint"
    assert "seed 1: bbbbbbbbbbbb, not random weights" in found.text
    assert kinds(record("d", start=RANDOM), sparse("s", start=RANDOM)) == []


@pytest.mark.parametrize(("counts", "said"), [((4, 4), "on 4 batches only"), ((1, 1), "on 1 batch only")])
def test_how_few_batches(counts: tuple[int, int], said: str) -> None:
    runs = [record("d", batches=counts[0]), sparse("s", batches=counts[1])]
    assert said in warnings_of(grouped(runs))[0].text
