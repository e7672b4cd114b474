from pathlib import Path

import pytest

from tests.experiments.sweep import sweeps


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory with all that a sweep names; its default is sound."""
    monkeypatch.chdir(tmp_path)
    sweeps.all_files()
    return tmp_path
