"""Mask files: the same bits and metadata come back in every format, and no bad file is believed."""

import io
import json
import pickle
import signal
import subprocess
import sys
import threading
import zipfile
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from safetensors import safe_open
from safetensors.numpy import save_file
from safetensors.torch import save_file as save_torch_file

from pruning.masks.bits import count, pack, packed_size, padding_is_zero, to_bool, unpack
from pruning.masks.containers import SafetensorsContainer
from pruning.masks.file import MaskFile
from pruning.masks.writer import MaskWriter
from pruning.problems import ProblemError

ROOT = Path(__file__).parents[3]
FORMATS = ("safetensors", "npz", "pt")
MASKS = {
    "model.layers.0.q_proj.weight": np.random.default_rng(0).random((7, 5)) < 0.3,
    "model/with/slashes.npy": np.ones((2, 3, 4), bool),
    "empty": np.zeros((0, 4), bool),
    "nothing kept": np.zeros(64, bool),
    "größe": np.ones((), bool),
}
SPEC = {"sparsity": 0.7, "levels": [1, 2.0, None, True]}


def write(path, masks=MASKS, **options):
    with MaskWriter(path, {name: mask.shape for name, mask in masks.items()}, **options) as writer:
        for name, mask in masks.items():
            writer.write(name, 0, pack(mask))
        writer.finish({name: int(mask.sum()) for name, mask in masks.items()})
    return path


def read(path):
    with MaskFile(path) as file:
        return {name: file.mask(name).numpy() for name in file.names}


def same(a, b):
    return a.keys() == b.keys() and all(np.array_equal(a[name], b[name]) for name in a)


# Bits


@given(st.integers(0, 1000).flatmap(lambda n: arrays(bool, n)))
def test_packing_is_little_endian_and_comes_back(mask):
    packed = pack(mask)
    assert np.array_equal(packed, np.packbits(mask, bitorder="little"))
    assert len(packed) == packed_size(mask.size)
    assert padding_is_zero(packed, mask.size)
    assert np.array_equal(unpack(packed, mask.size), mask)
    assert count(packed) == int(mask.sum())


@given(arrays(bool, array_shapes(max_dims=4, max_side=5)))
def test_packing_is_in_flat_c_order_whatever_the_layout(mask):
    assert np.array_equal(pack(np.asfortranarray(mask)), pack(mask.ravel()))


def test_counting_in_pieces():
    packed = np.random.default_rng(0).integers(0, 256, (2 << 20) + 13, dtype=np.uint8)
    assert count(packed) == int(np.unpackbits(packed).sum())
    assert count(packed[::2]) == int(np.unpackbits(packed[::2]).sum())


@pytest.mark.parametrize("value", [0.5, 2, -1, float("nan"), float("inf")])
def test_only_0_and_1_are_a_mask(value):
    with pytest.raises(ProblemError, match=f"w\n.*holds {value} at flat index 12"):
        to_bool(np.array([0, 1, value]), "w", 10)


# Round trips


@pytest.mark.parametrize("format", FORMATS)
def test_bits_and_receipt_come_back(tmp_path, format):
    path = write(tmp_path / f"m.{format}", spec=SPEC, checkpoint="abc", user={"note": "ü", "x": 1.0})
    with MaskFile(path) as file:
        assert file.names == tuple(sorted(MASKS))
        assert file.spec == SPEC
        assert file.checkpoint == "abc"
        assert file.metadata == {"note": "ü", "x": 1.0}
        assert file.encoding == "bits-lsb0"
        file.verify()
        for name, mask in MASKS.items():
            assert file.shape(name) == mask.shape
            assert file.kept(name) == mask.sum()
            assert file.sparsity(name) == (pytest.approx(1 - mask.mean()) if mask.size else 0)
            assert np.array_equal(file.mask(name).numpy(), mask)
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


@settings(max_examples=12, deadline=None)
@given(st.dictionaries(st.text("ab./é", min_size=1), arrays(bool, array_shapes(max_side=9)), min_size=1))
def test_any_masks_come_back(tmp_path_factory, masks):
    folder = tmp_path_factory.mktemp("any")
    for format in FORMATS:
        assert same(read(write(folder / f"m.{format}", masks)), masks)


