"""The sweeps of configs/sweeps: sound, as large as they say, started by their first line."""

import re
import shlex
from pathlib import Path

import pytest

from experiments.sweep.configs import params_of, read_base, shared_params
from experiments.sweep.expand import expand
from experiments.sweep.spec import read_spec

ROOT = Path(__file__).parents[3]
SWEEPS = sorted((ROOT / "configs/sweeps").glob("*.yaml"))


@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.stem)
def test_it_expands_to_what_it_says(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    first, second, *_ = path.read_text().splitlines()
    assert shlex.split(first)[:4] == ["#", "wafersparse", "sweep", str(path.relative_to(ROOT))]
    said = re.search(r"(\d+) runs of (\d+) steps", second)
    assert said is not None
    spec = read_spec(path)
    base = read_base(spec.base)
    runs = expand(spec, shared_params(base, spec))
    assert len(runs) == int(said[1])
    assert len({run.folder for run in runs}) == len(runs)
    init = params_of(runs[0].point, base, spec)["init"]
    assert init["loop"]["max_steps"] == init["loop"]["eval_frequency"] == int(said[2])
    (sequence,) = (entry["SequentialLR"]["schedulers"] for entry in init["schedulers"])
    assert sum(given["total_iters"] for part in sequence for given in part.values()) == int(said[2])
    checkpoint = re.fullmatch(r".*checkpoint_(\d+)\.mdl", str(spec.checkpoint))
    assert checkpoint is not None
    assert f":= {spec.checkpoint.relative_to(ROOT)}\n" in (ROOT / "Makefile").read_text()
    assert int(checkpoint[1]) == base.params["init"]["loop"]["max_steps"]  # of the dense run of the base
