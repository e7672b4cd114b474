"""The benchmark on a few MB: the report is complete, and its verdicts follow from the figures.

The commands run in this process, and the clock is made up: the time of a command grows with its
checkpoint, so no figure is lost in noise. One test starts real processes.
"""

import importlib
import json
import math
import re
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from experiments.cli import main as wafersparse

HERE = Path(__file__).parent
MODULES = ("measure", "cases", "rows", "contestants", "big_checkpoint", "saving", "training", "bench")
GENEROUS = ("--runs", "2", "--gigabytes", "0.004", "--small", "0.002", "--torch-weights", "20000")
SECONDS_PER_BYTE = {"cat": 1e-9, "masks": 4e-9}


@pytest.fixture
def tools(monkeypatch):
    """The modules of the benchmark, which find each other as scripts in one directory do."""
    monkeypatch.syspath_prepend(HERE)
    for name in MODULES:
        monkeypatch.delitem(sys.modules, name, raising=False)
    yield {name: importlib.import_module(name) for name in MODULES}
    for name in MODULES:
        sys.modules.pop(name, None)


@pytest.fixture
def bench(tools, monkeypatch, tmp_path, capsys):
    """``bench(*options)``: exit code, report, JSON, talk."""
    measure, contestants = tools["measure"], tools["contestants"]

    def run(argv, *, cwd=None, keep=True):
        argv = [str(arg) for arg in argv]
        script = Path(argv[1]).name
        if argv[0] == "cat":
            kind, file, out = "cat", Path(argv[1]), ""
        elif argv[1] == "-c":
            kind, file = "masks", Path(argv[4])
            result = CliRunner().invoke(wafersparse, argv[3:])
            assert result.exit_code == 0, result.output
            out = result.stdout
        elif script == "big_checkpoint.py":
            kind, file, options = "cat", Path(argv[2]), dict(zip(argv[3::2], argv[4::2], strict=True))
            tools["big_checkpoint"].write(
                file, float(options["--gigabytes"]), options["--dtype"], int(options["--seed"])
            )
            out = "wrote"
        else:
            kind, file = "cat", Path(argv[3])
            time = contestants.time_h5py if argv[2] == "h5py" else contestants.time_torch
            out = json.dumps(time(*argv[2:3], file) if argv[2] != "h5py" else time(file))
        return measure.Run(1 + file.stat().st_size * SECONDS_PER_BYTE[kind], 1.0, 300_000_000, 0, out)

    monkeypatch.setattr(tools["cases"], "run", run)
    monkeypatch.setattr(tools["training"], "measure", lambda settings: trained(tools, settings.runs))

    def call(*options):
        out = tmp_path / "report.md"
        argv = [
            "bench.py",
            *GENEROUS,
            "--work",
            str(tmp_path / "work"),
            "--out",
            str(out),
            "--json",
            *options,
        ]
        monkeypatch.setattr(sys, "argv", argv)
        code = tools["bench"].main()
        said = capsys.readouterr()
        return code, out.read_text(), json.loads(said.out), said.err

    return call


def trained(tools, runs=1, without=()):
    """Steps of 100 ms, 102 with masks, 200 in ModelZoo; ours run on both versions of torch."""
    seconds = {"dense": 0.1, "masked": 0.102, "unmasked": 0.1, "cszoo": 0.2, "vendor": 0.11}
    steps = {name: [[value] * 3] * runs for name, value in seconds.items() if name not in without}
    versions = {name: {"torch": "2.0" if name in ("cszoo", "vendor") else "3.0"} for name in steps}
    saves = {"mdl synced": [0.4], "torch synced": [0.2], "mdl cached": [0.2], "torch cached": [0.2]}
    kinds = zip(tools["training"].LORA, (10.0, 11.0, 12.0, 13.0), strict=True)
    lora = {
        kind: {"ms": ms, "from": ms - 1, "to": ms + 1, "to plain LoRA": ms / 10, "kept": ms * 1e6}
        for kind, ms in kinds
    }
    return tools["training"].Training(
        lora=lora,
        steps=steps,
        missing={name: "cerebras" for name in without},
        versions=versions,
        saves={"bytes": {"mdl": 1_000_000}, "seconds": {name: took * runs for name, took in saves.items()}},
        reads={
            "runs": 200,
            "steps": 10_000,
            "bytes": 1_000_000,
            "seconds": {"read": [4.0] * runs, "cached": [1.0] * runs},
        },
    )


def cells(report):
    """The rows of all tables, by what they are about."""
    lines = [line[2:-2].split(" | ") for line in report.splitlines() if line.startswith("| ")]
    assert {len(line) for line in lines} == {5}
    return {line[0]: line[1:] for line in lines if line[0] not in ("what", "---")}


