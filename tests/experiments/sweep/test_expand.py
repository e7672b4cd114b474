"""From spec to runs, and their names, which nothing may change once runs are on the disk."""

import json
from typing import Any

import pytest

from experiments.sweep.configs import read_base, shared_params
from experiments.sweep.expand import expand
from experiments.sweep.point import Point, name_of
from experiments.sweep.spec import read_spec
from pruning.problems import ProblemError
from tests.experiments.sweep.sweeps import AXES, half, write_sweep

pytestmark = pytest.mark.usefixtures("place")
POINT = {"masks": {"sparsity": 0.5}}


def folders(**changes: Any) -> list[str]:
    spec = read_spec(write_sweep(**changes))
    return [run.folder for run in expand(spec, shared_params(read_base(spec.base), spec))]


def test_names_of_existing_runs_never_change() -> None:
    """If this fails, users lose sight of finished runs. Give new fields a no-op default."""
    lora = {"r": 8, "alpha": 16}
    named = {
        "dense-44136fa3": Point(seed=1),
        "magnitude-s0.5-d4f78975": Point(masks=half(), seed=1),
        "magnitude-global-s0.5-64797fbc": Point(masks=half(allocation="global"), seed=1),
        "random-s0.5-seed0-359ebe68": Point(masks=half(score="random"), seed=1),
        "magnitude-s0.5-once-ace29db3": Point(masks=half(), mode="sparse_to_dense", seed=1),
        "magnitude-s0.5-lora-r8-a3c6f2a4": Point(masks=half(), lora=lora, seed=1),
        "dense-max_steps=100-aef69fb9": Point(settings={"init.loop.max_steps": 100}, seed=1),
    }
    assert {name: name_of(point) for name, point in named.items()} == {name: name for name in named}


def test_the_seed_is_no_part_of_the_name() -> None:
    assert name_of(Point(seed=1)) == name_of(Point(seed=2))


def test_a_setting_as_in_the_base_changes_no_name() -> None:
    point = Point(masks=half(), settings={"init.loop.max_steps": 2, "init.schedulers[0].x": 1}, seed=1)
    base = {"init": {"loop": {"max_steps": 2}, "schedulers": [{"x": 1}]}}
    assert point.canonical(base) == Point(masks=half(), seed=1)
    other = {"init": {"loop": {"max_steps": 3}, "schedulers": []}}
    assert point.canonical(other) == point


def test_a_point_that_another_release_wrote_is_the_same_one() -> None:
    point = Point(masks=half(include=("*a*",)), lora={"r": 2}, settings={"a.b": 1}, seed=3)
    plain = json.loads(json.dumps(point.to_json()))
    del plain["masks"]["plugin"], plain["mode"]
    assert Point.from_json(plain).changed == point.changed
    with pytest.raises(ValueError, match="a newer release"):
        Point.from_json({**plain, "data_order": "x"})


def test_a_grid_has_every_combination_and_the_baseline_of_each_setting_and_seed() -> None:
    axes = {**AXES, "lora": [None, {"r": 2}], "set": {"init.loop.max_steps": [2, 3]}}
    found = folders(axes=axes)
    assert len(found) == len(set(found)) == 2 * 2 * 2 * 2 + 2 * 2
    assert found[:4] == sorted(f for f in found if f.startswith("dense"))
    assert sum("lora-r2" in folder for folder in found) == 8


def test_an_axis_value_that_is_added_leaves_the_other_names_alone() -> None:
    before = set(folders())
    more = {**AXES, "masks": [AXES["masks"], {"score": "random", "sparsity": 0.5}]}
    assert before < set(folders(axes=more))
    assert before < set(folders(axes={**AXES, "set": {"init.loop.max_steps": [2, 5]}}))


def test_points_are_beside_the_grid_and_equal_ones_are_one() -> None:
    point = {"masks": {"sparsity": 0.9}, "lora": {"r": 2}, "mode": "sparse_to_dense", "seed": 3}
    found = folders(points=[point, {"masks": {"sparsity": 0.5}, "seed": 1}])
    assert len(found) == len(folders()) + 2  # with its own baseline, for no other has seed 3
    assert any(folder.startswith("magnitude-s0.9-dense-update-lora-r2") for folder in found)
    assert "dense-44136fa3/seed3" in found


