"""What is said about a ``model:`` section, and what it means."""

import subprocess
import sys

import pytest
import yaml

from cerebras_utils.fallback.models.options import OPTIONS, options
from cerebras_utils.fallback.models.rules import model_problems, options_without_effect
from pruning.problems import ProblemError

ROTARY = {"position_embedding_type": "rotary", "rotary_dim": 64}
GROUPED = {"attention_module": "multiquery_attention"}
MUP = {"mup_base_hidden_size": 256, "mup_base_filter_size": 1024}


def problems(**params):
    return model_problems({"name": "gpt2", **params}, "c.yaml: model")


def only(**params):
    (problem,) = problems(**params)
    return problem


def test_a_section_with_nothing_but_a_name_is_right():
    assert not problems()
    assert options({"name": "mistral"}, "model").hidden_size == 768


# One value


@pytest.mark.parametrize(
    ("text", "fix"),
    [
        ("1e-5", "write 1.0e-5"),
        ("1e5", "write 1.0e+5"),
        ("1.5e5", "write 1.5e+5"),
        ("2.e5", "write 2.0e+5"),
        ("'0.1'", "write 0.1 without quotes"),
        ("'3'", "write 3 without quotes"),
        ("tiny", "write a number"),
    ],
)
def test_a_number_that_yaml_reads_as_a_string(text, fix):
    value = yaml.safe_load(f"layer_norm_epsilon: {text}")["layer_norm_epsilon"]
    assert isinstance(value, str)
    problem = only(layer_norm_epsilon=value)
    assert problem.where == "c.yaml: model.layer_norm_epsilon"
    assert problem.fix == fix


def test_the_number_of_the_fix_is_read_as_a_number():
    for text in ("1e-5", "1e5", "1.5e5"):
        right = only(layer_norm_epsilon=text).fix.removeprefix("write ")
        assert yaml.safe_load(right) == float(text)


@pytest.mark.parametrize(
    ("params", "what", "fix"),
    [
        ({"hidden_size": "768"}, "'768' is a string, not a number", "write 768 without quotes"),
        ({"hidden_size": 768.0}, "768.0 is not written as a whole number", "write 768"),
        ({"hidden_size": 76.8}, "76.8 is not a whole number", "write a whole number"),
        ({"hidden_size": True}, "true is not a whole number", "write a whole number"),
        ({"hidden_size": None}, "null is not a whole number", "write a whole number"),
        ({"hidden_size": 0}, "0 is out of range", "write a whole number of at least 1"),
        ({"vocab_size": 512001}, "512001 is out of range", "write a whole number between 1 and 512000"),
        ({"dropout_rate": 1.5}, "1.5 is out of range", "write a number between 0 and 1"),
        ({"dropout_rate": [0.1]}, "[0.1] is not a number", "write a number"),
        ({"rope_theta": float("nan")}, "nan is not finite", "write a finite number"),
        ({"rope_theta": 0}, "0 is out of range", "write a number above 0"),
        (
            {"initializer": {"name": "normal", "std": -1}},
            "-1 is out of range",
            "write a number of at least 0",
        ),
        ({"use_ffn_bias": "yes"}, "'yes' is neither true nor false", "write true or false"),
        ({"use_ffn_bias": 1}, "1 is neither true nor false", "write true or false"),
        ({"nonlinearity": 3}, "3 is not a name", "use one of: gelu,"),
        ({"nonlinearity": "swigloo"}, "'swigloo' is not known. Did you mean 'swiglu'?", "use one of: gelu,"),
        ({"nonlinearity": "relu2"}, "'relu2' is not known. Did you mean 'relu'?", "squared_relu"),
        ({"norm_type": "group"}, "'group' is known to ModelZoo but not to the torch backend", "cszoo"),
        ({"norm_type": "batch"}, "'batch' is not known.", "use one of: layernorm, rmsnorm,"),
        ({"extra_attention_params": 8}, "8 is not a mapping", "known keys: num_kv_groups"),
        ({"initializer": 0.02}, "0.02 is not an initializer", "write a name"),
        ({"initializer": "kaiming"}, "'kaiming' is not known. Did you mean", "use one of: constant,"),
        ({"initializer": {}}, "the initializer null is not known.", "use one of: constant,"),
        ({"initializer": "constant"}, "val is missing", "set c.yaml: model.initializer.val"),
        (
            {"initializer": {"name": "truncated_normal", "std": 0.1, "a": 0.3}},
            "the bounds 0.3 and 0.2 leave nothing between them",
            "set a < b",
        ),
        ({"pos_scaling_extra_args": {"long_factor": 2}}, "2 is not a list", "write a list of numbers"),
        ({"pos_scaling_extra_args": {"long_factor": [1, 0]}}, "0 is out of range", "above 0"),
    ],
)
def test_a_wrong_value(params, what, fix):
    problem = only(**params)
    assert what in problem.what
    assert fix in problem.fix
    assert problem.where.startswith(f"c.yaml: model.{next(iter(params))}")


