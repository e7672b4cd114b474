"""All checks together: on configs of any form, on real ones, and as ModelZoo's schema sees them."""

import importlib.util
import re
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from cerebras_utils.checks import modelzoo
from cerebras_utils.checks.config import for_cszoo
from cerebras_utils.checks.registry import CHECKS, NotMade, check
from cerebras_utils.checks.weights import FAMILIES, weights_of_section
from cerebras_utils.doctor import entries, examine
from cerebras_utils.fallback.models.build import build_model

ROOT = Path(__file__).parents[2]
CONFIGS = ROOT.parent / "shared/cszoo_configs"
BASE = ROOT / "configs/gpt2_1m.yaml"
JUNK = (None, "", "x", [], {}, [None], {"x": None}, 0, -1, 0.5, True, float("nan"), [{"a": 1, "b": 2}])


def places(value, path=()):
    """Every place in a config, as the keys that lead to it."""
    if path:
        yield path
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, below in inner:
        yield from places(below, (*path, key))


def rich():
    """A config with every section that a check looks into."""
    config = yaml.safe_load(BASE.read_text())
    init = config["trainer"]["init"]
    init["backend"] = {"backend_type": "CSX", "cluster_config": {"mount_dirs": ["/"], "num_csx": 2}}
    init["sparsity"] = [{"sparsity": {"type": "exp", "init": 0.0, "gamma": 1.0}, "param_filter": ["*q*"]}]
    init["autorestart"] = {"max_num_restarts": 1, "min_num_csx": 1}
    init["callbacks"] = [
        {"SparseMaskCallback": {"mask_path": "m.safetensors", "apply_every_step": True}},
        {"Lora": {"lora_params": [{"r": 2, "alpha": 4, "merge_weights": True}]}},
        {"KeepNCheckpoints": {"n": 2}},
    ]
    config["trainer"]["fit"]["ckpt_path"] = "base.mdl"
    return config


RICH = rich()


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_no_value_anywhere_makes_it_crash(tmp_path_factory, data):
    config = rich()
    for _ in range(data.draw(st.integers(1, 3), label="changes")):
        path = data.draw(st.sampled_from(list(places(config))), label="place")
        holder = config
        for key in path[:-1]:
            holder = holder[key]
        holder[path[-1]] = data.draw(st.sampled_from(JUNK), label="value")
    file = tmp_path_factory.mktemp("junk") / "config.yaml"
    file.write_text(yaml.safe_dump(config))
    report = examine(file, modelzoo=False)
    assert len(report.not_made) + len(report.made) == len(entries())


def test_what_is_no_config_is_a_problem(tmp_path):
    (tmp_path / "c.yaml").write_text("trainer: {init: [")
    report = examine(tmp_path / "c.yaml", modelzoo=False)
    assert "is not YAML" in report.problems[0][1].what
    assert len(report.not_made) == len(entries())
    assert not report.made


def test_a_text_for_a_number_is_said_once(tmp_path):
    text = BASE.read_text().replace("end_learning_rate: 0.0002", "end_learning_rate: 2e-4")
    (tmp_path / "c.yaml").write_text(text)
    report = examine(tmp_path / "c.yaml", modelzoo=False)
    said = [problem.what for _, problem in report.problems if "2e-4" in f"{problem.what} {problem.fix}"]
    assert said == ["2e-4 is text in YAML 1.1: a number with an exponent has a point and a sign"]


def test_what_stands_in_the_way_of_the_fallback_alone_is_no_problem(tmp_path):
    """Each of the parts that are asked has something that cszoo runs and plain PyTorch does not."""
    config = yaml.safe_load(BASE.read_text())
    init = config["trainer"]["init"]
    init["callbacks"] = [{"SkipSamples": {"n": 3}}]
    init["model"]["moe_params"] = {"num_experts": 4}
    init["optimizer"] = {"Lion": {}}
    init["schedulers"] = [{"StepLR": {"gamma": 0.1}}]
    init["checkpoint"]["checkpoint_root"] = "s3://bucket/run"
    config["trainer"]["fit"]["train_dataloader"]["use_vsl"] = True
    config["trainer"]["fit"]["val_dataloader"] = {"data_processor": "DummyDataProcessor", "batch_size": 1}
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(config))
    report = examine(tmp_path / "c.yaml", modelzoo=False)
    assert {name for name, _ in report.problems} == {"paths.exist"}


def test_an_unknown_key_is_one_for_cszoo_too():
    from cerebras_utils.fallback.models.rules import model_problems

    assert for_cszoo(model_problems({"name": "gpt2", "hiden_size": 8}, "model"))


@pytest.mark.parametrize("name", FAMILIES)
def test_weights_from_the_section_are_those_of_the_model(name):
    model = {"name": name, "vocab_size": 30, "hidden_size": 16, "num_hidden_layers": 3, "num_heads": 4}
    model |= {"filter_size": 24, "share_embedding_weights": name == "gpt2"}
    if name in ("llama", "mistral"):
        more = {"attention_module": "multiquery_attention", "extra_attention_params": {"num_kv_groups": 2}}
        model |= more | {
            "nonlinearity": "swiglu",
            "norm_type": "rmsnorm",
            "position_embedding_type": "rotary",
        }
        model["rotary_dim"] = 4
    expected = {key: tuple(tensor.shape) for key, tensor in build_model(model).state_dict().items()}
    assert weights_of_section(model, "model") == expected


