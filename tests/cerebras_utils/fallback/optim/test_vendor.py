"""Against cstorch's own classes, step by step, and states that go both ways."""

import copy

import pytest
import torch

from cerebras_utils.fallback.optim.build import make_optimizer, make_schedulers

cstorch = pytest.importorskip("cerebras.pytorch", reason="cerebras.pytorch is not installed")
pytestmark = pytest.mark.cerebras

BETAS = [0.9, 0.95]
CASES = {
    "adamw": ("AdamW", {"weight_decay": 0.1, "betas": BETAS}),
    "adamw amsgrad": ("AdamW", {"amsgrad": True, "eps": 1.0e-8}),
    "adamw uncorrected": ("AdamW", {"correct_bias": False, "weight_decay": 0.01}),
    "adam": ("Adam", {"weight_decay": 0.1}),
    "adam plain": ("Adam", {}),
    "sgd": ("SGD", {"weight_decay": 0.1}),
    "sgd momentum": ("SGD", {"momentum": 0.9, "dampening": 0.1, "weight_decay": 0.01}),
    "sgd nesterov": ("SGD", {"momentum": 0.9, "nesterov": True, "maximize": True}),
}
DECAYED = ["model.wide.weight", "model.temperature", "model.narrow.weight"]
SCHEDULE = [
    {"LinearLR": {"initial_learning_rate": 0.0, "end_learning_rate": 0.01, "total_iters": 5}},
    {"CosineDecayLR": {"initial_learning_rate": 0.01, "end_learning_rate": 0.001, "total_iters": 10}},
    {"ConstantLR": {"learning_rate": 0.002}},
]


