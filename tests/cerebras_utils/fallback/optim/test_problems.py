import pytest

from cerebras_utils.fallback.optim.build import optimizer_problems, scheduler_problems
from cerebras_utils.fallback.optim.clip import clipping_problems

LINE = {"initial_learning_rate": 0.0, "end_learning_rate": 0.1, "total_iters": 3}
CONSTANT = {"ConstantLR": {"learning_rate": 0.1}}


def found(problems):
    return [(p.where.removeprefix("c.yaml: "), p.what, p.fix) for p in problems]


@pytest.mark.parametrize(
    "params",
    [
        {"AdamW": {"betas": [0.9, 0.95], "correct_bias": True, "weight_decay": 0.1}},
        {"adam": {"lr": 0.1, "correct_bias": True, "eps": 1.0e-8}},
        {"SGD": {"momentum": 0.0, "learning_rate": 1}},
        {"SGD": {"momentum": 0.9, "nesterov": True}},
        {"AdamW": {}},
        {"AdamW": {"adjust_learning_rate": {"decoder_kernel": 0.25}}},
        {"AdamW": {"params": {"params": "*bias", "tag": "b"}}},
        {"AdamW": {"params": [{"params": ["*bias", "*norm*"], "tag": "b"}]}},
    ],
)
def test_right_optimizers(params):
    assert optimizer_problems(params, "c.yaml: optimizer") == []


@pytest.mark.parametrize(
    ("params", "where", "what", "fix"),
    [
        ({"AdmW": {}}, "optimizer.AdmW", "Did you mean 'AdamW'", "AdamW"),
        ({"Lion": {}}, "optimizer.Lion", "is cszoo's", "--backend cszoo"),
        ({"Adam": None}, "optimizer.Adam", "None", "`Adam: {}`"),
        ({}, "optimizer", "nothing", "AdamW"),
        ("AdamW", "optimizer", "'AdamW'", "AdamW"),
        ({"Adam": {}, "SGD": {}}, "optimizer", "Adam, SGD", "write it as"),
        (
            {"AdamW": {"learning_rte": 0.1}},
            "optimizer.AdamW.learning_rte",
            "Did you mean 'learning_rate'",
            "use one",
        ),
        (
            {"AdamW": {"learning_rate": "1e-5"}},
            "optimizer.AdamW.learning_rate",
            "'1e-5'",
            "write 1.0e-05: YAML",
        ),
        ({"AdamW": {"eps": "1e-06"}}, "optimizer.AdamW.eps", "'1e-06'", "write 1.0e-06: YAML"),
        ({"AdamW": {"eps": "0.1"}}, "optimizer.AdamW.eps", "'0.1'", "write 0.1 without quotes"),
        ({"AdamW": {"betas": [0.9, "1e-1"]}}, "optimizer.AdamW.betas", "each a number", "write 0.1: YAML"),
        ({"AdamW": {"eps": "small"}}, "optimizer.AdamW.eps", "'small', not a number", "write a number"),
        (
            {"AdamW": {"learning_rate": -1.0}},
            "optimizer.AdamW.learning_rate",
            "-1.0, not a number of 0 to 10",
            "",
        ),
        ({"AdamW": {"learning_rate": 100}}, "optimizer.AdamW.learning_rate", "100", "0 to 10"),
        ({"AdamW": {"learning_rate": True}}, "optimizer.AdamW.learning_rate", "True", "a number"),
        ({"AdamW": {"eps": float("nan")}}, "optimizer.AdamW.eps", "nan", "finite"),
        ({"AdamW": {"betas": [0.9, 1.0]}}, "optimizer.AdamW.betas", "[0.9, 1.0]", "below 1"),
        ({"AdamW": {"betas": [0.9]}}, "optimizer.AdamW.betas", "[0.9]", "list of two"),
        ({"AdamW": {"amsgrad": 1}}, "optimizer.AdamW.amsgrad", "1", "true or false"),
        ({"AdamW": {"lr": 0.1, "learning_rate": 0.1}}, "optimizer.AdamW.lr", "another name", "keep one"),
        ({"Adam": {"correct_bias": False}}, "optimizer.Adam.correct_bias", "ignores", "AdamW"),
        ({"SGD": {"nesterov": True}}, "optimizer.SGD.nesterov", "momentum", "momentum: 0.9"),
        ({"AdamW": {"params": [{"params": "x"}]}}, "optimizer.AdamW.params", "tag", "tag"),
        (
            {"AdamW": {"adjust_learning_rate": {"a": "x"}}},
            "optimizer.AdamW.adjust_learning_rate",
            "factor",
            "",
        ),
    ],
)
def test_wrong_optimizers(params, where, what, fix):
    ((there, fact, edit),) = found(optimizer_problems(params, "c.yaml: optimizer"))
    assert there == where
    assert what in fact
    assert fix in edit