@pytest.mark.parametrize(
    "params",
    [
        {"attention_qk_norm_layer": "rmsnorm"},
        {"use_sink_token": True},
        {"fixed_sparse_attention": {"num_verts": 4}},
        {"memory_tokens": {"num_memory_tokens_per_chunk": 1}},
        {"moe": {"num_experts": 8}},
        {"lr_adjustment_groups": {"embedding": {"scale": 2.0}}},
        {"num_extra_input_vocab_tokens": 8},
        {"constant_pos_embedding": 1},
        {"cross_attention_layers": [1]},
        {"extra_ffn_params": {"static_dual_expert": True}},
        {"rel_distance_mode": "capped"},
    ],
)
def test_what_is_not_supported_is_not_ignored(params):
    problem = only(**params)
    assert "torch backend" in problem.what
    assert "cszoo" in problem.fix


@pytest.mark.parametrize(
    "params", [{"moe": {"num_experts": 1}}, {"memory_tokens": {}}, {"extra_ffn_params": {}}]
)
def test_what_is_not_supported_may_be_written_down_unused(params):
    assert not problems(**params)


# Keys


def test_unknown_keys_name_the_nearest():
    problem = only(hiden_size=768)
    assert problem.where == "c.yaml: model.hiden_size"
    assert problem.what == "the key is not known. Did you mean 'hidden_size'?"


def test_unknown_keys_inside_a_mapping():
    problem = only(**GROUPED, extra_attention_params={"num_kv_group": 2})
    assert "Did you mean 'num_kv_groups'?" in problem.what
    assert "Did you mean 'mean'?" in only(initializer={"name": "normal", "means": 0.0}).what


def test_keys_of_older_releases_say_where_they_are_now():
    assert "trainer.init.precision.fp16_type" in only(fp16_type="cbfloat16").fix
    assert "Lora" in only(lora_params={"r": 8}).fix


def test_both_names_of_one_option():
    assert not problems(embedding_dropout_rate=0.1)
    assert options({"name": "gpt2", "embedding_dropout_rate": 0.3}, "model").embd_pdrop == 0.3
    problem = only(embd_pdrop=0.1, embedding_dropout_rate=0.2)
    assert problem.what == "embd_pdrop and embedding_dropout_rate are two names of one option"


def test_model_names():
    assert "no name" in model_problems({}, "model")[0].what
    assert "Did you mean 'mistral'?" in model_problems({"name": "mixtral"}, "model")[0].what
    assert "not a mapping" in model_problems(None, "model")[0].what
    assert options({"name": "LlamaModel"}, "model").name == "llama"


def test_all_problems_at_once():
    found = problems(hiden_size=1, dropout_rate="1e-1", norm_type="batch", fp16_type="float16")
    assert len(found) == 4
    with pytest.raises(ProblemError) as caught:
        options({"hiden_size": 1, "dropout_rate": "0.1"}, "model")
    assert len(caught.value.problems) == 3


# Combinations