@pytest.fixture(autouse=True)
def backend(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # where the vendor puts its logs
    from cerebras.pytorch.backend import current_backend_impl

    if current_backend_impl(raise_exception=False) is None:  # one for the process, they say
        cstorch.backend("CPU")


def vendors(name, settings, named):
    decayed = [p for n, p in named if n in DECAYED]
    rest = [p for n, p in named if n not in DECAYED]
    decay = settings.get("weight_decay", 0.0)
    groups = [{"params": decayed, "weight_decay": decay}, {"params": rest, "weight_decay": 0.0}]
    settings = {k: tuple(v) if isinstance(v, list) else v for k, v in settings.items()}
    if name == "SGD":  # its own defaults are integers, which cszoo makes floats
        settings = {"momentum": 0.0, "dampening": 0.0, "weight_decay": 0.0} | settings
    optimizer = getattr(cstorch.optim, name)(groups, lr=0.1, **settings)
    lr = cstorch.optim.lr_scheduler
    parts = [getattr(lr, kind)(optimizer, **values) for entry in SCHEDULE for kind, values in entry.items()]
    return optimizer, [lr.SequentialLR(optimizer, parts, [5, 15])]


def ours(name, settings, named):
    optimizer = make_optimizer({name: settings | {"learning_rate": 0.1}}, named)
    return optimizer, make_schedulers([{"SequentialLR": {"schedulers": copy.deepcopy(SCHEDULE)}}], optimizer)


def same(one, other):
    """Equal trees, tensors to the bit."""
    if isinstance(one, torch.Tensor):
        assert torch.equal(one, other)
        assert one.dtype == other.dtype
    elif isinstance(one, dict):
        assert one.keys() == other.keys()
        for key in one:
            same(one[key], other[key])
    elif isinstance(one, list | tuple) and not isinstance(one, torch.Size):
        assert type(one) is type(other)
        assert len(one) == len(other)
        for first, second in zip(one, other, strict=True):
            same(first, second)
    else:
        assert one == other
        assert type(one) is type(other)


@pytest.mark.parametrize("case", CASES)
def test_twenty_steps(case, weights, train):
    here, there = weights(), weights()
    optimizer, schedulers = ours(*CASES[case], here)
    reference, their_schedulers = vendors(*CASES[case], there)
    for step in range(20):
        rates = train(here, optimizer, schedulers, step + 1, step)
        assert rates == train(there, reference, their_schedulers, step + 1, step)
        for (name, mine), (_, theirs) in zip(here, there, strict=True):
            error = (mine - theirs).abs().max() / theirs.abs().max()
            assert error <= 1e-7, (name, step)
    same(optimizer.state_dict(), reference.state_dict())
    for mine, theirs in zip(schedulers, their_schedulers, strict=True):
        same(mine.state_dict(), theirs.state_dict())


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("back", [False, True])
def test_states_go_both_ways(case, back, weights, train):
    """Seven steps on one side, seven on the other, equal fourteen on one."""
    makers = [vendors, ours] if back else [ours, vendors]
    whole, begun = weights(), weights()
    train(whole, *makers[0](*CASES[case], whole), 14)
    optimizer, schedulers = makers[0](*CASES[case], begun)
    train(begun, optimizer, schedulers, 7)
    state = copy.deepcopy([optimizer.state_dict(), *[s.state_dict() for s in schedulers]])
    optimizer, schedulers = makers[1](*CASES[case], begun)
    optimizer.load_state_dict(state[0])
    schedulers[0].load_state_dict(state[1])
    train(begun, optimizer, schedulers, 14, 7)
    for (_, one), (_, other) in zip(whole, begun, strict=True):
        assert (one - other).abs().max() <= 1e-7 * one.abs().max()


def test_tags_and_scales(weights, train):
    """A schedule for each tag, and rates scaled by group: states and rates as the vendor's."""
    here, there = weights(), weights()
    wide, rest = [p for n, p in there if "wide" in n], [p for n, p in there if "wide" not in n]
    settings = {"weight_decay": 0.0, "params": [{"params": "*wide*", "tag": "w"}]}
    optimizer = make_optimizer({"sgd": settings}, here)
    constant = {"learning_rate": 0.1, "param_group_tags": "w"}
    line = {"initial_learning_rate": 0.0, "end_learning_rate": 1.0, "total_iters": 4}
    schedulers = make_schedulers(
        [{"ConstantLR": constant}, {"LinearLR": line | {"param_group_tags": [None]}}], optimizer
    )
    groups = [{"params": wide, "tags": ["w"], "weight_decay": 0.0}, {"params": rest, "weight_decay": 0.0}]
    reference = cstorch.optim.SGD(groups, lr=0.1)
    lr = cstorch.optim.lr_scheduler
    their = [
        lr.ConstantLR(reference, 0.1, param_group_tags="w"),
        lr.LinearLR(reference, **line, param_group_tags=[None]),
    ]
    train(here, optimizer, schedulers, 3)
    train(there, reference, their, 3)
    assert [float(g["lr"]) for g in optimizer.param_groups] == pytest.approx([0.1, 0.1, 0.75, 0.75])
    assert [float(g["lr"]) for g in reference.param_groups] == pytest.approx([0.1, 0.75])
    for (_, one), (_, other) in zip(here, there, strict=True):
        assert torch.equal(one, other)


def test_scaled_schedule(weights, train):
    here, there = weights(), weights()
    groups = [{"params": [p], "adjust_learning_rate": 0.5 ** (i % 2)} for i, (_, p) in enumerate(there)]
    reference = cstorch.optim.AdamW(groups, lr=0.1)
    lr = cstorch.optim.lr_scheduler
    cosine = {"initial_learning_rate": 0.3, "end_learning_rate": 0.0, "total_iters": 7}
    parts = [lr.ConstantLR(reference, 0.2, 3), lr.CosineDecayLR(reference, **cosine)]
    their = [lr.ScalePerParamLR(reference, lr.SequentialLR(reference, parts, [3]))]
    optimizer = make_optimizer({"AdamW": {}}, here)
    optimizer.param_groups[:] = [
        {**optimizer.param_groups[0], "params": [p], "adjust_learning_rate": 0.5 ** (i % 2)}
        for i, (_, p) in enumerate(here)
    ]
    constant = {"ConstantLR": {"learning_rate": 0.2, "total_iters": 3}}
    sequence = {"SequentialLR": {"schedulers": [constant, {"CosineDecayLR": cosine}]}}
    schedulers = make_schedulers([sequence], optimizer)
    assert train(here, optimizer, schedulers, 9) == train(there, reference, their, 9)
    same(schedulers[0].state_dict(), their[0].state_dict())
