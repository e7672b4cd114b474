"""`wafersparse sweep`: what it plans, checks, starts, leaves alone and resumes."""

import json
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from click.testing import CliRunner, Result

from experiments.cli import main
from experiments.sweep import local
from experiments.sweep import plan as plans
from experiments.sweep.claim import STATE, claim
from experiments.sweep.states import write_once
from experiments.sweep.supervise import DONE, FAILED
from pruning.masks.file import MaskFile
from tests.experiments.sweep import sweeps
from tests.experiments.sweep.sweeps import AXES, write_sweep

pytestmark = pytest.mark.usefixtures("place")
OUT = Path("runs/tiny")


@pytest.fixture(autouse=True)
def _no_training(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """A run claims, notes its name in `ran`, and ends: failed while there is a file `broken`."""

    def run_one(todo: local.Todo, *_: Any) -> int:
        mine = claim(todo.run / STATE, todo.attempt)
        assert mine is not None
        if Path("broken").exists():
            write_once(mine.end, {"state": "failed", "reason": "RuntimeError: no room"})
            return FAILED
        with Path("ran").open("a") as stream:
            stream.write(f"{todo.run.parent.name}\n")
        write_once(mine.end, {"state": "done"})
        return DONE

    if "slow" not in request.keywords:
        monkeypatch.setattr(local, "run_one", run_one)


def sweep(*words: Any, **changes: Any) -> Result:
    return CliRunner().invoke(main, ["sweep", str(write_sweep(**changes)), *map(str, words)])


def done(*words: Any, **changes: Any) -> Result:
    result = sweep(*words, **changes)
    assert result.exit_code == 0, (result.output, result.exception)
    return result


def refused(*words: Any, **changes: Any) -> str:
    result = sweep(*words, **changes)
    assert result.exit_code == 1, result.output
    assert "Traceback" not in result.output
    return result.stderr


def ran() -> list[str]:
    return Path("ran").read_text().split() if Path("ran").exists() else []


def test_a_dry_run_shows_the_plan_and_writes_nothing(place: Path) -> None:
    before = sorted(place.rglob("*"))
    text = done("--dry-run").stdout
    assert sorted(path for path in place.rglob("*") if path.name != "sweep.yaml") == before
    assert "6 runs" in text
    assert "FLOPs (est.)" in text
    assert "2 mask files, the checkpoint read once" in text
    plan = json.loads(done("--dry-run", "--json").stdout)
    dense, half = plan["runs"][0], plan["runs"][2]
    assert 0 < half["estimated_training_flops"] < dense["estimated_training_flops"]
    assert half["estimated_checkpoint_bytes"] > dense["estimated_checkpoint_bytes"]  # the masks, too
    assert {run["state"] for run in plan["runs"]} == {"planned"}


def test_every_run_once_then_nothing_then_what_is_new() -> None:
    axes = {"masks": {"sparsity": [0.5]}, "seed": [1]}
    assert "2 done" in done(axes=axes).stdout
    stamp = (OUT / "masks").stat().st_mtime_ns
    assert sorted(ran()) == ["dense-44136fa3", "magnitude-s0.5-d4f78975"]
    assert "2 done" in done(axes=axes).stdout
    assert len(ran()) == 2
    assert (OUT / "masks").stat().st_mtime_ns == stamp
    done(axes={"masks": {"sparsity": [0.5, 0.75]}, "seed": [1]})
    assert ran()[2:] == ["magnitude-s0.75-cf8485d2"]
    assert len(json.loads((OUT / "plan.json").read_text())["runs"]) == 3


def test_masks_are_one_file_for_all_runs_that_ask_for_them() -> None:
    done(axes={"masks": {"sparsity": [0.5]}, "lora": [None, {"r": 2}], "seed": [1, 2]})
    (masks,) = (OUT / "masks").iterdir()
    with MaskFile(masks) as file:
        assert sum(map(file.kept, file.names)) * 2 == sum(map(file.numel, file.names))
    configs = [yaml.safe_load(path.read_text())["trainer"] for path in OUT.glob("magnitude*/*/config.yaml")]
    paths = {
        entry["SparseMaskCallback"]["mask_path"]
        for config in configs
        for entry in config["init"]["callbacks"]
        if "SparseMaskCallback" in entry
    }
    assert (len(configs), paths) == (4, {str(masks.absolute())})


def test_configs_are_the_base_with_seed_data_and_settings() -> None:
    done(axes={"masks": {"sparsity": 0.5}, "seed": [5], "set": {"init.loop.max_steps": [2, 3]}})
    found = {path.parts[-3]: path for path in OUT.glob("*/seed5/config.yaml")}
    (dense,) = (path for name, path in found.items() if name.startswith("dense-max_steps=3"))
    base = yaml.safe_load(Path("base.yaml").read_text())["trainer"]
    trainer = yaml.safe_load(dense.read_text())["trainer"]
    assert (trainer["init"].pop("seed"), base["init"].pop("seed")) == (5, 1)
    assert (trainer["init"]["loop"].pop("max_steps"), base["init"]["loop"].pop("max_steps")) == (3, 2)
    orders = [params["fit"]["train_dataloader"].pop("shuffle_seed") for params in (trainer, base)]
    assert orders == [5, 7]
    for stage, loader in (
        ("fit", "train_dataloader"),
        ("fit", "val_dataloader"),
        ("validate", "val_dataloader"),
    ):
        path = Path(trainer[stage][loader].pop("data_dir"))
        assert path == Path(base[stage][loader].pop("data_dir")).absolute()
    assert trainer == base
    plan = json.loads((dense.parent / ".wafersparse/planned.json").read_text())
    assert plan["start"] == [
        *("--checkpoint_path", str(Path("dense.pt").absolute())),
        *("--load_checkpoint_states", "model"),
    ]
    assert plan["steps"] == 3


def test_seeds_that_would_be_one_run_are_refused() -> None:
    """From one checkpoint, without dropout, with the data in one order, nothing is left to differ."""
    still = {"init.model.dropout_rate": 0.0, "init.model.attention_dropout_rate": 0.0}
    done("--dry-run", set=still)
    still["fit.train_dataloader.shuffle_seed"] = 3
    said = refused(set=still)
    assert "axes.seed\n   dense-44136fa3, magnitude-s0.5-d4f78975, magnitude-s0.75-cf8485d2 would be" in said
    assert "write `shuffle: true`" in said
    lora = {"r": 2, "alpha": 2, "target_modules": ["Linear"]}
    assert "magnitude" not in refused(set=still, axes={**AXES, "lora": [lora]})
    done("--dry-run", set={**still, "init.model.dropout_rate": 0.1})
    done("--dry-run", set=still, axes={**AXES, "seed": [2]})


def test_settings_of_every_run_are_in_the_baseline_too_and_in_no_name() -> None:
    settings = {"init.loop.max_steps": 3, "init.logging.log_steps": 2}
    done(axes={"masks": {"sparsity": 0.5}, "seed": [1]}, set=settings)
    configs = [yaml.safe_load(path.read_text())["trainer"] for path in OUT.glob("*/*/config.yaml")]
    assert [(c["init"]["loop"]["max_steps"], c["init"]["logging"]["log_steps"]) for c in configs] == [
        (3, 2)
    ] * 2
    assert sorted(ran()) == ["dense-44136fa3", "magnitude-s0.5-d4f78975"]
    said = refused(axes={"masks": {"sparsity": 0.5}, "seed": [1]}, set={**settings, "init.loop.max_steps": 4})
    assert "was planned from another set" in said


def test_one_bad_run_is_reported_with_all_others_and_nothing_starts() -> None:
    said = refused(axes={"masks": {"sparsity": 0.5}, "seed": [1], "set": {"init.checkpoint.steps": [1, 0]}})
    assert "dense-steps=0" in said
    assert "(and 1 more run)" in said
    assert ran() == []
    assert not list(OUT.glob("*/*/.wafersparse"))
    done(axes={"masks": {"sparsity": 0.5}, "seed": [1]})  # the same directory, once it is mended


def test_failed_runs_wait_for_resume() -> None:
    Path("broken").touch()
    axes = {"masks": {"sparsity": 0.5}, "seed": [1]}
    first = sweep(axes=axes)
    assert (first.exit_code, "2 failed" in first.stdout) == (1, True)
    assert "RuntimeError: no room" in first.stdout
    assert "--resume" in first.stdout
    Path("broken").unlink()
    assert "2 failed" in sweep(axes=axes).stdout
    assert ran() == []
    assert "2 done" in done("--resume", axes=axes).stdout
    assert len(ran()) == 2


def test_only_some() -> None:
    assert "2 done" in done("--only", "dense*").stdout
    assert ran() == ["dense-44136fa3"] * 2
    assert "1 done" in done("--only", "*s0.5*/seed2").stdout
    assert "matches none" in refused("--only", "nothing*")


def test_json_of_a_sweep_that_ran() -> None:
    result = done("--json", axes={"masks": {"sparsity": 0.5}, "seed": [1]})
    assert [run["state"] for run in json.loads(result.stdout)["runs"]] == ["done", "done"]


@pytest.mark.parametrize("change", ["base", "checkpoint", "data"])
def test_a_directory_of_another_sweep_is_refused(change: str) -> None:
    axes = {"masks": {"sparsity": 0.5}, "seed": [1]}
    done("--out", "out", axes=axes)
    if change == "base":
        sweeps.write_base(rate=0.02)
    elif change == "checkpoint":
        state = torch.load("dense.pt", weights_only=True)
        state["model"]["model.ln_f.bias"] += 1
        torch.save(state, "dense.pt")
    data = {"train": "valid", "val": "valid"} if change == "data" else {"train": "train", "val": "valid"}
    said = refused("--out", "out", axes=axes, data=data)
    assert f"was planned from another {change}" in said
    assert len(ran()) == 2


def test_on_a_cs3_one_run_at_a_time() -> None:
    text = done("--dry-run", backend=None, device="CSX").stdout
    assert "strictly one after the other" in text
    assert "a CS-3 takes one run at a time" in refused("--jobs", 2, backend=None, device="CSX")


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("sparsity", 0.5, "is sparse already"),
        ("callbacks", [{"Lora": {"lora_params": {"r": 2}}}], "has Lora already"),
    ],
)
def test_a_base_that_is_no_dense_run(key: str, value: Any, said: str) -> None:
    sweeps.write_base(**{key: value})
    assert said in refused("--dry-run")


