"""Merging: zeros that stay zero, what it costs, and everything that must not be merged."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cerebras_utils.conversion.merge import run
from cerebras_utils.conversion.request import Request
from cerebras_utils.fallback.checkpoint_reading import read_checkpoint
from cerebras_utils.fallback.mdl_writer import save_mdl
from pruning.mask_ops import save_mask
from pruning.problems import ProblemError
from tests.cerebras_utils.conversion.models import SECTIONS, built, logits

State = dict[str, torch.Tensor]
ALPHA, RANK = 6.0, 3


def lora_run(
    path: Path,
    *,
    kind: str = "gpt2",
    masks: State | None = None,
    callback: str = "Lora",
    mode: str = "sparse_to_sparse",
    dtype: torch.dtype = torch.float32,
) -> State:
    """A checkpoint as a LoRA run leaves it: frozen weights, zero under the masks, and trained factors."""
    state = {name: tensor.detach().to(dtype) for name, tensor in built(SECTIONS[kind]).state_dict().items()}
    torch.manual_seed(5)
    for name in [n for n in state if ".layers." in n and n.endswith("dense_layer.weight")]:
        if masks and name in masks:
            state[name] = state[name] * masks[name]
        out, into = state[name].shape
        state[name.replace(".weight", ".lora_A")] = torch.randn(RANK, into).to(dtype)
        state[name.replace(".weight", ".lora_B")] = torch.randn(out, RANK).to(dtype)
    params = {"trainer": {"init": {"model": SECTIONS[kind], "callbacks": [_entry(callback)]}}}
    tree = {"model": state, "__metadata__": [{"params": params}]}
    if callback == "SparseLora":
        mark = {"r": RANK, "alpha": ALPHA, "scaling": ALPHA / RANK, "mode": mode}
        tree["lora_factors"] = {name.removesuffix(".weight"): mark for name in weights_of(state)}
    save_mdl(path, tree)
    return state


def _entry(callback: str) -> dict[str, Any]:
    return {callback: {"lora_params": {"r": RANK, "alpha": ALPHA, "target_modules": ["Linear"]}}}


def weights_of(state: State) -> list[str]:
    return [name.replace(".lora_A", ".weight") for name in state if name.endswith(".lora_A")]


def update(state: State, weight: str) -> torch.Tensor:
    a, b = (state[weight.replace(".weight", end)].float() for end in (".lora_A", ".lora_B"))
    return (b @ a) * (ALPHA / RANK)


def random_masks(state: State, density: float = 0.5) -> State:
    torch.manual_seed(7)
    return {name: torch.rand(state[name].shape) < density for name in weights_of(state)}


def merged(path: Path) -> State:
    if path.suffix == ".mdl":
        return read_checkpoint(path)["model"]
    from safetensors.torch import load_file

    return load_file(path)


@pytest.mark.parametrize("suffix", [".safetensors", ".mdl"])
def test_dense_merge_adds_the_update_and_drops_the_factors(suffix: str, tmp_path: Path) -> None:
    state = lora_run(tmp_path / "run.mdl")
    out = tmp_path / f"merged{suffix}"
    receipt = run(Request(checkpoint=tmp_path / "run.mdl", out=out, keep=False))
    found = merged(out)
    assert set(found) == {name for name in state if ".lora_" not in name}
    for name, tensor in found.items():
        expected = state[name] + update(state, name) if name in weights_of(state) else state[name]
        assert torch.allclose(tensor, expected, atol=1e-6, rtol=0), name
    assert receipt["global"]["dropped_norm"] == 0
    assert json.loads((tmp_path / "merged.merge.json").read_text()) == receipt


def test_zeros_stay_zero_and_the_cost_is_told(tmp_path: Path) -> None:
    first = lora_run(tmp_path / "first.mdl")
    masks = random_masks(first)
    state = lora_run(tmp_path / "run.mdl", masks=masks)
    save_mask(masks, tmp_path / "masks.safetensors")
    out = tmp_path / "merged.safetensors"
    receipt = run(Request(checkpoint=tmp_path / "run.mdl", out=out, masks=tmp_path / "masks.safetensors"))
    found = merged(out)
    for name, mask in masks.items():
        whole = update(state, name)
        assert torch.allclose(found[name], state[name] + whole * mask, atol=1e-6, rtol=0)
        assert not found[name][~mask].any()
        told = receipt["per_layer"][name]
        assert told["dropped_norm"] == pytest.approx(float((whole * ~mask).norm()), rel=1e-5)
        assert told["update_norm"] == pytest.approx(float(whole.norm()), rel=1e-5)
        assert told["max_dropped"] == pytest.approx(float((whole * ~mask).abs().max()), rel=1e-5)
        assert told["sparsity_after"] == pytest.approx(1 - float(mask.float().mean()))
    assert (receipt["global"]["resurrected"], receipt["global"]["newly_dead"]) == (0, 0)


def test_masks_beside_the_weights_and_zeros_of_the_base_do_as_well_as_a_file(tmp_path: Path) -> None:
    first = lora_run(tmp_path / "first.mdl")
    masks = random_masks(first)
    state = lora_run(tmp_path / "run.mdl", masks=masks)
    tree = read_checkpoint(tmp_path / "run.mdl")
    tree["model"] |= {f"{name}_mask": mask for name, mask in masks.items()}
    save_mdl(tmp_path / "stored.mdl", tree)
    for name in ("run", "stored"):
        run(Request(checkpoint=tmp_path / f"{name}.mdl", out=tmp_path / f"{name}.safetensors"))
    one, other = (merged(tmp_path / f"{name}.safetensors") for name in ("run", "stored"))
    assert one.keys() == other.keys() == {n for n in state if ".lora_" not in n}
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert all(not one[name][~mask].any() for name, mask in masks.items())


def test_a_masked_update_is_the_same_function_after_the_merge(tmp_path: Path) -> None:
    """What the run computed, W + s·(B·A)⊙M, is what the merged weights compute."""
    first = lora_run(tmp_path / "first.mdl", callback="SparseLora")
    masks = random_masks(first)
    state = lora_run(tmp_path / "run.mdl", masks=masks, callback="SparseLora")
    save_mask(masks, tmp_path / "masks.safetensors")
    request = Request(
        checkpoint=tmp_path / "run.mdl",
        out=tmp_path / "merged.safetensors",
        masks=tmp_path / "masks.safetensors",
    )
    receipt = run(request)
    assert {pair["trained"] for pair in receipt["factors"].values()} == {"masked"}
    assert receipt["global"]["dropped_norm"] == 0
    before, after = built(SECTIONS["gpt2"]), built(SECTIONS["gpt2"])
    before.load_state_dict(
        {
            n: t + update(state, n) * masks[n] if n in masks else t
            for n, t in state.items()
            if ".lora_" not in n
        }
    )
    after.load_state_dict(merged(request.out))
    ids = torch.randint(0, 61, (2, 12))
    assert (logits(before, ids) - logits(after, ids)).abs().max() < 1e-5


def test_bfloat16_is_rounded_once(tmp_path: Path) -> None:
    state = lora_run(tmp_path / "run.mdl", dtype=torch.bfloat16)
    run(Request(checkpoint=tmp_path / "run.mdl", out=tmp_path / "merged.safetensors", keep=False))
    found = merged(tmp_path / "merged.safetensors")
    for name in weights_of(state):
        assert torch.equal(found[name], (state[name].float() + update(state, name)).bfloat16())


@settings(max_examples=15, deadline=None)
@given(
    rows=st.integers(1, 9),
    columns=st.integers(1, 9),
    rank=st.integers(1, 4),
    seed=st.integers(0, 10_000),
    density=st.floats(0.05, 1),
)
def test_any_shape_rank_and_mask_keeps_its_zeros(
    rows: int, columns: int, rank: int, seed: int, density: float, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("merge")
    torch.manual_seed(seed)
    mask = torch.rand(rows, columns) < density
    state = {
        "model.layer.weight": torch.randn(rows, columns) * mask,
        "model.layer.lora_A": torch.randn(rank, columns),
        "model.layer.lora_B": torch.randn(rows, rank),
    }
    save_mdl(path / "run.mdl", {"model": state})
    save_mask({"model.layer.weight": mask}, path / "masks.safetensors")
    receipt = run(
        Request(
            checkpoint=path / "run.mdl",
            out=path / "out.safetensors",
            masks=path / "masks.safetensors",
            alphas=[("*", ALPHA)],
        )
    )
    found = merged(path / "out.safetensors")["model.layer.weight"]
    delta = state["model.layer.lora_B"] @ state["model.layer.lora_A"] * (ALPHA / rank)
    assert torch.allclose(found, state["model.layer.weight"] + delta * mask, atol=1e-5)
    assert not found[~mask].any()
    assert receipt["global"]["resurrected"] == 0


# What must not be merged


def test_a_base_that_is_not_that_of_the_run(tmp_path: Path) -> None:
    state = lora_run(tmp_path / "run.mdl")
    run(Request(checkpoint=tmp_path / "run.mdl", out=tmp_path / "merged.mdl", keep=False))
    with pytest.raises(ProblemError, match="not those that the run was trained on") as error:
        run(
            Request(
                checkpoint=tmp_path / "run.mdl",
                base=tmp_path / "merged.mdl",
                out=tmp_path / "twice.safetensors",
            )
        )
    assert len(error.value.problems) == len(weights_of(state))
    assert not (tmp_path / "twice.safetensors").exists()


def test_a_dense_base_is_that_of_a_masked_run(tmp_path: Path) -> None:
    dense = lora_run(tmp_path / "first.mdl")
    masks = random_masks(dense)
    lora_run(tmp_path / "run.mdl", masks=masks)
    save_mask(masks, tmp_path / "masks.safetensors")
    save_mdl(tmp_path / "base.mdl", {"model": {n: t for n, t in dense.items() if ".lora_" not in n}})
    run(
        Request(
            checkpoint=tmp_path / "run.mdl",
            base=tmp_path / "base.mdl",
            masks=tmp_path / "masks.safetensors",
            out=tmp_path / "merged.safetensors",
        )
    )


def test_factors_alone_take_their_weights_from_the_base(tmp_path: Path) -> None:
    state = lora_run(tmp_path / "run.mdl")
    tree = read_checkpoint(tmp_path / "run.mdl")
    save_mdl(tmp_path / "base.mdl", {"model": {n: t for n, t in state.items() if ".lora_" not in n}})
    save_mdl(tmp_path / "factors.mdl", {**tree, "model": {n: t for n, t in state.items() if ".lora_" in n}})
    with pytest.raises(ProblemError, match="is missing"):
        run(Request(checkpoint=tmp_path / "factors.mdl", out=tmp_path / "a.safetensors"))
    for source, base in (("run", None), ("factors", tmp_path / "base.mdl")):
        run(Request(checkpoint=tmp_path / f"{source}.mdl", base=base, out=tmp_path / f"{source}.safetensors"))
    one, other = merged(tmp_path / "run.safetensors"), merged(tmp_path / "factors.safetensors")
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_merging_twice(tmp_path: Path) -> None:
    lora_run(tmp_path / "run.mdl")
    run(Request(checkpoint=tmp_path / "run.mdl", out=tmp_path / "merged.mdl"))
    with pytest.raises(ProblemError, match="merged already"):
        run(Request(checkpoint=tmp_path / "merged.mdl", out=tmp_path / "again.mdl"))


def test_factors_missing_for_a_layer(tmp_path: Path) -> None:
    lora_run(tmp_path / "run.mdl")
    tree = read_checkpoint(tmp_path / "run.mdl")
    gone = next(name for name in tree["model"] if name.endswith(".lora_B"))
    del tree["model"][gone]
    save_mdl(tmp_path / "torn.mdl", tree)
    with pytest.raises(ProblemError, match=rf"{gone}\n.*is missing"):
        run(Request(checkpoint=tmp_path / "torn.mdl", out=tmp_path / "out.mdl"))


def test_masks_that_are_not_those_of_the_run(tmp_path: Path) -> None:
    first = lora_run(tmp_path / "first.mdl")
    lora_run(tmp_path / "run.mdl", masks=random_masks(first, 0.5))
    save_mask(
        {n: torch.rand(first[n].shape) > 0.3 for n in weights_of(first)}, tmp_path / "other.safetensors"
    )
    out = tmp_path / "out.safetensors"
    with pytest.raises(ProblemError, match="not zero under the mask"):
        run(Request(checkpoint=tmp_path / "run.mdl", masks=tmp_path / "other.safetensors", out=out))
    assert not out.exists()
    assert not list(tmp_path.glob(".*.part"))


def test_masks_of_another_model(tmp_path: Path) -> None:
    lora_run(tmp_path / "run.mdl")
    save_mask({"model.other.weight": torch.ones(2, 2, dtype=torch.bool)}, tmp_path / "m.safetensors")
    with pytest.raises(ProblemError, match=r"model\.other\.weight"):
        run(
            Request(
                checkpoint=tmp_path / "run.mdl", masks=tmp_path / "m.safetensors", out=tmp_path / "out.mdl"
            )
        )


def test_a_multiplicative_update_is_merged_as_it_was_trained(tmp_path: Path) -> None:
    state = lora_run(tmp_path / "run.mdl", callback="SparseLora", mode="multiplicative")
    run(Request(checkpoint=tmp_path / "run.mdl", out=tmp_path / "merged.safetensors"))
    found = merged(tmp_path / "merged.safetensors")
    for name in weights_of(state):
        expected = state[name] * (1 + update(state, name))
        assert torch.allclose(found[name], expected, atol=1e-5, rtol=1e-5), name


def test_a_masked_update_needs_its_masks(tmp_path: Path) -> None:
    lora_run(tmp_path / "run.mdl", callback="SparseLora")
    with pytest.raises(ProblemError, match="give the masks of the run"):
        run(Request(checkpoint=tmp_path / "run.mdl", out=tmp_path / "out.mdl"))


def test_a_mark_that_is_gone_or_contradicted(tmp_path: Path) -> None:
    lora_run(tmp_path / "run.mdl", callback="SparseLora")
    with pytest.raises(ProblemError, match="the run had 6"):
        run(Request(checkpoint=tmp_path / "run.mdl", out=tmp_path / "out.mdl", alphas=[("*", 3.0)]))
    tree = read_checkpoint(tmp_path / "run.mdl")
    del tree["lora_factors"]
    save_mdl(tmp_path / "bare.mdl", tree)
    with pytest.raises(ProblemError, match="lacks the mark"):
        run(Request(checkpoint=tmp_path / "bare.mdl", out=tmp_path / "out.mdl"))


def test_a_dense_merge_of_a_masked_update(tmp_path: Path) -> None:
    lora_run(tmp_path / "run.mdl", callback="SparseLora")
    with pytest.raises(ProblemError, match="keep-sparsity"):
        run(Request(checkpoint=tmp_path / "run.mdl", out=tmp_path / "out.mdl", keep=False))


@pytest.mark.parametrize(
    ("alphas", "message"), [([("*", 0.0)], "is 0"), ([("*.nothing", 3.0)], "matches no weight")]
)
def test_alphas_that_cannot_be(alphas: list[tuple[str, float]], message: str, tmp_path: Path) -> None:
    lora_run(tmp_path / "run.mdl")
    with pytest.raises(ProblemError, match=message):
        run(Request(checkpoint=tmp_path / "run.mdl", out=tmp_path / "out.mdl", alphas=alphas))


def test_an_alpha_that_is_recorded_nowhere(tmp_path: Path) -> None:
    state = lora_run(tmp_path / "run.mdl")
    save_mdl(tmp_path / "bare.mdl", {"model": state})
    with pytest.raises(ProblemError, match="--alpha") as error:
        run(Request(checkpoint=tmp_path / "bare.mdl", out=tmp_path / "out.mdl"))
    assert len(error.value.problems) == 1


def test_nothing_is_written_over(tmp_path: Path) -> None:
    lora_run(tmp_path / "run.mdl")
    (tmp_path / "out.mdl").write_bytes(b"mine")
    with pytest.raises(ProblemError, match="exists already"):
        run(Request(checkpoint=tmp_path / "run.mdl", out=tmp_path / "out.mdl"))
    assert (tmp_path / "out.mdl").read_bytes() == b"mine"


def test_the_receipt_of_another_merge_is_told_with_the_way_out(tmp_path: Path) -> None:
    lora_run(tmp_path / "run.mdl")
    run(Request(checkpoint=tmp_path / "run.mdl", out=tmp_path / "out.safetensors"))
    with pytest.raises(ProblemError) as error:
        run(Request(checkpoint=tmp_path / "run.mdl", out=tmp_path / "out.mdl"))
    (problem,) = error.value.problems
    assert problem.where == str(tmp_path / "out.merge.json")
    assert "an --out of another name than out, whatever its suffix" in problem.fix


@pytest.mark.slow
def test_memory_does_not_grow_with_the_checkpoint(tmp_path: Path) -> None:
    """A layer of 64 MB is merged in a few pieces of it."""

    state = {
        "model.layer.weight": torch.zeros(16384, 1024),
        "model.layer.lora_A": torch.ones(2, 1024),
        "model.layer.lora_B": torch.ones(16384, 2),
    }
    save_mdl(tmp_path / "run.mdl", {"model": state})
    code = (
        "import pathlib, sys\n"
        "from cerebras_utils.conversion.merge import run\n"
        "from cerebras_utils.conversion.request import Request\n"
        "def status(key):\n"
        "    lines = pathlib.Path('/proc/self/status').read_text().splitlines()\n"
        "    return next(int(line.split()[1]) for line in lines if line.startswith(key))\n"
        "pathlib.Path('/proc/self/clear_refs').write_text('5')\n"  # forgets the peak so far
        "before = status('VmRSS')\n"
        "run(Request(checkpoint=pathlib.Path(sys.argv[1]), out=pathlib.Path(sys.argv[2]),"
        " keep=False, alphas=[('*', 2.0)]))\n"
        "print(status('VmHWM') - before)\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "run.mdl"), str(tmp_path / "out.safetensors")]
    grown = int(subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout)
    assert 0 < grown < 130_000, f"{grown} kB"
