"""Bad input: everything that is wrong, at once, with where and how to fix it."""

import errno
import os

import h5py
import numpy as np
import pytest

from cerebras_utils.fallback.data.loader import data_problems, make_loader
from pruning.problems import ProblemError

MODEL = {"vocab_size": 100, "max_position_embeddings": 8}
WHERE = "c.yaml: trainer.fit.train_dataloader"


def problems(section, model=MODEL, **options):
    return data_problems(section, model, WHERE, **options)


def only(section, model=MODEL, **options):
    (problem,) = problems(section, model, **options)
    return problem


def test_good_data_have_none(samples, corpus, section):
    assert problems(section(data_dir=samples("a", 4, 2))) == []
    assert problems(section(data_dir=[samples("a", 4), samples("b", 3)], num_workers=8)) == []
    assert problems(section(data_dir=samples("s", 4, length=5)), MODEL) == []  # shorter than the model's
    assert problems(section(data_dir=corpus("k", 90), max_sequence_length=8, shuffle=True)) == []
    mixture = [{"data_dir": samples("a", 4), "weight": 1}, {"data_dir": samples("b", 4), "weight": 0.5}]
    assert problems(section(mixture=mixture)) == []


@pytest.mark.parametrize(
    ("change", "key", "what", "fix"),
    [
        (
            {"data_processor": "GptHDF5MapDataProcesor"},
            "data_processor",
            "'GptHDF5MapDataProcessor'",
            "write",
        ),
        ({"data_processor": "GptHDF5DataProcessor"}, "data_processor", "buffers", "same files"),
        ({"data_processor": "BertHDF5DataProcessor"}, "data_processor", "does not have", "cszoo"),
        ({"data_processor": None}, "data_processor", "is missing", "GptHDF5MapDataProcessor"),
        ({"batch_sise": 3}, "batch_sise", "'batch_size'", "correct"),
        ({"batch_size": "8"}, "batch_size", "'8' (str)", "integer"),
        ({"batch_size": 0}, "batch_size", "is 0", "1 or more"),
        ({"batch_size": True}, "batch_size", "is True", "integer"),
        ({"batch_size": 2**64}, "batch_size", "is 18446744073709551616", "integer"),
        ({"shuffle": "yes please"}, "shuffle", "'yes please'", "true or false"),
        ({"shuffle_seed": 1.5}, "shuffle_seed", "1.5 (float)", "integer"),
        ({"num_samples": 0}, "num_samples", "is 0", "or null"),
        ({"num_samples": 1}, "batch_size", "num_samples is 1", "set batch_size to 1"),
        ({"num_workers": -1}, "num_workers", "is -1", "0 or more"),
        ({"prefetch_factor": 0}, "prefetch_factor", "is 0", "or null"),
        ({"batch_size": 9}, "batch_size", "the data hold 5 samples", "batch_size to 5 or less"),
        ({"pad_last": True, "drop_last": False}, "pad_last", "1 samples", "divides 5"),
        ({"use_vsl": True}, "use_vsl", "attention spans", "false"),
        (
            {"data_transforms": [{"name": "add_sink_tokens"}]},
            "data_transforms",
            "does not transform",
            "cszoo",
        ),
        ({"dataset_map_fn": "f"}, "dataset_map_fn", "cannot be given", "remove"),
        ({"max_sequence_length": 6}, "max_sequence_length", "not cut again", "remove"),
        ({"data_subset": "0.5-0.2"}, "data_subset", "rising ranges", "0.0-0.5"),
        ({"data_subset": "half"}, "data_subset", "'half'", "0.0-0.5"),
        ({"data_subset": "0.1-0.2-0.3"}, "data_subset", "0.1-0.2-0.3", "0.0-0.5"),
        ({"data_subset": "0.0-nan"}, "data_subset", "nan", "0.0-0.5"),
        ({"data_subset": "0.5-0.55"}, "data_dir", "5 samples and 0.5-0.55 of them none", "data"),
        ({"mixture": []}, "train_dataloader: data_dir and mixture", "both", "one of them"),
        ({"data_dir": None}, "train_dataloader: data_dir and mixture", "neither", "data_dir for one"),
        ({"data_dir": []}, "data_dir", "is []", "directory"),
        ({"data_dir": 3}, "data_dir", "is 3", "directory"),
    ],
)
def test_settings(samples, section, change, key, what, fix):
    problem = only(section(data_dir=samples("a", 5)) | change)
    assert problem.where.endswith(key)
    assert problem.where.startswith(WHERE)
    assert what in problem.what
    assert fix in problem.fix


