import errno
import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from pruning.checkpoint.open import open_checkpoint
from pruning.checkpoint.safetensors_file import open_safetensors, parse_header
from pruning.problems import ProblemError


def write(path, header, data=b""):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)
    return path


def entry(begin=0, end=8, dtype="F32", shape=(2,)):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}


def test_every_dtype(tmp_path, tensors, same):
    save_file(tensors, tmp_path / "w.safetensors")
    with open_checkpoint(tmp_path / "w.safetensors") as source:
        same(source, tensors)
        assert source.kind == "safetensors"


def test_header_has_the_metadata_and_absolute_offsets(tmp_path, tensors, raw):
    save_file(tensors, tmp_path / "w.safetensors", metadata={"format": "pt"})
    header = parse_header(tmp_path / "w.safetensors")
    assert header.metadata == {"format": "pt"}
    begin = header.offsets["f32"]
    data = (tmp_path / "w.safetensors").read_bytes()
    assert data[begin : begin + header.infos["f32"].nbytes] == raw(tensors["f32"])


def test_any_range(tmp_path, raw):
    weight = torch.randn(6, 5)
    save_file({"w": weight}, tmp_path / "w.safetensors")

    @settings(max_examples=50)
    @given(st.integers(0, 30), st.integers(0, 30))
    def check(a, b):
        start, stop = sorted((a, b))
        out = np.zeros(4 * (stop - start), np.uint8)
        source.read("w", start, out)
        assert out.tobytes() == raw(weight)[4 * start : 4 * stop]

    with open_checkpoint(tmp_path / "w.safetensors") as source:
        check()


def test_needs_no_torch(tmp_path):
    save_file({"w": torch.ones(3)}, tmp_path / "w.safetensors")
    code = (
        "import sys; from pruning.checkpoint.open import open_checkpoint\n"
        "open_checkpoint(sys.argv[1]).close()\n"
        "assert not {'torch', 'h5py'} & set(sys.modules)"
    )
    env = {**os.environ, "PYTHONPATH": os.getcwd()}
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "w.safetensors")], check=True, env=env)


@pytest.mark.parametrize(
    ("header", "data", "words"),
    [
        (b"[]", b"", ["not an object"]),
        (b"\xff{}", b"", ["not valid JSON"]),
        (b"{" * 100_000, b"", ["not valid JSON"]),
        (b'{"w": 1, "w": 2}', b"", ["'w' is there twice"]),
        ({"__metadata__": {"a": 1}}, b"", ["__metadata__", "strings"]),
        ({"w": [1]}, b"", [": w", "dtype, shape and data_offsets"]),
        ({"w": entry(dtype="F33")}, bytes(8), [": w", "'F33'", "Did you mean 'F32'"]),
        ({"w": entry(dtype=["F32"])}, bytes(8), [": w", "unknown dtype"]),
        ({"w": entry(shape=(-2,))}, bytes(8), [": w", "[-2]"]),
        ({"w": entry(shape=(True, 2))}, bytes(8), [": w", "[True, 2]"]),
        ({"w": entry(shape=(2.0,))}, bytes(8), [": w", "[2.0]"]),
        ({"w": entry(shape=(2**62, 2**62))}, bytes(8), [": w", "takes", "bytes"]),
        ({"w": entry(shape=(2**70,))}, bytes(8), [": w", "not a list of sizes"]),
        ({"w": entry(shape=(1,) * 1000)}, bytes(8), [": w", "not a list of sizes"]),
        ({"w": entry(8, 0)}, bytes(8), [": w", "not [begin, end]"]),
        ({"w": entry(-8, 0)}, bytes(8), [": w", "not [begin, end]"]),
        ({"w": entry(0, 4)}, bytes(8), [": w", "takes 8 bytes"]),
        ({"w": entry()}, bytes(7), [": w", "cut short"]),
        ({"w": entry(), "v": entry(4, 12)}, bytes(12), [": v", "overlaps w"]),
        ({"w": entry(), "v": entry(9, 17)}, bytes(17), [": v", "belong to no tensor"]),
        ({"w": entry()}, bytes(9), ["after the last tensor"]),
        ({}, b"", ["no tensor"]),
        ({"__metadata__": {}}, b"", ["no tensor"]),
    ],
)
def test_bad_headers(tmp_path, refused, header, data, words):
    path = write(tmp_path / "w.safetensors", header, data)
    refused(path, path, *words)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"1234567", "too short"),
        ((200_000_000).to_bytes(8, "little"), "the limit is"),
        ((50).to_bytes(8, "little") + b"{}", "cut short"),
    ],
)
def test_bad_lengths(tmp_path, refused, content, words):
    (tmp_path / "w.safetensors").write_bytes(content)
    refused(tmp_path / "w.safetensors", words, "w.safetensors")


def test_all_entries_are_reported_at_once(tmp_path, refused):
    path = write(tmp_path / "w.safetensors", {"a": entry(dtype="X"), "b": entry(0, 4)}, bytes(8))
    assert len(refused(path, ": a", ": b")) == 2


def test_a_file_that_shrinks_while_it_is_read(tmp_path, refused):
    save_file({"w": torch.ones(100)}, tmp_path / "w.safetensors")
    with open_checkpoint(tmp_path / "w.safetensors") as source:
        os.truncate(tmp_path / "w.safetensors", 300)
        refused("w", "cut short", ": w", call=source.array)


def test_a_disk_that_fails_while_a_file_is_read(tmp_path, monkeypatch):
    """Named as the file that is read: whoever writes another meanwhile is not blamed."""
    save_file({"w": torch.ones(4)}, tmp_path / "a.safetensors")

    def refuse(*args):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "preadv", refuse)
    with (
        open_checkpoint(tmp_path / "a.safetensors") as source,
        pytest.raises(ProblemError, match=r"a\.safetensors: w\n   cannot be read: Input/output error"),
    ):
        source.read("w", 0, np.empty(16, np.uint8))


def test_files_without_an_index(tmp_path, refused, same):
    save_file({"a": torch.ones(2)}, tmp_path / "x")
    save_file({"b": torch.ones(3)}, tmp_path / "y")
    with open_safetensors([tmp_path / "x", tmp_path / "y"], "two files") as source:
        same(source, {"a": torch.ones(2), "b": torch.ones(3)})
        assert source.where == "two files"