def test_all_at_once():
    params = {"AdamW": {"learning_rate": "1e-5", "weight_decay": -1, "beta": 2}}
    assert len(optimizer_problems(params, "o")) == 3


@pytest.mark.parametrize(
    "params",
    [
        None,
        [],
        [CONSTANT],
        [{"linearlr": LINE}],
        [{"LinearLR": LINE | {"total_iters": 1.0e3}}],
        [{"SequentialLR": {"schedulers": [{"LinearLR": LINE}, CONSTANT]}}],
        [{"SequentialLR": {"schedulers": [{"LinearLR": LINE}] * 3, "milestones": [3, 6]}}],
        [{"ScalePerParamLR": {"scheduler": {"SequentialLR": {"schedulers": [CONSTANT]}}}}],
        [{"ConstantLR": {"learning_rate": 0.1, "param_group_tags": t}} for t in ("a", ["b", None])],
    ],
)
def test_right_schedulers(params):
    assert scheduler_problems(params, "c.yaml: schedulers") == []


def sequence(*schedulers, **more):
    return [{"SequentialLR": {"schedulers": list(schedulers), **more}}]


@pytest.mark.parametrize(
    ("params", "where", "what"),
    [
        (CONSTANT, "schedulers", "is not a list"),
        ([{"ConstLR": {}}], "schedulers[0].ConstLR", "Did you mean 'ConstantLR'"),
        ([{"CyclicLR": {}}], "schedulers[0].CyclicLR", "is cszoo's"),
        ([{"ConstantLR": {}}], "schedulers[0].ConstantLR.learning_rate", "is missing"),
        ([{"ConstantLR": {"learning_rate": "1e-5"}}], "schedulers[0].ConstantLR.learning_rate", "'1e-5'"),
        ([{"LinearLR": LINE | {"total_iters": 2.5}}], "schedulers[0].LinearLR.total_iters", "2.5"),
        ([{"LinearLR": LINE | {"total_iters": -1}}], "schedulers[0].LinearLR.total_iters", "-1"),
        ([{"LinearLR": LINE | {"steps": 1}}], "schedulers[0].LinearLR.steps", "unknown key"),
        (
            [{"CosineDecayLR": LINE | {"total_iters": 0}}],
            "schedulers[0].CosineDecayLR.total_iters",
            "1 or more",
        ),
        ([CONSTANT, {"LinearLR": LINE}], "schedulers[1]", "schedulers[0] sets as well"),
        (
            sequence(CONSTANT, {"LinearLR": LINE}),
            "schedulers[0].SequentialLR.schedulers[0].ConstantLR.total_iters",
            "is missing: only the last",
        ),
        (
            sequence({"LinearLR": LINE}, CONSTANT, milestones=[4]),
            "schedulers[0].SequentialLR.milestones",
            "[4], but the total_iters of the schedulers add up to [3]",
        ),
        (
            sequence(*sequence(CONSTANT)),
            "schedulers[0].SequentialLR.schedulers[0].SequentialLR",
            "stay at its first step",
        ),
        (
            sequence({"ConstantLR": {"learning_rate": 0.1, "param_group_tags": "a"}}),
            "schedulers[0].SequentialLR.schedulers[0].ConstantLR.param_group_tags",
            "inside of another",
        ),
        (sequence(), "schedulers[0].SequentialLR.schedulers", "a list of schedulers"),
    ],
)
def test_wrong_schedulers(params, where, what):
    ((there, fact, _),) = found(scheduler_problems(params, "c.yaml: schedulers"))
    assert there == where
    assert what in fact


def test_all_schedulers_at_once():
    bad = {"ConstantLR": {"learning_rate": "1e-5"}}
    params = sequence({"LinearLR": {"total_iters": "x"}}, {"Lambd": {}}, bad, milestones=5)
    assert len(scheduler_problems(params, "s")) == 6


@pytest.mark.parametrize(
    ("precision", "wheres"),
    [
        ({}, []),
        ({"max_gradient_norm": 1.0, "max_gradient_value": None}, []),
        ({"max_gradient_norm": "1e-1"}, ["p.max_gradient_norm"]),
        ({"max_gradient_norm": 0}, ["p.max_gradient_norm"]),
        ({"max_gradient_norm": 1.0, "max_gradient_value": -1}, ["p.max_gradient_value", "p"]),
    ],
)
def test_clipping(precision, wheres):
    assert [problem.where for problem in clipping_problems(precision, "p")] == wheres
