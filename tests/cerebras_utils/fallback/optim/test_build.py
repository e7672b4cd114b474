from types import SimpleNamespace

import pytest
import torch

from cerebras_utils.fallback.optim import bites
from cerebras_utils.fallback.optim.build import make_optimizer, make_schedulers
from cerebras_utils.fallback.optim.clip import clip_gradients
from cerebras_utils.fallback.optim.groups import decays, param_groups
from pruning.problems import ProblemError

LINE = {"initial_learning_rate": 0.0, "end_learning_rate": 0.1, "total_iters": 4}


def parameters(*names):
    return [(name, torch.nn.Parameter(torch.ones(2))) for name in names]


def names_of(groups, named):
    by_id = {id(parameter): name for name, parameter in named}
    return [[by_id[id(parameter)] for parameter in group["params"]] for group in groups]


@pytest.mark.parametrize(
    ("name", "decayed"),
    [
        ("model.embedding_layer.word_embeddings.weight", True),
        ("model.transformer_decoder.layers.0.self_attn.proj_q_dense_layer.weight", True),
        ("model.transformer_decoder.layers.0.self_attn.proj_q_dense_layer.bias", False),
        ("model.transformer_decoder.layers.0.norm1.weight", False),
        ("model.transformer_decoder.norm.weight", False),
        ("model.ln_f.weight", False),
        ("model.lm_head.weight", True),
        ("weight", True),
    ],
)
def test_what_decays(name, decayed):
    assert decays(name) is decayed


def test_groups_by_decay_leave_out_what_is_frozen():
    named = parameters("a.weight", "a.bias", "b.weight")
    named[2][1].requires_grad = False
    groups = param_groups(named, weight_decay=0.1, where="o")
    assert names_of(groups, named) == [["a.weight"], ["a.bias"]]
    assert [group["weight_decay"] for group in groups] == [0.1, 0.0]
    assert len(param_groups(named[:1], weight_decay=0.1, where="o")) == 2  # one is empty, as ModelZoo's


def test_groups_by_tag():
    named = parameters("a.weight", "a.bias", "b.weight")
    tagged = [{"params": ["a*", "nothing"], "tag": "x"}, {"params": "bias", "tag": "y"}]
    groups = param_groups(named, weight_decay=0.1, tagged=tagged, where="o")
    assert names_of(groups, named) == [["a.weight"], ["a.bias"], ["b.weight"]]
    assert [group.get("tags") for group in groups] == [{"x"}, {"x", "y"}, None]
    wrong = [*tagged[:1], {"params": ["c*", "d"], "tag": "y"}]
    with pytest.raises(ProblemError, match=r"o.params\[1\]\n   c\*, d matches no parameter"):
        param_groups(named, weight_decay=0.1, tagged=wrong, where="o")


def scaled(scale, *patterns):
    return SimpleNamespace(scale=scale, patterns=patterns)


def test_groups_by_scale():
    named = parameters("a.weight", "a.bias", "b.weight", "c.weight")
    groups = {"one": scaled(0.5, "a.*"), "two": scaled(1.0, "b.*"), "three": scaled(0.5, "c.*")}
    made = param_groups(named, weight_decay=0.1, scaled=groups, where="o")
    assert names_of(made, named) == [["a.weight", "c.weight"], ["b.weight"], ["a.bias"]]
    assert [group["adjust_learning_rate"] for group in made] == [0.5, 1.0, 0.5]
    made = param_groups(named, weight_decay=0.1, scaled=groups, scales={"one": 1.0, "two": 2.0}, where="o")
    assert names_of(made, named) == [["b.weight"], ["c.weight"], ["a.weight"], ["a.bias"]]
    with pytest.raises(ProblemError, match=r"no such group of learning rates\. Did you mean 'three'"):
        param_groups(named, weight_decay=0.1, scaled=groups, scales={"thre": 2.0}, where="o")
    both = groups | {"two": scaled(3.0, "*")}
    with pytest.raises(ProblemError, match=r"a\.weight is in groups of the learning rates 0\.5 and 3\.0"):
        param_groups(named, weight_decay=0.1, scaled=both, where="o")


