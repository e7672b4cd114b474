import io
import zipfile

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pruning.checkpoint.open import open_checkpoint


@pytest.fixture
def path(tmp_path):
    return tmp_path / "weights.pt"


def repack(path, change):
    """Write the zip archive again, with ``change(name, data) -> (name, data, compression)``."""
    with zipfile.ZipFile(path) as archive:
        members = [(info.filename, archive.read(info)) for info in archive.infolist()]
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members:
            name, data, how = change(name, data)
            archive.writestr(name, data, how)


@pytest.mark.parametrize(
    "wrap", [dict, lambda w: {"model": w, "step": 3}, lambda w: {"state_dict": w, "opt": {}}]
)
def test_every_dtype_wherever_the_weights_are(path, tensors, same, wrap):
    torch.save(wrap(tensors), path)
    with open_checkpoint(path) as source:
        same(source, tensors)
        assert source.kind == "torch"


def test_training_state_is_not_weights(path, same):
    weight = torch.ones(3)
    torch.save({"model": {"w": weight, "n": 3}, "rng": torch.ones(8), "opt": {"m": torch.ones(3)}}, path)
    with open_checkpoint(path) as source:
        same(source, {"w": weight})


def test_views_of_one_storage(path, same):
    whole = torch.randn(10, 4)
    state = {"whole": whole, "tied": whole, "rows": whole[3:5], "flat": whole.view(-1)}
    torch.save(state, path)
    with open_checkpoint(path) as source:
        same(source, state)
        storage = {name: info.storage for name, info in source.infos.items()}
    assert storage["whole"] == storage["tied"]
    assert storage["whole"] != storage["rows"]


def test_parameters_and_prefixes(path, same):
    module = torch.nn.DataParallel(torch.nn.Linear(3, 2))
    torch.save(module.state_dict(), path)
    with open_checkpoint(path) as source:
        same(source, {"module.weight": module.module.weight, "module.bias": module.module.bias})


def test_any_range(path, raw):
    weight = torch.randn(6, 5).bfloat16()
    torch.save({"before": torch.ones(7), "w": weight}, path)

    @settings(max_examples=50)
    @given(st.integers(0, 30), st.integers(0, 30))
    def check(a, b):
        start, stop = sorted((a, b))
        out = np.zeros(2 * (stop - start), np.uint8)
        source.read("w", start, out)
        assert out.tobytes() == raw(weight)[2 * start : 2 * stop]

    with open_checkpoint(path) as source:
        check()


@pytest.mark.parametrize(
    ("tensor", "words"),
    [
        (torch.ones(3, 2).t(), ["strided view", ".contiguous()"]),
        (torch.ones(3, 2).to_sparse(), ["sparse", ".to_dense()"]),
        (torch.ones(2, device="meta"), ["meta device"]),
        (torch.ones(2, dtype=torch.complex64), ["complex64"]),
    ],
)
def test_tensors_without_plain_bytes(path, refused, tensor, words):
    torch.save({"fine": torch.ones(2), "w": tensor}, path)
    refused(path, path, ": w", *words)


@pytest.mark.parametrize(
    ("saved", "words"),
    [
        ({"epoch": 3, "args": {}}, ["'epoch', 'args'"]),
        (torch.ones(3), ["holds a Tensor"]),
        ([torch.ones(3)], ["holds a list"]),
        ({1: torch.ones(3)}, ["key 1 is not a string"]),
        ({"model": {"a": torch.ones(3)}, "state_dict": {"a": torch.ones(3)}}, ["under each of"]),
        (torch.nn.Linear(2, 2), ["pickled", "Linear", "model.state_dict()"]),
        ({"w": torch.ones(2), "f": io.StringIO}, ["pickled", "StringIO"]),
    ],
)
def test_no_state_dict(path, refused, saved, words):
    torch.save(saved, path)
    refused(path, path, *words)


def test_legacy_format(path, refused):
    torch.save({"w": torch.ones(3)}, path, _use_new_zipfile_serialization=False)
    refused(path, path, "not a zip checkpoint", "torch.save(")


def test_torchscript(path, refused):
    with zipfile.ZipFile(path, "w") as archive:  # as torch.jit.save lays it out
        archive.writestr("net/data.pkl", b"")
        archive.writestr("net/constants.pkl", b"")
    refused(path, path, "TorchScript", "state_dict()")


def test_other_archives(path, refused):
    np.savez(path.with_suffix(".npz"), w=np.ones(3))
    refused(path.with_suffix(".npz"), "not one that torch.save wrote")


def test_big_endian(path, refused):
    torch.save({"w": torch.ones(3)}, path)
    repack(
        path, lambda name, data: (name, b"big" if name.endswith("byteorder") else data, zipfile.ZIP_STORED)
    )
    refused(path, path, "little-endian")


def test_compressed(path, refused):
    torch.save({"w": torch.ones(300)}, path)
    repack(path, lambda name, data: (name, data, zipfile.ZIP_DEFLATED))
    refused(path, path, "data/0", "is compressed")


def test_data_that_does_not_fit_the_pickle(path, refused):
    torch.save({"w": torch.ones(300), "v": torch.ones(5)}, path)
    repack(
        path, lambda name, data: (name, data[:-4] if name.endswith("data/0") else data, zipfile.ZIP_STORED)
    )
    refused(path, path)


def test_data_that_no_tensor_uses(path, refused):
    torch.save({"w": torch.ones(300)}, path)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("weights/data/7", bytes(100))
    refused(path, path, "do not match")


@pytest.mark.parametrize("kept", [3, 100, 1500])
def test_truncated(path, refused, kept):
    torch.save({"w": torch.ones(300)}, path)
    path.write_bytes(path.read_bytes()[:kept])
    refused(path, path)


def test_hostile_pickle_is_not_run(path, refused, tmp_path):
    class Boom:
        def __reduce__(self):
            return open, (str(tmp_path / "ran"), "w")

    torch.save({"w": torch.ones(2), "boom": Boom()}, path)
    refused(path, path, "pickled", "open")
    assert not (tmp_path / "ran").exists()


def test_mapping_is_gone_after_opening(path):
    torch.save({"w": torch.ones(1000)}, path)
    with open_checkpoint(path), open("/proc/self/maps") as maps:
        assert str(path) not in maps.read()
