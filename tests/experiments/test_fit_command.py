"""Which backend runs, what cszoo's flags become, and what is refused."""

import argparse
from pathlib import Path

import h5py
import numpy as np
import pytest
from click.testing import CliRunner

from cerebras_utils import register
from experiments.cli import main
from experiments.cli.cszoo_flags import FLAGS

CONFIG = str(Path(__file__).parents[2] / "configs" / "gpt2_1m.yaml")


def run(*words):
    return CliRunner().invoke(main, words)


@pytest.fixture
def launched(monkeypatch):
    """What cszoo would be called with, where ModelZoo is importable."""
    calls = []

    class Receipts:
        written = ()

    def launch(words):
        calls.append(list(words))
        return Receipts()

    monkeypatch.setattr(register, "modelzoo_is_here", lambda: True)
    monkeypatch.setattr("cerebras_utils.cszoo_launch.launch", launch)
    return calls


def test_cszoo_where_modelzoo_is_importable_and_its_flags_by_its_names(launched):
    words = ["--target_device", "CSX", "-o", "out", "--num_csx", "2", "--mount_dirs", "/a", "/b"]
    words += ["--python_paths", "/c", "--compile_only", "--debug_args", "x.y=1", "--checkpoint_path", "c.mdl"]
    result = run("fit", CONFIG, *words)
    assert result.exit_code == 0, result.output
    assert result.stderr.startswith("backend: cszoo (ModelZoo ")
    assert "ModelZoo is importable here" in result.stderr.splitlines()[0]
    (call,) = launched
    assert call[:2] == ["fit", CONFIG]
    parser = argparse.ArgumentParser()  # as cszoo declares them
    parser.add_argument("-o", "--model_dir")
    for name in ("target_device", "checkpoint_path"):
        parser.add_argument(f"--{name}")
    for name in ("mount_dirs", "python_paths", "debug_args"):
        parser.add_argument(f"--{name}", nargs="+")
    parser.add_argument("--num_csx", type=int)
    parser.add_argument("--compile_only", action="store_true")
    assert vars(parser.parse_args(call[2:])) == {
        "target_device": "CSX",
        "model_dir": "out",
        "checkpoint_path": "c.mdl",
        "mount_dirs": ["/a", "/b"],
        "python_paths": ["/c"],
        "debug_args": ["x.y=1"],
        "num_csx": 2,
        "compile_only": True,
    }


def test_nothing_is_added_that_was_not_given(launched):
    run("validate", CONFIG)
    assert launched == [["validate", CONFIG]]


def test_flags_of_plain_pytorch_are_refused_on_cszoo(launched):
    result = run("fit", CONFIG, "--keep", "2", "--compile", "--parallel", "ddp")
    assert result.exit_code == 1
    for flag in ("--keep", "--compile", "--parallel"):
        assert f"{flag}\n   is for --backend torch" in result.stderr
    assert launched == []


def test_a_config_that_is_not_there(launched):
    result = run("fit", "absent.yaml")
    assert result.exit_code == 1
    assert "absent.yaml" in result.stderr
    assert launched == []


@pytest.fixture
def runnable(tmp_path, monkeypatch):
    """The same config with data of its own."""
    monkeypatch.chdir(tmp_path)
    for name in ("train", "valid"):
        folder = Path("data/stdlib", name)
        folder.mkdir(parents=True)
        with h5py.File(folder / "data.h5", "w") as file:
            file["data"] = np.ones((40, 3, 128), np.int32)
            file.attrs["n_examples"] = 40
    return CONFIG


@pytest.mark.parametrize(
    ("here", "words", "reason"),
    [(False, (), "not importable here"), (True, ("--backend", "torch"), "asked for by --backend torch")],
)
def test_plain_pytorch_elsewhere_or_when_asked(runnable, monkeypatch, here, words, reason):
    monkeypatch.setattr(register, "modelzoo_is_here", lambda: here)
    result = run("fit", runnable, "--dry-run", *words, "--num_csx", "2", "--mount_dirs", "/a", "/b")
    assert result.exit_code == 0, result.output
    first = result.stderr.splitlines()[0]
    assert first.startswith("backend: torch on ")
    assert reason in first
    assert "--num_csx has no effect here: there is no cluster" in result.stderr
    assert "--mount_dirs has no effect here" in result.stderr


def test_what_has_no_meaning_on_plain_pytorch_is_refused_all_at_once():
    result = run("fit", CONFIG, "--compile_only", "--validate_only", "--target_device", "CSX")
    assert result.exit_code == 1
    assert result.stderr.startswith("3 errors:")
    for flag in ("--compile_only", "--validate_only", "--target_device CSX"):
        assert flag in result.stderr


def test_cszoo_that_is_not_here_is_never_replaced():
    result = run("fit", CONFIG, "--backend", "cszoo")
    assert result.exit_code == 1
    assert "ModelZoo is not importable by" in result.stderr
    assert "backend: torch" not in result.stderr


@pytest.mark.cszoo
def test_the_flags_are_those_of_cszoos_own_parser():
    utils = pytest.importorskip("cerebras.modelzoo.cli.utils", reason="ModelZoo is not importable")
    parser = argparse.ArgumentParser()
    utils.add_run_args(parser)
    theirs = {action.dest: action for action in parser._actions if action.dest not in ("help", "params")}
    assert set(theirs) == {flag.name for flag in FLAGS}
    for flag in FLAGS:
        action = theirs[flag.name]
        assert f"--{flag.name}" in action.option_strings
        assert flag.switch == isinstance(action, argparse._StoreTrueAction)
        assert flag.many == (action.nargs in ("+", "*"))
        assert set(flag.choices) == set(action.choices or ())
