"""The arguments of a graph, from its text."""

import pytest

from cerebras_utils.trace.cirh import Argument, read_arguments
from pruning.problems import ProblemError

WEIGHT = (
    "%arg1: tensor<16x32xf32> {cs.max_sparsity = 9.000000e-01 : f32, cs.min_sparsity = 2.500000e-01 : f32,"
    ' cs.sparsity = 0.300048828 : f32, tf.aliasing_output = 3 : i64, tf.resource_name = "state.model.w"}'
    " loc(unknown)"
)
ARGUMENTS = [
    '%arg0: tensor<16x32xi1> {tf.aliasing_output = 0 : i64, tf.resource_name = "state.model.w_mask"}'
    " loc(unknown)",
    WEIGHT,
    '%arg2: tensor<4x8xi32> {cs.input_name = "input_ids"} loc(unknown)',
    '%arg3: tensor<f32> {cs.loop = {max = 3 : i64, name = "a}, %arg9: tensor<f32>"},'
    ' tf.resource_name = "state.lr"} loc("a"("b.py":1:0))',
    "%arg4: tensor<i64> loc(unknown)",
]


def text(
    arguments, end=') -> (tensor<f32> {cs.output_name = "output_loss"}) attributes {cs.pol = 1 : i64} {'
):
    body = '    %0 = "cirh.Add"(%arg1, %arg1) ({\n    ^bb0(%arg5: tensor<f32>, %arg6: tensor<f32>):\n'
    return f"#loc0 = loc(unknown)\nmodule  {{\n  func @graph({', '.join(arguments)}{end}\n{body}  }}\n}}\n"


def test_names_shapes_types_and_hints():
    mask, weight, batch, rate, nameless = read_arguments(text(ARGUMENTS))
    assert mask == Argument("state.model.w_mask", (16, 32), "i1", {})
    assert mask.is_mask
    assert weight.hints == {"max_sparsity": 0.9, "min_sparsity": 0.25, "sparsity": 0.300048828}
    assert not weight.is_mask
    assert (batch.name, batch.shape, batch.dtype) == ("input_ids", (4, 8), "i32")
    assert (rate.name, rate.shape, rate.dtype, rate.hints) == ("state.lr", (), "f32", {})
    assert nameless.name == "arg4"


def test_newer_mlir_names_the_function_otherwise():
    assert len(read_arguments(text(ARGUMENTS).replace("func @graph", "func.func @graph"))) == 5


@pytest.mark.parametrize(
    ("broken", "says"),
    [
        ("", "holds no function"),
        ("module {\n}\n", "holds no function"),
        (text([ARGUMENTS[0], ARGUMENTS[2]]), "2 arguments cannot be told apart"),
        (text(ARGUMENTS, end=" {"), "cannot be told apart"),
        (text([a.replace("0.300048828", "0x7FC00000") for a in ARGUMENTS]), "0x7FC00000 as a sparsity"),
    ],
)
def test_text_of_another_form_is_an_error(broken, says):
    with pytest.raises(ProblemError, match=says):
        read_arguments(broken)
