"""One training loop for our optimizers and for the vendor's: the same weights, gradients and schedule."""

import pytest
import torch

SHAPES = {
    "model.wide.weight": (300, 257),  # cut into pieces, with a remainder
    "model.wide.bias": (257,),
    "model.norm1.weight": (7,),
    "model.temperature": (),
    "model.narrow.weight": (3, 5),
}


@pytest.fixture
def weights():
    def make(shapes=SHAPES):
        generator = torch.Generator().manual_seed(0)
        return [(n, torch.nn.Parameter(torch.randn(s, generator=generator))) for n, s in shapes.items()]

    return make


@pytest.fixture
def train():
    """Steps ``begin`` to ``end``; gradients depend on the step alone. The learning rates come back."""

    def run(named, optimizer, schedulers, end, begin=0):
        rates = []
        for step in range(begin, end):
            generator = torch.Generator().manual_seed(100 + step)
            for _, parameter in named:
                parameter.grad = torch.randn(parameter.shape, generator=generator)
            rates.append([float(group["lr"]) for group in optimizer.param_groups])
            optimizer.step()
            for scheduler in schedulers:
                scheduler.step()
        return rates

    return run
