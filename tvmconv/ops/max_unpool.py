"""Maximum unpooling: ONNX MaxUnpool puts every element at its index, and 0 everywhere else.

An index counts the elements of the whole output as one vector, so it may lie in another channel; of
several elements at one index in a plane's own part the last one stays. Elements whose index lies
outside of the output are dropped.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from tvmconv import te_math
from tvmconv.errors import InputError
from tvmconv.kernel import KIND, KernelSpec
from tvmconv.layout import Layout
from tvmconv.ops import (
    Array,
    Attrs,
    BadCase,
    Case,
    Operator,
    Shape,
    expressions,
    importing,
    register,
)
from tvmconv.ops._dtypes import taking
from tvmconv.ops._shapes import expect_inputs, integers

if TYPE_CHECKING:
    from tvmconv.frontend.node import Builder, OnnxNode
    from tvmconv.graph.ir import Value


def output_shape(shapes: Sequence[Shape], attrs: Attrs) -> Shape:
    """Return N, C and the attribute ``spatial``."""
    expect_inputs(shapes, 2)
    spatial = integers(attrs, "spatial")
    if tuple(shapes[0]) != tuple(shapes[1]):
        raise InputError(f"x has shape {tuple(shapes[0])}, but the indices {tuple(shapes[1])}")
    if len(spatial) != len(shapes[0]) - 2 or min(spatial, default=0) < 1:
        wanted = len(shapes[0]) - 2
        raise InputError(f"attribute 'spatial' {spatial} must be {wanted} positive integers")
    return (*shapes[0][:2], *spatial)


def reference(arrays: Sequence[Any], attrs: Attrs) -> Array:
    """Scatter."""
    x, indices = np.asarray(arrays[0]), np.asarray(arrays[1]).astype(np.int64).ravel()
    y = np.zeros(output_shape([x.shape, x.shape], attrs), x.dtype)
    inside = (indices >= 0) & (indices < y.size)
    y.reshape(-1)[indices[inside]] = x.ravel()[inside]
    return y


def compute(spec: KernelSpec) -> list[Any]:
    """Check the indices; zero the output, then store every element of the input at its place.

    Two loops over planes, both shared among the threads. Stores to places that are known only at
    run time are made one by one: vector scatters of processors that have them are no faster.
    """
    from tvmconv._tvm import te, tirx

    x_layout, indices_layout = spec.inputs
    x = expressions.placeholder(x_layout, "x")
    indices = expressions.placeholder(indices_layout, "indices")
    shape, taken = spec.output.shape, x_layout.shape
    planes = prod(shape[:2])

    def over(spatial: Shape, body: Callable[[Any], Any]) -> Any:
        """A loop over the elements of all planes of so many."""
        plane, k = tirx.Var("plane", "int32"), tirx.Var("k", "int32")
        count = prod(spatial)
        inner = tirx.For(k, 0, count, tirx.ForKind.SERIAL, body(plane * count + k))
        return tirx.For(plane, 0, planes, tirx.ForKind.PARALLEL, inner)

    def inside(*index: Any) -> Any:
        there = indices[tuple(_in_buffer(index, indices_layout))]
        good = tirx.all(there >= 0, there < prod(shape))
        return tirx.Select(good, there, tirx.const(-1, "int64")).astype("int32")

    checked = te.compute(taken, inside, name="places", attrs={KIND: "stage"})

    def make(sources: Sequence[Any], results: Sequence[Any]) -> Any:
        values, places, y = *sources, results[0]

        def clear(number: Any) -> Any:
            return tirx.BufferStore(y, te_math.number(0.0), _place(number, shape))

        def put(number: Any) -> Any:
            own = _place(number, taken)
            value = values[tuple(_in_buffer(own, x_layout))]
            store = tirx.BufferStore(y, value, _place(places[tuple(own)], shape))
            return tirx.IfThenElse(places[tuple(own)] >= 0, store, None)

        return tirx.SeqStmt([over(shape[2:], clear), over(taken[2:], put)])

    # TE's own would begin at an offset, which a GPU's kernels are not given.
    buffers = [
        tirx.decl_buffer(source.shape, source.dtype, source.op.name) for source in (x, checked)
    ]
    y = te.extern(
        [shape],
        [x, checked],
        make,
        name="output",
        in_buffers=buffers,
        out_buffers=[tirx.decl_buffer(shape, spec.output.dtype, "output")],
        attrs={KIND: "map"},
    )
    return [x, indices, y]


def _in_buffer(place: Sequence[Any], layout: Layout) -> list[Any]:
    """The index in a plain buffer of a logical place."""
    return [q + offset for q, offset in zip(place, layout.offsets, strict=True)]


def _place(number: Any, shape: Shape) -> list[Any]:
    """The place of an element by its number, row by row."""
    place = []
    for extent in reversed(shape[1:]):
        place.append(number % extent)
        number = number // extent
    return [number, *reversed(place)]


def _import(node: OnnxNode, builder: Builder) -> Value:
    """ONNX ``MaxUnpool``; a larger output_shape than the inferred one has zeros at the end."""
    node.allow_attrs("kernel_shape", "pads", "strides")
    rank = importing.spatial_rank(node)
    x, indices = node.input(0), node.input(1)
    options = importing.window_options(node, rank)
    kernel = importing.kernel_shape(node, rank)
    strides: Any = options.get("stride", (1,) * rank)
    pads: Any = options.get("padding", (0,) * 2 * rank)
    inferred = [
        (size - 1) * stride - low - high + taps
        for size, stride, low, high, taps in zip(
            x.shape[2:], strides, pads[:rank], pads[rank:], kernel, strict=True
        )
    ]
    y = builder.emit("max_unpool", [x, indices], {"spatial": inferred})
    wanted = node.ints_input(2, "output_shape")
    if wanted is None or tuple(wanted) == y.shape:
        return y
    if len(wanted) != len(y.shape) or tuple(wanted[:2]) != y.shape[:2]:
        node.fail(f"output_shape {wanted} disagrees with the input's {list(x.shape)}")
    highs = [want - have for want, have in zip(wanted, y.shape, strict=True)]
    if min(highs) < 0:
        node.fail(f"output_shape {wanted} is less than {list(y.shape)}, which the windows cover")
    attrs = {"lows": [0] * len(highs), "highs": highs, "value": 0.0, "mode": "constant"}
    return builder.emit("pad", [y], attrs)


OPERATOR = register(
    Operator(
        name="max_unpool",
        summary="elements at their indices, 0 elsewhere",
        output_shape=output_shape,
        reference=reference,
        onnx={"MaxUnpool": _import},
        cases=(
            Case(
                "SegNet upsample1",
                shapes=((1, 16, 8, 8),) * 2,
                attrs={"spatial": [16, 16]},
            ),
            Case("1-D", shapes=((2, 3, 5),) * 2, attrs={"spatial": [11]}),
            Case("3-D", shapes=((1, 3, 2, 3, 4),) * 2, attrs={"spatial": [4, 6, 9]}),
        ),
        bad_cases=(
            BadCase(
                "x has shape (1, 1, 2, 2), but the indices (1, 1, 2, 3)",
                shapes=((1, 1, 2, 2), (1, 1, 2, 3)),
                attrs={"spatial": [4, 4]},
            ),
            BadCase(
                "'spatial' [4] must be 2 positive integers",
                shapes=((1, 1, 2, 2), (1, 1, 2, 2)),
                attrs={"spatial": [4]},
            ),
        ),
        compute=compute,
        output_dtype=taking("float32", "int64"),
    )
)
