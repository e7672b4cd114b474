"""The command itself, whatever its verb."""

from importlib.metadata import PackageNotFoundError

import pytest
from click.testing import CliRunner

from experiments.cli import main


def test_the_version_of_what_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    def version(name: str) -> str:
        raise PackageNotFoundError(name)

    monkeypatch.setattr("pruning.masks.receipt.version", version)
    monkeypatch.setattr("importlib.metadata.version", version)
    result = CliRunner().invoke(main, ["--version"])
    assert (result.exit_code, result.stdout) == (0, "wafersparse, not installed\n")


def test_the_version_of_what_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pruning.masks.receipt.version", lambda name: "1.2.3")
    assert CliRunner().invoke(main, ["--version"]).stdout == "wafersparse 1.2.3\n"