def test_scaled_groups_get_scaled_rates():
    named = parameters("a.weight", "b.weight")
    optimizer = make_optimizer(
        {"AdamW": {"adjust_learning_rate": {"one": 0.25}}},
        named,
        learning_rate_groups={"one": scaled(1.0, "a*")},
    )
    (scheduler,) = make_schedulers([{"ConstantLR": {"learning_rate": 0.5}}], optimizer)
    assert [float(group["lr"]) for group in optimizer.param_groups] == [0.125, 0.5]
    assert scheduler.state_dict()["lr_adjustment_scalars"] == [0.25, 1.0]


def test_default_rates_are_the_vendors():
    assert make_optimizer({"AdamW": {}}, parameters("a")).param_groups[0]["lr"] == 0.001
    assert make_optimizer({"SGD": {}}, parameters("a")).param_groups[0]["lr"] == 0.1
    assert make_optimizer({"Adam": {"lr": 0.5}}, parameters("a")).param_groups[0]["lr"] == 0.5


def test_problems_are_raised_before_anything_is_made():
    with pytest.raises(ProblemError, match="is '1e-5'"):
        make_optimizer({"AdamW": {"eps": "1e-5"}}, parameters("a"))
    optimizer = make_optimizer({"AdamW": {}}, parameters("a"))
    with pytest.raises(ProblemError, match="is missing"):
        make_schedulers([{"ConstantLR": {}}], optimizer)
    with pytest.raises(ProblemError, match="names no parameters; the tags are none"):
        make_schedulers([{"ConstantLR": {"learning_rate": 1.0, "param_group_tags": "x"}}], optimizer)
    frozen = parameters("a")
    frozen[0][1].requires_grad = False
    with pytest.raises(ProblemError, match="no parameter to train"):
        make_optimizer({"AdamW": {}}, frozen)


def test_two_schedulers_of_one_group():
    tagged = [{"params": "*", "tag": "x"}, {"params": "a", "tag": "y"}]
    optimizer = make_optimizer({"AdamW": {"params": tagged}}, parameters("a"))
    schedulers = [{"ConstantLR": {"learning_rate": 1.0, "param_group_tags": tag}} for tag in "xy"]
    with pytest.raises(ProblemError, match=r"the schedulers \[0, 1\] set the learning rate of one group"):
        make_schedulers(schedulers, optimizer)


def test_rate_of_each_step():
    optimizer = make_optimizer({"SGD": {}}, parameters("a"))
    constant = {"ConstantLR": {"learning_rate": 0.05}}
    cosine = {"CosineDecayLR": LINE | {"initial_learning_rate": 0.1, "end_learning_rate": 0.0}}
    sequence = {"SequentialLR": {"schedulers": [{"LinearLR": LINE}, cosine, constant]}}
    (scheduler,) = make_schedulers([sequence], optimizer)
    rates = []
    for _ in range(10):
        rates.append(float(optimizer.param_groups[0]["lr"]))
        scheduler.step()
    line = [0, 0.025, 0.05, 0.075]
    assert rates == pytest.approx([*line, 0.1, 0.08535534, 0.05, 0.01464466, 0.05, 0.05], rel=1e-6)


def test_a_scheduler_resumes_with_the_schedule_of_the_checkpoint():
    def make(end):
        optimizer = make_optimizer({"SGD": {}}, parameters("a"))
        return optimizer, make_schedulers([{"LinearLR": LINE | {"end_learning_rate": end}}], optimizer)[0]

    _, before = make(0.1)
    before.step()
    optimizer, after = make(0.2)
    state = before.state_dict()
    assert after.overridden(state) == ["end_learning_rate: 0.1 of the checkpoint, not 0.2"]
    after.load_state_dict(state)
    assert after.overridden(state) == []
    before.step()
    after.step()
    assert float(optimizer.param_groups[0]["lr"]) == pytest.approx(0.05)
    assert int(state["last_epoch"]) == 1  # neither run moved the state that was saved