def test_the_safetensors_package_reads_it_and_the_data_is_aligned(tmp_path):
    path = write(tmp_path / "m.safetensors")
    assert (8 + int.from_bytes(path.read_bytes()[:8], "little")) % 8 == 0
    with safe_open(path, "np") as file:
        assert set(file.keys()) == set(MASKS)
        assert json.loads(file.metadata()["kept"])["nothing kept"] == 0
        for name, mask in MASKS.items():
            assert np.array_equal(file.get_tensor(name), pack(mask))


def test_numpy_and_torch_read_theirs(tmp_path):
    with np.load(write(tmp_path / "m.npz"), allow_pickle=False) as file:
        assert json.loads(str(file["__metadata__"]))["format"] == "wafersparse-masks"
        assert np.array_equal(file["model/with/slashes.npy"], pack(MASKS["model/with/slashes.npy"]))
    content = torch.load(write(tmp_path / "m.pt"), weights_only=True)
    assert content["metadata"]["encoding"] == "bits-lsb0"
    assert content["masks"].keys() == MASKS.keys()


@pytest.mark.parametrize("format", ["safetensors", "npz"])
def test_the_same_masks_give_the_same_bytes_in_any_order(tmp_path, format):
    backwards = dict(reversed(MASKS.items()))
    one, other = write(tmp_path / f"a.{format}"), write(tmp_path / f"b.{format}", backwards)
    assert one.read_bytes() == other.read_bytes()


def test_many_threads_fill_several_files_at_once(tmp_path):
    mask = np.random.default_rng(0).random(80_000) < 0.5
    packed = pack(mask)
    writers = [MaskWriter(tmp_path / f"{i}.safetensors", {"w": mask.shape}) for i in range(3)]

    def work(start):
        for writer in writers:
            writer.write("w", start, packed[start : start + 1000])

    threads = [threading.Thread(target=work, args=(start,)) for start in range(0, 10_000, 1000)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for writer in writers:
        writer.finish({"w": int(mask.sum())})
    assert all(same(read(tmp_path / f"{i}.safetensors"), {"w": mask}) for i in range(3))


def test_one_mask_is_read_without_the_others(tmp_path, monkeypatch):
    path = write(tmp_path / "m.safetensors")
    touched = []
    pieces = SafetensorsContainer.pieces
    monkeypatch.setattr(
        SafetensorsContainer,
        "pieces",
        lambda self, name, step: touched.append(name) or pieces(self, name, step),
    )
    with MaskFile(path) as file:
        assert file.kept("model/with/slashes.npy") == 24
        assert touched == []
        file.mask("nothing kept")
    assert touched == ["nothing kept"]


def test_reading_and_writing_safetensors_needs_no_torch(tmp_path):
    code = (
        "import sys, numpy as np\n"
        "from pruning.masks.writer import MaskWriter; from pruning.masks.file import MaskFile\n"
        "w = MaskWriter(sys.argv[1], {'a': (8,)}); w.write('a', 0, np.uint8([3])); w.finish({'a': 2})\n"
        "assert MaskFile(sys.argv[1]).packed('a')[0] == 3\n"
        "assert not {'torch', 'matplotlib'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "m.safetensors")], cwd=ROOT, check=True)


# Masks made elsewhere


PLAIN = {"a": np.array([[True, False, True]]), "b": np.arange(20).reshape(4, 5) % 3 == 0}


@pytest.mark.parametrize("dtype", ["bool", "uint8", "int64", "float16", "float32", ">f4"])
def test_plain_npz(tmp_path, dtype):
    for save, name in ((np.savez, "stored.npz"), (np.savez_compressed, "compressed.npz")):
        save(tmp_path / name, **{key: mask.astype(dtype) for key, mask in PLAIN.items()})
        assert same(read(tmp_path / name), PLAIN)


def test_plain_npz_in_fortran_order(tmp_path):
    np.savez(tmp_path / "m.npz", **{name: np.asfortranarray(mask) for name, mask in PLAIN.items()})
    assert same(read(tmp_path / "m.npz"), PLAIN)


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.int32, torch.bfloat16, torch.float64])
def test_plain_tensors(tmp_path, dtype):
    masks = {name: torch.from_numpy(mask).to(dtype) for name, mask in PLAIN.items()}
    save_torch_file(masks, tmp_path / "m.safetensors", {"format": "pt"})
    torch.save(masks, tmp_path / "m.pt")
    torch.save({"masks": masks}, tmp_path / "masks.pt")
    torch.save({"masks": masks, "metadata": {"sparsity": 0.5}}, tmp_path / "both.pth")
    for name in ("m.safetensors", "m.pt", "masks.pt", "both.pth"):
        assert same(read(tmp_path / name), PLAIN)
    with MaskFile(tmp_path / "both.pth") as file:
        assert file.metadata == {"sparsity": 0.5}
        assert file.encoding == "bool"
        assert file.kept("a") == 2