@pytest.mark.slow
def test_report_is_complete_and_leaves_no_masks(bench, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "cerebras.pytorch", None)
    code, report, results, talk = bench()

    table = cells(report)
    assert code == 0
    assert [row["what"] for row in results["rows"]] == list(table)
    for word in (
        *("`cat`, bf16", "`cat`, fp32", "2 reads", "global_unstructured`, bf16", "kthvalue` and"),
        *("uniform 50 % masks, bf16", "random scores", "2:4 masks", "10 levels at once", "plain write"),
        *("h5py reads", "HDF5 with LZ4", "upper bound of its start", ".mdl"),
        *("training step of the fallback, torch", "ModelZoo's own", "projections masked", "torch.save"),
    ):
        assert any(word in what for what in table), word
    for what, (measured, ratio, _, verdict) in table.items():
        if "make_mask_topk_sparsity" in what:
            assert measured == "not installed"
            assert ratio == "–"
        else:
            assert re.fullmatch(r"[\d.]+ \([\d.]+–[\d.]+\) \S+", measured), (what, measured)
        assert verdict in ("–", "met", "met, aim too", "met, aim not", "**not met**"), what
    for row in results["rows"]:
        assert all(map(math.isfinite, [*(row["measured"] or ()), *(row["ratio"] or ())]))
    assert "vendor: torch 2.0" in report  # of the steps; of the masks it is not installed
    assert "0 of " in report
    assert str(tmp_path) not in report
    assert not [*(tmp_path / "work").glob("masks-*")]
    assert not (tmp_path / "work" / "plain").exists()
    ours = table["exact global 50 % masks, bf16"]
    assert ours[1:] == ["4.00 (4.00–4.00) × `cat`", "at most 5 × (aim: 3)", "met, aim not"]
    assert "not met: " in talk  # 100 times torch, by this clock


@pytest.mark.slow
def test_strict_fails_where_a_bound_is_not_met(bench, monkeypatch):
    monkeypatch.setitem(SECONDS_PER_BYTE, "masks", 8e-9)
    code, report, _, talk = bench("--runs", "1", "--strict")
    assert code == 1
    assert cells(report)["exact global 50 % masks, fp32"][-1] == "**not met**"
    assert "not met: exact global 50 % masks, fp32" in talk


@pytest.mark.slow
def test_what_is_lost_in_noise_is_no_number_and_not_met(bench, monkeypatch):
    monkeypatch.setitem(SECONDS_PER_BYTE, "masks", -1e-9)
    code, report, _, _ = bench("--runs", "1", "--strict")
    measured, ratio, _, verdict = cells(report)["exact global 50 % masks, bf16"]
    assert measured.startswith("lost in the noise")
    assert (ratio, verdict, code) == ("–", "not measured", 1)


def test_verdicts(tools):
    asked, spread = tools["rows"].Asked, tools["measure"].Spread
    row = tools["rows"].Row

    def verdict(values, *args, **kwargs):
        return row(what="", measured=spread(values), asked=asked(*args, **kwargs)).verdict

    assert verdict((2.0, 3.0, 9.0), "at most", 5, aim=3) == "met, aim too"  # the median counts
    assert verdict((4.0,), "at most", 5, aim=3) == "met, aim not"
    assert verdict((6.0,), "at most", 5, aim=3) == "**not met**"
    assert verdict((1.0, 1.0, 9.0), "at most", 5, worst=True) == "**not met**"
    assert verdict((99.0,), "at least", 100) == "**not met**"
    assert verdict((1.1, 0.9), "within", 0.101, worst=True) == "met"
    assert verdict((1.0, 1.2), "within", 0.1, worst=True) == "**not met**"


def test_a_process_is_measured_whole(tools):
    run = tools["measure"].run
    size = 64 << 20
    small = run([sys.executable, "-c", "print('said')"])
    work = f"import time; b = bytearray({size}); b[::4096] = b[::4096]; time.sleep(0.2)"
    large = run([sys.executable, "-c", work])
    assert small.out == "said\n"
    assert large.seconds >= 0.2
    assert large.peak > size
    with pytest.raises(SystemExit, match="no such thing"):
        run([sys.executable, "-c", "raise SystemExit('no such thing')"])


def test_too_little_room_is_said_before_anything_is_written(bench, tools, monkeypatch, tmp_path):
    usage = tools["cases"].shutil.disk_usage(tmp_path)
    monkeypatch.setattr(tools["cases"].shutil, "disk_usage", lambda path: usage._replace(free=1000))
    with pytest.raises(SystemExit, match=r"GB are needed .*\nfix: free some space"):
        bench()
    assert not (tmp_path / "work").exists()


