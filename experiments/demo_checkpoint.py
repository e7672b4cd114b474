"""A small checkpoint to try things on: a two-layer GPT-2 with ModelZoo's names and random weights.

python -m experiments.demo_checkpoint checkpoints/demo.safetensors
"""

import sys
from pathlib import Path

import torch
from safetensors.torch import save
from torch import Tensor

from pruning.atomic import Part

WIDTH, INNER, VOCABULARY, POSITIONS, LAYERS = 128, 512, 256, 128, 2


def weights(seed: int = 0) -> dict[str, Tensor]:
    rng = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=rng) * 0.02

    state = {
        "model.embedding_layer.word_embeddings.weight": normal(VOCABULARY, WIDTH),
        "model.embedding_layer.position_embeddings.embed.weight": normal(POSITIONS, WIDTH),
    }
    for i in range(LAYERS):
        layer = f"model.transformer_decoder.layers.{i}"
        for part in ("q", "k", "v", "output"):
            state[f"{layer}.self_attn.proj_{part}_dense_layer.weight"] = normal(WIDTH, WIDTH)
        state[f"{layer}.ffn.ffn.0.linear_layer.weight"] = normal(INNER, WIDTH)
        state[f"{layer}.ffn.ffn.1.linear_layer.weight"] = normal(WIDTH, INNER)
        for norm in ("norm1", "norm3"):
            state[f"{layer}.{norm}.weight"] = torch.ones(WIDTH)
            state[f"{layer}.{norm}.bias"] = torch.zeros(WIDTH)
    state["model.ln_f.weight"], state["model.ln_f.bias"] = torch.ones(WIDTH), torch.zeros(WIDTH)
    state["model.lm_head.weight"] = state["model.embedding_layer.word_embeddings.weight"].clone()
    return state


def main(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with Part(path) as part:
        part.write(save(weights()))
    print(f"wrote {path}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