def test_a_transposed_tensor(tmp_path):
    torch.save({"b": torch.from_numpy(PLAIN["b"]).T}, tmp_path / "m.pt")
    assert same(read(tmp_path / "m.pt"), {"b": PLAIN["b"].T})


def test_half_is_no_mask_in_any_format(tmp_path):
    bad = {"good": np.float32([0, 1]), "bad": np.float32([0, 0.5])}
    np.savez(tmp_path / "m.npz", **bad)
    save_file(bad, tmp_path / "m.safetensors")
    torch.save({name: torch.from_numpy(mask) for name, mask in bad.items()}, tmp_path / "m.pt")
    for format in FORMATS:
        with MaskFile(tmp_path / f"m.{format}") as file:
            assert file.mask("good").tolist() == [False, True]
            with pytest.raises(ProblemError, match=r"bad\n.*holds 0\.5 at flat index 1"):
                file.verify()


# Bad files


def edited(path, change):
    """``path`` with its strings of metadata changed and everything else kept."""
    with safe_open(path, "np") as file:
        tensors, strings = {name: file.get_tensor(name) for name in file.keys()}, file.metadata()  # noqa: SIM118
    change(strings, tensors)
    save_file(tensors, path, strings)
    return path


def change_json(key, name, value):
    def change(strings, tensors):
        strings[key] = json.dumps({**json.loads(strings[key]), name: value})

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (change_json("shapes", "nothing kept", [99999]), r"is .*\(8,\).*where a mask of shape \(99999,\)"),
        (change_json("shapes", "nothing kept", [-64]), "is not a shape"),
        (change_json("shapes", "nothing kept", [True]), "is not a shape"),
        (change_json("shapes", "more", [1]), "both"),
        (change_json("kept", "nothing kept", 65), "65 is not a count"),
        (change_json("kept", "nothing kept", "0"), "'0' is not a count"),
        (lambda strings, tensors: strings.update(version="2"), "version '2'"),
        (lambda strings, tensors: strings.update(encoding="bits"), "unknown encoding"),
        (lambda strings, tensors: strings.update(shapes="[1]"), "not an object"),
        (lambda strings, tensors: strings.update(kept="{"), "is not JSON"),
        (lambda strings, tensors: strings.update(spec="[" * 100_000), "is not JSON"),
        (lambda strings, tensors: strings.pop("kept"), "is not JSON"),
        (lambda strings, tensors: tensors.pop("empty"), "has no tensor"),
        (lambda strings, tensors: tensors.update(extra=np.uint8([1])), "has no shape"),
    ],
)
def test_a_receipt_that_lies_is_refused_when_the_file_is_opened(tmp_path, change, message):
    path = edited(write(tmp_path / "m.safetensors"), change)
    with pytest.raises(ProblemError, match=message):
        MaskFile(path)