def test_checkpoints_are_kept_if_they_are_whole(tools, tmp_path):
    write = tools["big_checkpoint"].write
    file = tmp_path / "w.safetensors"
    assert write(file, 1e-4, "bf16", 0)
    whole = file.read_bytes()
    assert not write(file, 1e-4, "bf16", 0)
    file.write_bytes(whole[:-1])
    assert write(file, 1e-4, "bf16", 0)
    assert file.read_bytes() == whole


def test_training_rows(tools):
    rows = {
        row.what: row for table in tools["training"].sections(trained(tools, 2)).values() for row in table
    }
    found = {what: (row.ratio and row.ratio.median, row.verdict) for what, row in rows.items()}
    names = tools["training"].NAMES
    assert found[names["masked"]] == (pytest.approx(1.02), "met")
    assert found[f"{names['dense']}, torch 3.0"] == (pytest.approx(0.5), "met")
    assert found[f"{names['vendor']}, 2.0"] == (pytest.approx(0.55), "–")
    assert found["a .mdl checkpoint of the same, and on the disk"] == (pytest.approx(2.0), "**not met**")
    assert found["a .mdl checkpoint of the same, not synced, either of them"] == (pytest.approx(1.0), "met")
    assert rows[f"{names['dense']}, torch 3.0"].measured.values == (100.0, 100.0)
    masked = tools["training"].LORA["sparse_to_sparse"]
    assert rows[f"a step of {masked}"].measured.text("{:.0f}") == "12 (11–13)"
    assert rows[f"a step of {masked}"].ratio.median == 1.2
    assert rows[f"kept for the backward pass by {masked}"].measured.median == 12


def test_without_modelzoo_there_is_no_verdict_on_it(tools):
    found = trained(tools, without=("cszoo", "vendor"))
    *_, last = tools["training"].step_rows(found)
    assert (last.why, last.verdict) == ("not installed: cerebras", "not measured")
    assert tools["bench"].facts(None, found)["vendor"] == "not installed"


def test_one_part_alone_has_a_report_of_its_own(bench, tmp_path):
    _, report, results, _ = bench("--only", "training")
    assert [line for line in report.splitlines() if line.startswith("## ")] == [
        "## Training steps",
        "## LoRA on sparse weights",
        "## Writing checkpoints",
        "## Comparing runs",
    ]
    assert "--only training" in report
    assert "s/GB" not in report
    assert results["training"]["steps"]["masked"][0] == [0.102] * 3


CONTESTANT = """
import json, sys
name, log = sys.argv[1:]
print(json.dumps({"versions": {"torch": name}}), flush=True)
for number, line in enumerate(sys.stdin):
    if name == "weak" and number == 30:
        sys.exit("out of breath")
    with open(log, "a") as file:
        file.write(name[0])
    print(number, flush=True)
"""
MISSING = 'print(\'{"missing": "cerebras"}\')'


@pytest.fixture
def turns(tools, tmp_path):
    """``turns(*names)``: what was found, and the initials in the order of their steps."""

    def call(*names):
        argv = {name: [sys.executable, "-c", CONTESTANT, name, str(tmp_path / "log")] for name in names}
        argv["absent"] = [sys.executable, "-c", MISSING]
        found = tools["training"].Training()
        tools["training"].take_turns(argv, 1, found)
        return found, (tmp_path / "log").read_text()

    return call


def test_contestants_take_turns(turns, tools):
    found, order = turns("one", "two")
    steps = tools["training"].STEPS
    assert order == "ot" * 2 * steps  # the warm-up and one repetition
    assert found.steps == {name: [list(range(steps, 2 * steps))] for name in ("one", "two")}
    assert found.missing == {"absent": "cerebras"}


def test_a_contestant_that_fails_ends_it_with_what_it_said(turns):
    with pytest.raises(SystemExit, match=r"weak: exit code 1(.|\n)*out of breath"):
        turns("one", "weak")


@pytest.mark.slow
def test_real_steps_and_checkpoints(tools, monkeypatch, tmp_path):
    monkeypatch.setattr(tools["training"], "STEPS", 1)
    monkeypatch.setattr(tools["training"], "LORA_STEPS", 1)
    settings = tools["cases"].Settings(
        work=tmp_path / "work",
        runs=1,
        gigabytes=2,
        small=1,
        torch_weights=1,
        vendor_python=Path(sys.executable),
        seed=0,
    )
    found = tools["training"].measure(settings)
    assert {"dense", "masked", "unmasked"} <= set(found.steps)
    assert set(found.steps) | set(found.missing) == {"dense", "masked", "unmasked", "cszoo"}
    assert all(0 < seconds < 60 for runs in found.steps.values() for run in runs for seconds in run)
    assert all(row.measured for row in tools["training"].saving_rows(found.saves))
    assert all(row.measured.median > 0 for row in tools["training"].lora_rows(found.lora))
    assert not list(settings.work.iterdir())
