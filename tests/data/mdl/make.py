"""Writes the fixtures beside this file. Run with cerebras-pytorch 2.10: python tests/data/mdl/make.py"""

from pathlib import Path

import cerebras.pytorch as cstorch
import torch
from cerebras.pytorch.storage.serializers import DeferredFullTensor, DeferredGraphTensor
from safetensors.torch import save_file

HERE = Path(__file__).parent


class Lazy(torch.Tensor):
    """Stands for a tensor on the CSX, which moves to the CPU as a recipe instead of values."""

    def to(self, *args, **kwargs):
        return self.recipe


def lazy(recipe):
    tensor = torch.zeros(recipe.shape).as_subclass(Lazy)
    tensor.recipe = recipe
    return tensor


def write(name, state):
    (HERE / name).unlink(missing_ok=True)
    cstorch.save(state, str(HERE / name))


def main():
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(6, 4, generator=generator)
    model = {
        "model.embed.weight": weight,
        "model.half": weight.half(),
        "model.brain": weight.bfloat16(),
        "model.flags": torch.tensor([True, False, True]),
        "model.ids": torch.arange(5) - 2,
        "model.short": torch.tensor([-1, 0, 300], dtype=torch.int16),
        "model.scale": torch.tensor(2.5),
        "model.empty": torch.empty(0, 3),
    }
    tied = {**model, "model.head.weight": weight}
    optimizer = {
        "state": {0: {"exp_avg": torch.ones(2, 2)}},
        "param_groups": [{"lr": 0.1, "params": [0, 7]}],
    }
    # 7 is one object in Python, so the step is written as a link into the optimizer.
    write(
        "training.mdl", {"model": tied, "optimizer": optimizer, "global_step": 7, "name": "a", "none": None}
    )
    save_file({name: tensor.clone() for name, tensor in tied.items()}, HERE / "training.safetensors")

    write("plain.mdl", {"a.weight": weight, "b": weight[0].clone()})
    save_file({"a.weight": weight, "b": weight[0].clone()}, HERE / "plain.safetensors")

    fill = DeferredFullTensor(torch.Size((3, 2)), torch.bfloat16, 0.1)
    ones = DeferredFullTensor(torch.Size((2,)), torch.float32, 1)
    write("filled.mdl", {"model": {"model.fill": fill, "model.lazy": lazy(ones)}})
    save_file({"model.fill": fill.clone() + 0, "model.lazy": ones.clone() + 0}, HERE / "filled.safetensors")

    graph = DeferredGraphTensor("graph() {}", [], torch.Size((3, 2)), torch.float32)
    write("initial.mdl", {"model": {"model.graph": lazy(graph)}})


if __name__ == "__main__":
    main()
