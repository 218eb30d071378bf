"""Softmax and its logarithm along one axis."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from tvmconv import te_math
from tvmconv.kernel import KIND, KernelSpec
from tvmconv.ops import BadCase, Case, Importer, Operator, expressions, register
from tvmconv.ops._shapes import Shape, axis_in, expect_inputs, integer, size

if TYPE_CHECKING:
    from tvmconv.frontend.node import Builder, OnnxNode
    from tvmconv.graph.ir import Value

Array = npt.NDArray[Any]
Attrs = Mapping[str, Any]


def output_shape(shapes: Sequence[Shape], attrs: Attrs) -> Shape:
    """Return the input's shape."""
    expect_inputs(shapes, 1)
    axis_in(integer(attrs, "axis"), len(shapes[0]))
    return shapes[0]


def softmax(arrays: Sequence[Array], attrs: Attrs) -> Array:
    """Return ``exp(x − max) / Σ exp(x − max)``."""
    x = np.asarray(arrays[0], np.float64)
    e = np.exp(x - x.max(axis=attrs["axis"], keepdims=True))
    y: Array = e / e.sum(axis=attrs["axis"], keepdims=True)
    return y.astype(arrays[0].dtype)


def log_softmax(arrays: Sequence[Array], attrs: Attrs) -> Array:
    """Return ``x − max − log Σ exp(x − max)``."""
    x = np.asarray(arrays[0], np.float64)
    x = x - x.max(axis=attrs["axis"], keepdims=True)
    y: Array = x - np.log(np.exp(x).sum(axis=attrs["axis"], keepdims=True))
    return y.astype(arrays[0].dtype)


def compute(spec: KernelSpec) -> list[Any]:
    """Maxima, exponentials and their sums as stages, then the quotient (or the logarithm's sum)."""
    from tvmconv._tvm import te

    layout = spec.inputs[0]
    shape = layout.shape
    axis = axis_in(spec.attrs["axis"], len(shape))
    x = expressions.placeholder(layout, "x")
    # Lines keep the axis with extent 1, so that an index of the output is one of theirs.
    lines = (*shape[:axis], 1, *shape[axis + 1 :])

    def at(place: Sequence[Any]) -> Any:
        return expressions.element(x, layout, place)

    def along(index: Sequence[Any], k: Any) -> list[Any]:
        return [*index[:axis], k, *index[axis + 1 :]]

    k1, k2 = (te.reduce_axis((0, shape[axis]), name) for name in ("k1", "k2"))
    stage = {KIND: "stage"}
    top = te.compute(lines, lambda *i: te.max(at(along(i, k1)), axis=k1), name="top", attrs=stage)

    def shifted(index: Sequence[Any]) -> Any:
        return at(index) - top(*along(index, 0))

    e = expressions.elements(shape, lambda *i: te_math.exp(shifted(i)), "exponential", "stage")
    total = te.compute(
        lines, lambda *i: te.sum(e(*along(i, k2)), axis=k2), name="total", attrs=stage
    )

    def result(*i: Any) -> Any:
        if spec.op == "log_softmax":
            return shifted(i) - te_math.log(total(*along(i, 0)))
        return e(*i) / total(*along(i, 0))

    return [x, expressions.elements(shape, result)]


def _importer(op: str) -> Importer:
    """Make an importer that honours both meanings of ``axis``."""

    def importer(node: OnnxNode, builder: Builder) -> Value:
        x = node.input(0)
        rank = len(x.shape)
        axis = node.axis(node.int_attr("axis", -1 if node.opset >= 13 else 1), rank)
        if node.opset >= 13 or size(x.shape[axis + 1 :]) == 1:
            return builder.emit(op, [x], {"axis": axis})
        # Before opset 13 all axes from `axis` on are normalised together, as the rows of a matrix.
        rows = [size(x.shape[:axis]), size(x.shape[axis:])]
        matrix = builder.emit("reshape", [x], {"shape": rows})
        result = builder.emit(op, [matrix], {"axis": 1})
        return builder.emit("reshape", [result], {"shape": list(x.shape)})

    return importer


CASES = (
    Case("a classifier", shapes=((1, 1000),), attrs={"axis": 1}),
    Case("squeezenet: a map of one pixel", shapes=((1, 1000, 1, 1),), attrs={"axis": 1}),
    Case("channels of every pixel", shapes=((2, 21, 5, 7),), attrs={"axis": 1}),
    Case("classes of a large map", shapes=((1, 21, 60, 64),), attrs={"axis": 1}),
    Case("the last axis", shapes=((2, 3, 13),), attrs={"axis": 2}),
)
BAD_CASES = (
    BadCase("axis 2 is outside", shapes=((1, 10),), attrs={"axis": 2}),
    BadCase("'axis' must be an integer", shapes=((1, 10),)),
)

for _name, _onnx, _formula, _reference in (
    ("softmax", "Softmax", "y = exp(x) / Σ exp(x)", softmax),
    ("log_softmax", "LogSoftmax", "y = x − log Σ exp(x)", log_softmax),
):
    register(
        Operator(
            name=_name,
            summary=f"{_formula} along an axis",
            output_shape=output_shape,
            reference=_reference,
            onnx={_onnx: _importer(_name)},
            cases=CASES,
            bad_cases=BAD_CASES,
            compute=compute,
        )
    )
