"""A study as a sweep leaves it: dense, three ways of pruning, several levels and seeds, one run failed."""

import json
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pruning.mask_ops import save_mask
from tests.experiments.runs_on_disk import params, write_run

KINDS = ("self_attn.proj_q_dense_layer", "self_attn.proj_output_dense_layer", "ffn.ffn.0.linear_layer")
WAYS = {"magnitude-global": 1.0, "magnitude": 1.25, "random": 2.2}


def layer_names(blocks: int) -> list[str]:
    return [f"model.transformer_decoder.layers.{n}.{kind}.weight" for n in range(blocks) for kind in KINDS]


def write_masks(path: Path, way: str, level: float, blocks: int = 4, size: int = 400) -> dict[str, float]:
    """Nested across levels within a way; of ``global``, layers differ. Returns the sparsity of each."""
    masks, found = {}, {}
    for number, name in enumerate(layer_names(blocks)):
        lean = 0.08 * np.sin(1.7 * number) * 4 * level * (1 - level) if "global" in way else 0.0
        dropped = round(size * min(0.99, level + lean))
        seed = 7 if way.startswith("magnitude") else 99
        order = np.random.default_rng(seed + number).permutation(size)
        mask = np.ones(size, bool)
        mask[order[:dropped]] = False
        masks[name], found[name] = torch.from_numpy(mask.reshape(20, -1)), dropped / size
    save_mask(masks, path)
    return found


def write_study(
    root: Path,
    *,
    seeds: Sequence[int] = (1, 2, 3),
    levels: Sequence[float] = (0.5, 0.75, 0.9),
    blocks: int = 4,
    steps: int = 40,
) -> Path:
    """``root``/runs, masks beside it."""
    rng = np.random.default_rng(0)
    for seed in seeds:
        dense = 10.0 + 0.1 * rng.standard_normal()
        write_run(root / f"runs/dense/seed{seed}", config(seed, steps), perplexity=dense, steps=steps)
    for way, harm in WAYS.items():
        for level in levels:
            digest = f"{zlib.crc32(f'{way}{level}'.encode()):08x}"
            file = root / f"masks/{way}-s{level}-{digest}.safetensors"
            layers = write_masks(file, way, level, blocks)
            given = {"callbacks": [{"SparseMaskCallback": {"mask_path": str(file)}}]}
            for seed in seeds:
                final = 10.0 * (1 + harm * 0.6 * level**4) + 0.15 * rng.standard_normal()
                parts = (0.05, 0.25, 0.5, 0.75)
                early = {round(steps * part): final * (1 + 3 * level * (1 - part) ** 2) for part in parts}
                rate = 50 * (1 + level) + rng.random()
                how: dict[str, Any] = {"steps": steps, "layers": layers, "rate": rate}
                if way == "random" and level == levels[-1] and seed == seeds[-1]:
                    error = {"type": "NotFiniteError", "message": f"the loss of step {steps // 3} is nan"}
                    how |= {"state": "failed", "steps": steps // 3, "error": error}
                path = root / f"runs/{way}-{level}/seed{seed}"
                write_run(path, config(seed, steps, **given), perplexity=final, recovery=early, **how)
    return root / "runs"


def config(seed: int, steps: int, **more: Any) -> dict[str, Any]:
    return params(seed=seed, **{"loop": {"max_steps": steps}, **more})


def read_block(page: str, name: str) -> Any:
    """A JSON block of a page."""
    start = page.index(f'<script type="application/json" id="{name}">')
    return json.loads(page[page.index(">", start) + 1 : page.index("</script>", start)])
