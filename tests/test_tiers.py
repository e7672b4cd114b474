"""What needs the vendor's software is marked, so that `make test-cerebras` finds it."""

import re
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
USES = re.compile(r"""(?:^\s*(?:import|from)\s+|importorskip\(["'])cerebras\.(\w+)""", re.MULTILINE)


@pytest.mark.parametrize(("software", "marks"), [("pytorch", "cerebras|cszoo"), ("modelzoo", "cszoo")])
def test_what_uses_the_vendors_software_is_marked(software, marks):
    files = [f for f in TESTS.rglob("test_*.py") if software in USES.findall(f.read_text())]
    assert files
    unmarked = [f for f in files if not re.search(rf"mark\.({marks})\b", f.read_text())]
    assert not [str(f.relative_to(TESTS)) for f in unmarked]
