"""The files that are written, and what happens when they cannot be."""

import errno
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from unittest.mock import Mock

import h5py
import pytest
import torch

from cerebras_utils.fallback import mdl_writer
from cerebras_utils.fallback.mdl_reader import load_mdl
from cerebras_utils.fallback.mdl_writer import save_mdl
from pruning.atomic import Part, TargetExistsError
from pruning.checkpoint.open import open_checkpoint
from pruning.problems import ProblemError


def test_whole_state_comes_back(tmp_path, full_state, same_tree):
    save_mdl(tmp_path / "c.mdl", full_state)
    loaded = load_mdl(tmp_path / "c.mdl")
    same_tree(loaded, full_state)
    assert loaded["model"]["model.tied"] is loaded["model"]["model.weight"]
    assert [entry.name for entry in tmp_path.iterdir()] == ["c.mdl"]


@pytest.mark.parametrize("at_once", [1, 100_000, 1 << 30])
def test_large_tensors_among_small_ones(tmp_path, monkeypatch, same_tree, at_once):
    """Also where the system writes less than it was asked to."""

    def pwritev(fd, views, offset, real=os.pwritev):
        asked.append(len(views))
        return real(fd, [*views[:-1], views[-1][:10_001]], offset)

    asked = []
    monkeypatch.setattr(os, "pwritev", pwritev)
    monkeypatch.setattr(mdl_writer, "_AT_ONCE", at_once)
    numbers = torch.arange(30_000.0)
    tree = {"small": torch.ones(3), "transposed": numbers.view(300, 100).t(), "tied": numbers}
    tree |= {str(i): numbers[i:] + i for i in range(9)} | {"brain": numbers.bfloat16(), "again": numbers}
    save_mdl(tmp_path / "c.mdl", tree)
    same_tree(load_mdl(tmp_path / "c.mdl"), tree)
    assert sum(asked) == 11, "all that is large and contiguous, once"


def test_masks_are_computed_from_it(tmp_path, full_state):
    save_mdl(tmp_path / "c.mdl", full_state)
    with open_checkpoint(tmp_path / "c.mdl") as source:
        assert source.infos["model.brain"].dtype == "BF16"
        assert source.infos["model.tied"].storage == source.infos["model.weight"].storage
        read = torch.from_numpy(source.array("model.transposed")).view(torch.float32).view(40, 6)
    assert torch.equal(read, full_state["model"]["model.transposed"])


def test_plain_hdf5(tmp_path):
    """Numbers lie uncompressed where HDF5 says, and the file ends with them."""
    save_mdl(tmp_path / "c.mdl", {"w": torch.arange(1000.0), "b": torch.ones(3).bfloat16()})
    with h5py.File(tmp_path / "c.mdl") as file:
        assert file["w"].chunks is None
        assert file["w"][999] == 999.0
        assert file["b"].dtype == "int16"
        assert dict(file["w"].attrs)["__NUMPY__"]
        assert file.attrs["__SUCCESS__"]
        assert file.attrs["__version__"] == 0.5
    assert os.path.getsize(tmp_path / "c.mdl") < 4000 + 20_000


def test_finished_files_are_kept(tmp_path):
    save_mdl(tmp_path / "c.mdl", {"w": torch.ones(1)})
    with pytest.raises(TargetExistsError):
        save_mdl(tmp_path / "c.mdl", {"w": torch.zeros(1)})
    assert load_mdl(tmp_path / "c.mdl")["w"] == 1
    save_mdl(tmp_path / "c.mdl", {"w": torch.zeros(1)}, overwrite=True)
    assert load_mdl(tmp_path / "c.mdl")["w"] == 0


@pytest.mark.parametrize(
    ("tree", "match"),
    [
        ({"a": object()}, "a is a <class 'object'>"),
        ({"a": {"b": torch.ones(1, dtype=torch.complex64)}}, "a.b is torch.complex64"),
        ({"a": torch.ones(2).to_sparse()}, "a is torch.sparse_coo"),
        ({"a": {"b.c": 1}, "a.b": {"c": 2}}, "two leaves have the path 'a.b.c'"),
        ({"a": {None: 1}}, "keys of 'a'"),
    ],
)
def test_what_a_file_cannot_hold_is_our_bug(tmp_path, tree, match):
    with pytest.raises(AssertionError, match=match):
        save_mdl(tmp_path / "c.mdl", tree)
    assert list(tmp_path.iterdir()) == []


def test_parameters_are_written_as_tensors(tmp_path):
    save_mdl(tmp_path / "c.mdl", {"w": torch.nn.Parameter(torch.ones(2))})
    loaded = load_mdl(tmp_path / "c.mdl")["w"]
    assert not loaded.requires_grad
    assert loaded.tolist() == [1, 1]


