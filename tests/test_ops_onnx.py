"""The importers of the convolution family: what ONNX nodes become, and what is refused."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from tvmconv import ops
from tvmconv.errors import InputError
from tvmconv.frontend.node import Builder, OnnxNode
from tvmconv.graph.ir import Value

Array = npt.NDArray[Any]
RNG = np.random.default_rng(0)


def constant(*shape: int) -> Value:
    return Value(f"w{shape}", shape, data=RNG.integers(-9, 9, shape).astype(np.float32))


def variable(*shape: int) -> Value:
    return Value(f"x{shape}", shape)


def imported(
    op_type: str, inputs: Sequence[Value | None], outputs: Sequence[str] = ("y",), **attrs: Any
) -> tuple[Value, Builder]:
    opset = attrs.pop("opset", 22)
    node = OnnxNode(op_type, "", "n1", attrs, inputs, outputs, opset, "m.onnx")
    builder = Builder("m.onnx")
    builder.current = node
    value = ops.importers()[op_type](node, builder)
    return value, builder


def evaluate(value: Value, builder: Builder, known: dict[Value, Array]) -> Array:
    """Compute the emitted nodes with the registry's references."""
    for node in builder.nodes:
        arrays = [known[v] if v.data is None else v.data for v in node.inputs]
        known[node.output] = ops.get(node.op).reference(arrays, node.attrs)
        assert known[node.output].shape == node.output.shape
    return known[value]


@pytest.mark.parametrize(
    ("op_type", "shapes", "attrs", "op", "text"),
    [
        ("Conv", [(1, 4, 9, 9), (8, 4, 3, 3)], {}, "conv", "conv2d:1x4x9x9:8x3x3"),
        ("Conv", [(1, 4, 9, 9), (8, 4, 3, 3), (8,)],
         {"pads": [1, 0, 2, 1], "strides": [2, 1], "dilations": [1, 2], "kernel_shape": [3, 3]},
         "conv", "conv2d:1x4x9x9:8x3x3:stride=2,1:padding=1,0,2,1:dilation=1,2:bias=true"),
        ("Conv", [(1, 4, 9, 9), (8, 2, 3, 3)], {"group": 2}, "conv",
         "conv2d:1x4x9x9:8x3x3:groups=2"),
        ("Conv", [(1, 4, 9), (8, 1, 3)], {"group": 4, "auto_pad": "SAME_LOWER"}, "depthwise_conv",
         "depthwise_conv1d:1x4x9:8x3:padding=1"),
        ("Conv", [(1, 1, 9), (8, 1, 2)], {"auto_pad": "SAME_LOWER", "pads": [0, 0]}, "conv",
         "conv1d:1x1x9:8x2:padding=1,0"),
        ("Conv", [(1, 2, 3, 4, 5), (1, 2, 1, 1, 1)], {"auto_pad": "VALID"}, "conv",
         "conv3d:1x2x3x4x5:1x1x1x1"),
        ("MaxPool", [(1, 4, 9, 9)], {"kernel_shape": [3, 3], "strides": [2, 2], "ceil_mode": 1,
         "storage_order": 1}, "max_pool", "max_pool2d:1x4x9x9:3x3:stride=2:ceil_mode=true"),
        ("MaxPool", [(1, 4, 9)], {"kernel_shape": [2], "dilations": [2]}, "max_pool",
         "max_pool1d:1x4x9:2:dilation=2"),
        ("AveragePool", [(1, 4, 9, 9)], {"kernel_shape": [2, 3], "pads": [0, 1, 0, 1],
         "count_include_pad": 1}, "avg_pool",
         "avg_pool2d:1x4x9x9:2x3:padding=0,1:count_include_pad=true"),
        ("GlobalAveragePool", [(2, 4, 9, 9)], {}, "global_avg_pool", "global_avg_pool2d:2x4x9x9"),
        ("GlobalMaxPool", [(2, 4, 9)], {}, "global_max_pool", "global_max_pool1d:2x4x9"),
        ("Gemm", [(2, 5), (5, 3), (3,)], {}, "dense", "dense:2x5:3:bias=true"),
        ("MatMul", [(2, 5), (5, 3)], {}, "dense", "dense:2x5:3"),
    ],
)  # fmt: skip
def test_imported(
    op_type: str, shapes: list[tuple[int, ...]], attrs: dict[str, Any], op: str, text: str
) -> None:
    value, builder = imported(
        op_type, [variable(*shapes[0]), *(constant(*s) for s in shapes[1:])], **attrs
    )
    (node,) = builder.nodes
    assert (node.op, node.attrs, node.output) == (op, {"problem": text}, value)
    assert node.name == "n1"


