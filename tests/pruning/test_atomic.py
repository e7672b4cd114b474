"""Files are written once: whole or not at all, by one writer, with nothing left by a killed one."""

import errno
import os
import re
import resource
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from pruning.atomic import Part, TargetExistsError, preallocate
from pruning.problems import ProblemError

ROOT = Path(__file__).parents[2]


def names(directory):
    return sorted(entry.name for entry in directory.iterdir())


def test_the_final_name_appears_when_the_block_ends_and_nothing_else_is_left(tmp_path):
    with Part(tmp_path / "new" / "a.bin") as part:
        part.write(b"abc")
        (name,) = names(tmp_path / "new")
        assert re.fullmatch(rf"\.a\.bin\.{os.getpid()}-[0-9a-f]{{8}}\.part", name)
    assert names(tmp_path / "new") == ["a.bin"]
    assert (tmp_path / "new" / "a.bin").read_bytes() == b"abc"


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_an_exception_leaves_nothing(tmp_path, error):
    def work():
        with Part(tmp_path / "a") as part:
            part.write(b"half")
            raise error

    with pytest.raises(error):
        work()
    assert names(tmp_path) == []


def test_an_existing_file_is_refused_at_the_start_and_kept(tmp_path):
    (tmp_path / "a").write_text("first")
    with pytest.raises(TargetExistsError, match="remove it, choose another name"):
        Part(tmp_path / "a")
    assert (tmp_path / "a").read_text() == "first"
    assert names(tmp_path) == ["a"]


def test_overwriting_replaces_at_the_end(tmp_path):
    (tmp_path / "a").write_text("first")
    with Part(tmp_path / "a", overwrite=True) as part:
        part.write(b"second")
        assert (tmp_path / "a").read_text() == "first"
    assert (tmp_path / "a").read_text() == "second"
    assert names(tmp_path) == ["a"]


def test_of_two_writers_at_once_one_wins_and_the_other_is_told(tmp_path):
    first, second = Part(tmp_path / "a"), Part(tmp_path / "a")
    first.write(b"first")
    second.write(b"second")
    second.commit()
    with pytest.raises(TargetExistsError):
        first.commit()
    assert (tmp_path / "a").read_bytes() == b"second"
    assert names(tmp_path) == ["a"]


def test_many_threads_race_for_one_name(tmp_path):
    outcomes = []

    def work(i):
        try:
            with Part(tmp_path / "a") as part:
                part.write(bytes([i]) * 1000)
            outcomes.append(i)
        except TargetExistsError:
            outcomes.append(None)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (winner,) = [i for i in outcomes if i is not None]
    assert len(outcomes) == 8
    assert (tmp_path / "a").read_bytes() == bytes([winner]) * 1000
    assert names(tmp_path) == ["a"]


def test_what_a_killed_writer_left_is_removed_by_the_next_and_what_a_living_one_writes_is_not(tmp_path):
    code = (
        "import sys, time; from pruning.atomic import Part\n"
        "part = Part(sys.argv[1]); part.write(b'half'); print('ready', flush=True); time.sleep(60)"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "a")]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"ready\n"
        living = names(tmp_path)
        Part(tmp_path / "a").discard()
        assert names(tmp_path) == living
        process.send_signal(signal.SIGKILL)
    assert names(tmp_path) == living
    with Part(tmp_path / "a") as part:
        part.write(b"whole")
    assert names(tmp_path) == ["a"]


def test_only_parts_of_the_same_name_are_taken_for_stale(tmp_path):
    others = [".a.b.1-00000000.part", ".b.1-00000000.part", ".a.part", "a.1-00000000.part"]
    for name in others:
        (tmp_path / name).touch()
    (tmp_path / ".a.1-00000000.part").touch()
    Part(tmp_path / "a").discard()
    assert names(tmp_path) == sorted(others)


def test_a_file_as_parent(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ProblemError, match="a parent of this path is a file"):
        Part(tmp_path / "file" / "a")


def test_a_directory_as_target(tmp_path):
    with pytest.raises(ProblemError, match="is a directory"):
        Part(tmp_path)


