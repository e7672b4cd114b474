"""The list of checkpoints, as cszoo writes and reads it."""

import importlib
import multiprocessing
import os
import warnings
from pathlib import Path

import pytest
import yaml

from cerebras_utils.checkpoints_index import CheckpointsIndex
from pruning.problems import ProblemError


@pytest.fixture
def index(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return CheckpointsIndex("model")


def save(index, *names):
    for name in names:
        path = index.model_dir / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        index.append(path)


def entries(index):
    return yaml.safe_load(index.path.read_text())


def test_an_empty_directory(index):
    assert index.checkpoints() == []
    assert index.latest() is None
    assert index.unlisted() == []
    assert not index.model_dir.exists()


def test_entries_are_written_as_cszoo_writes_them(index):
    save(index, "checkpoint_5.mdl", "checkpoint_10.mdl")
    assert index.path.read_text() == "- model/checkpoint_5.mdl\n- model/checkpoint_10.mdl\n"
    assert sorted(os.listdir("model")) == ["checkpoint_10.mdl", "checkpoint_5.mdl", "checkpoints_index.yaml"]


def test_the_latest_is_the_one_of_the_highest_step_then_of_the_latest_time(index):
    save(index, "checkpoint_10.mdl", "checkpoint_9.mdl", "checkpoint_10_20260102_030405.mdl")
    names = [path.name for path in index.checkpoints()]
    assert names == ["checkpoint_9.mdl", "checkpoint_10.mdl", "checkpoint_10_20260102_030405.mdl"]
    assert index.latest().name == names[-1]
    assert index.step_of(index.latest()) == 10


def test_what_is_gone_or_named_otherwise_is_no_checkpoint(index):
    save(index, "checkpoint_1.mdl", "checkpoint_2.mdl", "other_3.mdl", "checkpoint_4.mdl.part")
    Path("model/checkpoint_2.mdl").unlink()
    assert [path.name for path in index.checkpoints()] == ["checkpoint_1.mdl"]
    assert index.step_of(Path("other_3.mdl")) is None
    save(index, "checkpoint_5.mdl")
    assert "model/checkpoint_2.mdl" not in entries(index)
    assert "model/other_3.mdl" in entries(index)


def test_entries_of_another_working_directory_are_found_beside_the_list(index, tmp_path, monkeypatch):
    """cszoo drops them, and starts from random weights."""
    save(index, "checkpoint_1.mdl")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    moved = CheckpointsIndex("../model")
    assert moved.latest() == Path("../model/checkpoint_1.mdl")
    save(moved, "checkpoint_2.mdl")
    assert entries(moved) == ["../model/checkpoint_1.mdl", "../model/checkpoint_2.mdl"]


def test_what_is_not_listed_is_told(index):
    save(index, "checkpoint_1.mdl")
    Path("model/checkpoint_2.mdl").touch()
    Path("model/notes.txt").touch()
    assert index.unlisted() == [Path("model/checkpoint_2.mdl")]
    assert index.latest() == Path("model/checkpoint_1.mdl")


def test_a_name_that_is_taken_gets_the_time(index):
    assert index.free_path(3) == Path("model/checkpoint_3.mdl")
    save(index, "checkpoint_3.mdl")
    path = index.free_path(3)
    assert index.step_of(path) == 3
    assert path.name.startswith("checkpoint_3_2")
    assert index.free_path(3, Path("other")) == Path("other/checkpoint_3.mdl")


def test_other_names(index):
    mine = CheckpointsIndex("model", "run.{step}+x.mdl")
    save(mine, "run.7+x.mdl", "runs7+x.mdl")
    assert [path.name for path in mine.checkpoints()] == ["run.7+x.mdl"]
    assert mine.free_path(8).name == "run.8+x.mdl"


def test_remove(index):
    save(index, "checkpoint_1.mdl", "checkpoint_2.mdl")
    index.remove(Path("model/../model/checkpoint_1.mdl").resolve())
    assert entries(index) == ["model/checkpoint_2.mdl"]


def test_entries_in_a_store_stay(index):
    Path("model").mkdir()
    index.path.write_text("- s3://bucket/checkpoint_9.mdl\n")
    save(index, "checkpoint_1.mdl")
    index.remove(Path("model/checkpoint_1.mdl"))
    assert entries(index) == ["s3://bucket/checkpoint_9.mdl"]
    assert index.latest() is None


@pytest.mark.parametrize("text", ["a: 1\n", "- 1\n", "- [\n", "5\n"])
def test_what_is_no_list_of_paths(index, text):
    Path("model").mkdir()
    index.path.write_text(text)
    with pytest.raises(ProblemError, match=r"checkpoints_index\.yaml"):
        index.latest()
    index.path.write_text("")
    assert index.latest() is None


def _append(model_dir, first):
    index = CheckpointsIndex(model_dir)
    for step in range(first, first + 10):
        path = Path(model_dir) / f"checkpoint_{step}.mdl"
        path.touch()
        index.append(path)


def test_several_processes_lose_no_entry(tmp_path):
    context = multiprocessing.get_context("spawn")
    (tmp_path / "model").mkdir()
    processes = [context.Process(target=_append, args=(str(tmp_path / "model"), first)) for first in (0, 100)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        assert process.exitcode == 0
    assert len(CheckpointsIndex(tmp_path / "model").checkpoints()) == 20


@pytest.mark.cszoo
def test_modelzoo_reads_and_extends_the_list(index):
    pytest.importorskip("cerebras.modelzoo", reason="ModelZoo is not installed here")
    with warnings.catch_warnings(action="ignore"):  # its own, and those of what it imports
        module = importlib.import_module("cerebras.modelzoo.trainer.callbacks.checkpoint")
    save(index, "checkpoint_1.mdl", "checkpoint_2.mdl")
    theirs = module.CheckpointIndex("model")
    assert theirs.list() == ["model/checkpoint_1.mdl", "model/checkpoint_2.mdl"]
    Path("model/checkpoint_3.mdl").touch()
    theirs.append("model/checkpoint_3.mdl")
    assert index.latest() == Path("model/checkpoint_3.mdl")
    assert index.path.read_text() == yaml.safe_dump(theirs.list())
