"""What a graph carries against what was asked for: each difference is told, and nothing else is."""

import dataclasses
import hashlib
from dataclasses import replace

import pytest
import torch

from cerebras_utils.trace.asked import Asked
from cerebras_utils.trace.cirh import HINTS, Argument
from cerebras_utils.trace.report import Parameter, Trace, judge
from pruning.mask_ops import save_mask
from pruning.masks.bits import pack

A, B, HEAD = "state.model.a.weight", "state.model.b.weight", "state.model.head.weight"
SPARSITY = {A: 0.3, B: 0.75}


@pytest.fixture
def masks(tmp_path):
    mask_a, mask_b = torch.arange(20).view(4, 5) >= 6, torch.arange(8).view(2, 4) >= 6
    save_mask({"a.weight": mask_a, "b.weight": mask_b}, str(tmp_path / "m.safetensors"))
    return tmp_path / "m.safetensors", {A: mask_a, B: mask_b}


@pytest.fixture
def asked(masks):
    return Asked(mask_path=str(masks[0]), every_step=True)


@pytest.fixture
def good(masks):
    """Two masked weights, b frozen, and a tied head without a mask."""
    parameters = [
        Parameter(("a.weight", "twin.weight"), A, ("optimizer.0.m", "optimizer.0.v"), True),
        Parameter(("b.weight",), B, (), False),
        Parameter(("head.weight",), HEAD, ("optimizer.1.m",), True),
    ]
    arguments = [
        argument
        for name, mask in masks[1].items()
        for argument in (
            Argument(f"{name}_mask", tuple(mask.shape), "i1", {}),
            Argument(name, tuple(mask.shape), "f32", dict.fromkeys(HINTS, SPARSITY[name])),
        )
    ]
    arguments += [Argument(s, (4, 5), "f32", dict.fromkeys(HINTS, 0.3)) for s in parameters[0].state]
    arguments += [Argument(HEAD, (3,), "f32", {}), Argument("optimizer.1.m", (3,), "f32", {})]
    sent = {argument.name: {"kind": "Tensor"} for argument in arguments}
    for name, mask in masks[1].items():
        digest = hashlib.sha256(pack(mask.numpy()).tobytes()).hexdigest()
        sent[f"{name}_mask"] |= {"kept": int(mask.sum()), "numel": mask.numel(), "sha256": digest}
    return Trace(arguments, parameters, sent)


def changed(trace, of, /, **changes):
    """The trace with one argument changed; ``hints=None`` takes the argument away."""
    if changes == {"hints": None}:
        return replace(trace, arguments=[a for a in trace.arguments if a.name != of])
    made = [replace(a, **changes) if a.name == of else a for a in trace.arguments]
    assert made != trace.arguments
    return replace(trace, arguments=made)


def said(trace, asked):
    return [f"{problem.where}: {problem.what}" for problem in judge(trace, asked).problems]


def test_what_was_asked_for_is_no_problem(good, asked):
    report = judge(good, asked)
    assert not report.problems
    rows = {row.weight: row for row in report.rows}
    a, b = rows["a.weight"], rows["b.weight"]
    assert (a.sparsity, a.hint, a.mask, a.mask_sent) == (1 - 14 / 20, 0.3, "i1", "Tensor")
    assert (a.state_hinted, a.state) == (2, 2)
    assert (b.sparsity, b.hint, b.state_hinted, b.state, b.trained) == (0.75, 0.75, 0, 0, False)
    assert (good.hints, good.masks) == (4, 2)