def test_states_of_other_runs_are_refused():
    optimizer = make_optimizer({"AdamW": {}}, parameters("a", "b"))
    line, constant = (
        make_schedulers([s], optimizer)[0]
        for s in ({"LinearLR": LINE}, {"ConstantLR": {"learning_rate": 1.0}})
    )
    with pytest.raises(ProblemError, match="is another kind"):
        line.load_state_dict(constant.state_dict())
    one, two = (
        make_schedulers([{"SequentialLR": {"schedulers": [{"LinearLR": LINE}] * n}}], optimizer)[0]
        for n in (1, 2)
    )
    with pytest.raises(ProblemError, match="has 1 schedules in a row, this run has 2"):
        two.load_state_dict(one.state_dict())
    with pytest.raises(ProblemError, match=r"groups of \[1, 0\] parameters, this run has \[2, 0\]"):
        optimizer.load_state_dict(make_optimizer({"AdamW": {}}, parameters("a")).state_dict())
    state = make_optimizer({"AdamW": {}}, [("a", torch.nn.Parameter(torch.ones(3)))] * 1).state_dict()
    single = make_optimizer({"AdamW": {}}, parameters("a"))
    with pytest.raises(ProblemError, match=r"exp_avg\n.*has the shape \(3,\), this run's has \(2,\)"):
        single.load_state_dict(state)
    del state["state"][0]["beta1_power"]
    with pytest.raises(ProblemError, match="has no beta1_power"):
        single.load_state_dict(state)


def test_cut_or_whole_is_the_same_bits(monkeypatch, weights, train):
    results = []
    for size in (1 << 30, 64):
        monkeypatch.setattr(bites, "SIZE", size)
        named = weights()
        optimizer = make_optimizer({"AdamW": {"weight_decay": 0.1, "amsgrad": True}}, named)
        train(named, optimizer, [], 3)
        results.append([parameter for _, parameter in named])
    for one, other in zip(*results, strict=True):
        assert torch.equal(one, other)


def test_transposed_weights_and_absent_gradients():
    whole = torch.nn.Parameter(torch.randn(400, 300).t())
    assert not whole.is_contiguous()
    twin = torch.nn.Parameter(whole.detach().contiguous())
    idle = torch.nn.Parameter(torch.ones(3))
    for parameter in (whole, twin):
        optimizer = make_optimizer({"AdamW": {}}, [("a", parameter), ("idle", idle)])
        parameter.grad = torch.linspace(-1, 1, 120_000).view(300, 400)
        optimizer.step()
        assert float(optimizer.state[idle]["beta1_power"]) == pytest.approx(0.9)
    assert torch.equal(whole, twin)
    assert torch.equal(idle, torch.ones(3))


def test_clipping_by_norm_and_by_value():
    named = [("a", torch.nn.Parameter(torch.zeros(2))), ("b", torch.nn.Parameter(torch.zeros(1)))]
    optimizer = make_optimizer({"SGD": {}}, named)

    def clipped(**limits):
        named[0][1].grad, named[1][1].grad = torch.tensor([2.0, -1.0]), torch.tensor([2.0])
        norm = clip_gradients(optimizer, **limits)
        return norm, [*named[0][1].grad.tolist(), *named[1][1].grad.tolist()]

    norm, grads = clipped(max_gradient_norm=1.5)
    assert float(norm) == pytest.approx(3.0)
    assert grads == pytest.approx([1.0, -0.5, 1.0], rel=1e-6)
    assert clipped(max_gradient_norm=9.0)[1] == [2.0, -1.0, 2.0]
    assert clipped(max_gradient_value=0.5) == (None, [0.5, -0.5, 0.5])
    assert clipped() == (None, [2.0, -1.0, 2.0])
