import importlib.util
import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import h5py
import hdf5plugin
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from pruning.checkpoint.open import open_checkpoint
from pruning.problems import ProblemError

DATA = Path(__file__).parents[2] / "data" / "mdl"
W = "model.model.w"


def metadata(leaf, **fields):
    return json.dumps({"__objects__": [leaf], f"{leaf}.__metadata__": fields})


@pytest.fixture
def mdl(tmp_path):
    """A file of one weight in several chunks, to be spoiled by ``edit(file)``."""
    path = tmp_path / "checkpoint_1.mdl"
    weight = torch.arange(7 * 5 * 3, dtype=torch.float32).view(7, 5, 3)

    def write(edit=lambda file: None):
        with h5py.File(path, "w") as file:
            file[W] = file.create_dataset(None, data=weight, chunks=(2, 3, 3), **hdf5plugin.LZ4())
            about = {"shapes": [[7, 5, 3]], "dtypes": ["torch.float32"], "rtfx_dtypes": [11]}
            file[W].attrs.update(about)
            file.attrs["__spec__"] = json.dumps([{"model": {"model.w": "*"}}, ""])
            file.attrs.update({"__version__": 0.5, "__SUCCESS__": True})
            file.attrs[f"{W}.__metadata__"] = metadata(W, __TYPE__="TorchTensorSerializer", **about)
            edit(file)
        return path

    write.weight = weight
    return write


@pytest.mark.parametrize("name", ["training", "plain", "filled"])
def test_vendor_files(name, same):
    with open_checkpoint(DATA / f"{name}.mdl") as source:
        same(source, load_file(DATA / f"{name}.safetensors"))
        assert source.kind == "mdl"


def test_training_state():
    with h5py.File(DATA / "training.mdl") as file:
        assert "LinkedObject" in file.attrs["global_step.__metadata__"]
    with open_checkpoint(DATA / "training.mdl") as source:
        assert source.others == ("optimizer.state.0.exp_avg",)
        assert source.scalars() == {
            "global_step": 7,
            "name": "a",
            "none": None,
            "optimizer.param_groups.0.lr": 0.1,
            "optimizer.param_groups.0.params.0": 0,
            "optimizer.param_groups.0.params.1": 7,
        }
        infos = source.infos
    assert infos["model.brain"].dtype == "BF16"
    assert infos["model.short"].dtype == "I16"
    assert infos["model.flags"].dtype == "BOOL"
    assert infos["model.head.weight"].storage == infos["model.embed.weight"].storage
    assert infos["model.half"].storage != infos["model.brain"].storage


def test_any_range_across_chunks(mdl, raw):
    @settings(max_examples=80)
    @given(st.integers(0, 105), st.integers(0, 105), st.booleans())
    def check(a, b, odd):
        start, stop = sorted((a, b))
        buffer = np.zeros(4 * (stop - start) + odd, np.uint8)
        source.read("model.w", start, buffer[odd:])  # unaligned, too
        assert buffer[odd:].tobytes() == raw(mdl.weight)[4 * start : 4 * stop]

    with open_checkpoint(mdl()) as source:
        check()
        assert source.quantum("model.w") == 2 * 5 * 3


def test_threads_share_a_source(same):
    expected = load_file(DATA / "training.safetensors")
    with open_checkpoint(DATA / "training.mdl") as source, ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: same(source, expected), range(8)))


def test_fingerprint_is_of_the_content(tmp_path):
    shutil.copy(DATA / "plain.mdl", tmp_path / "renamed.mdl")
    with open_checkpoint(tmp_path / "renamed.mdl") as copy, open_checkpoint(DATA / "plain.mdl") as plain:
        assert copy.fingerprint() == plain.fingerprint()


def test_graphs_are_refused(refused):
    refused(DATA / "initial.mdl", DATA / "initial.mdl", "model.graph", "before the first step", "later step")


def set_attr(key, value):
    return lambda file: file.attrs.__setitem__(key, value)


def set_record(leaf=W, **fields):
    return set_attr(f"{leaf}.__metadata__", metadata(leaf, **fields))


def delete(key):
    return lambda file: file.attrs.__delitem__(key)


def replace(data, **attrs):
    def edit(file):
        about = dict(file[W].attrs)
        del file[W]
        file[W] = data
        file[W].attrs.update({**about, **attrs})

    return edit


def link(*pairs):
    def edit(file):
        for key, target in pairs:
            set_record(key, __TYPE__="LinkedObject", key=target)(file)

    return edit


def legacy(file):
    del file.attrs["__version__"]
    file[W].attrs["__H5_TYPE__"] = "TorchTensorH5Type"


def external(file):
    del file[W]
    file[W] = h5py.ExternalLink("other.h5", "w")


def soft(file):
    file.move(W, "elsewhere")
    file[W] = h5py.SoftLink("/elsewhere")


def virtual(file):
    layout = h5py.VirtualLayout((7, 5, 3), "<f4")
    layout[:] = h5py.VirtualSource("other.h5", "w", (7, 5, 3))
    about = dict(file[W].attrs)
    del file[W]
    file.create_virtual_dataset(W, layout).attrs.update(about)


def raw_elsewhere(file):
    about = dict(file[W].attrs)
    del file[W]
    outside = [("other.raw", 0, h5py.h5f.UNLIMITED)]
    file.create_dataset(W, (7, 5, 3), "<f4", external=outside).attrs.update(about)


