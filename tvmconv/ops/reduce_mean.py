"""Arithmetic mean over axes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from tvmconv import te_math
from tvmconv.errors import InputError
from tvmconv.kernel import KIND, KernelSpec
from tvmconv.ops import BadCase, Case, Operator, expressions, register
from tvmconv.ops._shapes import Shape, axes_in, expect_inputs, integers, size

if TYPE_CHECKING:
    from tvmconv.frontend.node import Builder, OnnxNode
    from tvmconv.graph.ir import Value

Array = npt.NDArray[Any]
Attrs = Mapping[str, Any]


def output_shape(shapes: Sequence[Shape], attrs: Attrs) -> Shape:
    """Return the shape with the reduced axes as 1, or without them where ``keepdims`` is false."""
    expect_inputs(shapes, 1)
    axes = axes_in(integers(attrs, "axes"), len(shapes[0]))
    if not isinstance(attrs.get("keepdims"), bool):
        raise InputError(f"attribute 'keepdims' must be a bool, is {attrs.get('keepdims')!r}")
    if attrs["keepdims"]:
        return tuple(1 if i in axes else extent for i, extent in enumerate(shapes[0]))
    return tuple(extent for i, extent in enumerate(shapes[0]) if i not in axes)


def reference(arrays: Sequence[Array], attrs: Attrs) -> Array:
    """Return the mean in float64, rounded once."""
    x = np.asarray(arrays[0], np.float64)
    mean = np.mean(x, axis=tuple(attrs["axes"]), keepdims=attrs["keepdims"])
    return np.asarray(mean).astype(arrays[0].dtype)


def compute(spec: KernelSpec) -> list[Any]:
    """The sum over the axes, as a stage, times the reciprocal of their size."""
    from tvmconv._tvm import te

    layout, out, attrs = spec.inputs[0], spec.output, spec.attrs
    x = expressions.placeholder(layout, "x")
    rank = len(layout.shape)
    axes = axes_in(attrs["axes"], rank)
    taps = {k: te.reduce_axis((0, layout.shape[k]), f"r{k}") for k in sorted(axes)}
    kept = [k for k in range(rank) if k not in taps]

    def body(*index: Any) -> Any:
        where = dict(
            zip(kept, [index[k] for k in kept] if attrs["keepdims"] else index, strict=True)
        )
        place = [taps[k] if k in taps else where[k] for k in range(rank)]
        return te.sum(expressions.element(x, layout, place), axis=list(taps.values()))

    total = te.compute(out.shape, body, name="total", attrs={KIND: "stage"})
    factor = te_math.number(1.0 / size([layout.shape[k] for k in axes]))
    mean = expressions.elements(out.shape, lambda *index: total(*index) * factor)
    return [x, mean]


def _import(node: OnnxNode, builder: Builder) -> Value:
    """Import ReduceMean: axes are an attribute before opset 18, an input since; none means all."""
    x = node.input(0)
    if node.opset >= 18:
        axes = node.ints_input(1, "axes")
    else:
        axes = node.ints_attr("axes") if node.has("axes") else None
    if not axes:
        if node.int_attr("noop_with_empty_axes", 0):
            return x
        axes = list(range(len(x.shape)))
    axes = sorted(node.axes(axes, len(x.shape)))
    keepdims = bool(node.int_attr("keepdims", 1))
    return builder.emit("reduce_mean", [x], {"axes": axes, "keepdims": keepdims})


OPERATOR = register(
    Operator(
        name="reduce_mean",
        summary="arithmetic mean over axes",
        output_shape=output_shape,
        reference=reference,
        onnx={"ReduceMean": _import},
        cases=(
            Case(
                "mobilenet: x.mean([2, 3])",
                shapes=((2, 13, 7, 7),),
                attrs={"axes": [2, 3], "keepdims": False},
            ),
            Case("over channels", shapes=((1, 24, 5, 3),), attrs={"axes": [1], "keepdims": True}),
            Case("everything", shapes=((2, 3, 4),), attrs={"axes": [0, 1, 2], "keepdims": True}),
        ),
        bad_cases=(
            BadCase("axis 3 is outside", shapes=((1, 2, 3),), attrs={"axes": [3]}),
            BadCase("names an axis twice", shapes=((1, 2, 3),), attrs={"axes": [1, -2]}),
            BadCase("'keepdims' must be a bool", shapes=((1, 2, 3),), attrs={"axes": [1]}),
        ),
        compute=compute,
    )
)