def test_masks_that_the_checkpoint_cannot_have() -> None:
    said = refused("--dry-run", axes={"masks": {"sparsity": 0.5, "include": ["*nothing*"]}})
    assert "*nothing*" in said


def test_a_checkpoint_that_is_not_there() -> None:
    assert "nowhere.mdl" in refused("--dry-run", checkpoint="nowhere.mdl")


def test_a_plan_of_a_thousand_runs() -> None:
    axes = {**AXES, "masks": {"sparsity": [n / 100 for n in range(1, 11)]}, "seed": list(range(100))}
    begun = time.process_time()
    text = done("--dry-run", axes=axes).stdout
    assert "1100 runs" in text
    assert time.process_time() - begun < 5


@pytest.mark.slow
def test_real_runs_killed_and_resumed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each run is killed after its first checkpoint, and resumed: the same weights as without."""
    from cerebras_utils.fallback.mdl_reader import load_mdl

    axes = {"masks": {"sparsity": 0.5}, "lora": [None, {"r": 2}], "seed": [1]}
    sweeps.write_base(steps=4)
    done("--out", "whole", axes=axes)
    killed = (
        "import os, signal; from cerebras_utils.fallback import checkpoints as c; save = c.Checkpoints.save\n"
        "def once(self, trainer):\n    path = save(self, trainer)\n"
        "    '--load_checkpoint_states' in sys.argv and os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return path\n"
        "c.Checkpoints.save = once\nfrom experiments.cli import main; main(['fit', *sys.argv[1:]])"
    )
    monkeypatch.setattr(plans, "FIT", (sys.executable, "-c", f"import sys\n{killed}"))
    first = sweep("--out", "killed", axes=axes)
    assert "3 failed" in first.stdout
    assert "SIGKILL" in first.stdout
    assert "3 done" in done("--out", "killed", "--resume", axes=axes).stdout
    for path in Path("whole").glob("*/seed1/checkpoint_4.mdl"):
        one, other = (load_mdl(p)["model"] for p in (path, Path("killed", *path.parts[1:])))
        assert one.keys() == other.keys()
        assert all(torch.equal(one[name], other[name]) for name in one)
