"""Merge LoRA into the weights it was trained on; translate between ModelZoo and HuggingFace.

What headers can tell is checked before anything is written. What only the values can tell (weights under the
masks of a trained checkpoint) ends the work while the file has no name yet.
"""

import json
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from cerebras_utils.conversion.adapter import adapter
from cerebras_utils.conversion.factors import Factors, Recorded, factors_in, recorded
from cerebras_utils.conversion.huggingface import from_huggingface, to_huggingface
from cerebras_utils.conversion.layout import RearrangedSource, Rule
from cerebras_utils.conversion.masks import FileMasks, Masks, StoredMasks, refuse_other_base, write_rearranged
from cerebras_utils.conversion.merged import MergedSource
from cerebras_utils.conversion.models import Model, of_huggingface, of_modelzoo
from cerebras_utils.conversion.request import Request
from cerebras_utils.conversion.writing import check_written, write
from pruning.atomic import Part
from pruning.checkpoint.memory import MemorySource
from pruning.checkpoint.open import open_checkpoint
from pruning.checkpoint.source import TensorSource
from pruning.lora.merge import MergeCost, report
from pruning.masks.receipt import this_tool
from pruning.problems import fail

Progress = Callable[[int], None]


@dataclass(frozen=True)
class Inputs:
    """Everything that is open, found and checked."""

    checkpoint: TensorSource
    weights: TensorSource  # the checkpoint itself, or the base where it holds the factors alone
    factors: Mapping[str, Factors]
    masks: Masks
    model: Model | None  # where names are translated


def run(request: Request, *, dry: bool = False, progress: Progress = lambda nbytes: None) -> dict[str, Any]:
    """The receipt; with ``dry``, as much of it as headers tell."""
    request.check()
    with ExitStack() as stack:
        inputs = _open(request, stack)
        if dry:
            return _planned(request, inputs)
        done = _write_adapter if request.layout == "adapter" else _write_weights
        receipt = {**_planned(request, inputs), **done(request, inputs, progress)}
    _write_text(request.files["receipt"], json.dumps(receipt, indent=1) + "\n")
    return receipt


def _open(request: Request, stack: ExitStack) -> Inputs:
    checkpoint = stack.enter_context(open_checkpoint(request.checkpoint))
    base = None if request.base is None else stack.enter_context(open_checkpoint(request.base))
    where = str(request.checkpoint)
    said = recorded(request.checkpoint) if checkpoint.kind == "mdl" else Recorded()
    beside = {} if base is None else base.infos
    factors = factors_in(checkpoint.infos, where, said=said, alphas=request.alphas, base=beside)
    if not factors and request.layout in ("same", "adapter"):
        what = "holds no LoRA factors (lora_A, lora_B): there is nothing to merge, or it was merged already"
        raise fail(where, what, "name the checkpoint of a LoRA run")
    gated = [name for name, pair in factors.items() if pair.trained != "dense"]
    if gated and (not request.keep or request.layout == "adapter"):
        what = (
            f"the update of {gated[0]} was masked while it was trained: without that it is another function"
        )
        raise fail(where, what, "merge it with --keep-sparsity")
    whole = base is None or all(name in checkpoint.infos for name in factors)
    weights = checkpoint if whole or base is None else base
    masks = FileMasks(request.masks, weights.infos) if request.masks else StoredMasks(weights)
    unmasked = [name for name in gated if factors[name].trained == "masked" and name not in masks.names]
    if unmasked:
        what = f"the update of {unmasked[0]} was masked while it was trained, and its mask is not here"
        raise fail(where, what, "give the masks of the run: --masks FILE")
    if base is not None and whole:
        refuse_other_base(checkpoint, base, factors, masks)
    model = None
    if request.layout == "from_hf":
        model = of_huggingface(request.checkpoint, request.config)
    elif request.layout != "same":
        model = of_modelzoo(request.checkpoint, request.config, said.params)
    return Inputs(checkpoint, weights, factors, masks, model)


def _write_weights(request: Request, inputs: Inputs, progress: Progress) -> dict[str, Any]:
    costs: dict[str, MergeCost] = {}

    def told(name: str, cost: MergeCost, hidden: int) -> None:
        costs[name] = costs.get(name, MergeCost()) + cost
        if hidden and inputs.factors and inputs.weights is inputs.checkpoint:
            what = f"{hidden:,} trained weights, at least, are not zero under the mask"
            raise fail(f"{request.masks}: {name}", what, "give the masks of the run")

    merged = MergedSource(
        inputs.weights,
        inputs.checkpoint,
        inputs.factors,
        masks=inputs.masks,
        keep=request.keep,
        told=told,
    )
    rules = _rules(request, inputs, merged)
    files = request.files
    source = merged if rules is None else RearrangedSource(merged, rules)
    metadata = {"format": "pt"} if request.layout == "to_hf" else {}
    zeros = write(files["weights"], source, metadata=metadata, progress=progress)
    check_written(files["weights"], zeros, progress)
    if rules is not None and inputs.model is not None:
        if inputs.masks.names:
            write_rearranged(files["masks"], inputs.masks, merged.infos, rules)
        config = json.dumps(inputs.model.config, indent=1) + "\n"
        if request.layout == "from_hf":
            config = yaml.safe_dump({"model": dict(inputs.model.section)}, sort_keys=False)
        _write_text(files["config"], config)
    return {**report(dict(sorted(costs.items()))), "zeros": sum(zeros.values()), "read_back": "equal"}


def _rules(request: Request, inputs: Inputs, merged: TensorSource) -> Mapping[str, Rule] | None:
    if inputs.model is None:
        return None
    translate = from_huggingface if request.layout == "from_hf" else to_huggingface
    return translate(inputs.model.options, merged.infos, merged.where)


def _write_adapter(request: Request, inputs: Inputs, progress: Progress) -> dict[str, Any]:
    assert inputs.model is not None
    tensors, config = adapter(
        inputs.checkpoint, inputs.factors, inputs.model.options, inputs.checkpoint.where
    )
    write(request.files["weights"], MemorySource(tensors), metadata={"format": "pt"}, progress=progress)
    _write_text(request.files["config"], json.dumps(config, indent=1) + "\n")
    return {}


def _planned(request: Request, inputs: Inputs) -> dict[str, Any]:
    """What is known from headers."""
    files = request.files
    if not inputs.masks.names:
        files.pop("masks", None)
    return {
        "tool": this_tool(),
        "layout": request.layout,
        "mode": "keep_sparsity" if request.keep else "dense",
        "checkpoint": {"path": str(request.checkpoint), "fingerprint": inputs.checkpoint.fingerprint()},
        "base": None if request.base is None else str(request.base),
        "masks": None if request.masks is None else str(request.masks),
        "masked_weights": len(inputs.masks.names),
        "factors": {
            name: {"rank": pair.rank, "scaling": pair.scaling, "trained": pair.trained}
            for name, pair in inputs.factors.items()
        },
        "files": {kind: str(path) for kind, path in files.items()},
    }


def _write_text(path: Path, text: str) -> None:
    with Part(path) as part:
        part.write(text.encode())
