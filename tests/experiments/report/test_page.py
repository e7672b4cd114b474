"""The page as text: whole, escaped, asking for nothing, small for many runs."""

import html
import json
import re
import time
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from experiments.cli import main
from experiments.compare.table import columns
from experiments.report.tables import sort_values
from tests.experiments.report.studies import config, read_block, write_study
from tests.experiments.runs_on_disk import mask_file, params, write_run

HOSTILE = "</script><script>alert(1)</script>\"'&<img src=x onerror=alert(1)>"
VOID = {"meta", "link", "input"}


class Reader(HTMLParser):
    """Well-formed, every id once, no attribute that runs or fetches anything."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []
        identities = [given["id"] for _, given in self.tags if "id" in given]
        assert len(identities) == len(set(identities))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        assert not [name for name, _ in attrs if name.startswith("on")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "script":
            self.scripts.append(data)


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_study(
        tmp_path_factory.mktemp("study"), seeds=(1, 2, 3), levels=(0.5, 0.9), blocks=2, steps=20
    )


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "cache"))


def compare(*args: Any) -> Result:
    return CliRunner().invoke(main, ["compare", *map(str, args)])


def page_of(runs: Path, target: Path) -> str:
    result = compare(runs, "--html", target)
    assert result.exit_code == 0, result.output
    return target.read_text()


def test_warnings_come_first_and_every_part_is_there(study: Path, tmp_path: Path) -> None:
    text = page_of(study, tmp_path / "page.html")
    read = Reader(text)
    sections = [given["id"] for tag, given in read.tags if tag == "section"]
    assert sections[:2] == ["warnings", "table"]
    assert {"quality", "pareto", "training", "layers", "overlap", "diff", "runs-all"} < set(sections)
    kinds = [given.get("data-kind") for tag, given in read.tags if tag == "svg" and "data-kind" in given]
    assert kinds.count("lines") == 2
    assert kinds.count("heat") == 1
    assert kinds.count("marks") == 3 + 9  # a curve for each metric; speed, sparsity and FLOPs against each
    assert "the loss of step 6 is nan" in text


def test_it_asks_for_nothing_and_runs_only_its_own_script(study: Path, tmp_path: Path) -> None:
    read = Reader(page_of(study, tmp_path / "page.html"))
    assert not [tag for tag, given in read.tags if "src" in given]
    links = [str(given["href"]) for _, given in read.tags if "href" in given]
    assert {link[:1] for link in links} == {"#", "d"}
    assert [link for link in links if link[0] == "d"] == ["data:,"]
    scripts = [given.get("type") for tag, given in read.tags if tag == "script"]
    assert scripts.count(None) == 1
    policy = next(given["content"] for _, given in read.tags if "http-equiv" in given)
    assert policy is not None
    assert "default-src 'none'" in policy


def test_what_runs_are_called_is_text_and_nothing_else(tmp_path: Path) -> None:
    masks = mask_file(tmp_path / f"{HOSTILE.replace('/', '∕')}-s0.5.safetensors", 0.5)
    error = {"type": "Error", "message": HOSTILE}
    root = tmp_path / "runs"
    write_run(root / f"a {HOSTILE.replace('/', '∕')}", params(seed=1), perplexity=10.0)
    given = config(1, 20, callbacks=[{"SparseMaskCallback": {"mask_path": str(masks)}}], tag=HOSTILE)
    write_run(root / "b", given, state="failed", steps=3, error=error)
    write_run(root / "c", given, perplexity=11.0, layers={f"{HOSTILE}.0.weight": 0.5})
    text = page_of(root, tmp_path / "page.html")
    read = Reader(text)
    assert "img" not in {tag for tag, _ in read.tags}
    assert len([1 for tag, given in read.tags if tag == "script" and "type" not in given]) == 1
    assert html.escape(HOSTILE) in text
    assert HOSTILE in {json.loads(value) for value in read_block(text, "configs")["values"]}
    assert HOSTILE in read_block(text, "heat")["columns"][0]


def test_names_that_are_no_utf8_do_not_stop_it(tmp_path: Path) -> None:
    write_run(tmp_path / "runs" / "odd\udcff", params(seed=1))
    write_run(tmp_path / "runs" / "plain", params(seed=2))
    assert "odd\\udcff" in page_of(tmp_path / "runs", tmp_path / "page.html")


def test_runs_without_results_are_rows_and_pictures_say_why_they_are_not_there(tmp_path: Path) -> None:
    write_run(tmp_path / "runs" / "only", params(), receipt=False, steps=1, state="half")
    text = page_of(tmp_path / "runs", tmp_path / "page.html")
    Reader(text)
    for why in ("Needs results of two rows", "No run counted its zeros", "There is one run only", "unknown"):
        assert why in text


def test_infinite_and_missing_values_are_not_drawn(tmp_path: Path) -> None:
    masks = [mask_file(tmp_path / f"magnitude-s{s}-0123abcd.safetensors", s) for s in (0.5, 0.7, 0.9)]
    write_run(tmp_path / "runs/dense", params(), perplexity=10.0)
    for value, file in zip((11.0, float("inf"), float("nan")), masks, strict=True):
        write_run(tmp_path / f"runs/{file.stem}", params(masks=file), perplexity=value, effective=0.5)
    text = page_of(tmp_path / "runs", tmp_path / "page.html")
    Reader(text)
    assert "2 of 4 configurations have no result" in text
    assert not re.search(r'(?:d|points|x|y|cx|cy)="[^"]*(?:nan|inf)', text)


def test_a_name_that_is_taken_is_refused_before_anything_is_read(study: Path, tmp_path: Path) -> None:
    page_of(study, tmp_path / "page.html")
    again = compare(tmp_path / "no such runs", "--html", tmp_path / "page.html")
    assert again.exit_code == 1
    assert "exists already" in again.stderr
    assert compare(study, "--html", tmp_path / "page.html", "--overwrite").exit_code == 0
    failed = compare(tmp_path / "no such runs", "--html", tmp_path / "other.html")
    assert failed.exit_code == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["page.html"]


def test_options_without_effect_are_usage_errors(study: Path) -> None:
    assert compare(study, "--overwrite").exit_code == 2
    assert compare(study, "--csv", "--overlap").exit_code == 2
    assert compare(study, "--diff", study, study, "--html", "x.html").exit_code == 2


def test_every_column_of_numbers_sorts() -> None:
    from experiments.compare.metrics import DEFAULT, METRICS
    from experiments.compare.overlap import MaskOverlaps
    from experiments.report.study import Study

    empty = Study([], [METRICS[name] for name in DEFAULT], [], MaskOverlaps((), (), {}, ()))
    assert {*sort_values(empty)} == {*columns(empty.metrics)} - {"configuration", "state"}


def test_two_hundred_runs_stay_small_and_quick(tmp_path: Path) -> None:
    """The page from records that are read already: reading is timed elsewhere."""
    from datetime import UTC, datetime

    from experiments.compare.findings import warnings_of
    from experiments.compare.groups import grouped
    from experiments.compare.metrics import DEFAULT, METRICS
    from experiments.compare.overlap import MaskOverlaps
    from experiments.compare.table import rows_of
    from experiments.report.page import page
    from experiments.report.study import Study
    from experiments.runs.record import RunRecord, Sparsity

    def run(number: int) -> RunRecord:
        layers = {f"model.layers.{n}.{kind}.weight": 0.5 + n / 1000 for n in range(32) for kind in "abcdefg"}
        masks = {"SparseMaskCallback": {"mask_path": f"m{number % 5}-s0.{number}.safetensors"}}
        curve = [[step, 3.0 + 1 / (1 + step + number)] for step in range(300)]
        last = {METRICS[name].tag: (300, 10.0 + number / 100) for name in DEFAULT}
        return RunRecord(
            path=f"/runs/{number}",
            name=str(number),
            state="finished",
            seed=1,
            params={"init": {"callbacks": [masks], "loop": {"max_steps": 300}}},
            last=last,
            curves={"loss": curve, **dict.fromkeys(last, curve[::30])},
            sparsity=Sparsity(requested=number / 250, effective=number / 250, layers=layers),
        )

    begun = time.process_time()
    groups, metrics = grouped([run(number) for number in range(200)]), [METRICS[name] for name in DEFAULT]
    study = Study(rows_of(groups, metrics), metrics, warnings_of(groups), MaskOverlaps((), (), {}, ()))
    made = page(study, ["/runs"], datetime.now(UTC))
    assert len(groups) == 200
    assert len(made) < 5_000_000
    assert time.process_time() - begun < 10
    Reader(made.decode())


def test_layers_of_nan_are_hatched(tmp_path: Path) -> None:
    layers = {"a.0.weight": float("nan"), "a.1.weight": 0.5}
    masks = mask_file(tmp_path / "m-s0.5.safetensors", 0.5)
    write_run(tmp_path / "runs/a", params(masks=masks), layers=layers)
    write_run(tmp_path / "runs/b", params(seed=2), rate=float("inf"))
    text = page_of(tmp_path / "runs", tmp_path / "page.html")
    assert [0.5] in read_block(text, "heat")["values"]


def test_no_cell_sorts_by_what_has_no_order() -> None:
    from experiments.report.grid import Cell, Column, Line, grid

    values = [float("nan"), float("inf"), -float("inf"), 2.5]
    lines = [Line([Cell("name"), Cell(value, value)], n, ["finished"]) for n, value in enumerate(values)]
    assert re.findall('data-v="([^"]*)"', grid("x", [Column("a"), Column("b", number=True)], lines)) == [
        "2.5"
    ]


def test_rows_are_told_apart_in_the_table_by_shape_too(study: Path, tmp_path: Path) -> None:
    text = page_of(study, tmp_path / "page.html")
    drawn = re.findall(r'class="(c\d) swatch"[^>]*><path d="([^"]*)"', text)
    assert len(drawn) == 7
    assert len({path for _, path in drawn}) == 4  # dense and three ways of pruning
