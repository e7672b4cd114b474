"""Curves over steps: a mean for each configuration, failed runs beside it, sparsities told apart."""

import re
from pathlib import Path

import numpy as np
import pytest

from experiments.compare.groups import grouped
from experiments.compare.metrics import DEFAULT, METRICS
from experiments.compare.overlap import MaskOverlaps
from experiments.compare.table import rows_of
from experiments.report.binned import curves_of
from experiments.report.pareto import pareto_fronts
from experiments.report.study import Study
from experiments.report.styles import shades
from experiments.report.training import loss_curves
from experiments.runs.record import RunRecord, Sparsity


def run(
    seed: int,
    *,
    masks: str = "",
    sparsity: float = 0.0,
    state: str = "finished",
    steps: int = 300,
    ppl: float = 9.0,
) -> RunRecord:
    noise = np.random.default_rng(seed + len(masks)).standard_normal(steps)
    given = [{"SparseMaskCallback": {"mask_path": f"{masks}.safetensors"}}] if masks else []
    return RunRecord(
        path=f"/runs/{masks}/{seed}",
        name=str(seed),
        state=state,
        seed=seed,
        params={"init": {"callbacks": given, "loop": {"max_steps": 300}}},
        steps=steps,
        last={METRICS["perplexity"].tag: (steps, ppl + seed / 100)},
        curves={"loss": [[step + 1, 2.0 + sparsity + 0.3 * float(noise[step])] for step in range(steps)]},
        sparsity=Sparsity(requested=sparsity, effective=sparsity),
    )


def study_of(runs: list[RunRecord]) -> Study:
    metrics = [METRICS[name] for name in DEFAULT]
    return Study(rows_of(grouped(runs), metrics), metrics, [], MaskOverlaps((), (), {}, ()))


def test_a_configuration_is_one_curve_of_means() -> None:
    runs = [run(seed) for seed in range(3)]
    (curve,) = curves_of(grouped(runs), "loss")
    assert len(curve.runs) == 3
    assert len(curve.bins) == 60
    assert (curve.bins[0].first, curve.bins[-1].last) == (1, 300)
    inside = [v for r in runs for s, v in r.curves["loss"] if curve.bins[7].first <= s <= curve.bins[7].last]
    assert curve.bins[7].value == pytest.approx(np.mean(inside))
    assert np.std([one.value for one in curve.bins]) < 0.12  # of 0.3 before


def test_what_failed_or_ended_early_is_a_curve_of_its_own() -> None:
    runs = [run(1), run(2), run(3, state="failed", steps=150), run(4, state="running", steps=90)]
    found = {tuple(r.seed for r in curve.runs): curve for curve in curves_of(grouped(runs), "loss")}
    assert set(found) == {(1, 2), (3,), (4,)}
    assert [found[key].bins[-1].last for key in ((1, 2), (3,), (4,))] == [300, 150, 90]
    assert [found[key].stopped for key in ((1, 2), (3,), (4,))] == [False, True, False]
    picture = loss_curves(study_of(runs))
    assert picture is not None
    assert str(picture.content[0]).count("end-mark") == 1
    assert "(1)" in picture.note


def test_sparsities_of_a_family_are_told_apart_and_named() -> None:
    runs = [run(1), *(run(1, masks=f"magnitude-s{s}-0123abcd", sparsity=s) for s in (0.5, 0.7, 0.9))]
    picture = loss_curves(study_of(runs))
    assert picture is not None
    drawn = re.findall(r"<polyline[^>]*style=\"([^\"]*)\"", str(picture.content[0]))
    assert len(set(drawn)) == 3
    assert {name: [s.said for s in of] for name, of in picture.shades.items()} == {
        "magnitude": ["50 %", "70 %", "90 %"]
    }
    assert "70 %" in str(picture.on_page())
    assert len(picture.styles) == 2
    assert [shade.strength for shade in shades([0.9, 0.5, 0.7]).values()] == [0.0, 0.5, 1.0]


def test_the_front_does_not_see_how_sparsities_were_rounded() -> None:
    runs = [
        run(1, masks="magnitude-s0.8-0123abcd", sparsity=0.7999980, ppl=9.0),
        run(1, masks="magnitude-global-s0.8-0123abcd", sparsity=0.8000005, ppl=12.0),
        run(1),
    ]
    front = next(p for p in pareto_fronts(study_of(runs)) if p.title == "perplexity against sparsity found")
    assert "magnitude-s0.8" in front.note
    assert "global" not in front.note


def test_numbers_that_are_none_are_not_drawn_and_stop_nothing(tmp_path: Path) -> None:
    """Infinite speed, NaN sparsity of a row, and values that overflow a scale."""
    odd = run(1, masks="a-s0.5-0123abcd", sparsity=0.5)
    changed = RunRecord(**{**odd.__dict__, "samples_per_second": float("inf")})
    lost = run(1, masks="b-s0.5-0123abcd", sparsity=float("nan"))
    huge = run(1, masks="c-s0.6-0123abcd", sparsity=0.6, ppl=1e300)
    fine = RunRecord(**{**run(1).__dict__, "samples_per_second": 5.0})
    study = study_of([fine, changed, lost, huge])
    drawn = "".join(str(p.on_page()) for p in pareto_fronts(study))
    assert not re.search(r'(?:d|x|y)="[^"]*(?:nan|inf)', drawn)
    assert "samples per second" not in drawn