def test_wrong_counts_and_padding_are_found_when_read_and_reported_together(tmp_path):
    def change(strings, tensors):
        tensors["größe"] = np.uint8([3])
        change_json("kept", "nothing kept", 1)(strings, tensors)

    with MaskFile(edited(write(tmp_path / "m.safetensors"), change)) as file:
        with pytest.raises(ProblemError) as caught:
            file.verify()
        assert len(caught.value.problems) == 2
        assert "bits are set behind the last of 1 weights" in str(caught.value)
        assert "keeps 0 weights, where its file says 1" in str(caught.value)
        with pytest.raises(ProblemError, match="keeps 0"):
            file.mask("nothing kept")


@pytest.mark.parametrize("format", FORMATS)
def test_every_truncation_is_an_error(tmp_path, format):
    whole = write(tmp_path / f"whole.{format}").read_bytes()
    path = tmp_path / f"m.{format}"
    for size in [*range(0, len(whole), len(whole) // 23), len(whole) - 1]:
        path.write_bytes(whole[:size])
        with pytest.raises(ProblemError), MaskFile(path) as file:
            file.verify()


@pytest.mark.parametrize("format", FORMATS)
def test_a_damaged_file_never_raises_anything_but_a_problem(tmp_path, format):
    whole = bytearray(write(tmp_path / f"whole.{format}").read_bytes())
    path = tmp_path / f"m.{format}"
    for place in range(0, len(whole), max(1, len(whole) // 80)):
        broken = whole.copy()
        broken[place] ^= 0xFF
        path.write_bytes(broken)
        with suppress(ProblemError), MaskFile(path) as file:  # no problem: the byte did not matter
            file.verify()


@pytest.mark.parametrize("format", FORMATS)
def test_absent_empty_and_foreign_files(tmp_path, format):
    path = tmp_path / f"m.{format}"
    with pytest.raises(ProblemError, match="does not exist"):
        MaskFile(path)
    path.touch()
    with pytest.raises(ProblemError):
        MaskFile(path)
    path.write_text("not a mask " * 100)
    with pytest.raises(ProblemError):
        MaskFile(path)
    path.unlink()
    path.mkdir()
    with pytest.raises(ProblemError, match="cannot be read"):
        MaskFile(path)


def test_an_absent_file_with_a_similar_name_beside_it(tmp_path):
    write(tmp_path / "mask_70.npz")
    with pytest.raises(ProblemError, match=r"Did you mean 'mask_70\.npz'"):
        MaskFile(tmp_path / "masks_70.npz")


def test_the_suffix_and_the_format(tmp_path):
    with pytest.raises(ProblemError, match="the suffix stands for 'pt'"):
        write(tmp_path / "m.pt", format="npz")
    with pytest.raises(ProblemError, match="says nothing about the format"):
        write(tmp_path / "masks")
    with pytest.raises(ProblemError, match="Did you mean 'safetensors'"):
        write(tmp_path / "masks", format="safetensor")
    with MaskFile(write(tmp_path / "masks", format="npz"), format="npz") as file:
        file.verify()


class Bomb:
    def __reduce__(self):
        return (Path.touch, (Path(sys.argv[0]).with_name("exploded"),))


def test_no_pickle_is_run(tmp_path):
    torch.save({"masks": {"w": Bomb()}}, tmp_path / "m.pt")
    with pytest.raises(ProblemError, match="something else than tensors"):
        MaskFile(tmp_path / "m.pt")
    (tmp_path / "raw.pt").write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(ProblemError, match="no zip archive"):
        MaskFile(tmp_path / "raw.pt")
    np.savez(tmp_path / "m.npz", w=np.array([Bomb()], dtype=object))
    with pytest.raises(ProblemError, match="Python objects"):
        MaskFile(tmp_path / "m.npz")


def test_a_view_that_claims_more_than_it_has(tmp_path):
    torch.save({"w": torch.ones(1, dtype=torch.bool).expand(1 << 40)}, tmp_path / "m.pt")
    with pytest.raises(ProblemError, match="without having the elements"):
        MaskFile(tmp_path / "m.pt")


def test_tensors_that_are_no_plain_arrays(tmp_path):
    torch.save({"w": torch.eye(3).to_sparse()}, tmp_path / "sparse.pt")
    torch.save({"w": torch.ones(3, dtype=torch.complex64)}, tmp_path / "complex.pt")
    torch.save({"w": 1}, tmp_path / "number.pt")
    torch.save([torch.ones(3)], tmp_path / "list.pt")
    torch.save({"masks": {}, "metadata": {}, "optimizer": {}}, tmp_path / "more.pt")
    for path in tmp_path.iterdir():
        with pytest.raises(ProblemError):
            MaskFile(path)


def npz_of(path, shape, data, level=zipfile.ZIP_DEFLATED):
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "|b1", "fortran_order": False, "shape": shape})
    with zipfile.ZipFile(path, "w", level) as archive:
        archive.writestr("w.npy", header.getvalue() + data)
    return path


def test_an_array_that_claims_more_than_the_archive_holds(tmp_path):
    with pytest.raises(ProblemError, match="cannot have 3 bytes"):
        MaskFile(npz_of(tmp_path / "m.npz", (1 << 50,), b"abc"))


def test_an_archive_whose_directory_promises_the_impossible(tmp_path):
    path = npz_of(tmp_path / "m.npz", (64,), bytes(64))
    data = bytearray(path.read_bytes())
    directory = data.index(b"PK\x01\x02")
    data[directory + 24 : directory + 28] = (1 << 31).to_bytes(4, "little")  # the size of w.npy, unpacked
    path.write_bytes(data)
    with pytest.raises(ProblemError, match="promises more"):
        MaskFile(path)


def test_a_bool_byte_that_is_neither(tmp_path):
    with (
        MaskFile(npz_of(tmp_path / "m.npz", (3,), b"\0\1\2")) as file,
        pytest.raises(ProblemError, match="holds 2"),
    ):
        file.mask("w")


# Writing that goes wrong


@pytest.mark.parametrize("format", FORMATS)
def test_leaving_before_the_end_leaves_nothing(tmp_path, format):
    with pytest.raises(RuntimeError), MaskWriter(tmp_path / f"m.{format}", {"w": (9,)}):
        raise RuntimeError
    with MaskWriter(tmp_path / f"m.{format}", {"w": (9,)}) as writer:
        writer.abort()
        writer.abort()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("format", FORMATS)
def test_no_room_for_the_whole_file_is_found_before_the_first_bit(tmp_path, format):
    with pytest.raises(ProblemError, match="bytes"):
        MaskWriter(tmp_path / f"m.{format}", {"w": (1 << 56,)})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["", "__metadata__", "a\0b", 3])
def test_names_that_cannot_be(tmp_path, name):
    with pytest.raises(ProblemError, match=r"cannot be the name|is no name"):
        MaskWriter(tmp_path / "m.npz", {name: (1,)})


def test_an_error_of_the_caller_is_not_taken_for_one_of_the_mask_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="checkpoint"), MaskWriter(tmp_path / "m.npz", {"w": (1,)}):
        (tmp_path / "checkpoint").read_bytes()
    assert list(tmp_path.iterdir()) == []


def test_metadata_that_would_not_come_back(tmp_path):
    user = {"a": (1, 2), "b": {1: "x"}, "c": [np.int64(1)], "d": float("nan"), "fine": [1, {"x": None}]}
    with pytest.raises(ProblemError) as caught:
        MaskWriter(tmp_path / "m.npz", {"w": (1,)}, user=user)
    assert [problem.where.split(": ")[1] for problem in caught.value.problems] == [
        "metadata['a']",
        "metadata['b'][1]",
        "metadata['c'][0]",
        "metadata['d']",
    ]


@pytest.mark.parametrize("format", FORMATS)
def test_a_killed_writer_leaves_no_result_and_the_next_one_cleans_up(tmp_path, format):
    code = (
        "import sys, time; from pruning.masks.writer import MaskWriter\n"
        "writer = MaskWriter(sys.argv[1], {'w': (8000,)}); print('ready', flush=True); time.sleep(60)"
    )
    path = tmp_path / f"m.{format}"
    command = [sys.executable, "-c", code, str(path)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"ready\n"
        process.send_signal(signal.SIGKILL)
    assert not path.exists()
    assert len(list(tmp_path.iterdir())) == 1
    write(path)
    assert list(tmp_path.iterdir()) == [path]
