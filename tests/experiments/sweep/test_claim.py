"""Claims and heartbeats: one holder, whatever the clocks say and whichever machine asks."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from experiments.sweep import claim as claims
from experiments.sweep.claim import LOST, Clock, attempts, claim, held, is_alive, next_turn

_RACE = """
import sys, time
from pathlib import Path
from experiments.sweep.claim import claim
while time.time() < float(sys.argv[2]):
    pass
print(sum(claim(Path(sys.argv[1]), attempt) is not None for attempt in range(1, 101)))
"""


def test_of_two_processes_one_gets_each_attempt(tmp_path: Path) -> None:
    words = [sys.executable, "-c", _RACE, str(tmp_path), str(time.time() + 0.7)]
    racers = [subprocess.Popen(words, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    won = [int(racer.communicate(timeout=30)[0]) for racer in racers]
    assert sum(won) == attempts(tmp_path) == 100
    assert len(list(tmp_path.iterdir())) == 100  # nothing of the losers stays


def test_a_link_whose_answer_was_lost_is_a_claim(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Over NFS the server may have made it, and the client is told that it exists."""
    link = os.link

    def lost(source: Path, target: Path) -> None:
        link(source, target)
        raise FileExistsError

    monkeypatch.setattr(os, "link", lost)
    assert claim(tmp_path, 1) is not None
    assert claim(tmp_path, 1) is None


def test_the_time_of_the_machine_does_not_matter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mine = claim(tmp_path, 1)
    assert mine is not None
    _on_another_machine(mine.path)
    for skew in (-86400.0, 86400.0):
        monkeypatch.setattr(claims.time, "time", lambda s=skew: time.monotonic() + s)
        assert is_alive(mine, Clock(tmp_path))


def test_without_heartbeat_it_is_lost_and_a_beat_keeps_it(tmp_path: Path) -> None:
    mine = claim(tmp_path, 1)
    assert mine is not None
    _on_another_machine(mine.path)
    old = mine.path.stat().st_mtime - LOST - 5
    os.utime(mine.path, (old, old))
    assert not is_alive(mine, Clock(tmp_path))
    mine.beat()
    assert is_alive(mine, Clock(tmp_path))


def test_a_dead_process_of_this_machine_is_lost_at_once(tmp_path: Path) -> None:
    mine = claim(tmp_path, 1)
    assert mine is not None
    assert is_alive(mine, Clock(tmp_path))
    about = json.loads(mine.path.read_text())
    about["process"]["started"] = 1  # another process had this number
    mine.path.write_text(json.dumps(about))
    assert not is_alive(mine, Clock(tmp_path))


def test_another_machine_of_the_same_name_is_believed_by_its_heartbeat(tmp_path: Path) -> None:
    mine = claim(tmp_path, 1)
    assert mine is not None
    about = json.loads(mine.path.read_text())
    about["process"] |= {"boot": "of another machine", "started": 1}
    mine.path.write_text(json.dumps(about))
    assert is_alive(mine, Clock(tmp_path))
    old = mine.path.stat().st_mtime - LOST - 5
    os.utime(mine.path, (old, old))
    assert not is_alive(mine, Clock(tmp_path))


def test_turns_one_after_the_other(tmp_path: Path) -> None:
    first = next_turn(tmp_path / "turns")
    assert first is not None
    assert next_turn(tmp_path / "turns") is None
    first.end.touch()
    second = next_turn(tmp_path / "turns")
    assert second is not None
    about = json.loads(second.path.read_text())
    about["process"]["started"] = 1  # it died, and made no end
    second.path.write_text(json.dumps(about))
    assert next_turn(tmp_path / "turns") is not None
    assert second.superseded


def test_a_holder_that_was_taken_for_dead_knows(tmp_path: Path) -> None:
    first = claim(tmp_path, 1)
    assert first is not None
    assert not first.superseded
    second = claim(tmp_path, 2)
    assert second is not None
    assert first.superseded
    assert not held(tmp_path, 2).superseded


def test_where_nothing_can_be_written_the_own_clock_serves(tmp_path: Path) -> None:
    assert Clock(tmp_path / "nowhere").now() == pytest.approx(time.time(), abs=5)


def _on_another_machine(path: Path) -> None:
    about = json.loads(path.read_text())
    about["process"]["host"] = "another-machine"
    path.write_text(json.dumps(about))
