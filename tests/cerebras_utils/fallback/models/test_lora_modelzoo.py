"""LoRA's layers, names and first values against ModelZoo's own, in one process."""

import contextlib
import json
import warnings

import pytest
import torch
from torch import nn

from cerebras_utils.fallback.models.build import build_model
from cerebras_utils.fallback.models.draws import OwnGenerators
from cerebras_utils.fallback.models.vendor_classes import vendor_class
from cerebras_utils.lora_callbacks import Lora, SparseLora
from pruning.lora.targets import layers_of

from .conftest import FOLDER

pytestmark = [pytest.mark.cszoo, pytest.mark.filterwarnings("ignore")]
VARIANTS = json.loads((FOLDER / "recorded.json").read_text())["variants"]
LAYERS = {"r": 4, "alpha": 16, "dropout": 0.0, "target_modules": ["TransformerDecoderLayer", "Linear"]}
SOME = [LAYERS, {"r": 2, "alpha": 8, "target_modules": ["Embedding"]}]


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


def made(zoo, params):
    model, config = zoo[params["name"]]
    return model(config(**params))


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_classes_on_the_path_to_every_layer(zoo, variant):
    params = VARIANTS[variant]["params"]
    theirs = {layer.name: layer.path for layer in layers_of(made(zoo, params))}
    ours = {layer.name: layer.path for layer in layers_of(build_model(params), vendor_class)}
    assert ours == theirs


@pytest.mark.parametrize("lora_params", [LAYERS, SOME, {"r": 3}], ids=["layers", "groups", "everything"])
@pytest.mark.parametrize("own_generators", [False, True], ids=["plain", "as the trainer"])
def test_names_order_first_values_and_what_is_trained(zoo, own_generators, lora_params):
    import cerebras.pytorch as cstorch
    from cerebras.modelzoo.common.utils.model.lora import make_model_lora

    params = next(v["params"] for v in VARIANTS.values() if v["params"]["name"] == "gpt2")
    backend = cstorch.current_backend(raise_exception=False, raise_warning=False) or cstorch.backend("CPU")
    torch.manual_seed(7)
    with backend.device if own_generators else contextlib.nullcontext():
        theirs = make_model_lora(made(zoo, params), lora_params)
    after = torch.get_rng_state()
    torch.manual_seed(7)
    with OwnGenerators() if own_generators else contextlib.nullcontext():
        ours = build_model(params)
        Lora(lora_params).change_model(ours)
    assert torch.equal(torch.get_rng_state(), after)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    trained = [[(n, p.requires_grad) for n, p in model.named_parameters()] for model in (ours, theirs)]
    assert trained[0] == trained[1]
    expected = theirs.state_dict()
    assert not [name for name, tensor in ours.state_dict().items() if not torch.equal(tensor, expected[name])]


@pytest.mark.parametrize("targets", [["Linear"], None], ids=["linear", "everything"])
def test_logits_and_gradients(zoo, targets):
    from cerebras.modelzoo.common.utils.model.lora import make_model_lora

    params = next(v["params"] for v in VARIANTS.values() if v["params"]["name"] == "gpt2")
    lora_params = {"r": 3, "alpha": 30, "target_modules": targets}
    theirs = make_model_lora(made(zoo, params), lora_params).eval()
    ours, masked = build_model(params).eval(), made(zoo, params).eval()
    Lora(lora_params).change_model(ours)
    for name, parameter in theirs.named_parameters():
        if "lora_" in name:
            nn.init.normal_(parameter, std=0.3)
    ours.load_state_dict(theirs.state_dict())
    ids = torch.randint(params["vocab_size"], (2, 8), dtype=torch.int32)
    expected, found = theirs.model(input_ids=ids), ours.model(ids)
    assert (found - expected).abs().max() <= 1e-6
    for logits in (expected, found):
        logits.square().mean().backward()
    gradients = dict(theirs.named_parameters())
    for name, parameter in ours.named_parameters():
        if "lora_" in name:
            torch.testing.assert_close(parameter.grad, gradients[name].grad, rtol=1e-4, atol=1e-6)
    SparseLora({**lora_params, "sparsity_mode": "sparse_to_dense"}).change_model(
        masked
    )  # on ModelZoo's layers
    masked.load_state_dict(theirs.state_dict())
    assert (masked.model(input_ids=ids) - expected).abs().max() <= 1e-6