@pytest.mark.parametrize(
    ("params", "where", "what"),
    [
        ({"hidden_size": 100}, "hidden_size", "100 is not divisible by num_heads 12"),
        ({"attention_inner_dim": 100}, "attention_inner_dim", "100 is not divisible by num_heads 12"),
        (
            {"extra_attention_params": {"num_kv_groups": 4}},
            "extra_attention_params.num_kv_groups",
            "aiayn_attention has as many keys and values as heads",
        ),
        (
            {**GROUPED, "extra_attention_params": {"num_kv_groups": 5}},
            "extra_attention_params.num_kv_groups",
            "num_heads 12 is not divisible by num_kv_groups 5",
        ),
        ({**ROTARY, "rotary_dim": 33}, "rotary_dim", "33 is not a positive even number"),
        ({**ROTARY, "rotary_dim": 66}, "rotary_dim", "66 is more than a head has: 768 / 12"),
        (
            {"position_embedding_type": "rotary", "hidden_size": 48},
            "rotary_dim",
            "1 (a quarter of hidden_size / num_heads, as it is not set) is not a positive even number",
        ),
        (
            {**ROTARY, "position_embedding_offset": 2},
            "position_embedding_offset",
            "rotary positions take no offset",
        ),
        ({"pos_scaling_factor": 2.0}, "pos_scaling_factor", "learned positions cannot be scaled"),
        (
            {"position_embedding_type": "alibi", "pos_scaling_type": "yarn"},
            "pos_scaling_type",
            "alibi positions are scaled linearly only",
        ),
        ({"max_position_embeddings": 65536}, "max_position_embeddings", "65536 learned positions"),
        (
            {"position_embedding_type": "fixed", "hidden_size": 2, "num_heads": 1},
            "position_embedding_type",
            "fixed needs 4 dimensions",
        ),
        ({**ROTARY, "pos_scaling_type": "llama3"}, "pos_scaling_extra_args", "llama3 needs its arguments"),
        (
            {**ROTARY, "pos_scaling_type": "llama3", "pos_scaling_extra_args": {"high_freq_factor": 1}},
            "pos_scaling_extra_args.high_freq_factor",
            "equals low_freq_factor",
        ),
        (
            {**ROTARY, "pos_scaling_type": "llama3", "pos_scaling_extra_args": {"beta_fast": 1}},
            "pos_scaling_extra_args.beta_fast",
            "llama3 has no such argument",
        ),
        (
            {**ROTARY, "pos_scaling_type": "YaRN"},
            "pos_scaling_extra_args.original_max_position_embeddings",
            "yarn needs it",
        ),
        (
            {
                **ROTARY,
                "pos_scaling_type": "longrope",
                "pos_scaling_extra_args": {"original_max_position_embeddings": 512, "long_factor": [1.0]},
            },
            "pos_scaling_extra_args.long_factor",
            "long_factor has 1 factors for 32 rotated pairs",
        ),
        (
            {"sliding_window_every_other_decoder_layer": True},
            "sliding_window_every_other_decoder_layer",
            "there is no window",
        ),
        (
            {"sliding_window_every_other_decoder_layer_pattern": "sliding_window_first"},
            "sliding_window_every_other_decoder_layer_pattern",
            "every layer has the same window",
        ),
        ({"mup_base_hidden_size": 256}, "mup_base_filter_size", "only mup_base_hidden_size is set"),
        ({"mup_base_filter_size": 256}, "mup_base_hidden_size", "only mup_base_filter_size is set"),
        ({**MUP, "output_logits_scale": 0.5}, "output_logits_scale", "is the muP of version 2.2"),
        ({**MUP, "initializer": "xavier_normal"}, "initializer", "muP cannot scale xavier_normal"),
    ],
)
def test_a_wrong_combination(params, where, what):
    problem = only(**params)
    assert problem.where == f"c.yaml: model.{where}"
    assert what in problem.what
    assert problem.fix


def test_the_fix_of_a_size_is_right():
    assert only(hidden_size=100).fix == "set 96 or 108"
    assert not problems(hidden_size=96)
    assert only(hidden_size=5).fix == "set 12"


# Effect


@pytest.mark.parametrize(
    ("params", "names"),
    [
        ({}, []),
        ({"attention_kernel": "fast_attention", "top_k": 3}, ["attention_kernel", "top_k"]),
        ({"attention_sink_tokens": 512}, ["attention_sink_tokens"]),
        ({"rotary_dim": 64, "rope_theta": 10000}, ["rotary_dim"]),
        ({**ROTARY, "num_relative_attention_buckets": 8}, ["num_relative_attention_buckets"]),
        ({"loss_weight": 0.5}, ["loss_weight"]),
        ({"loss_weight": 0.5, "loss_scaling": "batch_size"}, []),
        ({"output_logits_alpha": 2.0}, ["output_logits_alpha"]),
        ({**MUP, "output_logits_alpha": 2.0}, []),
        ({"scale_qk_dot_by_d": True, "attention_type": "dot_product"}, ["scale_qk_dot_by_d"]),
        ({**ROTARY, "pos_scaling_extra_args": {"beta_fast": 1}}, ["pos_scaling_extra_args"]),
    ],
)
def test_settings_without_effect_are_listed(params, names):
    assert not problems(**params)
    found = options_without_effect({"name": "gpt2", **params})
    assert [name for name, _ in found] == names
    assert all(reason for _, reason in found)


def test_every_option_says_what_it_takes():
    assert len(OPTIONS) > 80
    for option in OPTIONS.values():
        default_is_right = option.default is None or not list(option.kind.problems("", option.default))
        assert default_is_right, option.name


def test_reading_options_needs_no_torch():
    code = (
        "import sys; from cerebras_utils.fallback.models.rules import model_problems;"
        "model_problems({'name': 'gpt2', 'initializer': 'normal'}, ''); print('torch' in sys.modules)"
    )
    ran = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert ran.stdout.strip() == "False"
