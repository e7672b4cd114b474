"""``wafersparse inspect``: checkpoints, mask files, and two of these."""

import json
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import save_file

from experiments.cli import main
from pruning.mask_generator import compute_masks_for_state_dict
from pruning.mask_ops import save_mask

MDL = Path(__file__).parents[1] / "data/mdl"


def run(*args):
    return CliRunner().invoke(main, ["inspect", *map(str, args)])


def inspected(*args):
    result = run(*args, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


@pytest.fixture
def state():
    rng = torch.Generator().manual_seed(0)
    tensors = {
        "embed.weight": torch.randn(8, 4, generator=rng),
        "up.weight": torch.randn(64, 64, generator=rng).to(torch.bfloat16),
        "down.weight": torch.randn(64, 64, generator=rng).half(),
        "step": torch.tensor(3),
    }
    tensors["up.weight"][:16] = 0
    tensors["up.weight"][20, 3] = -0.0
    tensors["down.weight"][5, 5] = float("nan")
    tensors["down.weight"][6, 5] = float("-inf")
    return tensors


def test_a_checkpoint(state, tmp_path):
    save_file(state, tmp_path / "m.safetensors")
    found = inspected(tmp_path / "m.safetensors", "--digest")
    by_name = {tensor["name"]: tensor for tensor in found["tensors"]}
    assert by_name["up.weight"]["zeros"] == 16 * 64 + 1
    assert by_name["down.weight"]["not_finite"] == 2
    assert by_name["embed.weight"]["left_out"] == "embedding"
    assert by_name["step"]["zeros"] is None
    assert [n for n, t in by_name.items() if t["pruned"]] == ["down.weight", "up.weight"]
    text = run(tmp_path / "m.safetensors").stdout
    assert "25.024 %" in text
    assert "2 NaN or Inf" in text
    assert "2 tensors with 8,192 weights would be pruned" in text
    headers = inspected(tmp_path / "m.safetensors", "--headers")
    assert {tensor["zeros"] for tensor in headers["tensors"]} == {None}


def test_the_digest_is_of_the_values_not_of_the_file(state, tmp_path):
    save_file(state, tmp_path / "a.safetensors")
    torch.save({"model": state}, tmp_path / "b.pt")
    one, other = (inspected(tmp_path / name, "--digest") for name in ("a.safetensors", "b.pt"))
    assert one["digest"] == other["digest"]
    assert one["fingerprint"] != other["fingerprint"]
    state["up.weight"][1, 1] = 5
    save_file(state, tmp_path / "c.safetensors")
    assert inspected(tmp_path / "c.safetensors", "--digest")["digest"] != one["digest"]


def test_a_cerebras_checkpoint():
    found = inspected(MDL / "training.mdl")
    assert found["kind"] == "mdl"
    assert {"model.embed.weight", "model.brain"} <= {tensor["name"] for tensor in found["tensors"]}
    assert found["tied"] == [["model.embed.weight", "model.head.weight"]]
    refused = run(MDL / "initial.mdl")
    assert refused.exit_code == 1
    assert "before the first step" in refused.stderr


@pytest.mark.parametrize("suffix", ["safetensors", "npz", "pt"])
def test_a_mask_file(state, tmp_path, suffix):
    del state["down.weight"], state["step"]
    masks = compute_masks_for_state_dict(state, 0.75)
    path = tmp_path / f"masks.{suffix}"
    save_mask(masks, path, metadata={"note": "mine"})
    found = inspected(path, "--deflate")
    assert found["global"]["sparsity"] == 0.75
    assert [layer["kept"] for layer in found["layers"]] == [1024]
    assert found["metadata"] == {"note": "mine"}
    assert found["global"]["packed_bytes"] == 512
    assert 0 < found["deflate_bytes"] < 600
    assert "75.000 % dropped" in run(path).stdout


def test_masks_made_elsewhere(tmp_path):
    save_file({"w": torch.tensor([[True, False], [True, True]])}, tmp_path / "plain.safetensors")
    found = inspected(tmp_path / "plain.safetensors")
    assert found["encoding"] == "bool"
    assert found["layers"][0]["kept"] == 3


def test_a_mask_file_whose_bits_changed_is_refused(state, tmp_path):
    path = tmp_path / "masks.safetensors"
    save_mask({"w": torch.rand(64, 64) > 0.5}, path)
    damaged = bytearray(path.read_bytes())
    damaged[-1] ^= 0b1
    path.write_bytes(damaged)
    result = run(path)
    assert result.exit_code == 1
    assert "masks.safetensors: w" in result.stderr


def test_two_mask_files(state, tmp_path):
    del state["down.weight"], state["step"]
    for sparsity in (0.5, 0.75):
        save_mask(compute_masks_for_state_dict(state, sparsity), tmp_path / f"{sparsity}.safetensors")
    save_mask(compute_masks_for_state_dict(state, 0.5, method="random"), tmp_path / "random.pt")
    nested = inspected(tmp_path / "0.5.safetensors", tmp_path / "0.75.safetensors")
    assert nested["total"]["iou"] == 0.5
    assert (nested["total"]["first_in_second"], nested["total"]["second_in_first"]) == (False, True)
    chance = inspected(tmp_path / "0.5.safetensors", tmp_path / "random.pt")
    assert chance["total"]["iou"] == pytest.approx(chance["total"]["chance_iou"], abs=0.05)
    assert chance["total"]["chance_iou"] == pytest.approx(1 / 3)
    text = run(tmp_path / "0.5.safetensors", tmp_path / "0.75.safetensors").stdout
    assert "2 in 1" in text
    one, other = (
        {"up.weight": torch.ones(64, 64, dtype=torch.bool)},
        {"other": torch.ones(2, 2, dtype=torch.bool)},
    )
    save_mask(one | other, tmp_path / "more.npz")
    text = run(tmp_path / "0.5.safetensors", tmp_path / "more.npz").stdout
    assert "only in 2: other" in text
    assert "the 1 in both" in text
    save_mask(other, tmp_path / "other.npz")
    unrelated = run(tmp_path / "0.5.safetensors", tmp_path / "other.npz")
    assert unrelated.exit_code == 1
    assert "no mask of one name and shape in common" in unrelated.stderr


@pytest.mark.parametrize("content", [None, b"", b"\x10\0\0\0\0\0\0\0{}", b"PK\x03\x04nonsense", b"x" * 100])
@pytest.mark.parametrize("suffix", [".safetensors", ".pt", ".npz", ".mdl", ".bin", ".txt"])
def test_what_is_neither(tmp_path, suffix, content):
    path = tmp_path / f"file{suffix}"
    if content is not None:
        path.write_bytes(content)
    result = run(path)
    assert result.exit_code == 1, result.output
    assert isinstance(result.exception, SystemExit)
    assert f"file{suffix}" in result.stderr
    assert "fix: " in result.stderr


def made_by_masks(state, folder, name):
    save_file({"up.weight": state["up.weight"]}, folder / f"{name}.safetensors")
    args = [folder / f"{name}.safetensors", "--sparsity", 0.5, "--out", folder]
    assert CliRunner().invoke(main, ["masks", *map(str, args)]).exit_code == 0
    (masks,) = (folder / name).iterdir()
    return masks


def test_a_spec_without_a_plugin_does_not_speak_of_one(state, tmp_path):
    text = run(made_by_masks(state, tmp_path, "one")).stdout
    assert "spec        sparsity 0.5, score magnitude, pattern unstructured, allocation uniform\n" in text


def test_masks_of_two_checkpoints_are_said_to_be(state, tmp_path):
    one = made_by_masks(state, tmp_path, "one")
    state["up.weight"] = state["up.weight"].flip(0).contiguous()
    two = made_by_masks(state, tmp_path, "two")
    of_one, of_two = (inspected(file)["checkpoint"] for file in (one, two))
    assert f"of different checkpoints: 1 is of {of_one[:12]}…, 2 of {of_two[:12]}…\n" in run(one, two).stdout
    found = inspected(one, two)
    assert (found["checkpoints"], found["same_checkpoint"]) == ([of_one, of_two], False)
    assert inspected(one, one)["same_checkpoint"] is True
    assert "different checkpoints" not in run(one, one).stdout
