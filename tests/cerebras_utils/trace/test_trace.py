"""The command on cerebras-pytorch, with this project's own model: every route of masks to the compiler."""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from cerebras_utils.trace.asked import Asked
from cerebras_utils.trace.cirh import HINTS, read_arguments
from cerebras_utils.trace.report import Trace, judge

from .conftest import LORA, SHAPES

pytest.importorskip("cerebras.pytorch", reason="cerebras.pytorch is not installed")
pytestmark = pytest.mark.cerebras

OWN = ("--through", "own")


def masks(twelve, **more):
    return {"SparseMaskCallback": {"mask_path": str(twelve[0]), **more}}


def test_twelve_sparsities_give_36_hints_and_12_masks(twelve, write_config, traced, tmp_path, monkeypatch):
    """Each hint is that of its own mask. Nothing is left behind but the file that was to be kept."""
    here, temporary = tmp_path / "here", tmp_path / "tmp"
    here.mkdir()
    temporary.mkdir()
    monkeypatch.chdir(here)
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    config = write_config(masks(twelve))
    code, report, said = traced(config, *OWN, "--keep-cirh", "graph.cirh")

    assert code == 0
    assert (report["hints"], report["masks"], report["problems"]) == (36, 12, [])
    assert {row["weight"]: row["sparsity"] for row in report["weights"]} == pytest.approx(twelve[1])
    assert {row["weight"]: row["hint"] for row in report["weights"]} == pytest.approx(twelve[1], abs=1e-7)
    assert all(
        (row["state_hinted"], row["state"], row["mask"], row["mask_sent"]) == (2, 2, "i1", "Tensor")
        for row in report["weights"]
    )
    assert report["peak_bytes"] < 4e9
    assert f"using {Path(sys.executable).parent / 'torch-cirh-opt'}" in said
    assert [path.name for path in here.iterdir()] == ["graph.cirh"]
    assert not [*temporary.iterdir()]
    assert not still_running(str(temporary))

    arguments = {argument.name: argument for argument in read_arguments(Path("graph.cirh").read_text())}
    for name, sparsity in twelve[1].items():
        assert arguments[f"state.model.{name}_mask"].shape == SHAPES[name]
        assert arguments[f"state.model.{name}"].hints == pytest.approx(
            dict.fromkeys(HINTS, sparsity), abs=1e-7
        )

    code, report, said = traced(config, *OWN, "--keep-cirh", "graph.cirh")
    assert (code, report) == (1, None)
    assert "exists already" in said


def still_running(mark):
    """Processes that were started in a directory of this name."""
    found = []
    for place in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            command = place.read_bytes()
        except OSError:
            continue
        if mark.encode() in command:
            found.append(command)
    return found


def test_once_gives_no_hint_and_no_mask(twelve, write_config, traced):
    code, report, _ = traced(write_config(masks(twelve, apply_every_step=False)), *OWN)
    assert code == 0
    assert (report["hints"], report["masks"]) == (0, 0)
    assert len(report["weights"]) == 12


def test_weights_that_lora_freezes_are_hinted_without_state(twelve, write_config, traced):
    code, report, _ = traced(write_config(masks(twelve), {"Lora": {"lora_params": LORA}}), *OWN)
    assert code == 0
    assert (report["hints"], report["masks"]) == (12, 12)
    assert all((row["state"], row["trained"]) == (0, False) for row in report["weights"])


IN_ONE_PROCESS = """
import json, pathlib, sys
from cerebras.pytorch.backend.ltc_backend import ClusterManager
from cerebras.pytorch.core.appliance import ApplianceMode
from cerebras_utils.algorithm import HINTS, FileMaskSparsity
from cerebras_utils.trace.child import trace_here

def wrong(self, parameter):
    level = self.levels[parameter.name]
    level += 0.01 * parameter.name.endswith("layers.1.ffn.ffn.1.linear_layer.weight")
    for hint in HINTS:
        parameter.annotate(hint, level)

FileMaskSparsity.csx_annotate_sparsity = wrong
classes = (ApplianceMode, ClusterManager)
before = [dict(vars(of)) for of in classes]
directory = pathlib.Path(sys.argv[1])
request = json.loads((directory / "request.json").read_text())
seen = trace_here(request, directory, lambda **message: None)
seen["restored"] = [dict(vars(of)) for of in classes] == before
(directory / "seen.json").write_text(json.dumps(seen))
"""


def test_a_wrong_hint_is_caught_and_the_backend_is_itself_again(twelve, write_config, tmp_path):
    """An algorithm that tells the compiler a hundredth too much of one weight."""
    request = {
        "config": str(write_config(masks(twelve))),
        "phase": 0,
        "through": "own",
        "stand_in_data": False,
    }
    (tmp_path / "request.json").write_text(json.dumps(request))
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    here = os.pathsep.join([str(Path(__file__).parents[3]), os.environ.get("PYTHONPATH", "")])
    subprocess.run(
        [sys.executable, "-c", IN_ONE_PROCESS, str(tmp_path)],
        check=True,
        capture_output=True,
        cwd=tmp_path,
        env={**os.environ, "PATH": path, "PYTHONPATH": here},
    )
    seen = json.loads((tmp_path / "seen.json").read_text())
    assert seen["restored"]
    trace = Trace.read((tmp_path / "graph.cirh").read_text(), seen)
    report = judge(trace, Asked(mask_path=str(twelve[0]), every_step=True))
    name = "model.transformer_decoder.layers.1.ffn.ffn.1.linear_layer.weight"
    assert {problem.where for problem in report.problems} == {name}
    assert len(report.problems) == 3  # the weight, and two tensors of AdamW
    assert all("where its mask has" in problem.what for problem in report.problems)


def test_what_cannot_be_traced_is_told_without_a_traceback(twelve, write_config, traced, tmp_path):
    code, report, said = traced(write_config(masks(twelve), sparsity=0.5), *OWN)
    assert (code, report) == (1, None)
    assert "both set the masks" in said
    config = write_config({"SparseMaskCallback": {"mask_path": str(tmp_path / "absent.safetensors")}})
    assert "absent.safetensors" in traced(config, *OWN)[2]
    log = tmp_path / "vendor.log"
    config = write_config(masks(twelve), model={"name": "gpt2", "hidden_size": 32, "num_heads": 2})
    code, report, said = traced(config, *OWN, "--log", log)
    assert code == 1
    assert said.count("is of shape (16, 16), the weight (32, 32)") == 8
    assert "Traceback" not in said
    assert "Traceback" in log.read_text()
