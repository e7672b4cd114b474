"""`wafersparse sweep`: whose run is whose, and what is found before hours are spent."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from cerebras_utils import register
from cerebras_utils.checks.case import Files
from experiments.sweep import masks
from experiments.sweep import prepare as prepares
from experiments.sweep.claim import STATE
from experiments.sweep.cost import Held, cost_of
from experiments.sweep.plan import make_plan
from experiments.sweep.point import Point
from experiments.sweep.prepare import prepare
from experiments.sweep.spec import read_spec
from pruning.checkpoint.open import open_checkpoint
from tests.experiments.sweep.sweeps import AXES, write_sweep
from tests.experiments.sweep.test_sweep_command import OUT, _no_training, done, ran, refused, sweep  # noqa: F401

pytestmark = pytest.mark.usefixtures("place")
MODEL = {"name": "gpt2", "hidden_size": 8, "num_hidden_layers": 1, "num_heads": 2, "filter_size": 16}
MODEL |= {"vocab_size": 16, "max_position_embeddings": 8}
ONE: dict[str, Any] = {"masks": {"sparsity": 0.5}, "seed": [1]}
DENSE = "dense-44136fa3/seed1"


def planned(run: str = DENSE, out: Path = OUT) -> dict[str, Any]:
    found = json.loads((out / run / STATE / "planned.json").read_text())
    assert isinstance(found, dict)
    return found


def rewritten(change: Callable[[dict[str, Any]], None], run: str = DENSE, out: Path = OUT) -> None:
    plan = planned(run, out)
    change(plan)
    (out / run / STATE / "planned.json").write_text(json.dumps(plan))


def test_the_value_of_the_base_added_to_an_axis_leaves_finished_runs_alone() -> None:
    done(axes=ONE)
    assert "4 done" in done(axes={**ONE, "set": {"init.loop.max_steps": [2, 3]}}).stdout
    assert len(ran()) == 4


def test_a_plan_of_an_older_release_is_the_same_run() -> None:
    done(axes=ONE)

    def older(plan: dict[str, Any]) -> None:
        plan["point"]["set"] = {"init.loop.max_steps": 2}  # as the base has it
        del plan["point"]["masks"]["plugin"]

    rewritten(older, "magnitude-s0.5-d4f78975/seed1")
    assert "2 done" in done(axes=ONE).stdout
    rewritten(lambda plan: plan["point"].update(seed=2))
    assert "was planned from another point" in refused(axes=ONE)


def test_of_two_sweeps_on_one_directory_the_first_has_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """The second made its plan before the first had written any of its own."""
    for late in (prepares.compute_masks, prepares._check):
        shutil.rmtree(OUT, ignore_errors=True)

        def meanwhile(*given: Any, late: Any = late) -> Any:
            monkeypatch.setattr(prepares, late.__name__, late)
            prepare(make_plan(read_spec(write_sweep(axes=ONE, set={"init.loop.max_steps": 3})), OUT), print)
            return late(*given)

        monkeypatch.setattr(prepares, late.__name__, meanwhile)
        assert "was planned from another set" in refused(axes=ONE)
        assert ran() == []
        config = yaml.safe_load((OUT / DENSE / "config.yaml").read_text())
        assert (config["trainer"]["init"]["loop"]["max_steps"], planned()["set"]) == (
            3,
            {"init.loop.max_steps": 3},
        )


def test_of_two_equal_sweeps_either_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    check = prepares._check

    def meanwhile(*given: Any) -> None:
        monkeypatch.setattr(prepares, "_check", check)
        prepare(make_plan(read_spec(write_sweep(axes=ONE)), OUT), print)
        check(*given)

    monkeypatch.setattr(prepares, "_check", meanwhile)
    done(axes=ONE)
    (OUT / DENSE / STATE / "attempt-1.end.json").unlink()
    (OUT / DENSE / STATE / "attempt-1.claim").unlink()
    (OUT / DENSE / "config.yaml").unlink()  # whoever planned it was killed right then
    done(axes=ONE)
    assert (OUT / DENSE / "config.yaml").exists()


@pytest.mark.parametrize(
    ("change", "said"), [({"backend": "cszoo"}, "backend"), ({"device": "GPU"}, "device")]
)
def test_another_backend_or_device_is_another_run(change: dict[str, Any], said: str) -> None:
    Path("broken").touch()
    sweep(axes=ONE)
    assert f"was planned from another {said}" in refused(axes=ONE, **change)


def test_a_copied_directory_does_not_train_into_the_original() -> None:
    Path("broken").touch()
    sweep(axes=ONE)
    shutil.copytree(OUT, "copy")
    said = refused("--out", "copy", "--resume", axes=ONE)
    assert f"was planned in {OUT.absolute() / DENSE}" in said
    Path("broken").unlink()
    done("--resume", axes=ONE)
    shutil.copytree(OUT, "whole")
    assert "2 done" in done("--out", "whole", axes=ONE).stdout


def test_a_checkpoint_that_was_moved_is_followed() -> None:
    Path("broken").touch()
    sweep(axes=ONE)
    Path("dense.pt").rename("moved.pt")
    sweep(axes=ONE, checkpoint="moved.pt")
    assert planned()["start"][1] == str(Path("moved.pt").absolute())


def test_data_are_put_into_all_loaders_that_share_an_anchor() -> None:
    text = Path("base.yaml").read_text()
    base = yaml.safe_load(text)["trainer"]
    base["validate"]["val_dataloader"] = base["fit"]["val_dataloader"]
    base["validate_all"] = {"val_dataloaders": [base["fit"]["val_dataloader"]]}
    Path("base.yaml").write_text(yaml.safe_dump({"trainer": base}))
    assert Path("base.yaml").read_text().count("*id001") == 2
    done(axes=ONE)
    found = yaml.safe_load((OUT / DENSE / "config.yaml").read_text())["trainer"]
    loaders = [found["fit"]["val_dataloader"], *found["validate_all"]["val_dataloaders"]]
    assert [one["data_dir"] for one in loaders] == [str(Path("valid").absolute())] * 2


def test_what_this_machine_cannot_run_is_found_before_the_masks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(register, "modelzoo_is_here", lambda: False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert "ModelZoo is not importable" in refused(axes=ONE, backend="cszoo")
    assert "PyTorch uses no CS-3" in refused(axes=ONE, backend=None, device="CSX")
    assert "torch sees no GPU here" in refused(axes=ONE, device="GPU")
    assert not OUT.exists()


def test_settings_that_are_wrong_are_told_where_they_are_written() -> None:
    said = refused("--dry-run", axes=ONE, set={"init.lop.max_steps": 3})
    line = Path("sweep.yaml").read_text().splitlines().index("  init.lop.max_steps: 3") + 1
    assert f"sweep.yaml:{line}: set.init.lop.max_steps" in said
    assert "Did you mean 'loop'?" in said
    said = refused("--dry-run", axes={**ONE, "set": {"init.loop.max_steps.x": [3]}})
    assert "axes.set.init.loop.max_steps.x" in said
    assert "--set" not in said
    assert "init.loop" in refused("--dry-run", axes={**AXES, "set": {"init.loop": 5}})
    assert "init.model" in refused("--dry-run", axes=AXES, set={"init.model": 5})


def test_seeds_of_data_that_are_not_shuffled_are_refused() -> None:
    still: dict[str, Any] = {f"init.model.{name}dropout_rate": 0.0 for name in ("", "attention_")}
    still["fit.train_dataloader.shuffle"] = False
    assert "would be the same run" in refused(set=still)


def test_masks_of_which_another_sweep_wrote_some() -> None:
    """Both sweeps ask for 0.5; this one is told so only when it begins to write."""
    plan = make_plan(read_spec(write_sweep()), OUT)
    real = masks.write_mask_files
    with open_checkpoint(Path("dense.pt")) as source, pytest.MonkeyPatch.context() as patch:

        def meanwhile(*given: Any, **named: Any) -> Any:
            patch.setattr(masks, "write_mask_files", real)
            prepare(make_plan(read_spec(write_sweep(axes=ONE)), OUT), print)
            return real(*given, **named)

        patch.setattr(masks, "write_mask_files", meanwhile)
        assert masks.compute_masks(source, plan.masks, OUT) == 1
    assert len(list((OUT / "masks").glob("*.safetensors"))) == 2


def runs_of(*words: Any, **changes: Any) -> dict[str, dict[str, Any]]:
    plan = json.loads(done("--dry-run", "--json", *words, **changes).stdout)
    return {run["name"]: run for run in plan["runs"]}


def test_the_cost_of_masks_by_layer_and_of_a_run_that_goes_on() -> None:
    levels = [{"sparsity": 0.5}, {"sparsity": 0.5, "layers": {"*": 0.75}}, {"layers": {"*": 0.75}}]
    found = runs_of(axes={"masks": [*levels, {"sparsity": 0.75}], "seed": [1]})
    flops = [run["estimated_training_flops"] for name, run in found.items() if "dense" not in name]
    assert flops[0] > flops[1] == flops[2] == flops[3] > 0
    params = {"init": {"loop": {"max_steps": 400}, "checkpoint": {"steps": 50}, "model": MODEL}}
    params["fit"] = {"train_dataloader": {"batch_size": 2}}
    whole, rest = (
        cost_of(Point(seed=1), params, Held({}, 0.0), "dense.pt", Files(), step) for step in (0, 300)
    )
    assert whole.flops is not None
    assert rest.flops == whole.flops / 4
    assert whole.bytes is not None
    assert rest.bytes == whole.bytes / 4
    assert whole.steps == rest.steps == 400


def test_what_only_chooses_is_in_the_json_and_jobs_are_looked_at_in_a_dry_run() -> None:
    found = runs_of("--only", "dense*", axes=ONE)
    assert {name: run["chosen"] for name, run in found.items()} == {
        "dense-44136fa3": True,
        "magnitude-s0.5-d4f78975": False,
    }
    said = refused("--dry-run", "--jobs", 2, axes=ONE, backend=None, device="CSX")
    assert "takes one run at a time" in said


@pytest.mark.parametrize("out", ["base.yaml", "a" * 300, "base.yaml/x"])
def test_an_out_that_cannot_be(out: str) -> None:
    assert f"--out {out}" in refused("--dry-run", "--out", out, axes=ONE)
