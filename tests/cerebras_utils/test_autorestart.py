"""cszoo's autorestart after a step that fails: the process that takes over goes on with the masks."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from cerebras_utils.events_file import read_scalars
from cerebras_utils.fallback.mdl_reader import load_mdl
from cerebras_utils.register import pth_line
from tests.cerebras_utils.fallback.tiny_runs import (
    config,
    dense,
    fitted,
    masks_of,
    with_masks,
    write_data,
)

_HERE = importlib.util.find_spec("cerebras") and importlib.util.find_spec("cerebras.modelzoo")
pytestmark = [
    pytest.mark.cszoo,
    pytest.mark.skipif(not _HERE, reason="cerebras.modelzoo is not installed"),
]
ROOT = Path(__file__).parents[2]
STOCK = "import sys; from cerebras.modelzoo.cli.main import main; sys.argv[0] = 'cszoo'; main()"
# sitecustomize stands for a .pth file: every process runs it, also those that autorestart spawns
KNOWN = """
from cerebras_utils import register
register.REGISTERED = {**register.REGISTERED, "FailsOnce": "tests.cerebras_utils.fails_once"}
"""
NO_DROPOUT = {f"{name}dropout_rate": 0.0 for name in ("", "embedding_", "attention_")}
MODEL = {
    "name": "gpt2",
    "vocab_size": 32,
    "max_position_embeddings": 16,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_heads": 2,
    "filter_size": 32,
    **NO_DROPOUT,
}


@pytest.fixture
def place(tmp_path, monkeypatch):
    before = torch.get_num_threads()
    torch.set_num_threads(1)  # sums are cut by the number of threads
    monkeypatch.chdir(tmp_path)
    write_data("train", 40)
    write_data("valid", 8, seed=1)
    yield tmp_path
    torch.set_num_threads(before)


def cszoo(place, *words, hook):
    site = place / "site"
    site.mkdir(exist_ok=True)
    (site / "sitecustomize.py").write_text((pth_line() if hook else "") + KNOWN)
    programs = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    paths = os.pathsep.join([str(site), str(ROOT)])
    start = [sys.executable, "-c", STOCK] if hook else [sys.executable, "-m", "experiments"]
    return subprocess.run(
        [*start, *words],
        cwd=place,
        env={**os.environ, "PATH": programs, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=900,
    )


def losses(directory):
    """By step, of both processes. cszoo leaves directories beside its event files."""
    files = sorted((f for f in Path(directory, "events").iterdir() if f.is_file()), key=os.path.getmtime)
    return {step: value for file in files for step, value, _ in read_scalars(file).get("loss", ())}


@pytest.mark.parametrize(("every_step", "hook"), [(True, False), (False, True)], ids=["every step", "once"])
def test_the_run_that_was_lost_and_the_one_that_was_not_end_alike(place, every_step, hook):
    start = dense(model=MODEL)
    masks = masks_of(start)
    callbacks = with_masks(every_step)
    fitted(config(model=MODEL, steps=8, callbacks=callbacks), "--checkpoint_path", start, "-o", "whole")
    lost = config(
        "lost.yaml",
        model=MODEL,
        steps=8,
        callbacks=[*callbacks, {"FailsOnce": {"step": 7, "flag": str(place / "failed")}}],
        checkpoint={"steps": 2},
        autorestart={"max_num_restarts": 1},
    )
    words = ("fit", lost, "--target_device", "CPU", "--checkpoint_path", start, "-o", "lost")
    done = cszoo(place, *words, hook=hook)
    assert done.returncode == 0, done.stderr[-3000:]

    (summary,) = Path("lost").rglob("summary.json")
    first, second = json.loads(summary.read_text())["runs"]
    assert (first["status"], second["status"]) == ("failed", "success")
    assert "a system was lost" in first["failure_reason"]
    assert 3 < first["ending_step"] < 7

    receipts = [json.loads(path.read_text()) for path in Path("lost").glob("*/run.json")]
    before, after = sorted(receipts, key=lambda receipt: receipt["started"])
    assert (before["state"], before["error"]["type"]) == ("failed", "ProblemError")
    assert (after["state"], after["steps"]) == ("finished", 8)
    assert after["start"] == {key: before["checkpoints"][-1][key] for key in ("path", "fingerprint")}
    assert json.loads(Path("lost/run.json").read_text()) == after

    found, expected = losses("lost"), losses("whole")
    assert {step: found[step] for step in expected} == pytest.approx(expected, abs=1e-5)
    trained, whole = (load_mdl(Path(d, "checkpoint_8.mdl"))["model"] for d in ("lost", "whole"))
    assert trained.keys() == whole.keys()
    assert all(torch.allclose(trained[n].float(), whole[n].float(), atol=1e-5) for n in whole)
    dropped = {name: int(trained[name][~mask].count_nonzero()) for name, mask in masks.items()}
    if every_step:
        assert not any(dropped.values())
        assert after["mask_receipts"][0]["resurrected"] == 0
    else:
        assert all(dropped.values()), "it was pruned again"
