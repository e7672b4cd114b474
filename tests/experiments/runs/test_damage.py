"""What lies in odd places, cannot be opened or has an odd form: a row, and never a traceback."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from experiments.runs.cache import read_runs
from experiments.runs.find import run_directories
from experiments.runs.read import read_run
from tests.experiments.runs_on_disk import mask_file, params, write_run


def test_masks_that_come_back_or_are_replaced_are_read_again(tmp_path: Path) -> None:
    masks = mask_file(tmp_path / "m.safetensors", 0.5)
    path = write_run(tmp_path / "run", params(masks=masks), effective=0.5)

    def requested() -> float | None:
        (run,) = read_runs([path], cache=tmp_path / "cache")
        return run.sparsity.requested

    masks.rename(tmp_path / "away")
    assert requested() is None
    (tmp_path / "away").rename(masks)
    assert requested() == pytest.approx(0.5)
    masks.unlink()
    mask_file(masks, 0.9)
    assert requested() == pytest.approx(0.9)
    masks.unlink()
    assert requested() is None


def test_a_run_without_its_config_is_not_dense(tmp_path: Path) -> None:
    path = write_run(tmp_path / "run", params())
    next(path.glob("*/trainer_params.yaml")).unlink()
    run = read_run(path)
    assert (run.params, run.sparsity.requested) == ({}, None)
    assert "config is missing" in run.sparsity.note


@pytest.mark.parametrize(
    "init",
    [
        *({"sparsity": "0.5"}, {"loop": "x"}, {"logging": 5}, {"backend": "CSX"}, {"callbacks": "x"}),
        *({"model": "gpt2"}, {"model": [1]}, {"model": None, "sparsity": 0.5}),
    ],
)
def test_config_sections_of_another_form_are_read_past(init: dict[str, Any], tmp_path: Path) -> None:
    trainer = params()
    trainer["init"] |= init
    write_run(tmp_path / "odd", trainer)
    write_run(tmp_path / "good", params())
    good, odd = read_runs(run_directories([tmp_path]), cache=tmp_path / "cache")
    assert (good.state, odd.state) == ("finished", "finished")
    assert odd.last == good.last


def test_an_init_that_is_no_map_is_no_config(tmp_path: Path) -> None:
    run = read_run(write_run(tmp_path / "run", {"init": [1, 2]}))
    assert run.params == {}
    assert "trainer.init is no map" in run.problems[0]


@pytest.mark.parametrize("seed", [[1], {"a": 1}, "1", 1.5, True])
def test_a_seed_is_a_whole_number_or_none(seed: Any, tmp_path: Path) -> None:
    trainer = params()
    trainer["init"]["seed"] = seed
    run = read_run(write_run(tmp_path / "run", trainer))
    assert run.seed is None
    assert "init.seed" in run.problems[0]


@pytest.mark.parametrize(
    "key", ["environment", "error", "start", "started", "mask_receipts", "steps", "verb"]
)
def test_a_receipt_of_another_form_is_damaged_and_the_rest_is_read(key: str, tmp_path: Path) -> None:
    path = write_run(tmp_path / "run", params())
    file = next(path.glob("2*/run.json"))
    file.write_text(json.dumps({**json.loads(file.read_text()), key: ["text"]}))
    (run,) = read_runs([path], cache=tmp_path / "cache")
    assert "damaged receipt" in run.problems[0]
    assert run.last["validate_0/eval/lm_perplexity"] == (20, 10.0)


def test_what_nobody_foresaw_is_a_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(path: Path) -> None:
        raise AttributeError("'str' object has no attribute 'get'")

    monkeypatch.setattr("experiments.runs.cache.read_run", broken)
    (run,) = read_runs([write_run(tmp_path / "run", params())], cache=tmp_path / "cache")
    assert (run.state, run.reason) == ("unknown", "cannot be read: 'str' object has no attribute 'get'")


def test_a_directory_that_cannot_be_opened_is_a_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_run(tmp_path / "runs" / "a", params())
    closed = write_run(tmp_path / "runs" / "closed", params())
    scandir = os.scandir

    def refusing(path: Any = ".") -> Any:  # in place of chmod, which does not hold for root
        if os.fspath(path) == str(closed):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)
    found = run_directories([tmp_path / "runs"])
    assert [path.name for path in found] == ["a", "closed"]
    good, bad = read_runs(found, cache=tmp_path / "cache")
    assert (good.state, bad.state) == ("finished", "unknown")
    assert "Permission denied" in bad.reason


def test_links_are_followed_and_a_run_counts_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = write_run(tmp_path / "elsewhere" / "b", params())
    write_run(tmp_path / "runs" / "z", params())
    (tmp_path / "runs" / "a").symlink_to(tmp_path / "runs" / "z")  # a second name of it
    (tmp_path / "runs" / "linked").symlink_to(real.parent)
    (tmp_path / "runs" / "round").symlink_to(tmp_path / "runs")
    (tmp_path / "runs" / "gone").symlink_to(tmp_path / "nothing")
    monkeypatch.chdir(tmp_path)
    assert list(map(str, run_directories([Path("runs")]))) == ["runs/linked/b", "runs/z"]
    again = run_directories([Path("runs"), tmp_path / "runs", real])
    assert list(map(str, again)) == ["runs/linked/b", "runs/z"]


@pytest.mark.parametrize("strays", [(), ("events.out.tfevents.1.host.1.0",)])
def test_events_beside_runs_do_not_hide_them(strays: tuple[str, ...], tmp_path: Path) -> None:
    root = tmp_path / "runs"
    write_run(root / "a", params())
    write_run(root / "20260101_000000" / "b", params())  # named as the launch of a run is
    (root / "events").mkdir()
    for stray in strays:
        (root / "events" / stray).write_bytes(b"")
    found = [str(path.relative_to(root)) for path in run_directories([root])]
    assert found == [*(["."] if strays else []), "20260101_000000/b", "a"]
    assert run_directories([root / "a"]) == [root / "a"]  # and not its launch, which has a receipt as well
