"""A seed gives the weights that it gives in a run of cszoo."""

import sys

import pytest
import torch

from cerebras_utils.fallback.models.build import build_model
from cerebras_utils.fallback.models.draws import OwnGenerators


def derived(number, seed=1):
    """The generator of a draw, by the number of draws before it."""
    base = torch.Generator().manual_seed(seed)
    for _ in range(number + 1):
        own = int(torch.randint(sys.maxsize, (1,), generator=base))
    return torch.Generator().manual_seed(own)


def test_every_draw_has_a_generator_of_its_own():
    torch.manual_seed(1)
    with OwnGenerators():
        torch.empty(1000).uniform_()
        torch.nn.init.kaiming_uniform_(torch.empty(3, 4))
        found = torch.empty(5).normal_()
    assert torch.equal(found, torch.empty(5).normal_(generator=derived(2)))


def test_a_generator_that_is_given_is_used():
    with OwnGenerators():
        found = torch.empty(5).normal_(generator=torch.Generator().manual_seed(7))
    assert torch.equal(found, torch.empty(5).normal_(generator=torch.Generator().manual_seed(7)))


def test_weights_are_those_of_a_run_of_cszoo():
    """The first of some tensors of its checkpoint_0: ModelZoo 2.10 on a CPU, this model, seed 1."""
    params = {
        "name": "gpt2",
        "vocab_size": 257,
        "hidden_size": 64,
        "max_position_embeddings": 32,
        "num_hidden_layers": 2,
        "num_heads": 4,
        "filter_size": 256,
        "dropout_rate": 0.0,
        "embedding_dropout_rate": 0.0,
        "attention_dropout_rate": 0.0,
        "share_embedding_weights": True,
        "nonlinearity": "gelu",
    }
    torch.manual_seed(1)
    with OwnGenerators():
        found = build_model(params).state_dict()
    expected = {
        "model.embedding_layer.word_embeddings.weight": 0.0006208009435795248,
        "model.embedding_layer.position_embeddings.embed.weight": 0.009290710091590881,
        "model.transformer_decoder.layers.0.self_attn.proj_k_dense_layer.weight": 0.010770037770271301,
        "model.transformer_decoder.layers.1.ffn.ffn.1.linear_layer.weight": -0.007872610352933407,
    }
    for name, value in expected.items():
        assert found[name].flatten()[0].item() == pytest.approx(value, rel=1e-6), name
