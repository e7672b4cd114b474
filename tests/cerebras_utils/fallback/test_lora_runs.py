"""LoRA in whole runs on plain PyTorch: from a base, resumed bit for bit, and what is refused."""

import shlex
from pathlib import Path

import pytest
import torch

from cerebras_utils.fallback.mdl_reader import load_mdl
from cerebras_utils.fallback.mdl_writer import save_mdl
from cerebras_utils.fallback.models.build import build_model
from cerebras_utils.lora_callbacks import Lora, SparseLora
from pruning.lora.apply import adapted
from pruning.mask_ops import save_mask
from pruning.problems import ProblemError
from tests.cerebras_utils.fallback.tiny_runs import (
    LAYER,
    config,
    equal,
    fitted,
    refused,
    run,
    scalars,
    write_data,
)

TARGETS = ["TransformerDecoderLayer", "Linear"]
Q = f"{LAYER}.self_attn.proj_q_dense_layer"
MODEL = {
    "name": "gpt2",
    "vocab_size": 32,
    "max_position_embeddings": 16,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_heads": 2,
    "filter_size": 32,
    "dropout_rate": 0.0,
}


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_data("train", 40)
    write_data("valid", 8, seed=1)
    torch.manual_seed(5)
    weights = build_model(MODEL).state_dict()
    save_mdl(Path("base.mdl"), {"model": weights})
    masks = {
        name: torch.rand(w.shape) > 0.5 for name, w in weights.items() if ".layers." in name and w.ndim == 2
    }
    save_mask(masks, "masks.safetensors")
    return masks


def callbacks(kind, **params):
    params = {"r": 2, "alpha": 4, "dropout": 0.1, "target_modules": TARGETS, **params}
    masks = {"SparseMaskCallback": {"mask_path": "masks.safetensors"}}
    return {
        "Lora": [{"Lora": {"lora_params": params}}],
        "Lora and masks": [masks, {"Lora": {"lora_params": params}}],
        "SparseLora": [masks, {"SparseLora": {"lora_params": params}}],
        "SparseLora before its masks": [{"SparseLora": {"lora_params": params}}, masks],
        "multiplicative": [
            masks,
            {"SparseLora": {"lora_params": {**params, "sparsity_mode": "multiplicative"}}},
        ],
    }[kind]


def weights_of(path):
    return load_mdl(Path(path))["model"]


@pytest.mark.parametrize(
    "kind",
    [
        pytest.param("Lora and masks", marks=pytest.mark.slow),
        "SparseLora before its masks",
        pytest.param("multiplicative", marks=pytest.mark.slow),
    ],
)
def test_a_run_trains_the_factors_alone_and_goes_on_bit_for_bit(place, kind):
    written = callbacks(kind)
    result = fitted(config(callbacks=written), "--checkpoint_path", "base.mdl")
    assert "12 layers of rank 2" in result.output
    base, after = weights_of("base.mdl"), weights_of("run/checkpoint_6.mdl")
    masks = place if kind != "Lora" else {}
    for name, tensor in base.items():
        assert torch.equal(after[name], tensor * masks[name] if name in masks else tensor), name
    factors = [name for name in after if name.endswith((".lora_A", ".lora_B"))]
    assert len(factors) == 24
    assert after[f"{Q}.lora_A"].shape == (2, 16)
    assert after[f"{Q}.lora_B"].any()
    fitted(config(callbacks=written), "--checkpoint_path", "run/checkpoint_3.mdl", "-o", "resumed")
    one, other = (load_mdl(Path(d, "checkpoint_6.mdl")) for d in ("run", "resumed"))
    for part in ("model", "optimizer", "global_step", "lora_factors"):
        assert equal(one[part], other[part]), part
    assert equal(one["wafersparse"]["random"], other["wafersparse"]["random"])


