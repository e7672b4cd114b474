"""Everything that can be known from headers: what is pruned, and what is wrong with the question."""

from decimal import Decimal

import pytest
import torch
from torch import nn

from pruning.checkpoint.memory import MemorySource
from pruning.checkpoint.open import open_checkpoint
from pruning.planning.patterns import parse_pattern
from pruning.planning.plan import make_plan
from pruning.planning.spec import MaskSpec
from pruning.problems import ProblemError

HALF = Decimal("0.5")
MODELZOO = {
    "model.embedding_layer.word_embeddings.weight": (100, 8),
    "model.embedding_layer.position_embeddings.embed.weight": (16, 8),
    "model.transformer_decoder.layers.0.self_attn.proj_q_dense_layer.weight": (8, 8),
    "model.transformer_decoder.layers.0.self_attn.proj_k_dense_layer.weight": (4, 8),
    "model.transformer_decoder.layers.0.self_attn.proj_v_dense_layer.weight": (4, 8),
    "model.transformer_decoder.layers.0.self_attn.proj_q_dense_layer.bias": (8,),
    "model.transformer_decoder.layers.0.self_attn.proj_q_dense_layer.lora_A": (2, 8),
    "model.transformer_decoder.layers.0.self_attn.proj_output_dense_layer.weight": (8, 8),
    "model.transformer_decoder.layers.0.ffn.ffn.0.linear_layer.weight": (16, 8),
    "model.transformer_decoder.layers.0.ffn.ffn.0.linear_layer_for_glu.weight": (16, 8),
    "model.transformer_decoder.layers.0.ffn.ffn.1.linear_layer.weight": (8, 16),
    "model.transformer_decoder.layers.0.ffn.gate.weight": (4, 8),
    "model.transformer_decoder.layers.0.norm1.weight": (8,),
    "model.transformer_decoder.relative_pe_helper.relative_attention_bias.weight": (32, 4),
    "model.ln_f.weight": (8,),
    "model.lm_head.weight": (100, 8),
}


def source(shapes, **more):
    tensors = {
        name: torch.randn(shape, generator=torch.Generator().manual_seed(len(name)))
        for name, shape in shapes.items()
    }
    return MemorySource(tensors | more)


def plan(shapes, **spec):
    spec = {"sparsity": HALF} | spec
    return make_plan(source(shapes), [MaskSpec(**spec)])


def problems(shapes, **spec):
    with pytest.raises(ProblemError) as error:
        plan(shapes, **spec)
    assert all(p.where and p.what and p.fix for p in error.value.problems)
    return str(error.value)


def test_the_default_takes_projections_and_says_why_others_are_left():
    chosen = plan(MODELZOO)
    assert [info.name.removeprefix("model.transformer_decoder.layers.0.") for info in chosen.tensors] == [
        "ffn.ffn.0.linear_layer.weight",
        "ffn.ffn.0.linear_layer_for_glu.weight",
        "ffn.ffn.1.linear_layer.weight",
        "self_attn.proj_k_dense_layer.weight",
        "self_attn.proj_output_dense_layer.weight",
        "self_attn.proj_q_dense_layer.weight",
        "self_attn.proj_v_dense_layer.weight",
    ]
    why = chosen.selection.left_out
    assert why["model.lm_head.weight"] == "output head"
    assert why["model.embedding_layer.word_embeddings.weight"] == "embedding"
    assert why["model.embedding_layer.position_embeddings.embed.weight"] == "embedding"
    assert why["model.transformer_decoder.layers.0.ffn.gate.weight"] == "MoE router gate"
    assert why["model.transformer_decoder.layers.0.self_attn.proj_q_dense_layer.lora_A"] == "LoRA factor"
    assert (
        why["model.transformer_decoder.relative_pe_helper.relative_attention_bias.weight"]
        == "position helper"
    )
    assert why["model.ln_f.weight"] == "1 dimension"
    assert len(why) + len(chosen.tensors) == len(MODELZOO)


def test_huggingface_names():
    shapes = {
        "model.embed_tokens.weight": (50, 8),
        "model.layers.0.self_attn.q_proj.weight": (8, 8),
        "model.layers.0.mlp.gate_proj.weight": (16, 8),
        "model.layers.0.block_sparse_moe.gate.weight": (4, 8),
        "transformer.wte.weight": (50, 8),
        "transformer.wpe.weight": (9, 8),
        "transformer.h.0.ln_1.weight": (8,),
        "lm_head.weight": (50, 8),
    }
    assert [i.name for i in plan(shapes).tensors] == [
        "model.layers.0.mlp.gate_proj.weight",
        "model.layers.0.self_attn.q_proj.weight",
    ]


