"""The ``model:`` sections of real configurations."""

from pathlib import Path

import pytest
import yaml

from cerebras_utils.fallback.models.options import FAMILIES
from cerebras_utils.fallback.models.rules import model_problems, options_without_effect

ROOT = Path(__file__).parents[4]
CONFIGS = ROOT.parent / "shared/cszoo_configs/nlp"
UNREAD = {"params_llama3p1_8b_msl_32k_swa_8k_sink_512.yaml": ["attention_sink_tokens"]}


def sections(folder):
    files = sorted(file for family in FAMILIES for file in (folder / family).rglob("*.yaml"))
    documents = [(file, yaml.safe_load(file.read_text())) for file in files]
    return [(file, doc["trainer"]["init"]["model"]) for file, doc in documents if "trainer" in doc]


@pytest.mark.skipif(not CONFIGS.is_dir(), reason=f"the real configurations are not at {CONFIGS}")
def test_real_configurations_are_accepted():
    found = sections(CONFIGS)
    assert len(found) == 40
    for file, model in found:
        assert not model_problems(model, file.name)
        unread = [name for name, _ in options_without_effect(model)]
        assert unread == UNREAD.get(file.name, []), file


@pytest.mark.cszoo
def test_the_configurations_of_modelzoo_are_accepted():
    modelzoo = pytest.importorskip("cerebras.modelzoo", reason="needs ModelZoo")
    found = sections(Path(next(iter(modelzoo.__path__))) / "models/nlp")
    assert {model["name"] for _, model in found} >= {"gpt3", "llama", "mistral"}
    assert {file.name: model_problems(model, "") for file, model in found if model_problems(model, "")} == {}