def test_the_masked_update_is_what_is_computed(place):
    """With a large update: the losses of the masked, the dense and the merged model."""
    fitted(config(callbacks=callbacks("SparseLora", alpha=64, dropout=0.0)), "--checkpoint_path", "base.mdl")
    tree = weights_of("run/checkpoint_6.mdl")
    merged = {}
    for name, weight in tree.items():
        layer = name.removesuffix(".weight")
        if f"{layer}.lora_A" in tree:
            weight = weight + 32 * (tree[f"{layer}.lora_B"] @ tree[f"{layer}.lora_A"]) * place[name]
        if "lora_" not in name and not name.endswith("_mask"):
            merged[name] = weight
    save_mdl(Path("merged.mdl"), {"model": merged})

    def loss(written, checkpoint, directory):
        asked = ("validate", config(callbacks=written), "--checkpoint_path", checkpoint, "-o", directory)
        result = run(*asked)
        assert result.exit_code == 0, result.output
        (value,) = scalars(directory)["validate_0/loss"].values()
        return value

    trained = loss(callbacks("SparseLora", alpha=64), "run/checkpoint_6.mdl", "a")
    assert loss([], "merged.mdl", "b") == pytest.approx(trained, abs=1e-5)
    tree_without_marks = {name: t for name, t in tree.items() if not name.endswith("_mask")}
    save_mdl(Path("plain.mdl"), {"model": tree_without_marks})
    assert abs(loss(callbacks("Lora", alpha=64), "plain.mdl", "c") - trained) > 1e-3


def test_the_seed_gives_the_factors(place):
    """A rate of nothing leaves them as they were drawn."""
    still = {"schedulers": None, "optimizer": {"SGD": {"lr": 1e-30}}, "checkpoint": {"steps": 1}}
    for directory, seed in (("one", 4), ("two", 4), ("three", 5)):
        written = config(steps=1, callbacks=callbacks("Lora"), seed=seed, **still)
        fitted(written, "--checkpoint_path", "base.mdl", "-o", directory)
    one, two, three = (weights_of(f"{d}/checkpoint_1.mdl")[f"{Q}.lora_A"] for d in ("one", "two", "three"))
    assert torch.equal(one, two)
    assert not torch.equal(one, three)
    assert 0 < one.abs().max() <= 16**-0.5


def test_a_masked_base_loads_strictly(place):
    weights = {name: t * place.get(name, 1) for name, t in weights_of("base.mdl").items()}
    save_mdl(Path("masked.mdl"), {"model": weights | {f"{name}_mask": mask for name, mask in place.items()}})
    for index, base in enumerate(("base.mdl", "masked.mdl")):
        fitted(config(callbacks=callbacks("SparseLora")), "--checkpoint_path", base, "-o", f"run{index}")
    assert scalars("run0")["loss"] == scalars("run1")["loss"]


def test_norms_and_biases_are_trained_where_asked(place):
    written = callbacks("SparseLora", train_norms=True, train_bias=True)
    fitted(config(callbacks=written), "--checkpoint_path", "base.mdl")
    base, after = weights_of("base.mdl"), weights_of("run/checkpoint_6.mdl")
    changed = [n for n in base if n not in place and not torch.equal(base[n], after[n])]
    norms = [n for n in base if "norm" in n or "ln_f" in n]
    assert sorted(changed) == sorted({*norms, *(n for n in base if n.endswith("bias"))})


# What is refused


def test_a_base_with_optimizer_state_is_refused_and_the_fix_works(place):
    fitted(config(steps=3))
    said = refused(
        config(callbacks=callbacks("SparseLora")), "--checkpoint_path", "run/checkpoint_3.mdl", "-o", "lora"
    )
    assert "has the optimizer, schedulers, dataloader of its own" in said.replace("\n", " ")
    exec(shlex.split(said.split("start from its weights alone: ")[1].splitlines()[0])[2])
    weights = "run/checkpoint_3.weights.mdl"
    fitted(config(callbacks=callbacks("SparseLora")), "--checkpoint_path", weights, "-o", "lora")