def test_batches_smaller_than_asked_are_a_choice(samples, section):
    assert problems(section(data_dir=samples("a", 5), batch_size=9, drop_last=False)) == []
    assert problems(section(data_dir=samples("a", 6), batch_size=3, drop_last=False, pad_last=True)) == []


def test_no_section():
    assert "is None, not a section" in only(None).what


def test_everything_at_once(tmp_path, section):
    wrong = section(data_dir=str(tmp_path / "none"), batch_size=0, shufle=True, use_vsl=True)
    found = problems(wrong)
    assert [problem.where.removeprefix(WHERE) for problem in found] == [
        ".shufle",
        ".batch_size",
        ".use_vsl",
        f".data_dir: {tmp_path}/none",
    ]
    with pytest.raises(ProblemError) as caught:
        make_loader(wrong, seed=0, where=WHERE)
    assert list(caught.value.problems) == found


@pytest.mark.parametrize(
    ("mixture", "key", "what"),
    [
        ([{"data_dir": "A", "weight": 0}], "[0].weight", "is 0"),
        ([{"data_dir": "A", "wieght": 1, "weight": 1}], "[0].wieght", "'weight'"),
        ([{"data_dir": "A", "weight": float("nan")}], "[0].weight", "nan"),
        ([{"data_dir": "A"}], "[0].weight", "is None"),
        ([{"weight": 1}], "[0].data_dir", "is None"),
        ([{"data_dir": "A", "weight": 1, "data_subset": 0.5}], "[0].data_subset", "0.5 (float)"),
        ({"data_dir": "A"}, "mixture", "not a list"),
        ([{"data_dir": "A", "weight": 1}] * 20, "mixture", "above 5 %"),
        ([{"data_dir": "A", "weight": 1}, {"data_dir": "A", "weight": 0.01}], "[1].weight", "no sample"),
        ([{"data_dir": "A", "weight": 1}, {"data_dir": "S", "weight": 1}], "mixture", "5, 6 tokens"),
    ],
)
def test_mixtures(samples, section, mixture, key, what):
    directories = {"A": samples("a", 5), "S": samples("s", 4, length=5)}
    entries = mixture if isinstance(mixture, list) else [mixture]
    for entry in {id(entry): entry for entry in entries}.values():
        entry.update({k: directories.get(v, v) for k, v in entry.items() if k == "data_dir"})
    problem = only(section(mixture=mixture))
    assert problem.where.endswith(key)
    assert what in problem.what


def test_a_mixture_of_two_kinds(samples, corpus, section):
    mixture = [{"data_dir": samples("a", 5), "weight": 1}, {"data_dir": corpus("k", 50), "weight": 1}]
    assert "not cut again" in only(section(mixture=mixture, max_sequence_length=6)).what
    assert "corpus of tokens" in only(section(mixture=mixture)).what


@pytest.mark.parametrize(
    ("make", "what", "fix"),
    [
        (lambda d: None, "there is no such directory", "relative paths begin at"),
        (lambda d: d.touch(), "is a file", "name a directory"),
        (lambda d: d.mkdir(), "no .h5 files in it", "that holds the files"),
        (
            lambda d: ((d / "train").mkdir(parents=True), (d / "train/0.h5").touch()),
            "but 1 in directories",
            "",
        ),
    ],
)
def test_directories(tmp_path, monkeypatch, section, make, what, fix):
    monkeypatch.chdir(tmp_path)
    make(tmp_path / "data")
    problem = only(section(data_dir="data"))
    assert problem.where == f"{WHERE}.data_dir: data"
    assert what in problem.what
    assert fix in problem.fix


