"""What the pictures say: scales, fronts, families, heat, and the overlap beside its chance."""

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from experiments.cli import main
from experiments.compare.groups import grouped
from experiments.compare.labels import labels
from experiments.compare.overlap import mask_overlaps
from experiments.report.chart import across, upwards
from experiments.report.heatmap import columns_of
from experiments.report.levels import placed
from experiments.report.overlap import above_chance
from experiments.report.pareto import front
from experiments.report.styles import styles
from experiments.runs.read import read_run
from tests.experiments.report.studies import layer_names, write_masks, write_study
from tests.experiments.runs_on_disk import mask_file, params, write_run


@pytest.mark.parametrize("lower_x", [True, False])
@pytest.mark.parametrize("lower_y", [True, False])
def test_the_front_is_what_no_other_point_beats(lower_x: bool, lower_y: bool) -> None:
    """Against the definition, on a grid with many ties, for each direction of both."""
    points = [(float(x), float(y)) for x, y in np.random.default_rng(3).integers(0, 6, (40, 2))]
    sx, sy = (1 if lower_x else -1), (1 if lower_y else -1)

    def beats(a: tuple[float, float], b: tuple[float, float]) -> bool:
        dx, dy = sx * (a[0] - b[0]), sy * (a[1] - b[1])
        return dx <= 0 and dy <= 0 and (dx < 0 or dy < 0)

    expected = [i for i, one in enumerate(points) if not any(beats(other, one) for other in points)]
    found = front(points, lower_x=lower_x, lower_y=lower_y)
    assert sorted(found) == expected
    along = [sx * points[i][0] for i in found]
    assert along == sorted(along)


@pytest.mark.parametrize("values", [[1.0, 2.0], [0.0, 0.0], [3.0], [-5.0, 7.0], [1e-9, 2e-9], [0.5, 5e6]])
def test_scales_hold_their_values_and_have_ticks(values: list[float]) -> None:
    for scale in (across("x", values), upwards("y", values)):
        ends = sorted((scale.start, scale.end))
        assert all(ends[0] <= scale(value) <= ends[1] for value in values)
        assert 2 <= len(scale.ticks) <= 12
        assert all(scale.low <= tick <= scale.high for tick in scale.ticks)
        assert len({scale.said(tick) for tick in scale.ticks}) == len(scale.ticks)


def test_many_times_apart_is_logarithmic_and_says_so() -> None:
    assert "logarithmic" in upwards("perplexity", [10.0, 5000.0]).title
    assert upwards("perplexity", [10.0, 50.0]).title == "perplexity"
    assert upwards("change", [-1.0, 5000.0]).title == "change"


def test_styles_differ_by_more_than_colour() -> None:
    found = styles([str(number) for number in range(36)])
    assert len({(s.colour, s.shape) for s in found.values()}) == 36
    first = [found[str(number)] for number in range(6)]
    assert (
        len({s.shape for s in first}) == len({s.dash for s in first}) == len({s.colour for s in first}) == 6
    )