def never_written(file):
    about = dict(file[W].attrs)
    del file[W]
    file.create_dataset(W, (7, 5, 3), "<f4", chunks=True).attrs.update(about)


FULL = {"__TYPE__": "DeferredFullTensor", "shape": [2], "dtype": "torch.float32"}


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (delete("__SUCCESS__"), ["incomplete", "the checkpoint before it"]),
        (set_attr("__version__", 0.4), ["old Cerebras release", "cerebras.pytorch.load"]),
        (legacy, ["old Cerebras release", "cerebras.pytorch.load"]),
        (set_attr("__version__", 0.6), ["format 0.6"]),
        (delete("__version__"), ["no Cerebras checkpoint"]),
        (set_attr("__version__", "new"), ["no Cerebras checkpoint"]),
        (delete("__spec__"), ["__spec__", "not valid JSON"]),
        (set_attr("__spec__", "[[], 1]"), ["__spec__", "not a dict"]),
        (set_attr("__spec__", '[{"optimizer": {}}, ""]'), ["no weights", "optimizer"]),
        (set_attr(f"{W}.__metadata__", "{"), [W, "not valid JSON"]),
        (set_attr(f"{W}.__metadata__", "[]"), [W, "cannot be understood"]),
        (set_record(__TYPE__="TorchTensorSerializer"), [W, "cannot be understood"]),
        (
            set_record(__TYPE__="DeferredFileTensor"),
            ["model.w", "DeferredFileTensor", "cerebras.pytorch.save"],
        ),
        (set_record(**FULL, fill_value=None), ["model.w", "never given a value"]),
        (set_record(**FULL, fill_value="1"), [W, "fill value"]),
        (set_record(**{**FULL, "shape": [-2]}, fill_value=1), [W, "[-2]"]),
        (set_record(**{**FULL, "dtype": "torch.complex64"}, fill_value=1), ["model.w", "complex64"]),
        (link(("model.model.t", "model.model.gone")), ["model.model.t", "leads nowhere"]),
        (link((W, "model.b"), ("model.b", W)), [W, "runs in a circle"]),
        (replace(np.zeros((7, 5, 2), "<f4")), ["model.w", "(7, 5, 3)", "(7, 5, 2)"]),
        (replace(np.zeros((7, 5, 3), "<f4"), shapes=[[7, 5, 4]]), ["model.w", "(7, 5, 4)"]),
        (replace(np.zeros((7, 5, 3), "<i4")), ["model.w", "<i4"]),
        (replace(np.zeros((7, 5, 3), ">f4")), ["model.w", ">f4", "little-endian"]),
        (replace(np.zeros((7, 5, 3), "<i2"), dtypes=["torch.bfloat16"]), ["model.w", "torch.bfloat16"]),
        (lambda file: file.__delitem__(W), ["model.w", "not in the file"]),
        (external, ["model.w", "other.h5", "not followed"]),
        (soft, ["model.w", "elsewhere", "not followed"]),
        (virtual, ["model.w", "another file"]),
        (raw_elsewhere, ["model.w", "another file"]),
        (never_written, ["model.w", "never written"]),
    ],
)
def test_bad_files(mdl, refused, edit, words):
    path = mdl(edit)
    refused(path, path, *words)


def test_not_hdf5(tmp_path, refused):
    (tmp_path / "c.mdl").write_bytes(b"something else")
    refused(tmp_path / "c.mdl", tmp_path / "c.mdl", "not an HDF5 file")


@pytest.mark.parametrize("kept", [100, 3000])
def test_truncated(mdl, refused, kept):
    path = mdl()
    path.write_bytes(path.read_bytes()[:kept])
    refused(path, path, "copy the checkpoint again")


def test_a_damaged_chunk_names_the_tensor(mdl, refused):
    path = mdl()
    with h5py.File(path) as file:
        chunk = file[W].id.get_chunk_info(0)
    data = bytearray(path.read_bytes())
    data[chunk.byte_offset : chunk.byte_offset + chunk.size] = b"\xff" * chunk.size
    path.write_bytes(data)
    with open_checkpoint(path) as source:
        refused("model.w", path, "model.w", "HDF5 cannot read it", call=source.array)


@pytest.mark.cerebras
@pytest.mark.skipif(importlib.util.find_spec("cerebras") is None, reason="cerebras.pytorch is not installed")
def test_what_the_vendor_writes_now(tmp_path, same):
    import cerebras.pytorch as cstorch

    weights = {"model.a": torch.randn(300, 200).bfloat16(), "model.b": torch.randn(3, 5)}
    cstorch.save({"model": weights, "global_step": 12}, str(tmp_path / "c.mdl"))
    with open_checkpoint(tmp_path / "c.mdl") as source:
        same(source, weights)
        assert source.scalars() == {"global_step": 12}


def test_other_hdf5_files_get_one_fix(tmp_path):
    with h5py.File(tmp_path / "data.h5", "w") as file:
        file["data"] = [1]
    with pytest.raises(ProblemError) as error:
        open_checkpoint(tmp_path / "data.h5")
    assert str(error.value).count("fix:") == 1
    assert "copy the checkpoint again" not in str(error.value)
