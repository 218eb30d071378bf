"""Where the largest or the smallest element along an axis is: ArgMax and ArgMin of ONNX."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from tvmconv.errors import InputError
from tvmconv.kernel import KIND, KernelSpec
from tvmconv.ops import BadCase, Case, Importer, Operator, expressions, register
from tvmconv.ops._dtypes import taking
from tvmconv.ops._shapes import Shape, axis_in, expect_inputs, integer

if TYPE_CHECKING:
    from tvmconv.frontend.node import Builder, OnnxNode
    from tvmconv.graph.ir import Value

Array = npt.NDArray[Any]
Attrs = Mapping[str, Any]


def output_shape(shapes: Sequence[Shape], attrs: Attrs) -> Shape:
    """Return the shape with extent 1 on the axis."""
    expect_inputs(shapes, 1)
    axis = axis_in(integer(attrs, "axis"), len(shapes[0]))
    if not isinstance(attrs.get("last"), bool):
        raise InputError(f"attribute 'last' must be a bool, is {attrs.get('last')!r}")
    if not shapes[0][axis]:
        raise InputError("searches an axis of size 0")
    return (*shapes[0][:axis], 1, *shapes[0][axis + 1 :])


def _reference(arrays: Sequence[Array], attrs: Attrs, largest: bool) -> Array:
    axis, x = attrs["axis"], arrays[0]
    find = np.argmax if largest else np.argmin
    if not attrs["last"]:
        return np.asarray(find(x, axis=axis, keepdims=True), np.int64)
    back = find(np.flip(x, axis), axis=axis, keepdims=True)
    return np.asarray(x.shape[axis] - 1 - back, np.int64)


def arg_max(arrays: Sequence[Array], attrs: Attrs) -> Array:
    """Return the index of the largest element, the first or the last of equal ones."""
    return _reference(arrays, attrs, True)


def arg_min(arrays: Sequence[Array], attrs: Attrs) -> Array:
    """Return the index of the smallest element, the first or the last of equal ones."""
    return _reference(arrays, attrs, False)


def compute(spec: KernelSpec) -> list[Any]:
    """The extreme of each line, then the least (or greatest) index at which it stands."""
    from tvmconv._tvm import te, tirx

    layout, out = spec.inputs[0], spec.output
    axis, last = spec.attrs["axis"], spec.attrs["last"]
    extent = layout.shape[axis]
    x = expressions.placeholder(layout, "x")
    k1, k2 = (te.reduce_axis((0, extent), name) for name in ("k1", "k2"))
    extreme, nearest = te.max if spec.op == "arg_max" else te.min, te.max if last else te.min
    stage = {KIND: "stage"}

    def at(index: Sequence[Any], k: Any) -> Any:
        return expressions.element(x, layout, [*index[:axis], k, *index[axis + 1 :]])

    top = te.compute(out.shape, lambda *i: extreme(at(i, k1), axis=k1), name="extreme", attrs=stage)
    elsewhere = tirx.const(-1 if last else extent, "int32")
    place = te.compute(
        out.shape,
        lambda *i: nearest(tirx.Select(at(i, k2) == top(*i), k2, elsewhere), axis=k2),
        name="place",
        attrs=stage,
    )
    return [x, expressions.elements(out.shape, lambda *i: place(*i).astype("int64"))]


def _importer(op: str) -> Importer:
    def importer(node: OnnxNode, builder: Builder) -> Value:
        x = node.input(0)
        axis = node.axis(node.int_attr("axis", 0), len(x.shape))
        attrs = {"axis": axis, "last": bool(node.int_attr("select_last_index", 0))}
        y = builder.emit(op, [x], attrs)
        if node.int_attr("keepdims", 1):
            return y
        return builder.emit("reshape", [y], {"shape": [*x.shape[:axis], *x.shape[axis + 1 :]]})

    return importer


CASES = (
    Case("a classifier's answer", shapes=((2, 1000),), attrs={"axis": 1, "last": False}),
    Case("segmentation", shapes=((1, 21, 60, 64),), attrs={"axis": 1, "last": False}),
    Case("the last of equal ones", shapes=((3, 4, 5),), attrs={"axis": 0, "last": True}),
)
BAD_CASES = (
    BadCase("axis 2 is outside", shapes=((1, 10),), attrs={"axis": 2, "last": False}),
    BadCase("'last' must be a bool", shapes=((1, 10),), attrs={"axis": 1}),
    BadCase("an axis of size 0", shapes=((1, 0),), attrs={"axis": 1, "last": False}),
)

for _name, _onnx, _what, _function in (
    ("arg_max", "ArgMax", "largest", arg_max),
    ("arg_min", "ArgMin", "smallest", arg_min),
):
    register(
        Operator(
            name=_name,
            summary=f"index of the {_what} element along an axis",
            output_shape=output_shape,
            output_dtype=taking("float32", result="int64"),
            reference=_function,
            onnx={_onnx: _importer(_name)},
            cases=CASES,
            bad_cases=BAD_CASES,
            compute=compute,
        )
    )
