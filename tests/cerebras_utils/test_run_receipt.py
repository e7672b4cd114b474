"""Receipts: what a run says of itself, and what is believed of it later."""

import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys

import h5py
import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from cerebras_utils.data_digest import data_digest
from cerebras_utils.run_receipt import (
    FORMAT,
    VERSION,
    State,
    as_json_number,
    checkpoint_digest,
    environment,
    file_digest,
    read_receipt,
    this_process,
    write_receipt,
)
from pruning.checkpoint.open import open_checkpoint
from pruning.problems import ProblemError


def receipt(**changes):
    return {
        "format": FORMAT,
        "version": VERSION,
        "state": "running",
        "metrics": {},
        "process": this_process(),
    } | changes


def state(tmp_path, **changes):
    write_receipt(tmp_path / "run.json", receipt(**changes))
    return read_receipt(tmp_path).state


def test_a_living_process_runs(tmp_path):
    assert state(tmp_path) is State.RUNNING


@pytest.mark.parametrize("end", ["finished", "interrupted", "failed"])
def test_an_end_that_was_written_is_believed(tmp_path, end):
    assert state(tmp_path, state=end, process={"pid": 1}) == end


def test_a_process_that_is_gone_was_killed(tmp_path):
    gone = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    import cerebras_utils.run_receipt as module

    process = this_process() | {"pid": gone.pid, "started": module._start_of(gone.pid)}
    assert state(tmp_path, process=process) is State.RUNNING
    gone.send_signal(signal.SIGKILL)
    os.waitid(os.P_PID, gone.pid, os.WEXITED | os.WNOWAIT)  # dead, and not yet taken leave of
    assert state(tmp_path, process=process) is State.KILLED
    gone.wait()
    assert state(tmp_path, process=process) is State.KILLED


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"started": 1}, State.KILLED),  # the number went to a later process
        ({"boot": "another"}, State.KILLED),
        ({"pids": "pid:[1]"}, State.UNKNOWN),
        ({"host": "another"}, State.UNKNOWN),
        ({"boot": ""}, State.UNKNOWN),
    ],
)
def test_whose_process_it_is(tmp_path, changes, expected):
    assert state(tmp_path, process=this_process() | changes) is expected


def test_numbers_that_json_does_not_have(tmp_path):
    metrics = {"a": 0.1, "b": math.nan, "c": -math.inf}
    write_receipt(tmp_path / "run.json", receipt(metrics={k: as_json_number(v) for k, v in metrics.items()}))
    text = (tmp_path / "run.json").read_text()
    assert json.loads(text, parse_constant=pytest.fail)["metrics"] == {"a": 0.1, "b": "nan", "c": "-inf"}
    found = read_receipt(tmp_path / "run.json").metrics
    assert found["a"] == 0.1
    assert math.isnan(found["b"])
    assert found["c"] == -math.inf


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "is no receipt of a run"),
        ("{", "is no receipt of a run"),
        ("[]", "is no receipt of a run"),
        ("{}", "is no receipt of a run"),
        (json.dumps(receipt(version=2)), "is of version 2"),
        (json.dumps(receipt(state="done")), "damaged receipt"),
        (json.dumps(receipt(process={})), "damaged receipt"),
        (json.dumps(receipt(process=None)), "damaged receipt"),
    ],
)
def test_what_is_no_receipt(tmp_path, text, says):
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(ProblemError, match=says):
        read_receipt(tmp_path)


def test_no_receipt(tmp_path):
    with pytest.raises(ProblemError, match="cannot be read"):
        read_receipt(tmp_path)


def test_digests(tmp_path):
    (tmp_path / "c.yaml").write_bytes(b"abc")
    assert file_digest(tmp_path / "c.yaml") == {
        "path": str(tmp_path / "c.yaml"),
        "sha256": "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
    }
    save_file({"w": torch.ones(3)}, tmp_path / "m.safetensors")
    with open_checkpoint(tmp_path / "m.safetensors") as source:
        assert checkpoint_digest(tmp_path / "m.safetensors")["fingerprint"] == source.fingerprint()
    with pytest.raises(ProblemError, match="cannot be read"):
        file_digest(tmp_path / "absent")


