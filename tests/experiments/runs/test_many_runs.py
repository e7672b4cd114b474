"""As many long runs as a study of months has: read in seconds, whole, and from the cache the next time."""

import time
from pathlib import Path

import pytest

from experiments.runs.cache import read_runs
from experiments.runs.find import run_directories
from tests.benchmarks.reading import RUNS, STEPS, write_runs

ASKED = 5.0  # seconds, on two cores that have nothing else to do


@pytest.mark.slow
def test_two_hundred_runs_of_ten_thousand_steps(tmp_path: Path) -> None:
    """Twice of what is asked is allowed to a machine that is busy; `make bench` has the figure."""
    write_runs(tmp_path / "runs")
    took = []
    for cache in (tmp_path / "warm-up", tmp_path / "cache", tmp_path / "cache"):
        begun = time.perf_counter()
        found = read_runs(run_directories([tmp_path / "runs"]), cache=cache)
        took.append(time.perf_counter() - begun)
    assert {(len(found), run.steps) for run in found} == {(RUNS, STEPS)}
    assert took[1] < 2 * ASKED
    assert took[2] < took[1] / 2
