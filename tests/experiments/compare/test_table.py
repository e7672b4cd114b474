"""The table: seeds are grouped, tests are paired, every format says the same, no run is left out."""

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from experiments.cli import main
from experiments.compare.groups import grouped
from experiments.compare.metrics import METRICS, metric_of
from experiments.compare.table import rows_of
from experiments.runs.read import read_run
from pruning.problems import ProblemError
from tests.experiments.runs_on_disk import mask_file, params, write_run


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three seeds of dense and of half sparse; one of 80 %, which failed."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    root = tmp_path / "runs"
    half, most = (mask_file(tmp_path / f"magnitude-s{s}-0123abcd.safetensors", s) for s in (0.5, 0.8))
    for seed, (dense, sparse) in enumerate([(10.0, 11.0), (10.2, 11.3), (9.9, 10.8)]):
        write_run(root / f"dense/seed{seed}", params(seed=seed), perplexity=dense)
        write_run(root / f"half/seed{seed}", params(seed=seed, masks=half), perplexity=sparse, effective=0.5)
    error = {"type": "NotFiniteError", "message": "the loss of step 3 is nan"}
    write_run(root / "most", params(seed=0, masks=most), steps=2, state="failed", error=error)
    return root


def compare(*args: Any) -> Result:
    return CliRunner().invoke(main, ["compare", *map(str, args)])


def test_rows_and_their_numbers(runs: Path) -> None:
    groups = grouped([read_run(path) for path in sorted(runs.glob("*/seed*"))] + [read_run(runs / "most")])
    dense, half, most = rows_of(groups, [METRICS["perplexity"]])
    cell = half.cells["perplexity"]
    assert (cell.value.n, cell.value.mean) == (3, pytest.approx(33.1 / 3))
    assert cell.value.half == pytest.approx(4.302653 * 0.251661 / 3**0.5, rel=1e-4)
    assert cell.change == pytest.approx((33.1 - 30.1) / 30.1, rel=1e-5)
    assert cell.test is not None
    assert cell.test.pairs == 3
    assert cell.test.p_holm is not None
    assert cell.test.p_holm < 0.05
    assert dense.cells["perplexity"].test is None
    assert (most.state, most.cells) == ("failed", {})
    assert most.reason == "NotFiniteError: the loss of step 3 is nan"
    assert half.flops is not None
    assert 0 < half.flops < 1 == dense.flops


def test_one_seed_has_no_interval_and_no_test(runs: Path) -> None:
    groups = grouped([read_run(runs / name) for name in ("dense/seed0", "half/seed0")])
    _, half = rows_of(groups, [METRICS["perplexity"]])
    assert half.cells["perplexity"].value.half is None
    result = compare(runs / "dense/seed0", runs / "half/seed0")
    assert "±" not in result.stdout
    assert "n too small" in result.stdout


def test_text_names_every_row_with_its_state(runs: Path) -> None:
    result = compare(runs)
    assert result.exit_code == 0, result.output
    for word in ("dense", "magnitude-s0.5", "magnitude-s0.8", "failed", "50.00 %", "±", "p = "):
        assert word in result.stdout, word
    assert "NotFiniteError" in result.stdout
    assert "warning: not finished" in result.stderr


def test_json_csv_markdown_and_latex_say_the_same(runs: Path) -> None:
    found = json.loads(compare(runs, "--json").stdout)
    by_label = {row["label"]: row for row in found["rows"]}
    assert by_label["magnitude-s0.5"]["baseline"] == "dense"
    mean = by_label["magnitude-s0.5"]["metrics"]["perplexity"]["mean"]
    lines = list(csv.DictReader(io.StringIO(compare(runs, "--csv").stdout)))
    line = next(line for line in lines if line["configuration"] == "magnitude-s0.5")
    assert float(line["perplexity"]) == mean
    assert next(line for line in lines if line["configuration"] == "magnitude-s0.8")["state"] == "failed"
    assert f"| magnitude-s0.5 | 3 | 50.00 % | 50.00 % | {mean:.3f} ±" in compare(runs, "--md").stdout
    latex = compare(runs, "--latex").stdout
    assert r"50.00 \%" in latex
    assert r"$\pm$" in latex
    assert [w["kind"] for w in found["warnings"]] == ["not finished"]


def test_metrics_by_name_and_by_tag(runs: Path) -> None:
    assert "lr/0 ↓" in compare(runs, "--metric", "lr/0").stdout
    wrong = compare(runs, "--metric", "perplexty")
    assert wrong.exit_code == 1
    assert "perplexity" in wrong.stderr
    with pytest.raises(ProblemError):
        metric_of("nothing", ["loss"])


def test_grouping_by_a_key(runs: Path) -> None:
    rows = json.loads(compare(runs, "--group-by", "max_steps", "--json").stdout)["rows"]
    assert [len(row["runs"]) for row in rows] == [7]
    assert compare(runs, "--group-by", "no_such_key").exit_code == 1


def test_the_diff_of_two_configs_is_what_differs(runs: Path) -> None:
    result = compare(runs, "--diff", runs / "dense/seed0", runs / "half/seed1")
    lines = result.stdout.splitlines()
    assert [line.split(":")[0] for line in lines] == [
        "init.callbacks.SparseMaskCallback.mask_path",
        "init.seed",
    ]


def test_an_empty_directory_says_what_to_do(tmp_path: Path) -> None:
    result = compare(tmp_path)
    assert result.exit_code == 1
    assert "wafersparse fit" in result.stderr
