"""Reading runs: whole, half, broken, restarted, of plain cszoo; and the cache."""

import json
import math
import os
from pathlib import Path

import numpy as np
import pytest

from cerebras_utils.event_curves import Curve
from experiments.runs.cache import read_runs
from experiments.runs.curves import thinned
from experiments.runs.find import run_directories
from experiments.runs.read import read_run
from experiments.runs.record import RunRecord
from pruning.problems import ProblemError
from tests.experiments.runs_on_disk import mask_file, params, write_run


def test_a_finished_run_of_this_project(tmp_path: Path) -> None:
    masks = mask_file(tmp_path / "magnitude-s0.6.safetensors", 0.6)
    run = read_run(write_run(tmp_path / "run", params(masks=masks), perplexity=12.0, effective=0.6))
    assert (run.state, run.reason, run.steps, run.steps_asked, run.seed) == ("finished", "", 20, 20, 1)
    assert run.last["validate_0/eval/lm_perplexity"] == (20, 12.0)
    assert (run.sparsity.requested, run.sparsity.effective) == (pytest.approx(0.6), pytest.approx(0.6))
    assert (run.batches, run.samples_per_second, run.seconds) == (20, 50.0, 100.0)
    assert (run.backend, run.device, run.problems) == ("torch", "cpu", ())
    assert RunRecord.from_json(json.loads(json.dumps(run.to_json()))) == run


def test_a_plain_cszoo_run_is_judged_by_how_far_it_came(tmp_path: Path) -> None:
    whole = read_run(write_run(tmp_path / "whole", params(), receipt=False))
    half = read_run(write_run(tmp_path / "half", params(), receipt=False, steps=7, state="half"))
    assert (whole.state, whole.backend) == ("finished", "cszoo")
    assert half.state == "unknown"
    assert "step 7 of 20" in half.reason


def test_a_plain_cszoo_run_that_failed_says_why(tmp_path: Path) -> None:
    path = write_run(tmp_path / "run", params(), receipt=False, steps=7, state="half")
    log = path / "latest_run.log"
    log.write_text(log.read_text() + "Traceback (most recent call last):\nRuntimeError: out of memory\n")
    run = read_run(path)
    assert (run.state, run.reason) == ("failed", "RuntimeError: out of memory")


def test_a_failed_run_has_its_reason(tmp_path: Path) -> None:
    error = {"type": "NotFiniteError", "message": "the loss of step 3 is nan\nmore"}
    run = read_run(write_run(tmp_path / "run", params(), steps=2, state="failed", error=error))
    assert (run.state, run.reason) == ("failed", "NotFiniteError: the loss of step 3 is nan")


def test_a_run_that_was_continued_is_one_curve(tmp_path: Path) -> None:
    write_run(tmp_path / "run", params(), steps=12, state="failed")
    write_run(tmp_path / "run", params(), steps=20, first=9, launch=1)
    run = read_run(tmp_path / "run")
    assert [step for step, _ in run.curves["loss"]] == list(range(1, 21))
    assert (run.state, run.seconds) == ("finished", 200.0)


def test_masks_that_are_gone_are_not_dense(tmp_path: Path) -> None:
    masks = mask_file(tmp_path / "m.safetensors", 0.5)
    write_run(tmp_path / "run", params(masks=masks), effective=0.5)
    masks.unlink()
    run = read_run(tmp_path / "run")
    assert run.sparsity.requested is None
    assert "cannot be read" in run.sparsity.note


@pytest.mark.parametrize("damage", ["events", "params", "receipt", "log"])
def test_a_broken_file_is_said_and_the_rest_is_read(damage: str, tmp_path: Path) -> None:
    path = write_run(tmp_path / "run", params())
    file = {
        "events": next((path / "events").iterdir()),
        "params": path / "20260101_000000" / "trainer_params.yaml",
        "receipt": path / "20260101_000000" / "run.json",
        "log": path / "latest_run.log",
    }[damage]
    file.write_bytes(b"\xff{[: broken" * 3)
    run = read_run(path)
    assert bool(run.problems) == (damage != "log"), run.problems
    assert run.path == str(path)


def test_finding_runs_and_saying_what_to_do_where_there_are_none(tmp_path: Path) -> None:
    write_run(tmp_path / "sweep" / "a" / "seed1", params())
    write_run(tmp_path / "sweep" / "b", params(), receipt=False)
    (tmp_path / "empty").mkdir()
    found = run_directories([tmp_path / "sweep"])
    assert [str(path.relative_to(tmp_path)) for path in found] == ["sweep/a/seed1", "sweep/b"]
    with pytest.raises(ProblemError, match=r"(?s)holds no run.*wafersparse fit.*does not exist"):
        run_directories([tmp_path / "empty", tmp_path / "nothing"])


def test_the_cache_is_used_until_a_file_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_run(tmp_path / "run", params(), perplexity=12.0)
    cache = tmp_path / "cache"
    first = read_runs([path], cache=cache)
    read = []
    monkeypatch.setattr("experiments.runs.cache.read_run", lambda p: read.append(p) or read_run(p))
    assert read_runs([path], cache=cache) == first
    assert read == []
    write_run(tmp_path / "run", params(), perplexity=13.0)
    os.utime(next((path / "events").iterdir()))
    assert read_runs([path], cache=cache)[0].last["validate_0/eval/lm_perplexity"][1] == 13.0
    assert read == [path]
    next(cache.iterdir()).write_text("{")
    assert read_runs([path], cache=cache)[0].last["validate_0/eval/lm_perplexity"][1] == 13.0


def test_a_run_that_may_go_on_is_read_again(tmp_path: Path) -> None:
    path = write_run(tmp_path / "run", params(), receipt=False, steps=7, state="half")
    read_runs([path], cache=tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


def test_a_long_curve_is_the_means_of_its_stretches() -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(size=1000).astype(np.float32)
    values[[3, 500]], values[990:] = np.nan, np.inf
    found = thinned(Curve(np.arange(1, 1001), values, np.zeros(1000)))
    assert len(found) == 297
    assert found[0] == [2, pytest.approx(values[:3].mean(dtype=float))]
    assert found[1] == [5, pytest.approx(values[[4, 5]].mean(dtype=float))]
    assert all(math.isfinite(value) for _, value in found)