def test_space_is_reserved_for_all_of_it(tmp_path, monkeypatch, full_state):
    """So that a full disk is found before the work."""
    reserved = []
    monkeypatch.setattr(Part, "preallocate", lambda _, size: reserved.append(size))
    many = {f"optimizer.state.{index}.exp_avg": torch.ones(3) for index in range(400)}
    for index, tree in enumerate(({"w": torch.ones(2)}, full_state, many, {"params": list(range(2000))})):
        save_mdl(tmp_path / f"{index}.mdl", tree)
        assert 0 <= reserved[-1] - os.path.getsize(tmp_path / f"{index}.mdl") < 1 << 20


@pytest.mark.parametrize("reserving", [True, False])
def test_full_disk(tiny_disk, monkeypatch, reserving):
    """Also where the file system reserves nothing."""
    if not reserving:
        monkeypatch.setattr(Part, "preallocate", lambda *_: None)
    for tree in ({"w": torch.ones(100_000)}, {str(i): torch.ones(1) for i in range(2000)}):
        with pytest.raises(ProblemError, match="No space left on device"):
            save_mdl(tiny_disk / "c.mdl", tree)
        assert list(tiny_disk.iterdir()) == []
    save_mdl(tiny_disk / "c.mdl", {"w": torch.ones(2)})


@pytest.mark.parametrize("code", [errno.EINVAL, errno.ENOSYS])
def test_without_memory_and_holes(tmp_path, monkeypatch, code, full_state):
    """A file system of which neither is known is written all the same, and nothing is left beside."""

    def lseek(fd, at, how, real=os.lseek):
        if how in (os.SEEK_DATA, os.SEEK_HOLE):
            raise OSError(code, "no")
        return real(fd, at, how)

    save_mdl(tmp_path / "usual.mdl", full_state)
    monkeypatch.setattr(mdl_writer, "_MEMORY", str(tmp_path / "none"))
    monkeypatch.setattr(os, "lseek", lseek)
    save_mdl(tmp_path / "c.mdl", full_state)
    assert (tmp_path / "c.mdl").read_bytes() == (tmp_path / "usual.mdl").read_bytes()
    assert len(list(tmp_path.iterdir())) == 2


def test_full_disk_without_memory(tiny_disk, monkeypatch):
    monkeypatch.setattr(mdl_writer, "_MEMORY", "/nowhere")
    for tree in ({"w": torch.ones(100_000)}, {str(i): torch.ones(1) for i in range(2000)}):
        with pytest.raises(ProblemError, match="No space left on device"):
            save_mdl(tiny_disk / "c.mdl", tree)
        assert list(tiny_disk.iterdir()) == []


def test_what_hdf5_cannot_write_is_no_traceback(tmp_path, monkeypatch):
    monkeypatch.setattr(mdl_writer.Layout, "describe", Mock(side_effect=RuntimeError("errno = 28")))
    with pytest.raises(ProblemError, match="HDF5 cannot write there: errno = 28"):
        save_mdl(tmp_path / "c.mdl", {"w": torch.ones(2)})
    assert list(tmp_path.iterdir()) == []


def test_a_kill_while_numbers_are_written_leaves_nothing_in_memory(tmp_path, monkeypatch):
    made, real, write = [], tempfile.mkstemp, mdl_writer._write

    def mkstemp(**given):
        made.append(real(**given))
        return made[-1]

    def without(*given):
        assert [Path(name).exists() for _, name in made] == [False]
        write(*given)

    monkeypatch.setattr(tempfile, "mkstemp", mkstemp)
    monkeypatch.setattr(mdl_writer, "_write", without)
    save_mdl(tmp_path / "c.mdl", {"w": torch.ones(2)})
    assert load_mdl(tmp_path / "c.mdl")["w"].tolist() == [1, 1]


KILLED = """
import os, signal, sys
import torch
from cerebras_utils.fallback import mdl_writer
write, written = mdl_writer._write, []
def stop(*args):
    write(*args)
    written.append(args)
    if len(written) == 2:
        os.kill(os.getpid(), signal.SIGKILL)
mdl_writer._write = stop
mdl_writer.save_mdl(sys.argv[1], {str(i): torch.ones(9) for i in range(4)})
"""


def test_killed_while_writing(tmp_path):
    target = tmp_path / "checkpoint_2.mdl"
    done = subprocess.run([sys.executable, "-c", KILLED, target])
    assert done.returncode == -signal.SIGKILL
    assert not target.exists()
    assert len(list(tmp_path.iterdir())) == 1  # a part, which the next writer of the name removes
    save_mdl(target, {"w": torch.ones(1)})
    assert list(tmp_path.iterdir()) == [target]
