"""The table: seeds are grouped, tests are paired, every format says the same, no run is left out."""

import csv
import errno
import io
import json
import math
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from experiments.cli import main
from experiments.compare.formats import as_csv, as_json, as_latex, as_markdown, as_text
from experiments.compare.groups import grouped
from experiments.compare.metrics import METRICS, metric_of
from experiments.compare.plot import plot
from experiments.compare.table import columns, rows_of
from experiments.runs.read import read_run
from pruning.problems import ProblemError
from tests.experiments.compare.records import PERPLEXITY, record
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
    wrong = compare(runs, "--group-by", "max_steps", "--group-by", "no_such_key", "--group-by", "nor_this")
    assert wrong.exit_code == 1
    assert "no_such_key" in wrong.stderr
    assert "nor_this" in wrong.stderr


def test_the_diff_of_two_configs_is_what_differs(runs: Path) -> None:
    result = compare(runs, "--diff", runs / "dense/seed0", runs / "half/seed1")
    lines = result.stdout.splitlines()
    assert [line.split(":")[0] for line in lines] == [
        "init.callbacks.SparseMaskCallback.mask_path",
        "init.seed",
    ]


def test_a_diff_needs_no_directories_and_holds_to_those_that_are_given(runs: Path) -> None:
    two = ("--diff", runs / "dense/seed0", runs / "half/seed1")
    assert compare(*two, "--no-cache").stdout == compare(runs, *two).stdout != ""
    missing = compare(runs / "nowhere", *two)
    assert missing.exit_code == 1
    assert "does not exist" in missing.stderr
    elsewhere = compare(runs / "dense", *two)
    assert elsewhere.exit_code == 1
    assert "none of the runs in DIRS" in elsewhere.stderr
    assert compare().exit_code == 2


def test_runs_without_a_seed_are_no_pairs() -> None:
    runs = [record(f"d{i}", 10 + 0.1 * i, seed=None) for i in range(3)]
    runs += [record(f"s{i}", 11 + 0.1 * i, seed=None, masks="m-s0.5.pt") for i in range(3)]
    _, half = rows_of(grouped(runs), [PERPLEXITY])
    cell = half.cells["perplexity"]
    assert cell.value.n == 3
    assert cell.test is not None
    assert (cell.test.pairs, cell.test.p_holm) == (0, None)


def test_n_is_that_of_the_interval() -> None:
    loss = {"validate_0/loss": 2.0}
    runs = [record(f"d{seed}", 10.0 + seed if seed < 3 else None, seed=seed, last=loss) for seed in (1, 2, 3)]
    runs[2] = record("d3", None, seed=3, last={"validate_0/loss": 2.5})
    metrics = [PERPLEXITY, METRICS["loss"]]
    (row,) = rows_of(grouped(runs), metrics)
    shown = {head: cell(row) for head, cell in columns(metrics).items()}
    assert shown["n"] == "2"
    assert shown["loss ↓"].endswith("(n = 3)")
    line = next(csv.DictReader(io.StringIO(as_csv([row], metrics))))
    assert (line["n"], line["perplexity_n"], line["loss_n"]) == ("2", "2", "3")


def test_what_diverged_takes_no_table_down_and_json_stays_json() -> None:
    runs = [record(f"d{i}", value, seed=i) for i, value in enumerate((10.0, math.inf))]
    runs += [record(f"s{i}", value, seed=i, masks="m-s0.5.pt") for i, value in enumerate((math.inf, 11.0))]
    runs += [record("n", math.nan, seed=0, masks="m-s0.6.pt", sparsity=0.6)]
    rows = rows_of(grouped(runs), [PERPLEXITY])
    text = json.dumps(as_json(rows, []), allow_nan=False)
    means = {row["label"]: row["metrics"]["perplexity"]["mean"] for row in json.loads(text)["rows"]}
    assert means == {"dense": "inf", "m-s0.5": "inf", "m-s0.6": "nan"}
    for row in rows:
        assert row.cells["perplexity"].change is None
        assert "nan %" not in as_text([row], [PERPLEXITY])


def test_markdown_and_latex_tell_why_a_row_failed_and_keep_their_lines() -> None:
    runs = [record("d", config={"note": "x\ny"}), record("e", config={"note": "q|<r"}, perplexity=11)]
    runs += [record("f", None, masks="m-s0.5.pt", state="failed", reason="OSError: 100 % of\n disk_1")]
    rows = rows_of(grouped(runs), [PERPLEXITY])
    lines = as_markdown(rows, [PERPLEXITY]).splitlines()
    assert lines[-1] == "- m-s0.5: OSError: 100 % of disk_1"
    assert [line.count(" | ") for line in lines[:5]] == [len(columns([PERPLEXITY])) - 1] * 5
    latex = as_latex(rows, [PERPLEXITY])
    assert r"m-s0.5: OSError: 100 \% of disk\_1" in latex
    assert r"\textless{}" in latex
    assert sum(line.endswith(r" \\") for line in latex.splitlines()) == 4


def test_the_plot_says_what_it_has_no_letters_for() -> None:
    runs = [record(f"r{i}", 10.0 + i, masks=f"m{i}.pt", sparsity=i / 100) for i in range(60)]
    assert "  +  8 more" in plot(rows_of(grouped(runs), [PERPLEXITY]), PERPLEXITY)
    assert "more" not in plot(rows_of(grouped(runs[:52]), [PERPLEXITY]), PERPLEXITY)


def test_an_empty_directory_says_what_to_do(tmp_path: Path) -> None:
    result = compare(tmp_path)
    assert result.exit_code == 1
    assert "wafersparse fit" in result.stderr


@pytest.mark.parametrize(("perplexity", "said"), [(9.999, "0.0 %"), (10.001, "0.0 %"), (9.9, "-1.0 %")])
def test_no_change_has_no_sign(perplexity: float, said: str) -> None:
    rows = rows_of(grouped([record("d"), record("s", perplexity, masks="m.pt")]), [PERPLEXITY])
    assert columns([PERPLEXITY])["worse by"](rows[1]) == said


def test_files_are_written_where_nobody_reads_the_table_to_its_end(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def closed(*parts: Any) -> None:
        raise BrokenPipeError(errno.EPIPE, "Broken pipe")

    monkeypatch.setattr("experiments.compare.formats.as_json", closed)
    page, figures = tmp_path / "page.html", tmp_path / "figures"
    assert compare(runs, "--json", "--html", page, "--figures", figures).exit_code == 1
    assert page.is_file()
    assert any(figures.glob("*.svg"))
