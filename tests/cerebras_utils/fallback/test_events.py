"""The event file of a run: what TensorBoard sees, and what is left when the process or the disk gives out."""

import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest
import torch

from cerebras_utils.events_file import read_scalars
from cerebras_utils.fallback import events
from cerebras_utils.fallback.events import EventWriter
from pruning.problems import ProblemError


def values(file):
    return {tag: [(s.step, s.value) for s in scalars] for tag, scalars in read_scalars(file).items()}


def write_a_few(directory):
    writer = EventWriter(directory)
    for step in range(1, 4):
        writer.scalar("loss", 1 / step, step)
    writer.scalar("validate_0/eval/accuracy", torch.tensor(0.5), 3)
    writer.close()
    return writer.path


def test_what_is_written_is_read(tmp_path):
    path = write_a_few(tmp_path / "model" / "events")
    pattern = rf"events\.out\.tfevents\.\d{{10}}\.{re.escape(socket.gethostname())}\.{os.getpid()}\.0"
    assert re.fullmatch(pattern, path.name)
    found = values(path)
    assert found["loss"] == [(1, 1.0), (2, 0.5), (3, pytest.approx(1 / 3, rel=1e-7))]
    assert found["validate_0/eval/accuracy"] == [(3, 0.5)]


def test_tensorboard_reads_the_same(tmp_path):
    accumulator = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator", reason="tensorboard is not installed here"
    )
    path = write_a_few(tmp_path)
    theirs = accumulator.EventAccumulator(str(tmp_path)).Reload()
    ours = read_scalars(path)
    assert set(theirs.Tags()["scalars"]) == set(ours)
    for tag, scalars in ours.items():
        assert [(s.step, s.value, s.wall_time) for s in theirs.Scalars(tag)] == scalars


def test_writers_of_one_second_have_files_of_their_own(tmp_path):
    writers = [EventWriter(tmp_path) for _ in range(3)]
    for number, writer in enumerate(writers):
        writer.scalar("number", number, 0)
        writer.close()
    assert [values(writer.path)["number"] for writer in writers] == [[(0, 0.0)], [(0, 1.0)], [(0, 2.0)]]


def test_nothing_waits_longer_than_the_interval(tmp_path, monkeypatch):
    monkeypatch.setattr(events, "_INTERVAL", 0.02)
    writer = EventWriter(tmp_path)
    writer.scalar("loss", 1.0, 1)
    deadline = time.monotonic() + 10
    while not read_scalars(writer.path) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert values(writer.path) == {"loss": [(1, 1.0)]}
    writer.close()


def test_much_is_written_at_once_and_the_rest_on_flush(tmp_path, monkeypatch):
    monkeypatch.setattr(events, "_INTERVAL", 600)
    writer = EventWriter(tmp_path)
    writer.scalar("loss", 0.0, 0)
    assert values(writer.path) == {}
    for step in range(2000):
        writer.scalar("loss", 0.0, step)
    assert 1000 < len(values(writer.path)["loss"]) < 2001
    writer.flush()
    assert len(values(writer.path)["loss"]) == 2001
    writer.close()
    writer.close()


def test_several_threads(tmp_path):
    writer = EventWriter(tmp_path)

    def log(tag):
        for step in range(500):
            writer.scalar(tag, step, step)

    threads = [threading.Thread(target=log, args=(f"t{n}",)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    writer.close()
    expected = [(step, float(step)) for step in range(500)]
    assert values(writer.path) == {f"t{n}": expected for n in range(4)}


def test_killed_while_it_writes(tmp_path):
    """SIGKILL: a readable prefix, that ends at most the interval before the end."""
    code = (
        "import sys, time\n"
        "from cerebras_utils.fallback import events\n"
        "events._INTERVAL = 0.05\n"
        "writer = events.EventWriter(sys.argv[1])\n"
        "for step in range(10**9):\n"
        "    writer.scalar('loss', step, step)\n"
        "    if step % 1000 == 0: print(step, flush=True); time.sleep(0.01)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    said = 0
    for line in process.stdout:
        said = int(line)
        if said >= 10_000:
            break
    time.sleep(0.3)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    (file,) = tmp_path.iterdir()
    steps = [scalar.step for scalar in read_scalars(file)["loss"]]
    assert steps == list(range(len(steps)))
    assert steps[-1] >= said


def log(writer, steps, *, every, call):
    for step in range(steps):
        writer.scalar("loss", step, step)
        if step % every == 0:
            call()


def test_a_full_disk_is_told_and_the_file_stays_whole(tiny_disk):
    writer = EventWriter(tiny_disk / "events")
    filler = tiny_disk / "filler"
    filler.write_bytes(bytes(48 << 10))
    with pytest.raises(ProblemError, match="No space left"):
        log(writer, 10**6, every=50, call=writer.flush)
    kept = values(writer.path)["loss"]
    assert kept == [(step, float(step)) for step in range(len(kept))]
    with pytest.raises(ProblemError, match="No space left"):
        writer.flush()
    filler.unlink()
    writer.close()
    after = values(writer.path)["loss"]
    assert after == [(step, float(step)) for step in range(len(after))]
    assert len(after) > len(kept)


def test_a_full_disk_found_by_the_clock_is_told_by_the_next_call(tiny_disk, monkeypatch):
    monkeypatch.setattr(events, "_INTERVAL", 0.01)
    writer = EventWriter(tiny_disk)
    page = 4096
    (tiny_disk / "filler").write_bytes(bytes((64 << 10) - page))  # one page is left: that of the events
    with pytest.raises(ProblemError, match="No space left"):
        log(writer, 2000, every=1, call=lambda: time.sleep(0.001))
    (tiny_disk / "filler").unlink()
    writer.close()
    kept = values(writer.path)["loss"]
    assert kept == [(step, float(step)) for step in range(len(kept))]


def test_a_directory_that_cannot_be_made(tmp_path):
    (tmp_path / "events").write_text("a file")
    with pytest.raises(ProblemError, match="events"):
        EventWriter(tmp_path / "events")