def h5(change):
    def make(path):
        with h5py.File(path, "w") as file:
            change(file)

    return make


def cut(path):
    h5(lambda file: file.create_dataset("data", data=np.zeros((50, 3, 6), "i4")))(path)
    os.truncate(path, path.stat().st_size - 1000)


def scribbled(path):
    """The header is right, and what it leads to is not."""
    zeros = np.zeros((4, 3, 6), "i4")
    with h5py.File(path, "w") as file:
        dataset = file.create_dataset("data", data=zeros, chunks=zeros.shape, compression="gzip")
        where = dataset.id.get_chunk_info(0)
    with open(path, "r+b") as raw:
        raw.seek(where.byte_offset)
        raw.write(b"\xff" * where.size)


DAMAGED = {
    "text": (lambda path: path.write_text("tokens"), "is not an HDF5 file"),
    "empty": (lambda path: path.touch(), "is not an HDF5 file"),
    "a directory": (lambda path: path.mkdir(), "cannot be opened: Is a directory"),
    "a link to nothing": (lambda path: path.symlink_to("gone"), "cannot be opened: No such file"),
    "cut off": (cut, "cannot open it"),
    "damaged inside": (scribbled, "cannot read rows 0 to 3"),
    "without the dataset": (h5(lambda file: file.create_dataset("input_ids", data=[1])), "in it: input_ids"),
    "a group": (h5(lambda file: file.create_group("data")), "is a group"),
    "a scalar": (h5(lambda file: file.create_dataset("data", data=3)), "shape ()"),
    "floats": (h5(lambda file: file.create_dataset("data", data=np.ones((2, 3, 6)))), "holds float64"),
    "texts": (h5(lambda file: file.create_dataset("data", data=["a"])), "holds object"),
    "a link": (h5(lambda file: file.__setitem__("data", h5py.ExternalLink("o", "p"))), "in another place"),
    "never written": (h5(lambda file: file.create_dataset("data", (4, 3, 6), "i4")), "was never written"),
    "partly written": (
        h5(lambda file: file.create_dataset("data", (4, 3, 6), "i4", chunks=(1, 3, 6)).__setitem__(0, 1)),
        "3 of 4 chunks were never written",
    ),
    "larger than the world": (
        h5(lambda file: file.create_dataset("data", (2**50, 3, 6), "i4", chunks=(1, 3, 6))),
        "were never written",
    ),
    "two features": (h5(lambda file: file.create_dataset("data", data=np.ones((2, 2, 6), "i4"))), "(2, 6)"),
    "samples of one row": (h5(lambda file: file.create_dataset("data", data=np.ones((4, 6), "i4"))), "(6,)"),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_files(tmp_path, section, name):
    make, what = DAMAGED[name]
    make(tmp_path / "0.h5")
    problem = only(section(data_dir=str(tmp_path)))
    assert problem.where == str(tmp_path / "0.h5")
    assert what in problem.what
    assert problem.fix


def test_no_samples(tmp_path, section):
    h5(lambda file: file.create_dataset("data", data=np.zeros((0, 3, 6), "i4")))(tmp_path / "0.h5")
    assert "hold 0 samples" in only(section(data_dir=str(tmp_path))).what


@pytest.mark.parametrize(
    ("other", "what"),
    [
        ({"length": 7}, "(3, 7), and (3, 6) in"),
        ({"features": 4}, "(4, 6)"),
        ({"dtype": "i8"}, "int64, and int32"),
    ],
)
def test_files_that_disagree(samples, section, tmp_path, other, what):
    directory = samples("a", 3)
    os.rename(f"{samples('b', 3, **other)}/0.h5", f"{directory}/1.h5")
    problem = only(section(data_dir=directory))
    assert problem.where == f"{directory}/1.h5"
    assert what in problem.what


def test_many_bad_files_make_a_short_list(tmp_path, section):
    for i in range(40):
        (tmp_path / f"{i}.h5").touch()
    found = problems(section(data_dir=str(tmp_path)))
    assert len(found) == 10
    assert "30 more problems" in found[-1].what


def test_a_corpus_that_is_not_cut(corpus, section):
    problem = only(section(data_dir=corpus("k", 50)))
    assert problem.where.endswith("max_sequence_length")
    assert "must be cut" in problem.what


@pytest.mark.parametrize("kind", ["samples", "corpus"])
def test_sequences_longer_than_the_model(samples, corpus, section, kind):
    if kind == "samples":
        problem = only(section(data_dir=samples("long", 4, length=9)))
        assert problem.where.endswith("/long")
    else:
        problem = only(section(data_dir=corpus("k", 50), max_sequence_length=9))
        assert problem.where == f"{WHERE}.max_sequence_length"
    assert "9 tokens, and the model has max_position_embeddings: 8" in problem.what
    assert "model.max_position_embeddings: 9" in problem.fix


def test_models_that_know_any_position(samples, section):
    long = section(data_dir=samples("long", 4, length=9))
    assert problems(long, MODEL | {"position_embedding_type": "alibi"}) == []
    assert len(problems(long, MODEL | {"position_embedding_type": "rotary"})) == 1
    assert len(problems(section(data_dir=samples("longer", 4, length=1025)), {})) == 1  # ModelZoo's default


def with_token(directory, row, feature, value):
    with h5py.File(f"{directory}/1.h5", "r+") as file:
        file["data"][row, feature, 2] = value


@pytest.mark.parametrize(
    ("feature", "value", "what"),
    [
        (0, 100, "row 2 has the token id 100, and the model has vocab_size: 100"),
        (2, 250, "row 2 has the token id 250"),
        (0, -1, "row 2 has the token id -1"),
        (2, -1, "row 2 has the token id -1"),
        (0, -100, "row 2 has the token id -100"),
        (2, -100, ""),  # a label without loss
        (1, 7, ""),  # the mask is no token
    ],
)
def test_tokens_beyond_the_vocabulary(samples, section, feature, value, what):
    directory = samples("a", 3, 4)
    with_token(directory, 2, feature, value)
    found = problems(section(data_dir=directory))
    assert len(found) == bool(what)
    for problem in found:
        assert problem.where == f"{directory}/1.h5"
        assert what in problem.what
        assert ("vocab_size to" in problem.fix) == (value >= 0)
    if value == 250:
        assert f"model.vocab_size to {value + 1} or more" in found[0].fix
        assert problems(section(data_dir=directory), MODEL | {"vocab_size": 251}) == []


def test_a_corpus_beyond_the_vocabulary(corpus, section):
    problem = only(section(data_dir=corpus("k", 50), max_sequence_length=8), MODEL | {"vocab_size": 60})
    assert "model.vocab_size to" in problem.fix


def test_a_token_between_the_blocks_is_found_by_the_full_check(samples, section):
    directory = samples("a", 1, 500, length=512)
    model = {"vocab_size": 100, "max_position_embeddings": 512}
    with_token(directory, 2, 0, 100)
    assert problems(section(data_dir=directory), model) == []
    problem = only(section(data_dir=directory), model, full=True)
    assert "row 2 has the token id 100" in problem.what
    with_token(directory, 499, 0, 101)
    assert "row 499" in only(section(data_dir=directory), model).what  # the last block is always read


def test_a_model_section_that_is_wrong_itself_is_for_others_to_report(samples, section):
    wrong = {"vocab_size": "many", "max_position_embeddings": None}
    assert problems(section(data_dir=samples("a", 5)), wrong) == []


def test_a_directory_that_may_not_be_listed(samples, section, monkeypatch):
    directory = samples("a", 2)

    def refuse(path="."):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)

    for function in ("listdir", "scandir"):
        monkeypatch.setattr(os, function, refuse)
    problem = only(section(data_dir=directory))
    assert problem.what == "cannot be listed: Permission denied"
    assert problem.fix == "allow reading it"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read(samples, section):
    directory = samples("a", 2)
    os.chmod(f"{directory}/0.h5", 0)
    assert "cannot be opened: Permission denied" in only(section(data_dir=directory)).what