def test_bias_may_be_left_out_by_name() -> None:
    _, builder = imported("Conv", [variable(1, 4, 9), constant(8, 4, 3), None])
    assert builder.nodes[0].attrs == {"problem": "conv1d:1x4x9:8x3"}


@pytest.mark.parametrize(
    ("op_type", "shapes", "attrs", "message"),
    [
        ("Conv", [(1, 4, 9, 9), (8, 4, 3, 3)], {"kernel_shape": [5, 5]},
         "attribute 'kernel_shape' [5, 5] disagrees with the weight's [3, 3]"),
        ("Conv", [(1, 4, 9, 9), (8, 4, 3, 3)], {"kernel_shape": [3]},
         "attribute 'kernel_shape' must have 2 values, has 1"),
        ("Conv", [(1, 4, 9, 9), (8, 4, 3, 3)], {"dilations": [0, 1]},
         "dilation must be at least 1, got 0"),
        ("Conv", [(1, 4, 9, 9), (8, 4, 3, 3)], {"pads": [-1, 0, 0, 0]},
         "padding must be at least 0, got -1"),
        ("Conv", [(1, 4, 9, 9), (8, 4, 3, 3)], {"pads": [1, 1]},
         "attribute 'pads' must have 4 values, has 2"),
        ("Conv", [(1, 4, 9, 9), (8, 4, 3, 3)], {"strides": []},
         "attribute 'strides' must have 2 values, has 0"),
        ("Conv", [(1, 4, 9, 9), (8, 4, 3, 3)], {"auto_pad": "SAME"},
         "attribute 'auto_pad' must be one of NOTSET, SAME_UPPER, SAME_LOWER, VALID, is 'SAME'"),
        ("Conv", [(1, 4, 9, 9), (8, 4, 3, 3)], {"auto_pad": "VALID", "pads": [1, 1, 1, 1]},
         "attribute 'pads' cannot be given together with auto_pad VALID"),
        ("Conv", [(1, 4, 9, 9), (8, 4, 3, 3)], {"group": 0},
         "attribute 'group' must be at least 1"),
        ("Conv", [(1, 4, 9, 9), (8, 3, 3, 3)], {},
         "input has 4 channels, but the weight takes 3 in each of 1 groups"),
        ("Conv", [(1, 4, 9, 9), (9, 2, 3, 3)], {"group": 2},
         "groups must divide the 9 output channels, got 2"),
        ("Conv", [(1, 4, 9, 9), (8, 4, 3)], {}, "weight must have 4 axes, has shape (8, 4, 3)"),
        ("Conv", [(1, 4, 9, 9), (8, 4, 3, 3), (4,)], {}, "bias must have shape (8,), has (4,)"),
        ("Conv", [(4, 9), (8, 4)], {}, "input must have 3 to 5 axes (N, C, spatial), has 2"),
        ("Conv", [(1, 4, 2, 2), (8, 4, 3, 3)], {}, "the output would have size 0"),
        ("Conv", [(1, 4, 9, 9), (0, 4, 3, 3)], {}, "filter sizes must be positive integers, got 0"),
        ("Conv", [(1, 4, 9, 9), (8, 4, 3, 3)], {"stride": [2, 2]}, "unknown attribute 'stride'"),
        ("MaxPool", [(1, 4, 9, 9)], {}, "attribute 'kernel_shape' is required"),
        ("MaxPool", [(1, 4, 9, 9)], {"kernel_shape": [0, 3]},
         "filter sizes must be positive integers, got 0"),
        ("MaxPool", [(1, 4, 9, 9)], {"kernel_shape": [3, 3], "pads": [3, 0, 0, 0]},
         "padding must be less than the window's extent 3"),
        ("MaxPool", [(1, 4, 9, 9)], {"kernel_shape": [3, 3], "ceil_mode": 2},
         "attribute 'ceil_mode' must be 0 or 1, is 2"),
        ("GlobalAveragePool", [(1, 4)], {}, "input must have 3 to 5 axes"),
        ("GlobalAveragePool", [(1, 4, 9, 9)], {"axis": 1}, "unknown attribute 'axis'"),
        ("Gemm", [(2, 5), (4, 3)], {}, "A' has 5 columns, but B' has 4 rows"),
        ("Gemm", [(2, 5), (5, 3), (2,)], {}, "C of shape (2,) does not broadcast to the output's"),
        ("Gemm", [(2, 5), (5, 3), (1, 2, 3)], {}, "C of shape (1, 2, 3) does not broadcast"),
        ("Gemm", [(2, 5, 1), (5, 3)], {}, "A and B must have 2 axes"),
        ("Gemm", [(2, 5), (5, 3)], {"broadcast": 1}, "unknown attribute 'broadcast'"),
        ("MatMul", [(2, 5), (4, 3)], {}, "the left side has 5 columns, the right 4 rows"),
        ("MatMul", [(2, 5), (4,)], {}, "the left side has 5 columns, the right 4 rows"),
        ("MatMul", [(2, 5), ()], {}, "takes no scalars"),
        ("MatMul", [(2, 3, 5), (4, 5, 2)], {}, "shapes 2 and 4 cannot be broadcast"),
    ],
)  # fmt: skip
def test_refused(
    op_type: str, shapes: list[tuple[int, ...]], attrs: dict[str, Any], message: str
) -> None:
    values = [variable(*shapes[0]), *(constant(*shape) for shape in shapes[1:])]
    with pytest.raises(InputError) as caught:
        imported(op_type, values, **attrs)
    assert str(caught.value).startswith(f"m.onnx: node 'n1' ({op_type}): ")
    assert message in str(caught.value)


