"""What tests of files have in common."""

import subprocess

import pytest


@pytest.fixture
def tiny_disk(tmp_path):
    """A file system of 64 kB."""
    place = tmp_path / "disk"
    place.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", place], capture_output=True, text=True
    )
    if done.returncode:
        pytest.skip(f"a tmpfs cannot be mounted here: {done.stderr.strip()}")
    yield place
    subprocess.run(["umount", "--lazy", place], check=True)  # a test that failed may hold a file open


@pytest.fixture(autouse=True)
def _plain_pytorch_unless_cszoo_is_meant(request, monkeypatch):
    """``fit`` and ``validate`` take cszoo where ModelZoo is importable; tests are to mean one backend."""
    if request.node.get_closest_marker("cszoo") is None:
        monkeypatch.setattr("cerebras_utils.register.modelzoo_is_here", lambda: False)