@pytest.mark.parametrize(
    ("name", "changes", "says"),
    [
        (
            A,
            {"hints": dict.fromkeys(HINTS, 0.31)},
            "a.weight: the weight is hinted 0.31, where its mask has 0.3",
        ),
        (A, {"hints": {}}, "a.weight: the weight carries no hint: it would be dense"),
        (A, {"hints": {"sparsity": 0.3}}, "a.weight: the weight carries no min_sparsity, max_sparsity"),
        (
            A,
            {"hints": {**dict.fromkeys(HINTS, 0.3), "sparsity": 0.2}},
            "a.weight: the weight is hinted 0.3 to 0.3",
        ),
        ("optimizer.0.v", {"hints": {}}, "a.weight: the optimizer's v carries no hint"),
        (
            "optimizer.0.m",
            {"hints": dict.fromkeys(HINTS, 0.75)},
            "a.weight: the optimizer's m is hinted 0.75",
        ),
        ("optimizer.0.m", {"hints": None}, "a.weight: the optimizer's m is no argument of the graph"),
        (f"{A}_mask", {"hints": None}, "a.weight: its mask is no argument of the graph"),
        (f"{B}_mask", {"dtype": "f32"}, "b.weight: its mask is f32 of (2, 4), not i1"),
        (B, {"hints": None}, "b.weight: the weight is no argument of the graph"),
        (HEAD, {"hints": {"sparsity": 0.5}}, f"{HEAD}: carries a hint that nothing asks for: sparsity 0.5"),
        ("optimizer.1.m", {"hints": {"max_sparsity": 0.5}}, "optimizer.1.m: carries a hint that nothing"),
        (HEAD, {"name": f"{HEAD}_mask", "dtype": "i1"}, f"{HEAD}_mask: is a mask that nothing asks for"),
    ],
)
def test_each_difference_is_told(good, asked, name, changes, says):
    (problem,) = said(changed(good, name, **changes), asked)
    assert problem.startswith(says)


def test_a_mask_of_other_bits_is_told(good, asked):
    good.sent[f"{A}_mask"]["sha256"] = "another"
    assert said(good, asked) == [
        "a.weight: the mask that would be sent keeps 14 weights, and not those of the file"
    ]


def test_what_would_not_be_sent_is_told(good, asked):
    sent = {name: seen for name, seen in good.sent.items() if not name.startswith(A)}
    assert said(replace(good, sent=sent), asked) == [
        "a.weight: is not among the tensors that would be sent",
        "a.weight: its mask is not among the tensors that would be sent",
    ]


def test_a_trained_weight_without_state_is_told(good, asked):
    parameters = [dataclasses.replace(p, trained=True) for p in good.parameters]
    assert said(replace(good, parameters=parameters), asked) == [
        "b.weight: is trained, and the optimizer has no state of its shape to hint"
    ]


def test_a_dense_config_takes_no_hints_and_no_masks(good):
    assert len(said(good, Asked())) == good.hints + good.masks


def test_once_takes_no_hints_and_no_masks_but_zeros(good, masks):
    once = Asked(mask_path=str(masks[0]), every_step=False)
    plain = [replace(a, hints={}) for a in good.arguments if not a.is_mask]
    zeros = {A: {"kind": "Tensor", "under_mask": 0}, B: {"kind": "Tensor", "under_mask": 0}}
    assert said(Trace(plain, good.parameters, zeros), once) == []
    assert len(judge(Trace(plain, good.parameters, zeros), once).rows) == 2
    zeros[B]["under_mask"] = 6
    assert said(Trace(plain, good.parameters, zeros), once) == [
        "b.weight: would be sent with 6 weights under its mask that are not zero"
    ]
    assert len(said(replace(good, sent=zeros), once)) == good.hints + good.masks + 1


def test_the_vendors_own_number_may_miss_its_mask_by_a_part_of_a_weight(good):
    native = Asked(native=True)
    assert said(good, native) == []
    hinted = changed(good, B, hints=dict.fromkeys(HINTS, 0.7))  # 5.6 of 8 weights, and 6 are dropped
    assert said(hinted, native) == []
    hinted = changed(good, B, hints=dict.fromkeys(HINTS, 0.6))
    assert said(hinted, native) == ["b.weight: the weight is hinted 0.6, where its mask has 0.75"]
    moving = changed(good, B, hints={"min_sparsity": 0.0, "max_sparsity": 0.9, "sparsity": 0.9})
    assert said(moving, native) == []


def test_a_sparsity_section_that_reaches_nothing_is_told(good):
    dense = [replace(a, hints={}) for a in good.arguments if not a.is_mask]
    assert said(replace(good, arguments=dense), Asked(native=True)) == [
        "sparsity: the config has a `sparsity:` section, and the graph holds no mask"
    ]
