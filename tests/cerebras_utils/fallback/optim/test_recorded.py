"""Numbers that cstorch 2.10 gave, for machines without it: six steps from fixed weights and gradients."""

import pytest
import torch

from cerebras_utils.fallback.optim.build import make_optimizer, make_schedulers

RECORDED = {
    "adamw": (
        "AdamW",
        {"weight_decay": 0.1, "betas": [0.9, 0.95]},
        [
            0.4861299991607666,
            -0.9692645072937012,
            1.9355331659317017,
            -0.05771610513329506,
            0.023180196061730385,
        ],
    ),
    "adam": (
        "Adam",
        {"weight_decay": 0.1, "eps": 1e-05},
        [
            0.4444105625152588,
            -0.9439122676849365,
            1.9246947765350342,
            -0.05253788083791733,
            0.023180196061730385,
        ],
    ),
    "sgd": (
        "SGD",
        {"momentum": 0.9, "dampening": 0.1, "weight_decay": 0.01},
        [
            0.4981134533882141,
            -0.9962269067764282,
            1.9889434576034546,
            -0.08385422825813293,
            0.023180196061730385,
        ],
    ),
}


@pytest.mark.parametrize("case", RECORDED)
def test_recorded(case):
    name, settings, expected = RECORDED[case]
    weight = torch.nn.Parameter(torch.tensor([0.5, -1.0, 2.0]))
    bias = torch.nn.Parameter(torch.tensor([0.25]))
    optimizer = make_optimizer({name: settings}, [("a.weight", weight), ("a.bias", bias)])
    line = {"initial_learning_rate": 0.0, "end_learning_rate": 0.1, "total_iters": 3}
    cosine = {"initial_learning_rate": 0.1, "end_learning_rate": 0.01, "total_iters": 4}
    sequence = {"schedulers": [{"LinearLR": line}, {"CosineDecayLR": cosine}]}
    (scheduler,) = make_schedulers([{"SequentialLR": sequence}], optimizer)
    for step in range(6):
        weight.grad = torch.tensor([0.1, -0.2, 0.3]) * (step + 1) * (-1) ** step
        bias.grad = torch.tensor([0.5]) - 0.1 * step
        optimizer.step()
        scheduler.step()
    found = torch.cat([weight, bias, optimizer.param_groups[0]["lr"].view(1)]).tolist()
    assert found == pytest.approx(expected, rel=1e-7)
