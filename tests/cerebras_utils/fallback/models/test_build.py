"""What a model is, beyond its numbers."""

import pytest
import torch
from torch.nn import functional

from cerebras_utils.fallback.models.build import build_model
from pruning.problems import ProblemError


def params(recipes, **more):
    return {"name": "gpt2", **recipes.TINY, **more}


def test_a_section_with_problems_builds_nothing(recipes):
    with pytest.raises(ProblemError, match="not divisible") as caught:
        build_model(params(recipes, hidden_size=33), "c.yaml: trainer.init.model")
    assert caught.value.problems[0].where == "c.yaml: trainer.init.model.hidden_size"


def test_the_loss_mask_hides_labels_not_inputs(recipes):
    model, batch = build_model(params(recipes)), recipes.batch()
    loss, logits = model(batch)
    each = functional.cross_entropy(logits.flatten(0, 1), batch["labels"].flatten().long(), reduction="none")
    kept = batch["attention_mask"].flatten().bool()
    torch.testing.assert_close(loss, each[kept].mean())

    torch.testing.assert_close(
        model({**batch, "attention_mask": batch["attention_mask"] * 0 + 1}).logits, logits
    )


def test_batch_size_divides_by_sequences(recipes):
    torch.manual_seed(0)
    by_tokens = build_model(params(recipes))
    torch.manual_seed(0)
    by_batch = build_model(params(recipes, loss_scaling="batch_size", loss_weight=0.5))
    batch = recipes.batch()
    share = batch["attention_mask"].sum() / 3 * 0.5
    torch.testing.assert_close(by_batch(batch).loss, by_tokens(batch).loss * share)


@pytest.mark.parametrize("window", [None, 4])
def test_a_token_sees_the_past_within_its_window(recipes, window):
    model = build_model(params(recipes, attention_sliding_window_length=window, num_hidden_layers=1)).eval()
    recipes.set_weights(model)
    batch = recipes.batch()
    changed = {**batch, "input_ids": batch["input_ids"].clone()}
    changed["input_ids"][:, 5] += 1
    moved = (model(batch).logits - model(changed).logits).abs().amax(dim=(0, 2)) > 0
    last = recipes.LENGTH if window is None else 5 + window
    assert moved.tolist() == [5 <= place < last for place in range(recipes.LENGTH)]


def test_tied_weights_are_one_parameter_under_two_names(recipes):
    model = build_model(params(recipes))
    assert model.model.lm_head.weight is model.model.embedding_layer.word_embeddings.weight
    assert {"model.lm_head.weight", "model.ln_f.weight", "model.transformer_decoder.norm.weight"} <= set(
        model.state_dict()
    )
    names = [name for name, _ in model.named_parameters()]
    assert "model.lm_head.weight" not in names
    assert "model.transformer_decoder.norm.weight" not in names


@pytest.mark.parametrize("kind", ["learned", "fixed", "rotary"])
def test_sequences_longer_than_the_positions(recipes, kind):
    model = build_model(params(recipes, position_embedding_type=kind, max_position_embeddings=8))
    with pytest.raises(ProblemError, match="16 tokens in a sequence; the model has 8 positions"):
        model(recipes.batch())


def test_positions_without_a_limit_take_longer_sequences(recipes):
    model = build_model(params(recipes, position_embedding_type="alibi", max_position_embeddings=8))
    assert model(recipes.batch()).logits.shape == (3, 16, 61)


def test_inputs_that_are_not_read_are_refused(recipes):
    batch = recipes.batch()
    with pytest.raises(AssertionError, match="attention_span"):
        build_model(params(recipes))({**batch, "attention_span": batch["labels"]})


def test_dropouts_act_in_training_only(recipes):
    model = build_model(params(recipes, dropout_rate=0.5, attention_dropout_rate=None))
    batch = recipes.batch()
    assert not torch.equal(model(batch).logits, model(batch).logits)
    model.eval()
    assert torch.equal(model(batch).logits, model(batch).logits)


@pytest.mark.parametrize(
    "rates",
    [
        {"embedding_dropout_rate": 0.5},
        {"attention_dropout_rate": 0.5},
        {"dropout_rate": 0.5, "embd_pdrop": 0},
    ],
)
def test_each_dropout_rate_is_used(recipes, rates):
    model = build_model(params(recipes, **rates))
    recipes.set_weights(model)
    batch = recipes.batch()
    assert not torch.equal(model(batch).logits, model(batch).logits)


def test_mup_scales_learning_rates_by_width(recipes):
    groups = build_model(params(recipes)).learning_rate_groups
    assert {group.scale for group in groups.values()} == {1.0}
    groups = build_model(
        params(recipes, mup_base_hidden_size=8, mup_base_filter_size=16)
    ).learning_rate_groups
    assert {name: group.scale for name, group in groups.items()} == {
        "embedding": 1.0,
        "decoder_kernel": 1.0,
        "decoder_attention": 0.25,
        "decoder_input_ffn": 0.25,
        "decoder_output_ffn": 1 / 3,
    }


def test_bf16_autocast_is_close_to_fp32(recipes):
    model = build_model({**params(recipes), **recipes.VARIANTS["llama"]})
    batch = recipes.batch()
    exact = model(batch)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = model(batch)
    assert rounded.logits.dtype == torch.bfloat16
    torch.testing.assert_close(rounded.loss.float(), exact.loss, rtol=1e-2, atol=0)
    assert not torch.equal(rounded.logits.float(), exact.logits)
