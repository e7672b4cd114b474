"""Against ModelZoo itself, weight by weight."""

import json
import warnings

import pytest
import torch

from cerebras_utils.fallback.models.activations import GATED, PLAIN
from cerebras_utils.fallback.models.build import build_model
from cerebras_utils.fallback.models.options import FAMILIES, OPTIONS

from .conftest import FOLDER

pytestmark = [pytest.mark.cszoo, pytest.mark.filterwarnings("ignore")]
VARIANTS = json.loads((FOLDER / "recorded.json").read_text())["variants"]
DROPOUT = {"dropout_rate": 0.3, "attention_dropout_rate": None, "embedding_dropout_rate": 0.1}


@pytest.fixture(scope="module")
def zoo():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pytest.importorskip("cerebras.modelzoo", reason="needs ModelZoo")
        from cerebras.modelzoo.models.nlp.gpt2 import model as gpt2
        from cerebras.modelzoo.models.nlp.gpt3 import model as gpt3
        from cerebras.modelzoo.models.nlp.llama import model as llama
        from cerebras.modelzoo.models.nlp.mistral import model as mistral
    return {
        "gpt2": (gpt2.Gpt2Model, gpt2.GPT2ModelConfig),
        "gpt3": (gpt3.GPT3Model, gpt3.GPT3ModelConfig),
        "llama": (llama.LlamaModel, llama.LlamaModelConfig),
        "mistral": (mistral.MistralModel, mistral.MistralModelConfig),
    }


def both(zoo, params, seed=7):
    model, config = zoo[params["name"]]
    torch.manual_seed(seed)
    theirs = model(config(**params))
    after = torch.get_rng_state()
    torch.manual_seed(seed)
    ours = build_model(params)
    assert torch.equal(torch.get_rng_state(), after)
    return theirs, ours


def difference(a, b):
    return (a - b).abs().max().item()


@pytest.mark.parametrize("variant", VARIANTS)
def test_names_order_and_first_weights_are_the_same(zoo, variant):
    theirs, ours = both(zoo, VARIANTS[variant]["params"])
    expected, found = theirs.state_dict(), ours.state_dict()
    assert list(found) == list(expected)
    assert [n for n, _ in ours.named_parameters()] == [n for n, _ in theirs.named_parameters()]
    assert [p.requires_grad for p in ours.parameters()] == [p.requires_grad for p in theirs.parameters()]
    assert not [name for name in expected if not torch.equal(found[name], expected[name])]


@pytest.mark.parametrize("variant", [*VARIANTS, "dropout"])
def test_a_step_is_the_same(zoo, recipes, variant):
    """The requirement is 1e-5; measured is 0.0, which is what is asked for."""
    params = VARIANTS[variant]["params"] if variant in VARIANTS else {**recipes.params("gpt2"), **DROPOUT}
    theirs, ours = both(zoo, params)
    recipes.set_weights(theirs)
    ours.load_state_dict(theirs.state_dict())
    torch.manual_seed(1)
    expected_loss, expected_logits = theirs(recipes.batch(), output_logits=True)
    expected_loss.backward()
    torch.manual_seed(1)
    loss, logits = ours(recipes.batch())
    loss.backward()

    gradients = {name: p.grad for name, p in theirs.named_parameters() if p.grad is not None}
    found = {name: p.grad for name, p in ours.named_parameters() if p.grad is not None}
    assert list(found) == list(gradients)
    largest = max(difference(found[name], gradients[name]) for name in gradients)
    assert (difference(loss, expected_loss), difference(logits, expected_logits), largest) == (0, 0, 0)


@pytest.mark.parametrize("variant", ["gpt2", "llama", "alibi"])
def test_bf16_autocast_is_the_same(zoo, recipes, variant):
    from cerebras.pytorch import amp

    theirs, ours = both(zoo, VARIANTS[variant]["params"])
    before = amp.get_half_dtype_str()
    amp.set_half_dtype("bfloat16")  # as the trainer's precision callback does
    try:
        with torch.autocast("cpu", torch.bfloat16):
            expected_loss, expected = theirs(recipes.batch(), output_logits=True)
            loss, logits = ours(recipes.batch())
    finally:
        amp.set_half_dtype(before)
    assert logits.dtype == expected.dtype == torch.bfloat16
    assert (difference(loss, expected_loss), difference(logits, expected)) == (0, 0)


def test_nonlinearities_are_the_same(zoo):
    from cerebras.modelzoo.layers.activations import ACT2FN

    assert set(ACT2FN) == {*PLAIN, *GATED}
    value, gate = torch.linspace(-12, 12, 97), torch.linspace(11, -13, 97)
    for name, function in PLAIN.items():
        assert torch.equal(function(gate), ACT2FN[name](gate)), name
    for name, function in GATED.items():
        assert torch.equal(function(value, gate), ACT2FN[name](value, gate)), name


def test_options_and_defaults_are_the_same(zoo):
    for family in FAMILIES:
        _, config = zoo[family]
        expected = config(name=family)
        fields = {name for name in config.model_fields if name != "name"}
        assert set(OPTIONS) == fields
        assert {config.model_fields[o.name].alias for o in OPTIONS.values()} == {
            o.alias for o in OPTIONS.values()
        }
        resolved = {"embd_pdrop": None, "lr_adjustment_groups": None}  # set by the config itself
        for option in OPTIONS.values():
            if option.name in ("memory_tokens_config", "moe_params"):
                assert getattr(expected, option.name) == type(getattr(expected, option.name))()
            elif option.name in resolved:
                assert config.model_fields[option.name].default is resolved[option.name] is option.default
            else:
                assert getattr(expected, option.name) == option.default, option.name


def test_learning_rate_groups_are_the_same(zoo, recipes):
    theirs, ours = both(zoo, recipes.params("muP"))
    assert list(ours.learning_rate_groups) == list(theirs.lr_adjustment_groups)
    for name, group in theirs.lr_adjustment_groups.items():
        patterns = group.param_filter_patterns
        assert ours.learning_rate_groups[name].patterns == (
            (patterns,) if isinstance(patterns, str) else tuple(patterns)
        )
        assert ours.learning_rate_groups[name].scale == group.scale


def test_what_modelzoo_refuses_is_refused(zoo, recipes):
    """Each of these fails in ModelZoo when the model is built or run; here before."""
    for wrong in (
        {"embeddings_scale": None},
        {"attention_logits_alpha": None},
        {"extra_attention_params": {"num_kv_groups": 2}},
        {"position_embedding_type": "rotary", "rotary_dim": 8, "pos_scaling_type": "llama3"},
        {"pos_scaling_factor": 2.0},
        {"hidden_size": 33},
        {"mup_base_hidden_size": 8},
    ):
        params = {**recipes.params("gpt2"), **wrong}
        model, config = zoo["gpt2"]
        with pytest.raises((TypeError, ValueError, RuntimeError, AssertionError)):
            model(config(**params))(recipes.batch())
        with pytest.raises(ValueError, match="fix:"):
            build_model(params)


def test_the_recorded_numbers_are_still_those_of_modelzoo(zoo, recipes, recorded):
    now = recipes.record()
    assert list(now["variants"]) == list(recorded["variants"])
    for name, expected in recorded["variants"].items():
        found = now["variants"][name]
        assert found["params"] == expected["params"]
        assert found["shapes"] == expected["shapes"]
        assert found["loss"] == pytest.approx(expected["loss"], abs=1e-6)
