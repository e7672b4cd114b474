"""Directories that this user may not enter: every verb says so. Root may enter all, so it is acted."""

import builtins
import io
import os

import pytest
import torch
import yaml
from click.testing import CliRunner
from safetensors.torch import save_file

from experiments.cli import main
from pruning.mask_generator import compute_masks_for_state_dict
from pruning.mask_ops import save_mask


@pytest.fixture
def closed(tmp_path, monkeypatch):
    """A directory beside ``m.safetensors`` and ``mask.npz`` of which nothing can be seen but its name."""
    state = {"up.weight": torch.arange(64.0).view(8, 8)}
    save_file(state, tmp_path / "m.safetensors")
    save_mask(compute_masks_for_state_dict(state, 0.5), tmp_path / "mask.npz")
    folder = tmp_path / "closed"
    folder.mkdir()
    for name in ("m.safetensors", "mask.npz", "m.pt", "r.yaml"):
        (folder / name).touch()

    def deny(module, name):
        real = getattr(module, name)

        def denied(path, *args, **kwargs):
            if isinstance(path, str | os.PathLike) and os.path.abspath(path).startswith(f"{folder}{os.sep}"):
                raise PermissionError(13, "Permission denied", str(path))
            return real(path, *args, **kwargs)

        monkeypatch.setattr(module, name, denied)

    for module, name in ((os, "stat"), (os, "lstat"), (os, "open"), (io, "open"), (builtins, "open")):
        deny(module, name)
    may = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: f"{folder}" not in str(path) and may(path, mode))
    return folder


def refused(*args):
    result = CliRunner().invoke(main, [*map(str, args)])
    assert isinstance(result.exception, SystemExit), result.exception
    assert result.exit_code == 1, result.output
    return result.output


@pytest.mark.parametrize("name", ["m.safetensors", "mask.npz", "m.pt"])
@pytest.mark.parametrize("verb", [("inspect",), ("masks", "--sparsity", 0.5), ("merge", "--out", "x.mdl")])
def test_what_is_read(closed, verb, name):
    assert f"{closed / name}\n   cannot be read: Permission denied" in refused(*verb, closed / name)


def test_masks_to_compare(closed, tmp_path):
    text = refused("inspect", tmp_path / "mask.npz", closed / "mask.npz")
    assert f"{closed / 'mask.npz'}\n   cannot be read" in text


def test_a_recipe(closed, tmp_path):
    text = refused("masks", tmp_path / "m.safetensors", "--recipe", closed / "r.yaml")
    assert "cannot be read" in text


def test_where_masks_are_to_be_written(closed, tmp_path):
    text = refused("masks", tmp_path / "m.safetensors", "--sparsity", 0.5, "--out", closed / "out")
    assert "cannot be written: Permission denied" in text


def test_where_a_merge_is_to_be_written(closed, tmp_path):
    text = refused("merge", tmp_path / "m.safetensors", "--out", closed / "m.mdl")
    assert "holds no LoRA factors" in text


def test_what_a_config_names(closed, tmp_path):
    init = {
        "model": {"name": "gpt2"},
        "model_dir": str(closed / "out"),
        "callbacks": [{"SparseMaskCallback": {"mask_path": str(closed / "mask.npz")}}],
    }
    config = tmp_path / "c.yaml"
    config.write_text(
        yaml.safe_dump({"trainer": {"init": init, "fit": {"ckpt_path": str(closed / "m.mdl")}}})
    )
    text = refused("doctor", config, "--no-modelzoo", "--target_device", "CPU")
    for name in ("mask.npz", "m.mdl"):
        assert f"{closed / name} cannot be looked at: {closed} may not be entered by this user" in text
        assert f"{closed / name} does not exist:" not in text
    assert f"{closed} may not be written by this user" in text
