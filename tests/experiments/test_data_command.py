"""``wafersparse data``: text from the standard library, in ModelZoo's layout."""

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import sysconfig
from pathlib import Path

import h5py
import numpy as np
import pytest
from click.testing import CliRunner

from cerebras_utils.fallback.data.loader import data_problems, make_loader
from experiments import stdlib_text
from experiments.cli import VERBS, main
from experiments.new_directory import new_directory
from experiments.stdlib_text import TextSet, TextSpec
from pruning.problems import ProblemError

SMALL = ("--limit", 50, "--validation", 0.3, "--sequence-length", 64)
STDLIB = Path(sysconfig.get_paths()["stdlib"])


@pytest.fixture(autouse=True)
def library(tmp_path_factory, monkeypatch):
    """A standard library of small files; the whole one takes seconds."""
    root = tmp_path_factory.mktemp("library")
    rng = random.Random(0)
    for i in range(60):
        path = root / ("package" if i % 3 else "") / f"m{i:02}.py"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(rng.randbytes(rng.choice([0, 1, 300, 1000])))
    for name in ("test/test_a.py", "site-packages/b.py", "package/tests/c.py", "package/__pycache__/d.py"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("left out")
    (root / "text.txt").write_text("left out")
    (root / "link.py").symlink_to(root / "m00.py")
    monkeypatch.setattr(sysconfig, "get_paths", lambda: {"stdlib": str(root)})
    return root


@pytest.fixture(autouse=True)
def verb(monkeypatch):
    monkeypatch.setitem(VERBS, "data", ("experiments.cli.data", "Make data sets to train on."))


def run(*args):
    return CliRunner().invoke(main, ["data", "stdlib", *map(str, args)])


def made(*args):
    result = run(*args, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def section(directory):
    return {"data_processor": "GptHDF5MapDataProcessor", "data_dir": str(directory), "batch_size": 4}


def stored(directory):
    parts = []
    for path in sorted(Path(directory).glob("*.h5")):
        with h5py.File(path) as file:
            assert file.attrs["n_examples"] == len(file["data"])
            assert file["data"].chunks == (1, *file["data"].shape[1:])
            parts.append(file["data"][:])
    return np.concatenate(parts)


def test_the_set_is_read_by_the_loader(tmp_path):
    out = made("--out", tmp_path / "text", *SMALL)
    for split in ("train", "valid"):
        data = section(out[split]["data_dir"])
        model = {"vocab_size": out["vocab_size"], "max_position_embeddings": out["sequence_length"]}
        assert data_problems(data, model, "c.yaml", full=True) == []
        loader = make_loader(data, seed=0, where="c.yaml")
        assert len(loader) == out[split]["samples"] // 4 > 0
        assert next(iter(loader))["input_ids"].shape == (4, 64)
    assert out["vocab_size"] == 257


def test_the_samples_are_the_sources_again(tmp_path, library):
    """Put back in order, the inputs are the files byte for byte, and the labels are the inputs one later."""
    out = made("--out", tmp_path / "text", *SMALL)
    manifest = json.loads((tmp_path / "text/manifest.json").read_text())
    for split in ("train", "valid"):
        names = [s["path"] for s in manifest["made_from"]["sources"] if s["split"] == split]
        tokens = []
        for name in names:
            tokens += [*(library / name).read_bytes(), 256]
        data, count = stored(out[split]["data_dir"]), len(tokens) - 1
        assert data.dtype == np.int32
        assert out[split] == {
            "data_dir": str(tmp_path / "text" / split),
            "sources": len(names),
            "tokens": count,
            "samples": -(-count // 64),
        }
        assert data[:, 1].sum() == count
        expected = np.array(tokens)
        windows = {expected[i : i + 65].tobytes() for i in range(0, count - 64, 64)}
        full = data[data[:, 1].all(axis=1)].astype(np.int64)
        assert {np.append(row[0], row[2, -1]).tobytes() for row in full} >= windows
        assert (full[:, 0, 1:] == full[:, 2, :-1]).all()
        (rest,) = data[~data[:, 1].all(axis=1)]
        kept = int(rest[1].sum())
        assert rest[0, :kept].tolist() == tokens[count - kept : count]
        assert rest[2, :kept].tolist() == tokens[count - kept + 1 :]


def test_which_files_are_taken(library):
    paths = [source["path"] for source in TextSet(TextSpec(validation=0.3)).sources]
    own = [f"package/m{i:02}.py" if i % 3 else f"m{i:02}.py" for i in range(60)]
    assert paths == sorted(own)


def test_a_file_stays_on_its_side(library):
    def sides(**spec):
        return {s["path"]: s["split"] for s in TextSet(TextSpec(**spec)).sources}

    few, all_files = sides(validation=0.3, limit=50), sides(validation=0.3, seed=5, sequence_length=9)
    assert len(few) == 50
    assert few.items() <= all_files.items()
    assert set(few.values()) == {"train", "valid"}
    more = sides(validation=0.6)
    assert {p for p, side in all_files.items() if side == "valid"} < {p for p in more if more[p] == "valid"}


@pytest.mark.slow
def test_the_library_of_this_python(tmp_path):
    texts = TextSet(TextSpec(), root=STDLIB)
    paths = [source["path"] for source in texts.sources]
    assert "json/decoder.py" in paths
    assert len(paths) > 300
    assert 0.01 < texts.tokens("valid") / texts.tokens("train") < 0.3
    few = TextSet(TextSpec(limit=20, validation=0.3, sequence_length=512), root=STDLIB)
    few.write(tmp_path / "text", lambda samples: None)
    assert data_problems(section(tmp_path / "text/train"), {"vocab_size": 257}, "c.yaml", full=True) == []


def test_the_same_bytes_again_kept_and_another_set_refused(tmp_path):
    first = run("--out", tmp_path / "a", *SMALL)
    assert first.stdout.startswith("written")
    assert "samples in" in first.stderr
    assert run("--out", tmp_path / "b", *SMALL).exit_code == 0
    files = sorted(path.relative_to(tmp_path / "a") for path in (tmp_path / "a").rglob("*") if path.is_file())
    assert len(files) == 3
    for file in files:
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()

    stamps = [(tmp_path / "a" / file).stat().st_mtime_ns for file in files]
    kept = run("--out", tmp_path / "a", *SMALL)
    assert kept.stdout.startswith("kept")
    assert kept.stdout.splitlines()[1:] == first.stdout.splitlines()[1:]
    assert [(tmp_path / "a" / file).stat().st_mtime_ns for file in files] == stamps
    for changed, told in ((("--seed", 1), "seed 0, not 1"), (("--limit", 51), "limit 50, not 51")):
        other = run("--out", tmp_path / "a", *SMALL, *changed)
        assert other.exit_code == 1
        assert told in other.stderr
        assert "choose another --out" in other.stderr


def test_the_seed_changes_the_order_and_nothing_else(tmp_path):
    one, other = (made("--out", tmp_path / f"{seed}", *SMALL, "--seed", seed) for seed in (0, 1))
    one, other = stored(one["train"]["data_dir"]), stored(other["train"]["data_dir"])
    assert (one != other).any()
    assert sorted(row.tobytes() for row in one) == sorted(row.tobytes() for row in other)


def test_digests_are_those_of_the_files(tmp_path, monkeypatch):
    monkeypatch.setattr(stdlib_text, "_FILE_BYTES", 3 * 4 * 64 * 100)
    made("--out", tmp_path / "text", *SMALL)
    manifest = json.loads((tmp_path / "text/manifest.json").read_text())
    files = [file for split in ("train", "valid") for file in manifest[split]["files"]]
    assert len(files) > 3
    for file in files:
        image = (tmp_path / "text" / file["path"]).read_bytes()
        assert file["sha256"] == hashlib.sha256(image).hexdigest()
        assert file["bytes"] == len(image)
        assert file["samples"] <= 100
    assert stored(tmp_path / "text/train").shape[0] == manifest["train"]["samples"]


@pytest.mark.parametrize("damage", ["changed", "missing", "added"])
def test_a_set_that_was_changed_is_refused(tmp_path, damage):
    made("--out", tmp_path / "text", *SMALL)
    file = tmp_path / "text/valid/0000.h5"
    if damage == "changed":
        with file.open("r+b") as raw:
            raw.seek(2000)
            raw.write(b"x")
    elif damage == "missing":
        file.unlink()
    else:
        (file := tmp_path / "text/train/9.h5").touch()
    result = run("--out", tmp_path / "text", *SMALL)
    assert result.exit_code == 1
    assert f"{file}\n   is not what this command wrote" in result.stderr


@pytest.mark.parametrize("manifest", [None, "", "[]", "{}", '{"made_from": 3, "train": {"files": [{}]}}'])
def test_a_directory_of_something_else_is_refused(tmp_path, manifest):
    (tmp_path / "notes").write_text("mine")
    if manifest is not None:
        (tmp_path / "manifest.json").write_text(manifest)
    result = run("--out", tmp_path, *SMALL)
    assert result.exit_code == 1
    assert "without a manifest.json of this command" in result.stderr
    assert (tmp_path / "notes").read_text() == "mine"


def test_an_empty_directory_is_filled(tmp_path):
    (tmp_path / "text").mkdir()
    assert made("--out", tmp_path / "text", *SMALL)["state"] == "written"


def test_a_dry_run_writes_nothing(tmp_path):
    would = made("--out", tmp_path / "text", *SMALL, "--dry-run")
    assert would["state"] == "would be written"
    assert list(tmp_path.iterdir()) == []
    assert made("--out", tmp_path / "text", *SMALL) == would | {"state": "written"}
    assert made("--out", tmp_path / "text", *SMALL, "--dry-run")["state"] == "kept"


def test_without_validation(tmp_path):
    out = made("--out", tmp_path / "text", *SMALL, "--validation", 0)
    assert "valid" not in out
    assert sorted(path.name for path in (tmp_path / "text").iterdir()) == ["manifest.json", "train"]


def test_what_cannot_be(tmp_path):
    none = run("--out", tmp_path / "text", "--limit", 1)
    assert none.exit_code == 1
    assert "raise --limit" in none.stderr
    with pytest.raises(ProblemError, match=r"holds no \.py files"):
        TextSet(TextSpec(), root=tmp_path)
    for usage in (("--validation", 1), ("--sequence-length", 0), ("--limit", 0)):
        assert run("--out", tmp_path / "text", *usage).exit_code == 2
    assert run(*SMALL).exit_code == 2
    (tmp_path / "file").touch()
    assert run("--out", tmp_path / "file/text", *SMALL).exit_code == 1
    assert not list(tmp_path.rglob("*.h5"))


def test_an_interrupted_run_leaves_nothing(tmp_path, monkeypatch):
    def full(samples, progress):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(stdlib_text, "_image", full)
    result = run("--out", tmp_path / "text", *SMALL)
    assert result.exit_code == 1
    assert "free some space" in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_killed_run_is_never_mistaken_for_a_set_and_is_cleared_away(tmp_path):
    code = (
        "import sys; from pathlib import Path; from experiments.new_directory import new_directory\n"
        "with new_directory(Path(sys.argv[1])) as part:\n"
        "    (part / 'half').touch(); print(part, flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, tmp_path / "text"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    ) as writer:
        part = Path(writer.stdout.readline().strip())
        with new_directory(tmp_path / "text") as other:  # one that lives is left alone
            assert (part / "half").exists()
            (other / "whole").touch()
        writer.send_signal(signal.SIGKILL)
    assert part.exists()
    assert made("--out", tmp_path / "new", *SMALL)["state"] == "written"
    assert part.exists(), "that of another name"
    with pytest.raises(ProblemError, match="exists already"), new_directory(tmp_path / "text"):
        assert not part.exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["new", "text"]
    assert [path.name for path in (tmp_path / "text").iterdir()] == ["whole"]


def test_the_help_ends_with_examples_and_imports_nothing_heavy():
    assert "wafersparse data stdlib --out" in run("--help").stdout.splitlines()[-1]
    assert "wafersparse data stdlib" in CliRunner().invoke(main, ["data", "--help"]).stdout.splitlines()[-1]
    code = "import experiments.cli.data, sys; print({'torch', 'numpy', 'h5py'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "set()\n"