def test_labels_name_no_more_than_tells_apart() -> None:
    mine = [{"a.x": i % 2, "a.y": i % 2, "b.z": i // 2, "same": 1, "once": 2} for i in range(4)]
    assert labels(mine) == ["dense x=0 z=0", "dense x=1 z=0", "dense x=0 z=1", "dense x=1 z=1"]
    masks = [{"masks": f"magnitude-s0.5-0000000{i}"} for i in range(2)]
    assert labels(masks) == ["magnitude-s0.5 00000000", "magnitude-s0.5 00000001"]
    assert labels([{"x": 1}, {"x": 1}]) == ["dense", "dense"]


def test_columns_of_a_heatmap_go_by_kind_and_number() -> None:
    names = layer_names(12)
    found = columns_of(names, 3)
    assert [column.weights for column in found[:12]] == [(names[3 * n + 2],) for n in range(12)]
    assert [column.first for column in found[:12]] == list(range(12))
    many = columns_of(layer_names(2000), 40)
    assert sorted(name for column in many for name in column.weights) == sorted(layer_names(2000))
    assert len(many) * 40 <= 60_000
    assert "mean" in many[0].name


def test_overlap_of_runs_is_that_of_their_masks(tmp_path: Path) -> None:
    runs = write_study(tmp_path, seeds=(1, 2), levels=(0.5, 0.9), blocks=1, steps=3)
    groups = grouped([read_run(path) for path in sorted(runs.glob("*/*"))])
    found = mask_overlaps(groups)
    assert len(found.names) == 6  # seeds share their masks
    assert len(found.pairs) == 15
    at = {name: number for number, name in enumerate(found.names)}
    nested = found.pairs[at["magnitude-s0.5"], at["magnitude-s0.9"]]
    assert (nested.iou, nested.b_in_a, nested.a_in_b) == (pytest.approx(0.2), True, False)
    strangers = found.pairs[at["magnitude-s0.5"], at["random-s0.5"]]
    assert strangers.chance_iou == pytest.approx(1 / 3)
    assert abs(above_chance(strangers)) < 0.05
    assert above_chance(nested) == pytest.approx((0.2 - 1 / 11) / (1 - 1 / 11))


def test_masks_that_cannot_be_compared_are_named_with_the_reason(tmp_path: Path) -> None:
    first = mask_file(tmp_path / "a-s0.5.safetensors", 0.5)
    gone = mask_file(tmp_path / "b-s0.6.safetensors", 0.6)
    other = tmp_path / "c-s0.7.safetensors"
    write_masks(other, "random", 0.7, 1)
    for file in (first, gone, other):
        write_run(tmp_path / f"runs/{file.stem}", params(masks=file), effective=0.5)
    gone.unlink()
    found = mask_overlaps(grouped([read_run(path) for path in sorted((tmp_path / "runs").iterdir())]))
    assert found.pairs == {}
    assert any("b-s0.6" in reason and "does not exist" in reason for reason in found.left_out)
    assert any("no mask of one has the name" in reason for reason in found.left_out)


def test_overlap_that_costs_too_much_is_left_to_the_option(tmp_path: Path) -> None:
    runs = write_study(tmp_path, seeds=(1,), levels=(0.5, 0.9), blocks=1, steps=3)
    found = mask_overlaps(grouped([read_run(path) for path in sorted(runs.glob("*/*"))]), most=100)
    assert found.pairs == {}
    assert "--overlap" in found.left_out[0]


def test_overlap_in_text_and_json(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    runs = write_study(tmp_path, seeds=(1,), levels=(0.5, 0.9), blocks=1, steps=3)
    text, found, without = (
        CliRunner().invoke(main, ["compare", str(runs), *options]).stdout
        for options in (["--overlap"], ["--overlap", "--json"], ["--json"])
    )
    assert "by chance" in text
    assert "second in first" in text
    pairs = [tuple(pair["masks"]) for pair in json.loads(found)["overlap"]["pairs"]]
    assert pairs == list(itertools.combinations(range(6), 2))
    assert "overlap" not in json.loads(without)


def test_a_mask_path_is_relative_to_where_the_run_was_started(tmp_path: Path) -> None:
    mask_file(tmp_path / "there/m-s0.5.safetensors", 0.5)
    run = write_run(tmp_path / "run", params(masks=Path("m-s0.5.safetensors")), effective=0.5)
    receipt = next(run.glob("*/run.json"))
    said = json.loads(receipt.read_text())
    said["environment"]["directory"] = str(tmp_path / "there")
    receipt.write_text(json.dumps(said))
    assert read_run(run).sparsity.requested == 0.5


@pytest.mark.parametrize("values", [[1224600.0, 1224900.0], [0.0975, 0.0976], [-1.5e-7, 3e-7]])
def test_ticks_have_the_room_that_they_need(values: list[float]) -> None:
    y = upwards("perplexity", values)
    x = across("step", [0.0, 10.0], beside=y)
    assert x.start - 8 - 10 * max(map(len, y.texts)) >= 26  # the turned title ends there
    assert not [text for text in y.texts if "e+" in text or "e-0" in text]


def test_values_that_differ_by_a_rounding_have_ticks() -> None:
    assert len(upwards("y", [5.0, 5.000000000000001]).ticks) > 1


@pytest.mark.parametrize(
    "lines",
    [[20.0], [200.0], [100.0, 101.0, 102.0], [20.0, 21.0, 60.0], [200.0, 200.0], [100.0, 130.0, 145.0]],
)
def test_names_of_lines_lie_on_no_line_and_no_name(lines: list[float]) -> None:
    found = placed([(at, f"line {number}") for number, at in enumerate(lines)])
    bases = sorted(base for _, base in found)
    assert len(bases) == len(lines)
    assert all(lower - upper >= 17 for upper, lower in itertools.pairwise(bases))
    assert not [(base, at) for base in bases for at in lines if base - 11 < at < base + 3]
    assert all(base - 12 >= 16 for base in bases)