def test_a_module_says_what_its_names_do_not():
    model = nn.Sequential(nn.Embedding(10, 8), nn.Linear(8, 8), nn.LayerNorm(8), nn.Linear(8, 4))
    with open_checkpoint(model) as opened:
        chosen = make_plan(opened, [MaskSpec(sparsity=HALF)])
    assert [info.name for info in chosen.tensors] == ["1.weight", "3.weight"]
    assert chosen.selection.left_out["0.weight"] == "embedding"


def test_include_replaces_the_default_and_exclude_has_the_last_word():
    chosen = plan(MODELZOO, include=("*lm_head*", "*ffn.gate*", "*proj_[qk]*weight"), exclude=("*proj_k*",))
    assert [info.name.rsplit(".", 2)[-2] for info in chosen.tensors] == [
        "lm_head",
        "gate",
        "proj_q_dense_layer",
    ]


def test_a_glob_that_matches_nothing_suggests():
    assert "did you mean '*proj_q_dense_layer*'" in problems(MODELZOO, include=("*porj_q_dense*",))
    assert "--exclude *nothing* matches no tensor" in problems(MODELZOO, exclude=("*nothing*",))


def test_layer_map():
    chosen = plan(MODELZOO, layers=(("*proj_q*", Decimal("0.25")), ("*self_attn*", Decimal("0.75"))))
    drops = {pool.layers[0].name.rsplit(".", 2)[-2]: pool.drop / pool.units for pool in chosen.pools[0]}
    assert drops["proj_q_dense_layer"] == 0.25
    assert drops["proj_output_dense_layer"] == 0.75
    assert drops["linear_layer_for_glu"] == 0.5


def test_layer_map_beside_a_global_threshold():
    chosen = plan(MODELZOO, layers=(("*proj_q*", Decimal("0.25")),), allocation="global")
    sizes = sorted(len(pool.layers) for pool in chosen.pools[0])
    assert sizes == [1, 6]


def test_layer_map_problems_come_all_at_once():
    text = problems(
        MODELZOO, sparsity=None, layers=(("*proj_q*", HALF), ("*nope*", HALF), ("*proj_q_dense*", HALF))
    )
    assert "--layer *nope* matches no tensor" in text
    assert "--layer *proj_q_dense* has no effect" in text
    assert "no sparsity is given for 6 layers" in text
    assert text.startswith("1. ")


@pytest.mark.parametrize("shape", [(0, 5), (1, 1), (1,)])
def test_a_tensor_without_a_share_to_drop(shape):
    assert f"it has {torch.Size(shape).numel()} elements" in problems(
        {"w": shape, "v": (4, 4)}, include=("w", "v")
    )


def test_a_layer_that_would_lose_everything():
    assert "drops all 3 of its units" in problems({"w": (3, 1)}, sparsity=Decimal("0.9"))
    assert "drops all 2 of its units" in problems({"w": (2, 50)}, sparsity=Decimal("0.8"), pattern="row")


def test_nothing_to_prune():
    assert "no tensor is left to prune (embedding)" in problems({"embed.weight": (4, 4)})
    assert "no tensor is left to prune (the checkpoint is empty)" in problems({})


@pytest.mark.parametrize(
    ("pattern", "shape", "says"),
    [
        ("2:4", (8, 6), "input dimension 6 is not divisible by 4"),
        ("2:4", (8, 8, 4), "has 3 dimensions"),
        ("block:4x4", (8, 6), "in dimension 6 is not divisible by 4"),
        ("block:4x4", (6, 8), "out dimension 6 is not divisible by 4"),
        ("column", (4, 4, 4), "has 3 dimensions"),
    ],
)
def test_a_pattern_that_does_not_fit_names_the_tensor(pattern, shape, says):
    text = problems(
        {"good.weight": (8, 8), "bad.weight": shape},
        pattern=pattern,
        sparsity=None if pattern[1:] == ":4" else HALF,
    )
    assert says in text
    assert "bad.weight" in text
    assert "good.weight" not in text


def test_gpt2_of_huggingface_is_the_other_way_round():
    shapes = {"h.0.attn.c_attn.weight": (8, 24), "h.0.mlp.c_fc.weight": (8, 32)}
    assert plan(shapes).tensors
    for pattern in ("2:4", "row", "column"):
        assert "as (in, out)" in problems(
            shapes, pattern=pattern, sparsity=None if pattern == "2:4" else HALF
        )


