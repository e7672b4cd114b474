"""A trainer that autorestart spawned does not outlive the process that spawned it."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

_CHILD = """
import os, time
from cerebras_utils.cszoo_child import end_with_parent
end_with_parent()
open("made", "w").write(str(os.getpid()))
os.rename("made", "pid")
time.sleep(60)
"""


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads /proc, which only Linux has")
def test_it_ends_soon_after_its_parent(tmp_path: Path) -> None:
    code = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {_CHILD!r}])"
    parent = subprocess.Popen([sys.executable, "-c", code], cwd=tmp_path)
    end = time.monotonic() + 30
    while not (tmp_path / "pid").exists():
        assert time.monotonic() < end
        time.sleep(0.02)
    child = int((tmp_path / "pid").read_text())
    assert _lives(child)
    parent.kill()
    parent.wait()
    while _lives(child):
        assert time.monotonic() < end
        time.sleep(0.02)


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (ProcessLookupError, FileNotFoundError):
        return False
