import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from pruning.checkpoint.open import open_checkpoint

MDL = Path(__file__).parents[2] / "data" / "mdl" / "plain.mdl"
W = {"w": torch.ones(3)}
V = {"v": torch.zeros(2)}


@pytest.mark.parametrize("what", [None, 3, np.ones(3), [torch.ones(3)]])
def test_other_objects(what):
    with pytest.raises(TypeError, match="a path, a state dict or a torch"):
        open_checkpoint(what)


def test_content_counts_not_the_name(tmp_path):
    save_file(W, tmp_path / "a.bin")
    torch.save(W, tmp_path / "b.mdl")
    shutil.copy(MDL, tmp_path / "c.safetensors")
    kinds = {}
    for name in ("a.bin", "b.mdl", "c.safetensors"):
        with open_checkpoint(str(tmp_path / name)) as source:
            kinds[name] = source.kind
    assert kinds == {"a.bin": "safetensors", "b.mdl": "torch", "c.safetensors": "mdl"}


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin", "checkpoint_9.mdl"])
def test_directory_with_one_file(tmp_path, name):
    {"s": lambda p: save_file(W, p), "n": lambda p: torch.save(W, p), "l": lambda p: shutil.copy(MDL, p)}[
        name[-1]
    ](tmp_path / name)
    (tmp_path / "config.json").write_text("{}")
    torch.save({}, tmp_path / "training_args.bin")
    torch.save({}, tmp_path / "optimizer.pt")
    with open_checkpoint(tmp_path) as source:
        assert source.infos


@pytest.mark.parametrize(("save", "suffix"), [(save_file, "safetensors"), (torch.save, "bin")])
def test_directory_of_numbered_shards(tmp_path, same, refused, save, suffix):
    save(W, tmp_path / f"model-00001-of-00002.{suffix}")
    refused(tmp_path, "1 of 2 shards", "download or copy the others")
    save(V, tmp_path / f"model-00002-of-00002.{suffix}")
    with open_checkpoint(tmp_path) as source:
        same(source, {**W, **V})
        assert source.where == str(tmp_path)


def test_directory_with_an_index(tmp_path, same, refused):
    save_file(W, tmp_path / "model-1.safetensors")
    index = tmp_path / "model.safetensors.index.json"
    index.write_text('{"weight_map": {"w": "model-1.safetensors"}}')
    with open_checkpoint(tmp_path) as source:
        same(source, W)
    save_file(V, tmp_path / "model.safetensors")
    refused(
        tmp_path,
        "does not hold one checkpoint",
        index.name,
        "-1.safetensors, model.safetensors",
        f"as {index}",
    )


def test_directory_with_two_checkpoints(tmp_path, refused):
    save_file(W, tmp_path / "model.safetensors")
    torch.save(W, tmp_path / "pytorch_model.bin")
    refused(tmp_path, tmp_path, "model.safetensors, pytorch_model.bin", "name the one")


def test_directory_without_any(tmp_path, refused):
    refused(tmp_path, tmp_path, "none", ".safetensors")


def test_absent(tmp_path, refused):
    save_file(W, tmp_path / "model.safetensors")
    refused(tmp_path / "modle.safetensors", "does not exist", "Did you mean 'model.safetensors'")
    refused(tmp_path / "no" / "model.safetensors", f"no directory {tmp_path / 'no'}")


def test_empty_and_unknown_files(tmp_path, refused):
    (tmp_path / "empty.safetensors").touch()
    refused(tmp_path / "empty.safetensors", "is empty")
    (tmp_path / "notes.txt").write_text("some words, no weights")
    refused(tmp_path / "notes.txt", tmp_path / "notes.txt", "no checkpoint that is known", "b'some")


def test_special_files(tmp_path, refused):
    os.mkfifo(tmp_path / "pipe")
    refused(tmp_path / "pipe", "neither a file nor a directory")


@pytest.mark.parametrize("suffix", [".safetensors", ".pt", ".mdl"])
def test_no_permission(tmp_path, refused, monkeypatch, suffix):
    path = tmp_path / f"w{suffix}"
    path.write_bytes(b"x")
    path.chmod(0)
    if os.access(path, os.R_OK):  # root may read everything: let opening fail as it does for others

        def denied(self, *args, **kwargs):
            raise PermissionError(13, "Permission denied", str(self))

        monkeypatch.setattr(Path, "open", denied)
    refused(path, path, "Permission denied", "check its permissions")


def test_a_name_too_long(refused):
    refused("x" * 5000, "cannot be read")