def test_other_refusals() -> None:
    imported("MaxPool", [variable(1, 4, 9)], ("y", ""), kernel_shape=[2])
    with pytest.raises(
        InputError, match="dtype must be one of float32, float16, bfloat16, got 'int8'"
    ):
        imported("AveragePool", [Value("x", (1, 4, 9), "int8")], kernel_shape=[2])
    with pytest.raises(InputError, match=r"dtype must be one of .*, got 'int64'"):
        imported("MaxPool", [Value("x", (1, 4, 9), "int64")], kernel_shape=[2])


@pytest.mark.parametrize("c_shape", [None, (), (1,), (3,), (1, 3), (2, 1), (2, 3)])
@pytest.mark.parametrize("c_constant", [True, False])
@pytest.mark.parametrize("b_constant", [True, False])
@pytest.mark.parametrize(
    "attrs",
    [{}, {"alpha": 0.5, "beta": 2.0}, {"transA": 1, "transB": 1}, {"beta": 0.0, "transB": 1}],
    ids=str,
)
def test_gemm(
    c_shape: tuple[int, ...] | None, b_constant: bool, c_constant: bool, attrs: dict[str, Any]
) -> None:
    a_shape = (5, 2) if attrs.get("transA") else (2, 5)
    b_shape = (3, 5) if attrs.get("transB") else (5, 3)
    b = constant(*b_shape) if b_constant else variable(*b_shape)
    a = variable(*a_shape)
    c = None if c_shape is None else (constant(*c_shape) if c_constant else variable(*c_shape))
    value, builder = imported("Gemm", [a, b, c], **attrs)
    assert value.shape == (2, 3)
    known = {a: RNG.integers(-9, 9, a_shape).astype(np.float32)}
    if c is not None:
        known[c] = c.data if c.data is not None else RNG.integers(-9, 9, c.shape).astype(np.float32)
    known[b] = b.data if b.data is not None else RNG.integers(-9, 9, b_shape).astype(np.float32)
    left = known[a].T if attrs.get("transA") else known[a]
    right = known[b].T if attrs.get("transB") else known[b]
    expected = attrs.get("alpha", 1.0) * (left @ right)
    if c is not None:
        expected = expected + attrs.get("beta", 1.0) * known[c]
    assert evaluate(value, builder, known).tolist() == expected.tolist()


def test_gemm_of_old_opsets_has_broadcast() -> None:
    value, _ = imported("Gemm", [variable(2, 5), constant(5, 3), constant(3)], opset=6, broadcast=1)
    assert value.shape == (2, 3)


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ((2, 5), (5, 3)), ((5,), (5, 3)), ((2, 5), (5,)), ((5,), (5,)), ((4, 2, 5), (5, 3)),
        ((2, 5), (4, 5, 3)), ((4, 2, 5), (4, 5, 3)), ((4, 1, 2, 5), (3, 5, 2)), ((5,), (4, 5, 3)),
        ((1, 2, 5), (4, 5, 3)), ((4, 1, 1), (4, 1, 3)),
    ],
    ids=str,
)  # fmt: skip
def test_matmul_at_run_time(left: tuple[int, ...], right: tuple[int, ...]) -> None:
    a, b = variable(*left), variable(*right)
    value, builder = imported("MatMul", [a, b])
    known = {v: RNG.integers(-9, 9, v.shape).astype(np.float32) for v in (a, b)}
    assert evaluate(value, builder, known).tolist() == (known[a] @ known[b]).tolist()


@pytest.mark.parametrize("shape", [(5,), (2, 5), (2, 4, 5), (1, 2, 3, 5)])
def test_matmul(shape: tuple[int, ...]) -> None:
    x, weight = variable(*shape), constant(5, 3)
    value, builder = imported("MatMul", [x, weight])
    array = RNG.integers(-9, 9, shape).astype(np.float32)
    assert weight.data is not None
    assert evaluate(value, builder, {x: array}).tolist() == (array @ weight.data).tolist()
