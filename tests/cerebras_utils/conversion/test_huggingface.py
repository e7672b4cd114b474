"""Translation to HuggingFace and back: bit for bit both ways; logits against transformers' own models."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from cerebras_utils.conversion.merge import run
from cerebras_utils.conversion.request import Request
from cerebras_utils.fallback.mdl_reader import load_mdl
from cerebras_utils.fallback.mdl_writer import save_mdl
from pruning.mask_ops import load_mask, save_mask
from pruning.problems import ProblemError
from tests.cerebras_utils.conversion.models import SECTIONS, built, logits


def saved(path: Path, section: dict[str, Any], model: torch.nn.Module) -> Path:
    params = {"trainer": {"init": {"model": section}}}
    save_mdl(path, {"model": dict(model.state_dict()), "__metadata__": [{"params": params}]})
    return path


def random_masks(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    torch.manual_seed(3)
    return {
        name: torch.rand(weight.shape) > 0.5
        for name, weight in model.named_parameters()
        if weight.ndim == 2 and ".layers." in name
    }


@pytest.mark.parametrize("kind", SECTIONS)
def test_there_and_back_is_the_same_to_the_bit(kind: str, tmp_path: Path) -> None:
    model = built(SECTIONS[kind])
    ours = saved(tmp_path / "ours.mdl", SECTIONS[kind], model)
    run(Request(checkpoint=ours, out=tmp_path / "hf", layout="to_hf"))
    run(Request(checkpoint=tmp_path / "hf", out=tmp_path / "back.mdl", layout="from_hf"))
    back = load_mdl(tmp_path / "back.mdl")["model"]
    for name, weight in model.state_dict().items():
        assert torch.equal(back[name], weight), name
    added = set(back) - set(model.state_dict())
    assert all(name.endswith(".bias") and not back[name].any() for name in added), added


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_masks_are_translated_like_their_weights(kind: str, tmp_path: Path) -> None:
    model = built(SECTIONS[kind])
    masks = random_masks(model)
    save_mask(masks, tmp_path / "masks.safetensors")
    ours = saved(tmp_path / "ours.mdl", SECTIONS[kind], model)
    request = Request(
        checkpoint=ours, out=tmp_path / "hf", layout="to_hf", masks=tmp_path / "masks.safetensors"
    )
    receipt = run(request)
    theirs = load_file(tmp_path / "hf" / "model.safetensors")
    moved, _ = load_mask(tmp_path / "hf.masks.safetensors")
    for name, mask in moved.items():
        assert torch.equal(theirs[name] != 0, mask), name
    assert sum(int(mask.sum()) for mask in moved.values()) == sum(int(m.sum()) for m in masks.values())
    assert receipt["global"]["resurrected"] == 0
    back = Request(
        checkpoint=tmp_path / "hf",
        out=tmp_path / "back.safetensors",
        layout="from_hf",
        masks=tmp_path / "hf.masks.safetensors",
    )
    run(back)
    returned, _ = load_mask(back.files["masks"])
    assert returned.keys() == masks.keys()
    assert all(torch.equal(returned[name], mask) for name, mask in masks.items())


@pytest.mark.parametrize("kind", SECTIONS)
def test_logits_are_those_of_transformers(kind: str, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers", reason="transformers is not installed here")
    model = built(SECTIONS[kind])
    ours = saved(tmp_path / "ours.mdl", SECTIONS[kind], model)
    run(Request(checkpoint=ours, out=tmp_path / "hf", layout="to_hf"))
    theirs, about = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path / "hf", output_loading_info=True, attn_implementation="eager"
    )
    assert not about["missing_keys"], about
    assert not about["unexpected_keys"], about
    ids = torch.randint(0, 61, (3, 12), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = theirs.eval()(ids).logits
    assert (logits(model, ids) - expected).abs().max() < 1e-4


@pytest.mark.parametrize(
    ("kind", "change", "key"),
    [
        ("gpt2", {"nonlinearity": "squared_gelu"}, "nonlinearity"),
        ("gpt2", {"embeddings_scale": 2.0}, "embeddings_scale"),
        ("llama", {"rotary_dim": 2}, "rotary_dim"),
        ("llama", {"attention_sliding_window_length": 4}, "attention_sliding_window_length"),
        ("mistral", {"use_ffn_bias": True}, "use_ffn_bias"),
    ],
)
def test_what_huggingface_cannot_say_is_refused(
    kind: str, change: dict[str, Any], key: str, tmp_path: Path
) -> None:
    section = SECTIONS[kind] | change
    ours = saved(tmp_path / "ours.mdl", section, built(section))
    with pytest.raises(ProblemError, match=rf"model\.{key}"):
        run(Request(checkpoint=ours, out=tmp_path / "hf", layout="to_hf"))
    assert not (tmp_path / "hf").exists()


def test_missing_and_foreign_tensors_are_all_named(tmp_path: Path) -> None:
    state = dict(built(SECTIONS["gpt2"]).state_dict())
    state.pop("model.transformer_decoder.layers.0.norm1.weight")
    state["model.adapter.weight"] = torch.zeros(2, 2)
    params = {"trainer": {"init": {"model": SECTIONS["gpt2"]}}}
    save_mdl(tmp_path / "a.mdl", {"model": state, "__metadata__": [{"params": params}]})
    with pytest.raises(ProblemError, match=r"(?s)layers\.0\.norm1\.weight.*model\.adapter\.weight"):
        run(Request(checkpoint=tmp_path / "a.mdl", out=tmp_path / "hf", layout="to_hf"))


def test_without_a_config_it_asks_for_one(tmp_path: Path) -> None:
    save_mdl(tmp_path / "a.mdl", {"model": dict(built(SECTIONS["gpt2"]).state_dict())})
    with pytest.raises(ProblemError, match="--config"):
        run(Request(checkpoint=tmp_path / "a.mdl", out=tmp_path / "hf", layout="to_hf"))


def test_an_unknown_kind_of_model_is_refused(tmp_path: Path) -> None:
    model = built(SECTIONS["gpt2"])
    run(
        Request(
            checkpoint=saved(tmp_path / "a.mdl", SECTIONS["gpt2"], model), out=tmp_path / "hf", layout="to_hf"
        )
    )
    config = tmp_path / "hf" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"model_type": "bloom"}))
    with pytest.raises(ProblemError, match="bloom"):
        run(Request(checkpoint=tmp_path / "hf", out=tmp_path / "b.mdl", layout="from_hf"))
