"""Each warning is raised by a study that deserves it, and not by one that does not."""

from pathlib import Path
from typing import Any

import pytest

from experiments.compare.findings import warnings_of
from experiments.compare.groups import Group, grouped
from experiments.runs.read import read_run
from tests.experiments.runs_on_disk import mask_file, params, write_run


class Study:
    """A sound one: dense and two sparsities; each test spoils it in one way."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.masks = {
            level: mask_file(path / f"magnitude-s{level}-0123abcd.safetensors", level) for level in (0.5, 0.8)
        }
        self.add("dense", perplexity=10.0)
        self.add("half", masks=0.5, perplexity=11.0, effective=0.5)
        self.add("sparse", masks=0.8, perplexity=13.0, effective=0.8)

    def add(
        self, name: str, masks: float | None = None, config: dict[str, Any] | None = None, **how: Any
    ) -> None:
        given = params(masks=None if masks is None else self.masks[masks], **(config or {}))
        how = {"effective": masks, **how}
        write_run(self.path / "runs" / name, given, **how)

    def groups(self) -> list[Group]:
        return grouped([read_run(path) for path in sorted((self.path / "runs").iterdir())])

    def kinds(self) -> list[str]:
        return [warning.kind for warning in warnings_of(self.groups())]


@pytest.fixture
def study(tmp_path: Path) -> Study:
    return Study(tmp_path)


def test_a_sound_study_has_no_warnings(study: Study) -> None:
    assert warnings_of(study.groups()) == []
    assert [group.label for group in study.groups()] == ["dense", "magnitude-s0.5", "magnitude-s0.8"]


@pytest.mark.parametrize(
    ("spoiled", "kind"),
    [
        ({"name": "sparse", "masks": 0.8, "perplexity": 10.0}, "identical results"),
        (
            {"name": "sparse", "masks": 0.8, "perplexity": 13.0, "effective": 0.7},
            "requested is not effective",
        ),
        ({"name": "sparse", "masks": 0.8, "perplexity": 13.0, "effective": None}, "sparsity not counted"),
        ({"name": "sparse", "masks": 0.8, "perplexity": 13.0, "resurrected": 3}, "zeros resurrected"),
        ({"name": "sparse", "masks": 0.8, "perplexity": 10.5}, "better when sparser"),
        ({"name": "sparse", "masks": 0.8, "perplexity": 13.0, "peak": 0.001}, "learning rate not reached"),
        ({"name": "sparse", "masks": 0.8, "perplexity": 13.0, "batches": 3}, "few batches"),
        (
            {"name": "sparse", "masks": 0.8, "perplexity": 13.0, "steps": 5, "state": "failed"},
            "not finished",
        ),
        (
            {"name": "sparse", "masks": 0.8, "perplexity": 13.0, "config": {"loop": {"max_steps": 21}}},
            "not the baseline's settings",
        ),
    ],
)
def test_what_is_wrong_is_said(spoiled: dict[str, Any], kind: str, study: Study) -> None:
    study.add(**spoiled)
    assert kind in study.kinds()


def test_a_seed_that_was_run_twice_is_no_second_sample(study: Study) -> None:
    study.add("half again", masks=0.5, perplexity=11.2)
    assert study.kinds() == ["seed repeated"]
    assert [group.n for group in study.groups()] == [1, 1, 1]


def test_other_data(study: Study) -> None:
    study.add("dense", perplexity=10.0, data="aaaa")
    study.add("half", masks=0.5, perplexity=11.0, data="bbbb")
    assert study.kinds() == ["different data"]


def test_two_baselines_and_none(study: Study) -> None:
    study.add("dense2", perplexity=10.4, config={"rate": 0.011})
    study.add("other", masks=0.5, perplexity=11.4, config={"rate": 0.011}, peak=0.011)
    assert "several baselines" in study.kinds()
    only = [group for group in study.groups() if not group.dense]
    assert "no baseline" in [w.kind for w in warnings_of(grouped([run for g in only for run in g.runs]))]


def test_different_machines(study: Study) -> None:
    study.add("other", masks=0.5, perplexity=11.1, receipt=False)
    assert "different machines" in study.kinds()


def test_what_was_not_logged_at_every_step_is_not_held_against_a_run(study: Study) -> None:
    seldom = {"logging": {"log_steps": 10}}
    study.add("sparse", masks=0.8, perplexity=13.0, peak=0.0098, batches=3, config=seldom)
    assert study.kinds() == []
    study.add("sparse", masks=0.8, perplexity=13.0, peak=0.001, config=seldom)
    assert study.kinds() == ["learning rate not reached"]


def test_seeds_that_are_one_run_are_one_sample(study: Study) -> None:
    for seed in (2, 3):
        study.add(f"half{seed}", masks=0.5, perplexity=11.0, config={"seed": seed})
    assert study.kinds() == ["seeds without effect"]
    assert [group.n for group in study.groups()] == [1, 1, 1]
    study.add("half2", masks=0.5, perplexity=11.1, config={"seed": 2})
    assert [group.n for group in study.groups()] == [1, 2, 1]


def test_the_order_of_the_data_is_part_of_the_seed(study: Study) -> None:
    for seed in (1, 2):
        given = params(seed=seed)
        given["fit"]["train_dataloader"]["shuffle_seed"] = seed
        write_run(study.path / "runs" / f"dense{seed}", given, perplexity=10.0 + 0.01 * seed)
    dense = [group for group in study.groups() if group.dense]
    assert [group.label for group in dense] == ["dense"]
    assert [run.seed for run in dense[0].runs] == [1, 1, 2]