def test_heads_need_attention_and_their_number():
    assert "no attention projections" in problems({"mlp.up.weight": (8, 8)}, pattern="head:2")
    shapes = {f"a.{p}_proj.weight": (12, 12) for p in "qkvo"}
    assert "not divisible by 5 heads" in problems(shapes, pattern="head:5")
    assert "no whole groups" in problems(shapes | {"a.k_proj.weight": (9, 12)}, pattern="head:4")
    assert "neither q nor the output" in problems({"a.k_proj.weight": (12, 12)}, pattern="head:4")
    assert plan(shapes, pattern="head:4").selection.left_out == {}
    assert plan(shapes | {"m.up": (4, 4)}, pattern="head:4").selection.left_out == {
        "m.up": "no attention projection"
    }


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("4:4", "0 < N < M"),
        ("0:4", "0 < N < M"),
        ("block", "HEIGHTxWIDTH"),
        ("block:0x4", "HEIGHTxWIDTH"),
        ("head", "head:NUMBER"),
        ("row:3", "takes no argument"),
        ("blok:4x4", "Did you mean 'block'"),
    ],
)
def test_what_is_no_pattern(text, says):
    with pytest.raises(ValueError, match=says):
        parse_pattern(text)


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ({}, "how sparse"),
        ({"pattern": "2:4", "sparsity": Decimal("0.6")}, "cannot have sparsity 0.6"),
        ({"pattern": "2:4", "allocation": "global"}, "nothing to allocate"),
        ({"sparsity": HALF, "seed": 3}, "no effect"),
        ({"sparsity": HALF, "pattern": "row", "nan_as_pruned": True}, "cannot drop just the NaN"),
        ({"sparsity": HALF, "pattern": "head:2", "allocation": "erk"}, "ERK"),
        ({"sparsity": HALF, "score": "magnitud"}, "Did you mean 'magnitude'"),
        ({"sparsity": HALF, "allocation": "erc"}, "Did you mean 'erk'"),
    ],
)
def test_a_question_that_contradicts_itself(spec, says):
    with pytest.raises((ValueError, LookupError), match=says):
        MaskSpec(**spec)


def test_names_of_finished_masks_never_change():
    """If this fails, users lose sight of their files. Give new fields a default that changes nothing."""
    assert MaskSpec(sparsity=HALF).name == "magnitude-s0.5-5a587858"
    assert MaskSpec(pattern="2:4").name.startswith("magnitude-2of4-")
    assert MaskSpec(sparsity=HALF, score="random", seed=3).name.startswith("random-s0.5-seed3-")
    assert MaskSpec(sparsity=HALF, pattern="block:16x8", allocation="global").name.startswith(
        "magnitude-block16x8-global-s0.5-"
    )


@pytest.mark.parametrize(
    "spec",
    [
        MaskSpec(
            sparsity=HALF,
            layers=(("*q*", Decimal("0.1")),),
            include=("*",),
            exclude=("*lm*",),
            allocation="erk",
        ),
        MaskSpec(pattern="2:4"),
        MaskSpec(sparsity=HALF, score="random", seed=9, nan_as_pruned=True),
    ],
)
def test_specs_survive_json(spec):
    assert MaskSpec.from_json(spec.to_json()) == spec


def test_a_spec_of_a_newer_release_is_refused():
    with pytest.raises(ValueError, match="newer release"):
        MaskSpec.from_json({"sparsity": "0.5", "flavour": "new"})


def test_by_default_what_is_tied_to_an_embedding_is_left_out_with_it():
    shared = torch.randn(8, 8)
    opened = source({"w": (4, 4)}, **{"embed.weight": shared, "out.weight": shared})
    chosen = make_plan(opened, [MaskSpec(sparsity=HALF)])
    assert [info.name for info in chosen.tensors] == ["w"]
    assert chosen.selection.left_out["out.weight"] == "tied to embed.weight (embedding)"


def test_ties_by_storage_and_by_content():
    shared = torch.randn(8, 8)
    opened = source(
        {"w": (4, 4)},
        **{
            "a": shared,
            "b": shared,
            "x.word_embeddings.weight": shared.clone(),
            "x.lm_head.weight": shared.clone(),
        },
    )
    everything = make_plan(opened, [MaskSpec(sparsity=HALF, include=("*",))])
    assert everything.selection.tied == (("a", "b"), ("x.lm_head.weight", "x.word_embeddings.weight"))
    assert [info.name for info in everything.tensors] == [
        "a",
        "b",
        "w",
        "x.lm_head.weight",
        "x.word_embeddings.weight",
    ]
    assert [info.name for info in everything.selection.chosen] == ["a", "w", "x.lm_head.weight"]
    with pytest.raises(ProblemError, match=r"(?s)tied to b.*exclude 'a'"):
        make_plan(opened, [MaskSpec(sparsity=HALF, exclude=("b",))])
