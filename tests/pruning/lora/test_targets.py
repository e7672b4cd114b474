"""Which layers get factors, and what is said of those that cannot."""

import pytest
import torch
from torch import nn

from pruning.lora.apply import adapted
from pruning.problems import ProblemError
from pruning.sparse_lora import SparseLoRAConfig, apply_sparse_lora


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.q_proj = nn.Linear(6, 6)
        self.up_proj = nn.Linear(6, 12, bias=False)


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(10, 6)
        self.layers = nn.ModuleList(Block() for _ in range(2))
        self.norm = nn.LayerNorm(6)
        self.head = nn.Linear(6, 10, bias=False)
        self.head.weight = self.embed.weight


def targeted(targets, **kwargs):
    model = apply_sparse_lora(Model(), None, SparseLoRAConfig(r=2, target_modules=targets, **kwargs))
    return {name: layer.lora for name, layer in adapted(model).items()}


def problems(*args, **kwargs):
    with pytest.raises(ProblemError) as caught:
        apply_sparse_lora(*args, SparseLoRAConfig(**kwargs))
    return caught.value.problems


@pytest.mark.parametrize(
    ("targets", "expected"),
    [
        (["Block", "Linear"], ["layers.0.q_proj", "layers.0.up_proj", "layers.1.q_proj", "layers.1.up_proj"]),
        (["Linear"], ["layers.0.q_proj", "layers.0.up_proj", "layers.1.q_proj", "layers.1.up_proj", "head"]),
        (["Embedding"], ["embed"]),
        (["*q_proj.weight"], ["layers.0.q_proj", "layers.1.q_proj"]),
        (["*q_proj", "head*"], ["layers.0.q_proj", "layers.1.q_proj", "head"]),
        (["Block", "layers.1.*"], ["layers.1.q_proj", "layers.1.up_proj"]),
    ],
)
def test_class_names_must_all_be_on_the_path_and_any_glob_will_do(targets, expected):
    assert list(targeted(targets)) == expected


def test_null_targets_everything_as_in_modelzoo():
    assert len(targeted(None)) == 6


def test_ranks_and_scalings_by_layer():
    found = targeted(["Block", "Linear"], alpha=8, ranks={"*.0.q_proj.weight": 4, "*q_proj*": 1})
    assert {name: (s.r, s.scaling) for name, s in found.items()} == {
        "layers.0.q_proj": (4, 2.0),
        "layers.0.up_proj": (2, 4.0),
        "layers.1.q_proj": (1, 8.0),
        "layers.1.up_proj": (2, 4.0),
    }
    stable = targeted(["*q_proj*"], alpha=8, rank_stabilized=True, ranks={"*.0.*": 4})
    assert [s.scaling for s in stable.values()] == [4.0, 8 / 2**0.5]


def test_all_targets_that_match_nothing_are_told_at_once():
    found = problems(Model(), None, r=2, target_modules=["Blok", "*k_proj*", "*norm*"], ranks={"*v_proj*": 4})
    assert len(found) == 3
    assert "'Blok' is no class" in found[0].what
    assert "Did you mean 'Block'" in found[0].what
    assert "'*k_proj*' matches no weight" in found[1].what
    assert "q_proj" in found[1].what
    assert "'*norm*' matches no weight of a Linear or Embedding" in found[2].what


def test_the_name_of_a_layer_is_no_class_and_the_glob_is_offered():
    (found,) = problems(Model(), None, r=2, target_modules=["q_proj"])
    assert "did you mean '*q_proj*'" in found.what


def test_classes_that_are_there_but_never_on_one_path():
    (found,) = problems(Model(), None, r=2, target_modules=["Block", "Embedding"])
    assert "no layer fits all of them" in found.what


def test_a_glob_of_ranks_must_match_a_layer_that_gets_factors():
    (found,) = problems(Model(), None, r=2, target_modules=["*q_proj*"], ranks={"*up_proj*": 4})
    assert found.where.endswith("ranks['*up_proj*']")