def test_what_is_one_run_is_in_one_folder_however_it_is_written() -> None:
    """The base has 2 steps: with it written out, or left to the base, it is the same run."""
    axes = {"masks": {"sparsity": 0.5}, "seed": [1]}
    set_ = {"init.loop.max_steps": [2, 3]}
    assert len(folders(axes={**axes, "set": set_}, points=[{"masks": {"sparsity": 0.5}}])) == 4
    lora = {"r": 8, "alpha": 16}
    turned = {"masks": {"sparsity": 0.5}, "lora": dict(reversed(lora.items()))}
    assert len(folders(axes={**axes, "lora": lora}, points=[turned])) == 2


def test_what_the_seeds_decide_is_no_value_of_the_base() -> None:
    """The base's own order of the data is another for each seed, unless a run asks for it."""
    order = {"fit.train_dataloader.shuffle_seed": [7, 8]}  # the base has 7
    found = folders(axes={"masks": {"sparsity": 0.5}, "seed": [1], "set": order}, points=[POINT])
    assert len(found) == 6
    assert "dense-44136fa3/seed1" in found
    assert any("shuffle_seed=7" in folder for folder in found)


@pytest.mark.parametrize(
    ("partial", "left"),
    [
        ({"masks": {"sparsity": 0.75}}, 2 + 2),
        ({"seed": 2}, 2 + 1),
        ({"masks": {"sparsity": 0.75}, "seed": 2}, 3 + 2),
        ({"lora": None, "masks": {"sparsity": 0.5}}, 2 + 2),
    ],
)
def test_what_is_excluded(partial: dict[str, Any], left: int) -> None:
    assert len(folders(exclude=[partial])) == left


GLOBS = [{"sparsity": 0.5, "include": ["*a*"]}, {"sparsity": 0.75}]
LAYERS = [{"sparsity": 0.5, "layers": {"*a*": 0.2}}, {"sparsity": 0.75}]
PATTERNS = [{"pattern": "2:4"}, {"sparsity": 0.5}, {"sparsity": 0.75}]
SET = {"trainer.init.loop.max_steps": [2, 3]}


@pytest.mark.parametrize(
    ("axes", "exclude", "left"),
    [
        ({"masks": GLOBS}, [{"masks": {"include": ["*a*"]}}], 1),
        ({"masks": LAYERS}, [{"masks": {"layers": {"*a*": 0.2}}}], 1),
        ({"masks": PATTERNS}, [{"masks": {"pattern": "2:4", "sparsity": 0.5}}], 2),
        ({"masks": PATTERNS}, [{"masks": {"sparsity": [0.5, 0.75]}}], 1),
        ({"masks": PATTERNS, "set": SET}, [{"set": {"trainer.init.loop.max_steps": 3}}], 3),
        ({"masks": PATTERNS, "set": SET}, [{"set": {"init.loop.max_steps": [2, 3]}, "seed": [1]}, POINT], 0),
        ({"masks": PATTERNS}, [POINT, {"masks": {"sparsity": 0.5, "score": "magnitude"}}], 2),
    ],
)
def test_what_is_excluded_is_written_as_in_the_axes(
    axes: dict[str, Any], exclude: list[dict[str, Any]], left: int
) -> None:
    def sparse() -> int:
        found = folders(axes={**axes, "seed": [1]}, exclude=exclude)
        return sum(not folder.startswith("dense") for folder in found)

    if left:
        assert sparse() == left
        return
    with pytest.raises(ProblemError, match="leaves nothing"):
        sparse()


def test_an_exclude_without_effect_is_an_error() -> None:
    with pytest.raises(ProblemError, match="has no effect"):
        folders(exclude=[{"masks": {"sparsity": 0.9}}])
    with pytest.raises(ProblemError, match="leaves nothing"):
        folders(exclude=[{"mode": "sparse_to_sparse"}])


def test_without_masks_there_is_nothing_to_compare() -> None:
    with pytest.raises(ProblemError, match="has no masks"):
        folders(axes={"seed": [1]})