def test_other_models_are_not_guessed_at():
    assert weights_of_section({"name": "falcon"}, "model") is None
    assert weights_of_section({"name": "gpt2", "hidden_size": 7, "num_heads": 2}, "model") is None


def test_a_check_is_registered_once_and_describes_itself():
    with pytest.raises(ValueError, match="registered twice"):
        check("config")(CHECKS["config.keys"].run)
    with pytest.raises(AssertionError, match="has no docstring"):
        check("config")(lambda case: iter(()))


def test_every_check_has_its_line_in_the_documents():
    text = (ROOT / "docs/doctor.md").read_text()
    named = re.findall(r"^\| `(\w+\.\w+)` \|", text, flags=re.MULTILINE)
    assert named == [entry.name for entry in entries()]


@pytest.mark.skipif(not CONFIGS.is_dir(), reason=f"the real configurations are not at {CONFIGS}")
def test_real_configs():
    """What is found beside paths that are not here and disks that are small is known, file by file."""
    files = sorted(CONFIGS.rglob("*.yaml"))
    assert len(files) == 70
    found = {}
    for file in files:
        report = examine(file, modelzoo=False)
        beside = [name for name, _ in report.problems if name not in ("paths.exist", "loop.disk")]
        if beside:
            found[file.name] = sorted(beside)
    assert found == {
        "params.yaml": ["config.keys"],  # of the form before trainers
        "params_gptj_6B_TRC2.yaml": ["config.keys"] * 4,  # 1e-05
        "params_llama3p1_405b_msl_128k.yaml": ["schedule.cut_short"],  # 561 steps of a decay over 4678
        "params_llama3p1_70b_msl_128k.yaml": ["schedule.warm_up"],  # 16000 steps of warm-up in a run of 660
    }


# ModelZoo's own schema


def test_without_modelzoo_it_is_said_that_its_schema_was_not_asked(monkeypatch):
    monkeypatch.setattr(modelzoo, "is_installed", lambda: False)
    report = examine(BASE)
    assert "ModelZoo is not importable here" in dict(report.not_made)["config.schema"]


def test_a_modelzoo_that_does_not_import_is_said(monkeypatch, tmp_path):
    monkeypatch.setattr(modelzoo, "is_installed", lambda: True)
    monkeypatch.setattr(modelzoo.sys, "executable", "/bin/false")
    with pytest.raises(NotMade, match="its import fails"):
        modelzoo.ask(str(tmp_path / "another.yaml"))


ANSWER = modelzoo.Answer(
    errors=(
        {"loc": [0, "init", "model", "config", "hidden_size"], "msg": "should be an integer"},
        {"loc": [0, "fit", "val_dataloader", 0, "Name", "config", "batch_size", "int"], "msg": "no int"},
        {"loc": [0, "fit", "val_dataloader", 0, "Name", "config", "batch_size", "list"], "msg": "no list"},
        {
            "loc": [0, "fit", "train_dataloader", "data_dir", "str"],
            "msg": "Value error, Path x does not exist.",
        },
        {"loc": [0, "fit", "train_dataloader", "data_dir", "list"], "msg": "no list"},
        {"loc": [], "msg": "all of it"},
    ),
    known=("SparseLora",),
)


def test_what_the_schema_says_is_placed_in_the_file(monkeypatch):
    monkeypatch.setattr(modelzoo, "ask", lambda path: ANSWER)
    report = examine(BASE)
    said = [(p.where.split(": ")[1], p.what) for name, p in report.problems if name == "config.schema"]
    assert said == [
        ("trainer.init.model.hidden_size", "ModelZoo's schema: should be an integer"),
        ("trainer.fit.val_dataloader.batch_size", "ModelZoo's schema: no int; or: no list"),
        ("trainer", "ModelZoo's schema: all of it"),
    ]


def test_callbacks_that_a_stock_cszoo_does_not_know(monkeypatch, tmp_path):
    config = yaml.safe_load(BASE.read_text())
    config["trainer"]["init"]["callbacks"] = [
        {"sparsemaskcallback": {"mask_path": "m.safetensors"}},
        {"SparseLora": {"lora_params": {"r": 2}}},
    ]
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(config))
    monkeypatch.setattr("cerebras_utils.checks.config.ask", lambda path: ANSWER)
    monkeypatch.setattr("cerebras_utils.checks.config.schema_problems", lambda document: iter(()))
    report = examine(tmp_path / "c.yaml")
    (said,) = [p for name, p in report.warnings if name == "config.registered"]
    assert said.what == "a stock cszoo does not know SparseMaskCallback, and would refuse the config"
    assert "wafersparse install-hook" in said.fix


@pytest.mark.cszoo
def test_the_schema_is_asked_where_modelzoo_is(tmp_path):
    if importlib.util.find_spec("cerebras") is None or not modelzoo.is_installed():
        pytest.skip("needs ModelZoo")
    config = yaml.safe_load(BASE.read_text())
    init = config["trainer"]["init"]
    init["model"]["hidden_size"] = "wide"
    init["callbacks"] = [{"SparseMaskCallback": {"mask_path": "m.safetensors"}}]
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(config))
    report = examine(tmp_path / "c.yaml")
    said = [problem for name, problem in report.problems if name == "config.schema"]
    assert any("trainer.init.model.hidden_size" in problem.where for problem in said)
    assert not any("SparseMaskCallback" in f"{problem.where} {problem.what}" for problem in said)
    assert "config.registered" in report.made
