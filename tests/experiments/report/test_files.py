"""`compare --figures`: charts that are whole, plain files of SVG."""

from pathlib import Path
from xml.etree import ElementTree

import pytest
from click.testing import CliRunner, Result

from experiments.cli import main
from tests.experiments.report.studies import write_study
from tests.experiments.runs_on_disk import mask_file, params, write_run

SVG = "{http://www.w3.org/2000/svg}"


def figures(runs: Path, folder: Path, *words: str) -> Result:
    return CliRunner().invoke(main, ["compare", str(runs), "--figures", str(folder), *words])


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_study(tmp_path_factory.mktemp("study"))


def test_each_chart_is_a_file_that_needs_nothing_else(study: Path, tmp_path: Path) -> None:
    result = figures(study, tmp_path / "out")
    assert result.exit_code == 0, result.output
    files = sorted((tmp_path / "out").iterdir())
    assert [f"wrote {path}" for path in files] == sorted(result.stderr.splitlines()[-len(files) :])
    assert {"perplexity-against-sparsity.svg", "loss-while-training.svg"} < {path.name for path in files}
    for path in files:
        text = path.read_text()
        root = ElementTree.fromstring(text)
        assert root.tag == f"{SVG}svg"
        assert not [word for word in ("var(", "href", "url(", "<script") if word in text]
        height = float(root.get("height", "0"))
        assert all(float(found.get("y", "0")) < height for found in root.iter(f"{SVG}text"))


def test_every_way_of_pruning_is_in_the_legend(study: Path, tmp_path: Path) -> None:
    figures(study, tmp_path / "out")
    root = ElementTree.parse(tmp_path / "out/perplexity-against-sparsity.svg").getroot()
    said = [found.text for found in root.iter(f"{SVG}text")]
    drawn = [found for found in root.iter(f"{SVG}g") if str(found.get("class")).startswith("family")]
    legend = [text for text in said if text and ("magnitude" in text or "random" in text)]
    assert len(legend) == len(drawn) - 1  # and the dense one
    assert "dense" in said


def test_the_loss_names_each_sparsity_of_a_way(study: Path, tmp_path: Path) -> None:
    figures(study, tmp_path / "out")
    root = ElementTree.parse(tmp_path / "out/loss-while-training.svg").getroot()
    said = [found.text for found in root.iter(f"{SVG}text")]
    assert [said.count(level) for level in ("50 %", "75 %", "90 %")] == [2, 2, 2]
    assert {"49.96 %", "74.98 %", "89.98 %"} < set(said)  # of the global one, whose layers round
    (end,) = (found for found in root.iter(f"{SVG}path") if found.get("class") == "end-mark")
    assert ".end-mark{" in str(next(root.iter(f"{SVG}style")).text)
    assert end.get("d")


def test_what_runs_are_called_is_text(tmp_path: Path) -> None:
    root = tmp_path / "runs"
    write_run(root / "a", params(), perplexity=10.0)
    for level in (0.5, 0.7):
        masks = mask_file(tmp_path / f"<b>&x-s{level}-0123abcd.safetensors", level)
        write_run(root / str(level), params(masks=masks), perplexity=11.0, effective=level)
    assert figures(root, tmp_path / "out").exit_code == 0
    assert "&lt;b&gt;&amp;x" in (tmp_path / "out/perplexity-against-sparsity.svg").read_text()


def test_nothing_is_replaced_unasked(study: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out/loss-while-training.svg").write_text("mine")
    refused = figures(study, tmp_path / "out")
    assert refused.exit_code == 1
    assert "loss-while-training.svg" in refused.stderr
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["loss-while-training.svg"]
    assert figures(study, tmp_path / "out", "--overwrite").exit_code == 0


def test_nothing_to_draw_is_said(tmp_path: Path) -> None:
    write_run(tmp_path / "runs/only", params(), receipt=False, steps=1, state="half")
    refused = figures(tmp_path / "runs", tmp_path / "out")
    assert refused.exit_code == 1
    assert "nothing to draw" in refused.stderr