def test_the_environment():
    found = environment("cpu")
    assert found["torch"].split("+")[0] == torch.__version__.split("+")[0]
    assert found["command"] == sys.argv
    assert found["device"] == "cpu"
    assert re.match(r"3\.\d+", found["python"])
    assert found["tool"].startswith("wafersparse")


def test_a_checkpoint_that_was_just_written_need_not_be_listed_again(tmp_path):
    from cerebras_utils.fallback.mdl_writer import save_mdl

    weight = torch.randn(3, 4).bfloat16()
    model = {"b.weight": weight, "a.weight": weight, "a.weight_mask": weight > 0, "c": torch.zeros(())}
    save_mdl(tmp_path / "m.mdl", {"model": model, "optimizer": {"state": {0: {"exp_avg": torch.ones(2)}}}})
    assert checkpoint_digest(tmp_path / "m.mdl", model) == checkpoint_digest(tmp_path / "m.mdl")


def write_set(directory, *, seed=0, files=2):
    """Files of about 40 kB: sampled, not read whole, where many of them are in a set."""
    directory.mkdir(parents=True)
    for index in range(files):
        tokens = np.random.default_rng([seed, index]).integers(0, 9, (100, 3, 32), dtype=np.int32)
        with h5py.File(directory / f"{index}.h5", "w") as file:
            file["data"] = tokens


def trainer_of(train, valid):
    loaders = {"train_dataloader": {"data_dir": str(train)}, "val_dataloader": [{"data_dir": [str(valid)]}]}
    return {"fit": loaders, "validate": {"val_dataloader": {"data_dir": str(valid)}}}


def test_the_same_data_elsewhere_have_the_same_digest(tmp_path):
    write_set(tmp_path / "train")
    write_set(tmp_path / "valid", seed=1)
    digest = data_digest(trainer_of(tmp_path / "train", tmp_path / "valid"), "fit")
    assert re.fullmatch("[0-9a-f]{64}", digest)
    shutil.copytree(tmp_path / "train", tmp_path / "moved" / "a")
    shutil.copytree(tmp_path / "valid", tmp_path / "moved" / "b")
    moved = trainer_of(tmp_path / "moved" / "a", tmp_path / "moved" / "b")
    assert data_digest(moved, "fit") == digest
    assert data_digest(moved, "validate") not in ("", digest)
    assert data_digest(trainer_of(tmp_path / "valid", tmp_path / "train"), "fit") not in ("", digest)


@pytest.mark.parametrize("which", ["train", "valid"])
@pytest.mark.parametrize("change", ["first byte", "last byte", "size", "name", "one file less"])
def test_other_data_have_another_digest(tmp_path, which, change):
    write_set(tmp_path / "train")
    write_set(tmp_path / "valid", seed=1)
    trainer = trainer_of(tmp_path / "train", tmp_path / "valid")
    before = data_digest(trainer, "fit")
    file = tmp_path / which / "1.h5"
    content = bytearray(file.read_bytes())
    if change == "name":
        file.rename(file.with_name("2.h5"))
    elif change == "one file less":
        file.unlink()
    else:
        if change == "size":
            content += b"\0"
        else:
            content[0 if change == "first byte" else -1] ^= 1
        file.write_bytes(content)
    assert data_digest(trainer, "fit") not in ("", before)


def test_of_many_files_fewer_blocks_each_are_read(tmp_path, monkeypatch):
    write_set(tmp_path / "train", files=4)
    trainer = {"fit": {"train_dataloader": {"mixture": [{"data_dir": str(tmp_path / "train"), "weight": 1}]}}}
    monkeypatch.setattr("cerebras_utils.data_digest._BLOCKS_OF_A_SET", 4)
    digest = data_digest(trainer, "fit")
    file = tmp_path / "train" / "2.h5"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1  # in none of the two blocks
    file.write_bytes(content)
    assert data_digest(trainer, "fit") == digest
    content[-1] ^= 1
    file.write_bytes(content)
    assert data_digest(trainer, "fit") != digest


def test_what_cannot_be_read_here_has_no_digest(tmp_path):
    write_set(tmp_path / "train")
    assert data_digest(trainer_of(tmp_path / "train", tmp_path / "on the cluster"), "fit") == ""
    assert data_digest({"fit": {"train_dataloader": {"data_processor": "DummyDataProcessor"}}}, "fit") == ""
    assert data_digest({"fit": {"ckpt_path": None}}, "fit") == data_digest({}, "validate_all") == ""
