"""Step time and memory of LoRA: plain, beside sparse weights, masked in the forward pass, multiplicative.

    python -m tests.benchmarks.lora [--hidden 512 --tokens 512 --layers 8 --rank 8 --repeat 15] [--gpu]

One layer stack, one batch, AdamW on the factors; the kinds take turns, step by step, so that what slows the
machine down slows all of them. ``kept`` is what a forward pass holds for the backward pass beyond the
parameters: on a CPU the bytes of saved tensors, each storage once. The row ``weights`` trains the weights
themselves. ``sparse_to_sparse, plain expression`` is what the recomputation of the update saves.
"""

import argparse
import json
import statistics
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from pruning.lora import layers as lora_layers
from pruning.sparse_lora import SparseLoRAConfig, apply_sparse_lora

KINDS = ("weights", "plain LoRA", "sparse_to_dense", "sparse_to_sparse", "multiplicative")
PLAIN_EXPRESSION = "sparse_to_sparse, plain expression"


def measure(
    *, hidden: int, tokens: int, layers: int, rank: int, repeat: int, device: str = "cpu", seed: int = 0
) -> dict[str, dict[str, Any]]:
    """Kind → median step in ms, its spread, its ratio to plain LoRA, bytes kept for the backward pass."""
    steps = {kind: _stepper(kind, hidden, layers, rank, seed, device) for kind in (*KINDS, PLAIN_EXPRESSION)}
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(tokens, hidden, generator=generator).to(device)
    found: dict[str, list[float]] = {kind: [] for kind in steps}
    kept = {kind: _kept(kind, model, x) for kind, (model, _) in steps.items()}
    for turn in range(repeat + 2):
        for kind, (model, optimizer) in steps.items():
            with _expression(kind):
                begun = time.perf_counter()
                _step(model, optimizer, x)
                if turn >= 2:  # the first two fill caches, and make the optimizer's state
                    found[kind].append(1e3 * (time.perf_counter() - begun))
    plain = found["plain LoRA"]
    return {
        kind: {
            "ms": statistics.median(times),
            "from": min(times),
            "to": max(times),
            "to plain LoRA": statistics.median(a / b for a, b in zip(times, plain, strict=True)),
            "kept": kept[kind],
        }
        for kind, times in found.items()
    }


def table(found: Mapping[str, Mapping[str, Any]]) -> str:
    lines = ["| kind | step, ms | to plain LoRA | kept for backward, MB |", "|---|---|---|---|"]
    for kind, row in found.items():
        spread = f"{row['ms']:.1f} ({row['from']:.1f}–{row['to']:.1f})"
        lines.append(f"| {kind} | {spread} | {row['to plain LoRA']:.2f} | {row['kept'] / 1e6:.1f} |")
    return "\n".join(lines)


def _stepper(
    kind: str, hidden: int, layers: int, rank: int, seed: int, device: str
) -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(seed)
    model: nn.Module = nn.Sequential(
        *(nn.Sequential(nn.Linear(hidden, hidden), nn.GELU()) for _ in range(layers))
    )
    masks = {f"{index}.0.weight": torch.rand(hidden, hidden) > 0.5 for index in range(layers)}
    if kind != "weights":
        mode = "sparse_to_sparse" if kind == PLAIN_EXPRESSION else kind
        mode = "sparse_to_dense" if kind == "plain LoRA" else mode
        given = None if kind == "plain LoRA" else masks
        apply_sparse_lora(model, given, SparseLoRAConfig(r=rank, sparsity_mode=mode))
    model.to(device)
    return model, torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-4)


def _step(model: nn.Module, optimizer: torch.optim.Optimizer, x: torch.Tensor) -> None:
    model(x).square().mean().backward()
    optimizer.step()
    optimizer.zero_grad()
    if x.is_cuda:
        torch.cuda.synchronize()


@contextmanager
def _expression(kind: str) -> Iterator[None]:
    """``PLAIN_EXPRESSION`` leaves the backward pass to autograd, as the CS-3's trace does."""

    def plain(x: Any, weight: Any, bias: Any, left: Any, right: Any, gate: Any, scaling: float) -> Any:
        return nn.functional.linear(x, weight + scaling * (left @ right) * gate, bias)

    before = lora_layers.gated_linear
    if kind == PLAIN_EXPRESSION:
        lora_layers.gated_linear = plain
    try:
        yield
    finally:
        lora_layers.gated_linear = before


def _kept(kind: str, model: nn.Module, x: torch.Tensor) -> int:
    own = {t.untyped_storage().data_ptr() for t in (*model.parameters(), *model.buffers(), x)}
    saved: dict[int, int] = {}
    held = []  # alive to the end, so that no two of them share an address

    def note(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            saved[storage.data_ptr()] = storage.nbytes()
            held.append(tensor)
        return tensor

    with _expression(kind), torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        model(x).square().mean()
    return sum(saved.values())


def main() -> None:
    parser = argparse.ArgumentParser(description="Step time and memory of kinds of LoRA.")
    defaults = {"hidden": 512, "tokens": 512, "layers": 8, "rank": 8, "repeat": 15}
    for name, value in defaults.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--gpu", action="store_true")
    parser.add_argument("--json", action="store_true")
    asked = vars(parser.parse_args())
    as_json = asked.pop("json")
    found = measure(**{name: asked[name] for name in defaults}, device="cuda" if asked["gpu"] else "cpu")
    print(json.dumps(found) if as_json else table(found))


if __name__ == "__main__":
    main()