def test_a_rank_above_the_dimension_names_every_layer():
    found = problems(Model(), None, r=7, target_modules=["Block", "Linear"])
    assert [p.where for p in found] == [f"layers.{i}.{n}_proj" for i in (0, 1) for n in ("q", "up")]
    assert "rank of 7 is above 6" in found[0].what


def test_layers_that_are_read_past_their_forward_are_refused():
    class Own(nn.Linear):
        def forward(self, x):
            return 2 * super().forward(x)

    model = nn.Sequential(nn.TransformerEncoderLayer(8, 2, 16), Own(8, 8))
    found = problems(model, None, r=2, target_modules=["*"])
    assert [p.where for p in found] == ["0.self_attn.out_proj", "0.linear1", "0.linear2", "1"]
    assert "reads the weight past its factors" in found[1].what
    assert "is a Own" in found[3].what
    bounded = nn.Sequential(nn.Embedding(5, 4, max_norm=1.0))
    assert "rewrites the frozen weight" in problems(bounded, None, r=2, target_modules=["Embedding"])[0].what


def test_dropout_for_embeddings_alone_has_no_effect():
    (found,) = problems(Model(), None, r=2, dropout=0.1, target_modules=["Embedding"])
    assert found.where == "SparseLoRAConfig.dropout"


def test_factors_twice_are_refused():
    model = apply_sparse_lora(Model(), None, SparseLoRAConfig(r=2, target_modules=["*q_proj*"]))
    found = problems(model, None, r=2, target_modules=["Block", "*q_proj*"])
    assert "has factors already" in found[0].what


def test_a_tied_weight_is_copied_for_the_layer_that_gets_factors():
    torch.manual_seed(0)
    model = Model()
    before = model.embed.weight.clone()
    apply_sparse_lora(model, None, SparseLoRAConfig(r=2, target_modules=["head*"]))
    assert model.head.weight is not model.embed.weight
    assert torch.equal(model.head.weight, before)
    assert not model.head.weight.requires_grad
    both = apply_sparse_lora(Model(), None, SparseLoRAConfig(r=2, target_modules=None))
    assert both.head.weight is not both.embed.weight


@pytest.mark.parametrize(
    ("wrong", "word"),
    [
        ({"r": 0}, "r"),
        ({"r": 2.0}, "r"),
        ({"r": True}, "r"),
        ({"alpha": 0}, "alpha"),
        ({"alpha": "16"}, "alpha"),
        ({"alpha": float("nan")}, "alpha"),
        ({"dropout": 1}, "dropout"),
        ({"target_modules": "Linear"}, "target_modules"),
        ({"target_modules": []}, "target_modules"),
        ({"sparsity_mode": "sparse_to_spars"}, "sparsity_mode"),
        ({"initial_sparsity": 1.0}, "initial_sparsity"),
        ({"ranks": {"*": 0}}, "ranks"),
        ({"seed": "1"}, "seed"),
        ({"train_bias": "yes"}, "train_bias"),
        ({"maintain_sparsity": True}, "maintain_sparsity"),
        ({"sparsity_mode": "sparse_to_sparse", "maintain_sparsity": False}, "maintain_sparsity"),
        (
            {"sparsity_mode": "multiplicative", "preserve_sparsity_on_merge": False},
            "preserve_sparsity_on_merge",
        ),
    ],
)
def test_settings_that_cannot_be_meant(wrong, word):
    with pytest.raises(ProblemError) as caught:
        SparseLoRAConfig(**wrong)
    (problem,) = caught.value.problems
    assert problem.where.startswith(f"SparseLoRAConfig.{word}")


def test_all_wrong_settings_are_told_at_once():
    with pytest.raises(ProblemError) as caught:
        SparseLoRAConfig(r=0, alpha=0, dropout=2)
    assert len(caught.value.problems) == 3
