"""``wafersparse masks`` as its user meets it."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import save_file

from experiments.cli import main
from pruning.mask_ops import load_mask


def run(*args):
    return CliRunner().invoke(main, ["masks", *map(str, args)])


def failed(result, code=1):
    """The exit code, and a message with where, what and fix instead of a traceback."""
    assert result.exit_code == code, (result.output, result.exception)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    assert "Traceback" not in result.output
    if code == 1:
        assert re.search(r"error: |errors:\n1\. ", result.stderr)
        assert "fix: " in result.stderr
    return result.stderr


@pytest.fixture
def model(tmp_path):
    """Three projections, an embedding and a norm, in bf16."""
    rng = torch.Generator().manual_seed(0)
    shapes = {
        "embed_tokens.weight": (20, 16),
        "layers.0.q_proj.weight": (16, 16),
        "layers.0.up_proj.weight": (32, 16),
        "layers.1.q_proj.weight": (16, 16),
        "norm.weight": (16,),
    }
    path = tmp_path / "model.safetensors"
    save_file({n: torch.randn(s, generator=rng).to(torch.bfloat16) for n, s in shapes.items()}, path)
    return path


def files(directory):
    return sorted(p for p in Path(directory).rglob("*") if p.is_file())


def test_writes_then_keeps_then_refuses_another_checkpoint(model, tmp_path):
    out = tmp_path / "masks"
    args = (model, "--sparsity", 0.5, "--sparsity", 0.75, "--out", out)
    planned = run(*args, "--dry-run")
    assert planned.exit_code == 0
    assert planned.stdout.count("would be written") == 2
    assert not out.exists()

    result = run(*args)
    assert result.exit_code == 0, result.output
    half, tight = files(out)
    assert half.parent == out / "model"
    masks, metadata = load_mask(half)
    assert {int((~mask).sum()) for mask in masks.values()} == {128, 256}
    assert metadata["spec"]["sparsity"] == "0.5"
    assert "50.000 %" in result.stdout
    assert "75.000 %" in result.stdout
    assert "layers.0.up_proj.weight  32x16" in result.stdout

    stamp = half.stat().st_mtime_ns
    tight.unlink()
    again = run(*args)
    states = [line.split("  ")[0] for line in again.stdout.splitlines() if str(out) in line]
    assert states == ["kept", "written"]
    assert half.stat().st_mtime_ns == stamp

    save_file({"layers.0.q_proj.weight": torch.randn(16, 16)}, model)
    assert "made from another checkpoint" in failed(run(*args))
    assert half.stat().st_mtime_ns == stamp


@pytest.mark.parametrize("file_format", ["safetensors", "npz", "pt"])
def test_formats_hold_the_same(model, tmp_path, file_format):
    assert run(model, "--sparsity", 0.5, "--out", tmp_path / "a").exit_code == 0
    result = run(model, "--sparsity", 0.5, "--out", tmp_path / "b", "--format", file_format)
    assert result.exit_code == 0, result.output
    (one,), (other,) = files(tmp_path / "a"), files(tmp_path / "b")
    assert other.suffix == f".{file_format}"
    (masks, about), (others, about_other) = load_mask(one), load_mask(other)
    assert all(torch.equal(masks[name], others[name]) for name in masks | others)
    assert about == about_other


@pytest.mark.parametrize(
    "options",
    [
        ("--sparsity", "0.5", "--score", "l2"),
        ("--sparsity", "0.5", "--score", "random", "--seed", "3"),
        ("--sparsity", "0.5", "--allocation", "global"),
        ("--sparsity", "0.5", "--allocation", "erk"),
        ("--pattern", "2:4"),
        ("--sparsity", "0.5", "--pattern", "block:4x8"),
        ("--sparsity", "0.25", "--pattern", "row"),
        ("--sparsity", "0.25", "--pattern", "column"),
        ("--sparsity", "0.5", "--layer", "*up_proj*=0.75", "--layer", "layers.1.*=0.25"),
        ("--layer", "*=0.5"),
        ("--sparsity", "0.5", "--include", "*embed*", "--include", "*proj*", "--exclude", "layers.1.*"),
        ("--sparsity", "0.5", "--workers", "1"),
    ],
)
def test_options(model, tmp_path, options):
    result = run(model, *options, "--out", tmp_path / "m", "--json")
    assert result.exit_code == 0, result.output
    (mask,) = json.loads(result.stdout)["masks"]
    masks, _ = load_mask(mask["path"])
    assert sum(int(m.sum()) for m in masks.values()) == mask["kept"] == sum(x["kept"] for x in mask["layers"])
    assert mask["sparsity"] == pytest.approx(1 - mask["kept"] / mask["numel"])


def test_head_pattern(tmp_path):
    names = [f"layers.0.self_attn.{p}_proj.weight" for p in "qkvo"]
    save_file({name: torch.randn(16, 16) for name in names}, tmp_path / "a.safetensors")
    result = run(
        tmp_path / "a.safetensors", "--pattern", "head:4", "--sparsity", 0.25, "--out", tmp_path / "m"
    )
    assert result.exit_code == 0, result.output
    assert result.stdout.count("25.000 %") == 5


def test_dry_run_says_what_is_in_and_out_and_why(model, tmp_path):
    text = run(model, "--sparsity", 0.5, "--dry-run").stdout
    assert "embed_tokens.weight      20x16  BF16   left out: embedding" in text
    assert "norm.weight              16     BF16   left out: 1 dimension" in text
    plan = json.loads(run(model, "--sparsity", 0.5, "--dry-run", "--json").stdout)
    assert plan["left_out"]["embed_tokens.weight"] == "embedding"
    assert len(plan["pruned"]) == 3


def test_recipe(model, tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        "sparsity: [0.5, 0.75]\nallocation: global\nlayers:\n  'layers.1.*': 0.25\nexclude: '*up*'\n"
    )
    result = run(model, "--recipe", recipe, "--out", tmp_path / "m", "--json")
    assert result.exit_code == 0, result.output
    same = (
        "--sparsity",
        0.5,
        "--sparsity",
        0.75,
        "--allocation",
        "global",
        "--layer",
        "layers.1.*=0.25",
        "--exclude",
        "*up*",
    )
    assert run(model, *same, "--out", tmp_path / "m", "--json").stdout == result.stdout.replace(
        '"written"', '"kept"'
    )
    assert "--sparsity: also in" in failed(run(model, "--recipe", recipe, "--sparsity", 0.5), code=2)
    recipe.write_text("sparsty: 0.5\nscore: 3\nlayers: {'*': 1.5}\n")
    text = failed(run(model, "--recipe", recipe))
    assert "Did you mean 'sparsity'?" in text
    assert "3 is not a name" in text
    assert "outside [0, 1)" in text
    for broken in ("sparsity: 0.5\nsparsity: 0.6\n", "- 1\n", "a: [\n"):
        recipe.write_text(broken)
        failed(run(model, "--recipe", recipe))
    failed(run(model, "--recipe", tmp_path / "absent.yaml"))


def test_plugin_registers_a_score(model, tmp_path):
    from pruning.importance import SCORES

    plugin = tmp_path / "mine.py"
    plugin.write_text(
        "from pruning.importance import SCORES\n"
        "@SCORES.register('mine')\ndef mine(weight):\n    return -weight.abs()\n"
    )
    try:
        result = run(
            model, "--plugin", plugin, "--score", "mine", "--sparsity", 0.5, "--out", tmp_path / "m", "--json"
        )
    finally:
        SCORES.unregister("mine")
    assert result.exit_code == 0, result.output
    (mask,) = json.loads(result.stdout)["masks"]
    magnitude = json.loads(run(model, "--sparsity", 0.5, "--out", tmp_path / "m", "--json").stdout)["masks"][
        0
    ]
    one, other = load_mask(mask["path"])[0], load_mask(magnitude["path"])[0]
    assert all((one[name] & other[name]).sum() < one[name].sum() / 10 for name in one)


def test_plot(model, tmp_path):
    result = run(model, "--sparsity", 0.5, "--out", tmp_path / "m", "--plot", "--json")
    assert result.exit_code == 0, result.output
    (mask,) = json.loads(result.stdout)["masks"]
    assert Path(mask["plot"]).read_bytes().startswith(b"\x89PNG")
    assert run(model, "--sparsity", 0.5, "--out", tmp_path / "m", "--plot").exit_code == 0


@pytest.mark.parametrize(
    "options",
    [
        ("--sparsity", "1"),
        ("--sparsity", "-0.1"),
        ("--sparsity", "half"),
        (),
        ("--sparsity", "0.5", "--score", "magnitud"),
        ("--sparsity", "0.5", "--pattern", "3:2"),
        ("--sparsity", "0.5", "--pattern", "2:4", "--allocation", "global"),
        ("--sparsity", "0.5", "--allocation", "erc"),
        ("--sparsity", "0.5", "--layer", "no equals sign"),
        ("--sparsity", "0.5", "--layer", "*=2"),
        ("--sparsity", "0.5", "--seed", "1"),
        ("--sparsity", "0.5", "--workers", "0"),
        ("--sparsity", "0.5", "--format", "pickle"),
    ],
)
def test_usage_errors_exit_2(model, options):
    failed(run(model, *options), code=2)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--include", "*porj*"), "did you mean"),
        (("--exclude", "*nothing*"), "matches no tensor"),
        (("--layer", "*nothing*=0.3"), "--layer *nothing* matches no tensor"),
        (("--pattern", "block:5x5"), "not divisible by 5"),
        (("--pattern", "head:5"), "not divisible by 5 heads"),
    ],
)
def test_what_does_not_fit_the_checkpoint_exits_1(model, options, says):
    assert says in failed(run(model, "--sparsity", 0.5, *options))


def test_a_bad_weight_is_named_and_nothing_is_left_behind(tmp_path):
    weight = torch.ones(8, 8)
    weight[1, 1] = float("nan")
    save_file({"a": torch.ones(8, 8), "b": weight}, tmp_path / "m.safetensors")
    for options in (
        ("--sparsity", 0.5),
        ("--sparsity", 0.5, "--allocation", "global"),
        ("--pattern", "2:4"),
        ("--sparsity", 0.5, "--pattern", "row"),
    ):
        text = failed(run(tmp_path / "m.safetensors", *options, "--out", tmp_path / "out"))
        assert "m.safetensors: b" in text
        assert not files(tmp_path / "out")
    assert (
        run(
            tmp_path / "m.safetensors", "--sparsity", 0.5, "--nan-as-pruned", "--out", tmp_path / "out"
        ).exit_code
        == 0
    )


@pytest.mark.parametrize("damage", ["absent", "empty", "truncated", "corrupt"])
@pytest.mark.parametrize("suffix", [".safetensors", ".pt", ".mdl"])
def test_damaged_checkpoints(tmp_path, suffix, damage):
    path = tmp_path / f"model{suffix}"
    state = {"model": {"model.w.weight": torch.randn(64, 64)}}
    if suffix == ".pt":
        torch.save(state, path)
    elif suffix == ".safetensors":
        save_file(state["model"], path)
    else:
        path.write_bytes((Path(__file__).parents[1] / "data/mdl/training.mdl").read_bytes())
    whole = path.read_bytes()
    damaged = {"empty": b"", "truncated": whole[: len(whole) // 2], "corrupt": b"\xff" * 64 + whole[64:]}
    path.write_bytes(damaged.get(damage, b""))
    if damage == "absent":
        path.unlink()
    assert path.name in failed(run(path, "--sparsity", 0.5, "--out", tmp_path / "out"))
    assert not files(tmp_path / "out")


def test_out_that_cannot_be_written(model, tmp_path):
    (tmp_path / "out").write_text("a file")
    assert "out" in failed(run(model, "--sparsity", 0.5, "--out", tmp_path / "out"))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_out_without_permission(model, tmp_path):
    (tmp_path / "out").mkdir(mode=0o500)
    assert "permission" in failed(run(model, "--sparsity", 0.5, "--out", tmp_path / "out")).lower()


@pytest.mark.parametrize("file_format", ["safetensors", "npz", "pt"])
def test_a_full_disk(tiny_disk, tmp_path, file_format):
    path = tmp_path / "big.safetensors"
    save_file({"w": torch.randn(2048, 1024).to(torch.bfloat16)}, path)
    text = failed(run(path, "--sparsity", 0.5, "--out", tiny_disk / "m", "--format", file_format))
    assert "space" in text.lower() or "bytes" in text.lower()
    assert not files(tiny_disk)


def test_killed_in_the_middle_of_writing(tmp_path):
    """SIGKILL while masks are written; then the same command again."""
    path, out = tmp_path / "big.safetensors", tmp_path / "out"
    save_file({f"layers.{i}.w": torch.randn(1024, 4096).to(torch.bfloat16) for i in range(8)}, path)
    command = [sys.executable, "-m", "experiments", "masks", str(path), "--out", str(out)]
    for level in range(10, 90, 4):
        command += ["--sparsity", f"0.{level}"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 60
    while not list(out.rglob(".*.part")) and time.monotonic() < deadline:
        time.sleep(0.005)
    assert process.poll() is None, "it was too fast to be killed"
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert list(out.rglob(".*.part"))
    assert not list(out.rglob("*.safetensors")) or all(load_mask(f) for f in out.rglob("*.safetensors"))
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert len(list(out.rglob("*.safetensors"))) == 20
    assert not list(out.rglob(".*.part"))


def test_the_same_bits_from_every_format(tmp_path):
    from numpy.testing import assert_array_equal

    state = {f"model.layers.{i}.w": torch.randn(40, 24).to(torch.bfloat16) for i in range(4)}
    save_file(state, tmp_path / "one.safetensors")
    torch.save({"state_dict": state}, tmp_path / "two.pt")
    shards = tmp_path / "three"
    shards.mkdir()
    for i, (name, tensor) in enumerate(state.items()):
        save_file({name: tensor}, shards / f"model-0000{i}-of-00004.safetensors")
    results = []
    for path in (tmp_path / "one.safetensors", tmp_path / "two.pt", shards):
        result = run(path, "--sparsity", 0.6, "--allocation", "global", "--out", tmp_path / "m", "--json")
        assert result.exit_code == 0, result.output
        results.append(load_mask(json.loads(result.stdout)["masks"][0]["path"])[0])
    for other in results[1:]:
        for name in state:
            assert_array_equal(results[0][name].numpy(), np.asarray(other[name]))


def test_a_changed_plugin_is_another_question(model, tmp_path):
    from pruning.importance import SCORES

    plugin, paths = tmp_path / "mine.py", []
    for body in ("weight.abs()", "-weight.abs()"):
        plugin.write_text(
            "from pruning.importance import SCORES\n"
            f"@SCORES.register('own')\ndef own(weight):\n    return {body}\n"
        )
        try:
            result = run(
                model, "--plugin", plugin, "--score", "own", "--sparsity", 0.5, "--out", tmp_path, "--json"
            )
        finally:
            SCORES.unregister("own")
        assert result.exit_code == 0, result.output
        paths.append(json.loads(result.stdout)["masks"][0]["path"])
    assert paths[0] != paths[1]
    plugin.write_text("1 / 0\n")
    assert "ZeroDivisionError" in failed(run(model, "--plugin", plugin, "--score", "own", "--sparsity", 0.5))


def test_a_finished_file_that_was_damaged_is_not_kept(model, tmp_path):
    assert run(model, "--sparsity", 0.5, "--out", tmp_path / "m").exit_code == 0
    (file,) = files(tmp_path / "m")
    damaged = bytearray(file.read_bytes())
    damaged[-3] ^= 1
    file.write_bytes(damaged)
    assert "keeps" in failed(run(model, "--sparsity", 0.5, "--out", tmp_path / "m"))


@pytest.mark.slow
def test_identical_runs_at_once_all_succeed(tmp_path):
    path = tmp_path / "big.safetensors"
    save_file({f"layers.{i}.w": torch.randn(512, 4096).to(torch.bfloat16) for i in range(4)}, path)
    command = [
        sys.executable,
        "-m",
        "experiments",
        "masks",
        str(path),
        "--sparsity",
        "0.5",
        "--out",
        str(tmp_path / "m"),
    ]
    runs = [
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(3)
    ]
    outcomes = [(*process.communicate(timeout=100), process.returncode) for process in runs]
    assert [code for _, _, code in outcomes] == [0, 0, 0], outcomes
    assert len(files(tmp_path / "m")) == 1


def test_without_a_place_for_compiled_kernels(model, tmp_path):
    """A read-only installation and no home: kernels are compiled for this run, and a line says so."""
    code = (
        "import numba.core.caching as c\n"
        "impl = c.CacheImpl if hasattr(c, 'CacheImpl') else c._CacheImpl\n"
        "impl._locator_classes = [x for x in impl._locator_classes if 'UserProvided' in x.__name__]\n"
        "import pruning.engine.radix\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(__file__).parents[2]
    )
    assert done.returncode == 0, done.stderr
    assert "set NUMBA_CACHE_DIR to keep them" in done.stderr


def test_dask_that_is_not_installed_is_said(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    save_file({"a.weight": torch.randn(8, 8)}, tmp_path / "m.safetensors")
    result = CliRunner().invoke(
        main, ["masks", str(tmp_path / "m.safetensors"), "--sparsity", "0.5", "--dask", "local:2"]
    )
    assert result.exit_code == 1
    assert "wafersparse[dask]" in result.stderr


def test_dask_and_what_it_does_not_do_with(tmp_path):
    save_file({"a.weight": torch.randn(8, 8)}, tmp_path / "m.safetensors")
    words = ["masks", str(tmp_path / "m.safetensors"), "--sparsity", "0.5", "--dask", "local:2"]
    assert CliRunner().invoke(main, [*words, "--format", "npz"]).exit_code == 2
    assert CliRunner().invoke(main, [*words, "--workers", "2"]).exit_code == 2


def test_a_score_that_needs_gradients_is_one_problem(model, tmp_path):
    text = failed(run(model, "--sparsity", 0.5, "--score", "taylor", "--out", tmp_path / "m"))
    assert text.count("fix:") == 1
    assert "score 'taylor' needs grad, which a checkpoint does not hold" in text
    assert "in Python after loss.backward()" in text
    assert "Known: l2, magnitude, random." in failed(run(model, "--sparsity", 0.5, "--score", "tailor"), 2)


@pytest.mark.parametrize("file_format", ["safetensors", "npz", "pt"])
def test_a_mask_file_in_place_of_a_checkpoint(model, tmp_path, file_format):
    assert run(model, "--sparsity", 0.5, "--out", tmp_path / "m", "--format", file_format).exit_code == 0
    (masks,) = files(tmp_path / "m")
    text = failed(run(masks, "--sparsity", 0.5))
    assert "is a mask file, not a checkpoint" in text
    assert "name the checkpoint" in text
