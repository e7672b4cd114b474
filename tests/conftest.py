"""What all tests have in common."""

import subprocess

import pytest
from hypothesis import settings

# The same examples in every run; `--hypothesis-profile default` draws others, which may find more.
settings.register_profile("same", derandomize=True)
settings.load_profile("same")

DEVICES = {
    "cpu": "",
    "second": "a device that is the CPU's memory in disguise (tests/second_device)",
    "cuda": "a GPU",
}


def pytest_addoption(parser):
    about = "; ".join(f"{name}: {what}" for name, what in DEVICES.items() if what)
    parser.addoption("--device", choices=list(DEVICES), default="cpu", help=f"where runs compute. {about}")


@pytest.fixture(scope="session")
def device(request):
    """The type of the device that runs compute on in these tests."""
    return request.config.getoption("--device")


@pytest.fixture(scope="session", autouse=True)
def _runs_on_the_device(device, request):
    """Whatever the config of a test says."""
    if device == "cpu":
        yield
        return
    import torch

    from cerebras_utils.fallback import run
    from tests import second_device

    if device == "second":
        place = second_device.register(request.config.cache.mkdir("second_device"))
    else:
        assert torch.cuda.is_available(), "torch sees no GPU here"
        place = torch.device("cuda", 0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "device_of", lambda init, asked: place)
        yield


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
