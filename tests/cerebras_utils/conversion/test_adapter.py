"""The adapter, loaded by peft on the model of transformers: the logits of the dense merge."""

from pathlib import Path

import pytest
import torch

from cerebras_utils.conversion.merge import run
from cerebras_utils.conversion.request import Request
from pruning.problems import ProblemError
from tests.cerebras_utils.conversion.models import SECTIONS, built, logits
from tests.cerebras_utils.conversion.test_merge import lora_run, merged


@pytest.mark.parametrize("kind", ["gpt2", "llama", "mistral"])
def test_peft_computes_what_the_dense_merge_computes(kind: str, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers", reason="transformers is not installed here")
    peft = pytest.importorskip("peft", reason="peft is not installed here")
    lora_run(tmp_path / "run.mdl", kind=kind)
    for layout, out in (("adapter", "adapter"), ("same", "dense.safetensors")):
        run(Request(checkpoint=tmp_path / "run.mdl", out=tmp_path / out, layout=layout, keep=False))
    base = built(SECTIONS[kind])
    state = {"model": dict(base.state_dict())}
    torch.save(state, tmp_path / "base.pt")
    config = tmp_path / "c.yaml"
    config.write_text(_yaml(kind))
    run(Request(checkpoint=tmp_path / "base.pt", out=tmp_path / "hf", layout="to_hf", config=config))
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "hf", attn_implementation="eager")
    adapted = peft.PeftModel.from_pretrained(theirs, tmp_path / "adapter").eval()
    base.load_state_dict(merged(tmp_path / "dense.safetensors"))
    ids = torch.randint(0, 61, (2, 12), generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        expected = adapted(ids).logits
    ours = logits(base, ids)
    assert (ours - expected).abs().max() < 1e-4 * max(1.0, float(expected.abs().max()))


def _yaml(kind: str) -> str:
    import yaml

    return yaml.safe_dump({"trainer": {"init": {"model": SECTIONS[kind]}}})


def test_a_masked_update_is_no_adapter(tmp_path: Path) -> None:
    lora_run(tmp_path / "run.mdl", callback="SparseLora")
    with pytest.raises(ProblemError, match="was masked while it was trained"):
        run(Request(checkpoint=tmp_path / "run.mdl", out=tmp_path / "adapter", layout="adapter"))