def test_a_name_that_is_too_long(tmp_path):
    with pytest.raises(ProblemError, match="shorter file name"):
        Part(tmp_path / ("a" * 255))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_directory_without_write_permission(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(ProblemError, match="that you may write to"):
        Part(tmp_path / "a")


@pytest.mark.parametrize(
    ("number", "fix"),
    [
        (errno.EACCES, "that you may write to"),
        (errno.EROFS, "mounted read-only"),
        (errno.EIO, "disk may be failing"),
    ],
)
def test_the_system_refuses_to_create(tmp_path, monkeypatch, number, fix):
    def refuse(*args, **kwargs):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(ProblemError, match=fix):
        Part(tmp_path / "a")


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE])
@pytest.mark.parametrize("calls", [("write",), ("fsync",), ("fsync", "unlink", "close")])
def test_a_disk_that_is_lost_while_a_file_is_written(tmp_path, monkeypatch, number, calls):
    """The file is named with a fix, also where nothing can be undone any more."""

    def refuse(*args, **kwargs):
        raise OSError(number, os.strerror(number))

    def write():
        with monkeypatch.context() as patch, Part(tmp_path / "a") as part:
            for call in calls:
                patch.setattr(os, call, refuse)
            part.write(b"abc")

    with pytest.raises(ProblemError) as told:
        write()
    (problem,) = told.value.problems
    assert problem.where == str(tmp_path / "a")
    assert problem.what == f"cannot be written: {os.strerror(number)}"
    assert "write to another" in problem.fix
    assert not (tmp_path / "a").exists()


def test_a_disk_that_is_lost_under_another_file_is_that_ones(tmp_path):
    with pytest.raises(OSError, match="other") as told, Part(tmp_path / "a"):
        raise OSError(errno.EIO, os.strerror(errno.EIO), "other")
    assert not isinstance(told.value, ProblemError)


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="there is no /proc here")
def test_a_directory_that_takes_no_files():
    with pytest.raises(ProblemError, match="cannot be written"):
        Part("/proc/self/a")


def test_a_file_system_without_hard_links_is_found_before_the_work(tmp_path, monkeypatch):
    def refuse(*args, **kwargs):
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    with pytest.raises(ProblemError, match="makes no hard links"):
        Part(tmp_path / "a")
    assert names(tmp_path) == []
    with Part(tmp_path / "a", overwrite=True):
        pass
    assert names(tmp_path) == ["a"]


def test_a_file_system_without_locks_still_writes(tmp_path, monkeypatch):
    def refuse(*args):
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr("fcntl.flock", refuse)
    (tmp_path / ".a.1-00000000.part").touch()
    with Part(tmp_path / "a"):
        pass
    assert names(tmp_path) == [".a.1-00000000.part", "a"]


def test_a_full_disk_is_found_before_the_work_with_needed_and_free_bytes(tmp_path):
    with pytest.raises(ProblemError) as caught, Part(tmp_path / "a") as part:
        part.preallocate(1 << 52)
    assert re.search(r"4,503,599,627,370,496 bytes", str(caught.value))
    assert names(tmp_path) == []


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_needed_and_free_bytes(tmp_path, monkeypatch, number):
    def refuse(*args):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "posix_fallocate", refuse)
    with pytest.raises(ProblemError, match=r"1,000 bytes are needed, [\d,]+ bytes are free"):
        preallocate(-1, 1000, tmp_path / "a")


def test_a_disk_that_fills_up_while_writing(tmp_path):
    """A limit on the size of files stands in for the disk."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, limits[1]))
    try:
        with pytest.raises(ProblemError, match="ulimit"), Part(tmp_path / "a") as part:
            part.write(bytes(1 << 17))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert names(tmp_path) == []


@pytest.fixture
def small_disk(tmp_path):
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", tmp_path],
        capture_output=True,
        text=True,
        check=False,
    )
    if mounted.returncode:
        pytest.skip(f"mounting a small disk is not permitted: {mounted.stderr.strip()}")
    yield tmp_path
    subprocess.run(["umount", tmp_path], check=True)


def test_a_really_full_disk(small_disk):
    with pytest.raises(ProblemError, match="2,000,000 bytes are needed, 1,0"), Part(small_disk / "a") as part:
        part.preallocate(2_000_000)
    with pytest.raises(ProblemError, match="No space left"), Part(small_disk / "a") as part:
        part.write(bytes(2_000_000))
    assert names(small_disk) == []
