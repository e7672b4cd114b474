"""Installing into a Cerebras environment must move none of its pins, and must be found by its tools."""

import json
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PINS = {  # cerebras-pytorch 2.10 and ModelZoo 2.10
    "numpy": "1.25.0",
    "torch": "2.4.0",
    "click": "8.3.0",
    "pydantic": "2.8.2",
    "h5py": "3.13.0",
    "hdf5plugin": "5.1.0",
    "safetensors": "0.4.5",
    "matplotlib": "3.9.2",
    "pandas": "2.2.3",
    "tqdm": "4.66.5",
    "pyyaml": "6.0.2",
    "packaging": "25.0",
    "protobuf": "4.21.12",
    "filelock": "3.20.0",
    "pillow": "10.4.0",
    "scipy": "1.15.3",
}


@pytest.mark.parametrize("line", PROJECT["dependencies"])
def test_lower_bounds_admit_the_pins(line):
    requirement = Requirement(line)
    assert {clause.operator for clause in requirement.specifier} == {">="}, "lower bounds only"
    if requirement.name in PINS:
        assert requirement.specifier.contains(PINS[requirement.name])


@pytest.mark.slow
def test_the_pins_resolve(tmp_path):
    """pip, with every pin as a constraint, finds a solution: so it has no reason to move one."""
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    probe = subprocess.run([*pip, "index", "versions", "click"], capture_output=True, text=True, timeout=120)
    if probe.returncode:
        pytest.skip(f"no package index is reachable: {probe.stderr.strip().splitlines()[-1]}")
    constraints, report = tmp_path / "pins.txt", tmp_path / "report.json"
    constraints.write_text("\n".join(f"{name}=={version}" for name, version in PINS.items()))
    command = [*pip, "install", "--dry-run", "--ignore-installed", "--quiet", "--use-feature=fast-deps"]
    command += ["--report", str(report), "-c", str(constraints), *PROJECT["dependencies"]]
    result = subprocess.run(command, capture_output=True, text=True, timeout=900)
    assert result.returncode == 0, result.stderr
    chosen = {
        entry["metadata"]["name"].lower(): entry["metadata"]["version"].split("+")[0]
        for entry in json.loads(report.read_text())["install"]
    }
    assert {"numba", "torch", "numpy", "click"} <= set(chosen)
    assert {name: chosen[name] for name in PINS if name in chosen} == {
        name: version for name, version in PINS.items() if name in chosen
    }


def installed_editable():
    """The directory of an editable install of this project in this environment, or a skip."""
    from importlib.metadata import PackageNotFoundError, distribution

    try:
        files = distribution("wafersparse").files or []
    except PackageNotFoundError:
        pytest.skip("wafersparse is not installed, only on the path")
    paths = [Path(file.locate().read_text().strip()) for file in files if file.suffix == ".pth"]
    if not paths:
        pytest.skip("wafersparse is installed, but not editable")
    return paths


def test_an_editable_install_is_a_plain_path():
    """The vendor's worker-image helper reads .pth files; it does not run import finders."""
    assert installed_editable() == [ROOT]


@pytest.mark.cerebras
def test_the_vendors_worker_image_helper_finds_an_editable_install():
    """It raises, and ends the run on the CS-3, where the path of an editable package is not found."""
    helper = pytest.importorskip("cerebras.appliance.utils.pip", reason="cerebras-appliance is not installed")
    installed_editable()
    (package,) = [entry for entry in helper.pip_list(editable=True) if entry["name"] == "wafersparse"]
    assert helper.get_package_path(package["editable_project_location"]) == str(ROOT)
    assert not [line for line in helper.pip_freeze(exclude_editable=True) if "wafersparse" in line]


def built(kind, directory, monkeypatch):
    backend = pytest.importorskip("hatchling.build", reason="hatchling is not installed")
    monkeypatch.chdir(ROOT)
    build = backend.build_wheel if kind == "wheel" else backend.build_editable
    return zipfile.ZipFile(directory / build(str(directory)))


def test_a_wheel_holds_the_three_packages_whole_and_nothing_else(tmp_path, monkeypatch):
    with built("wheel", tmp_path, monkeypatch) as wheel:
        names = [name for name in wheel.namelist() if ".dist-info/" not in name]
    folders = ("pruning", "cerebras_utils", "experiments")
    assert {name.split("/")[0] for name in names} == set(folders)
    modules = {str(p.relative_to(ROOT)) for folder in folders for p in (ROOT / folder).rglob("*.py")}
    assert {name for name in names if name.endswith(".py")} == modules
    assets = {str(p.relative_to(ROOT)) for p in (ROOT / "experiments/report/assets").iterdir()}
    assert assets
    assert assets <= set(names)


def test_an_editable_wheel_is_one_line_with_this_directory(tmp_path, monkeypatch):
    with built("editable", tmp_path, monkeypatch) as wheel:
        (line,) = [name for name in wheel.namelist() if ".dist-info/" not in name]
        assert line.endswith(".pth")
        assert wheel.read(line).decode().strip() == str(ROOT)