def test_factors_missing_for_a_layer(place):
    fitted(config(callbacks=callbacks("Lora")), "--checkpoint_path", "base.mdl")
    tree = load_mdl(Path("run/checkpoint_3.mdl"))
    del tree["model"][f"{Q}.lora_B"]
    save_mdl(Path("broken.mdl"), tree)
    said = refused(config(callbacks=callbacks("Lora")), "--checkpoint_path", "broken.mdl", "-o", "x")
    assert f"{Q}.lora_B" in said
    assert "is missing, though other factors are there" in said


@pytest.mark.parametrize(
    ("changed", "word"),
    [({"alpha": 8}, "alpha was 4.0, and is 8.0"), ({"sparsity_mode": "multiplicative"}, "mode was")],
)
def test_resuming_with_another_function_of_the_factors(place, changed, word):
    fitted(config(callbacks=callbacks("SparseLora")), "--checkpoint_path", "base.mdl")
    written = callbacks("SparseLora", **changed)
    assert word in refused(config(callbacks=written), "--checkpoint_path", "run/checkpoint_3.mdl", "-o", "x")


@pytest.mark.parametrize(
    ("params", "word"),
    [
        ({"merge_weights": True}, "merge_weights"),
        ({"r": 17}, "rank of 17 is above 16"),
        ({"alpha": 0}, "multiplied by it"),
        ({"target_modules": ["GPTJDecoderLayer", "Linear"]}, "'GPTJDecoderLayer' is no class"),
        ({"target_modules": ["*.attn.*"]}, "matches no weight"),
    ],
)
def test_bad_params_end_the_run_before_it_begins(place, params, word):
    assert word in refused(config(callbacks=callbacks("Lora", **params)))
    assert not Path("run/events").exists() or not list(Path("run").glob("*.mdl"))


def test_masks_that_cover_none_of_the_layers(place):
    only = {name: mask for name, mask in place.items() if "layers.1" in name}
    save_mask(only, "masks.safetensors", overwrite=True)
    written = callbacks("SparseLora", target_modules=["*layers.0.*"])
    said = refused(config(callbacks=written), "--checkpoint_path", "base.mdl")
    assert "no layer that gets factors has a mask" in said


def test_modelzoos_class_names_choose_layers_here():
    cases = [
        (TARGETS, 12),
        (["MultiheadAttention", "Linear"], 8),
        (["SingleFeedForwardLayer"], 4),
        (["Gpt2Model", "Embedding"], 2),
        (["GPT2LMHeadModel"], 15),
        (None, 15),
    ]
    for targets, count in cases:
        model = build_model(MODEL)
        Lora({"r": 2, "target_modules": targets}).change_model(model)
        assert len(adapted(model)) == count, targets
    shared = {
        **MODEL,
        "name": "llama",
        "attention_module": "multiquery_attention",
        "extra_attention_params": {"num_kv_groups": 1},
    }
    model = build_model(shared)
    Lora({"r": 2, "target_modules": ["LlamaModel", "MultiQueryAttention"]}).change_model(model)
    assert len(adapted(model)) == 8


def test_the_first_group_that_targets_a_layer_is_its_own():
    first = {"r": 1, "target_modules": ["MultiheadAttention"]}
    model = build_model(MODEL)
    SparseLora(
        [first, {"r": 2, "alpha": 6, "target_modules": TARGETS, "rank_stabilized": True}]
    ).change_model(model)
    found = {name.rsplit(".", 1)[-1]: layer.lora for name, layer in adapted(model).items()}
    assert (found["proj_q_dense_layer"].r, found["linear_layer"].r) == (1, 2)
    assert found["linear_layer"].scaling == pytest.approx(6 / 2**0.5)
    with pytest.raises(ProblemError, match="taken by groups before"):
        SparseLora([{"r": 1}, first]).change_model(build_model(MODEL))
