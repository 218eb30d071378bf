"""Reductions over axes: sums, means, norms, products, the largest and the smallest element.

A reduction along the last axis reads it in strips: the first partial result is that of every
:data:`STRIP`-th element from the first on, the second from the second on, … So neighbours are read
together, and the chains of additions, whose rounding errors grow with their length, are short.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from tvmconv import te_math
from tvmconv.errors import InputError
from tvmconv.kernel import KIND, KernelSpec
from tvmconv.ops import BadCase, Case, Importer, Operator, expressions, register
from tvmconv.ops._shapes import Shape, axes_in, expect_inputs, integers, size

if TYPE_CHECKING:
    from tvmconv.frontend.node import Builder, OnnxNode
    from tvmconv.graph.ir import Value

Array = npt.NDArray[Any]
Attrs = Mapping[str, Any]

#: Partial results along the last axis: a few vectors of any target.
STRIP = 64


@dataclass(frozen=True)
class Reduction:
    """What is computed of each element, how these are combined, and what is made of the result.

    Attributes
    ----------
    formula : str
        For people.
    onnx : str
        ONNX's operator type.
    axes_input_since : int
        Opset in which ``axes`` became an input.
    reference : callable
        ``reference(array, axis=…, keepdims=…)`` in NumPy.
    combine : callable
        ``combine(a, b)`` of two TE expressions.
    identity : float
        What changes nothing when it is combined.
    before, after : callable
        ``before(element)``, and ``after(result, count)`` with the number of elements reduced.
    alone : str
        Elementwise operator that a reduction over no axes is; empty if it changes nothing.
    """

    formula: str
    onnx: str
    axes_input_since: int
    reference: Callable[..., Any]
    combine: Callable[[Any, Any], Any]
    identity: float = 0.0
    before: Callable[[Any], Any] = lambda element: element
    after: Callable[[Any, int], Any] = lambda result, count: result
    alone: str = ""


def _add(a: Any, b: Any) -> Any:
    return a + b


def _multiply(a: Any, b: Any) -> Any:
    return a * b


def _larger(a: Any, b: Any) -> Any:
    from tvmconv._tvm import te

    return te.max(a, b)


def _smaller(a: Any, b: Any) -> Any:
    from tvmconv._tvm import te

    return te.min(a, b)


def _square(element: Any) -> Any:
    element = te_math.bind(element)
    return element * element


def _sum_of_squares(x: Array, **where: Any) -> Any:
    return np.sum(x * x, **where)


REDUCTIONS = {
    "reduce_mean": Reduction(
        "arithmetic mean", "ReduceMean", 18, np.mean, _add,
        after=lambda result, count: result * te_math.number(1.0 / count),
    ),
    "reduce_sum": Reduction("sum", "ReduceSum", 13, np.sum, _add),
    "reduce_prod": Reduction("product", "ReduceProd", 18, np.prod, _multiply, 1.0),
    "reduce_max": Reduction("largest element", "ReduceMax", 18, np.max, _larger, -math.inf),
    "reduce_min": Reduction("smallest element", "ReduceMin", 18, np.min, _smaller, math.inf),
    "reduce_sum_square": Reduction(
        "sum of squares", "ReduceSumSquare", 18, _sum_of_squares, _add, before=_square,
        alone="square",
    ),
    "reduce_l1": Reduction(
        "sum of absolute values", "ReduceL1", 18, lambda x, **where: np.sum(np.abs(x), **where),
        _add, before=te_math.absolute, alone="abs",
    ),
    "reduce_l2": Reduction(
        "square root of the sum of squares", "ReduceL2", 18,
        lambda x, **where: np.sqrt(_sum_of_squares(x, **where)),
        _add, before=_square, after=lambda result, count: te_math.sqrt(result), alone="abs",
    ),
}  # fmt: skip


def output_shape(shapes: Sequence[Shape], attrs: Attrs) -> Shape:
    """Return the shape with the reduced axes as 1, or without them where ``keepdims`` is false."""
    expect_inputs(shapes, 1)
    axes = axes_in(integers(attrs, "axes"), len(shapes[0]))
    if not isinstance(attrs.get("keepdims"), bool):
        raise InputError(f"attribute 'keepdims' must be a bool, is {attrs.get('keepdims')!r}")
    if not axes:
        raise InputError("attribute 'axes' must name an axis")
    if not all(shapes[0][axis] for axis in axes):
        raise InputError("reduces a tensor of size 0")
    if attrs["keepdims"]:
        return tuple(1 if i in axes else extent for i, extent in enumerate(shapes[0]))
    return tuple(extent for i, extent in enumerate(shapes[0]) if i not in axes)


def _make_reference(reduction: Reduction) -> Callable[[Sequence[Array], Attrs], Array]:
    """Make the reference: in float64, rounded once; integers stay what they are."""

    def reference(arrays: Sequence[Array], attrs: Attrs) -> Array:
        x = arrays[0] if arrays[0].dtype.kind in "iu" else np.asarray(arrays[0], np.float64)
        axes = tuple(attrs["axes"])
        with np.errstate(all="ignore"):  # infinities and NaN are results
            y = reduction.reference(x, axis=axes, keepdims=attrs["keepdims"])
        return np.asarray(y).astype(arrays[0].dtype)

    return reference


def _reducer(reduction: Reduction) -> Any:
    from tvmconv._tvm import te

    return te.comm_reducer(
        reduction.combine, lambda dtype: te_math.number(reduction.identity), name="reduction"
    )


class _Kernel:
    """The stages of one reduction."""

    def __init__(self, spec: KernelSpec) -> None:
        self.reduction = REDUCTIONS[spec.op]
        self.reducer = _reducer(self.reduction)
        self.layout, self.out = spec.inputs[0], spec.output
        self.x = expressions.placeholder(self.layout, "x")
        rank = len(self.layout.shape)
        self.axes = sorted(axes_in(spec.attrs["axes"], rank))
        self.kept = [k for k in range(rank) if k not in self.axes]
        self.keepdims = bool(spec.attrs["keepdims"])

    def reduce(
        self, extra: Shape, length: int, last: Callable[[Any, Sequence[Any]], Any], name: str
    ) -> Any:
        """A stage over the output's axes and ``extra`` ones.

        Parameters
        ----------
        extra : tuple of int
            Axes behind those of the output.
        length : int
            Extent of the reduction along the last of the reduced axes.
        last : callable
            ``last(k, extra_index)``: index along that axis.
        name : str
        """
        from tvmconv._tvm import te

        extents = {k: self.layout.shape[k] for k in self.axes[:-1]} | {self.axes[-1]: length}
        taps = {k: te.reduce_axis((0, extent), f"r{k}") for k, extent in extents.items()}
        rank = len(self.out.shape)

        def body(*index: Any) -> Any:
            own, more = index[:rank], index[rank:]
            kept = [own[k] for k in self.kept] if self.keepdims else own
            place = dict(zip(self.kept, kept, strict=True)) | taps
            place[self.axes[-1]] = last(taps[self.axes[-1]], more)
            element = expressions.element(self.x, self.layout, [place[k] for k in sorted(place)])
            value = te_math.scoped(lambda: self.reduction.before(element))
            return self.reducer(value, axis=list(taps.values()))

        return te.compute((*self.out.shape, *extra), body, name=name, attrs={KIND: "stage"})

    def result(self) -> Callable[..., Any]:
        """The reduction of all elements, by the output's index."""
        from tvmconv._tvm import te

        extent = self.layout.shape[self.axes[-1]]
        if self.axes[-1] != len(self.layout.shape) - 1 or extent < 2 * STRIP:
            whole = self.reduce((), extent, lambda k, _: k, "whole")
            return lambda *index: whole(*index)
        trips, rest = divmod(extent, STRIP)
        strips = self.reduce((STRIP,), trips, lambda k, lane: k * STRIP + lane[0], "strips")
        lane = te.reduce_axis((0, STRIP), "lane")
        joined = te.compute(
            self.out.shape,
            lambda *index: self.reducer(strips(*index, lane), axis=[lane]),
            name="joined",
            attrs={KIND: "stage"},
        )
        if not rest:
            return lambda *index: joined(*index)
        tail = self.reduce((), rest, lambda k, _: trips * STRIP + k, "tail")
        return lambda *index: self.reduction.combine(joined(*index), tail(*index))


def compute(spec: KernelSpec) -> list[Any]:
    """The reduction as a stage, or as stages, and what is made of its result."""
    kernel = _Kernel(spec)
    result = kernel.result()
    count = size([kernel.layout.shape[k] for k in kernel.axes])
    output = expressions.elements(
        spec.output.shape, lambda *index: kernel.reduction.after(result(*index), count)
    )
    return [kernel.x, output]


def reduced(builder: Builder, op: str, x: Value, axes: Sequence[int], keepdims: bool) -> Value:
    """Emit a reduction over sorted axes; neighbours that are reduced together become one axis.

    Reductions over the spatial axes are left as they are, since some of them are global pools.
    """
    rank = len(x.shape)
    attrs: dict[str, Any] = {"axes": list(axes), "keepdims": keepdims}
    runs = [list(run) for _, run in groupby(range(rank), lambda axis: axis in axes)]
    if len(runs) == rank or list(axes) == list(range(2, rank)):
        return builder.emit(op, [x], attrs)
    merged = [size([x.shape[axis] for axis in run]) for run in runs]
    y = builder.emit("reshape", [x], {"shape": merged})
    taken = [k for k, run in enumerate(runs) if run[0] in axes]
    y = builder.emit(op, [y], {"axes": taken, "keepdims": False})
    return builder.emit("reshape", [y], {"shape": list(output_shape([x.shape], attrs))})


def axes_of(node: OnnxNode, input_since: int) -> list[int] | None:
    """The sorted axes of a reduction, or None where it is one over no axes at all."""
    x = node.input(0)
    if node.opset >= input_since:
        axes = node.ints_input(1, "axes")
    else:
        axes = node.ints_attr("axes") if node.has("axes") else None
    if not axes:
        if node.int_attr("noop_with_empty_axes", 0):
            return None
        axes = list(range(len(x.shape)))
    return sorted(node.axes(axes, len(x.shape)))


def _importer(op: str, reduction: Reduction) -> Importer:
    """Make an importer; a scalar has no axes that could be reduced."""

    def importer(node: OnnxNode, builder: Builder) -> Value:
        x, axes = node.input(0), axes_of(node, reduction.axes_input_since)
        if axes:
            return reduced(builder, op, x, axes, bool(node.int_attr("keepdims", 1)))
        if reduction.alone == "square":
            return builder.emit("mul", [x, x])
        return builder.emit(reduction.alone, [x]) if reduction.alone else x

    return importer


CASES = (
    Case(
        "mobilenet: x.mean([2, 3])",
        shapes=((2, 13, 7, 7),),
        attrs={"axes": [2, 3], "keepdims": False},
    ),
    Case("over channels", shapes=((1, 24, 5, 3),), attrs={"axes": [1], "keepdims": True}),
    Case("everything", shapes=((2, 3, 4),), attrs={"axes": [0, 1, 2], "keepdims": True}),
    Case("a long last axis", shapes=((3, 2, 331),), attrs={"axes": [0, 2], "keepdims": False}),
    Case("many", shapes=((2, 5, 12001),), attrs={"axes": [1], "keepdims": False}),
    Case("many in rows", shapes=((1, 5, 12000),), attrs={"axes": [1], "keepdims": True}),
    Case("many to one", shapes=((3, 7000),), attrs={"axes": [0, 1], "keepdims": False}),
    Case("whole strips", shapes=((5, 256),), attrs={"axes": [1], "keepdims": True}),
)
BAD_CASES = (
    BadCase("axis 3 is outside", shapes=((1, 2, 3),), attrs={"axes": [3]}),
    BadCase("names an axis twice", shapes=((1, 2, 3),), attrs={"axes": [1, -2]}),
    BadCase("'keepdims' must be a bool", shapes=((1, 2, 3),), attrs={"axes": [1]}),
    BadCase("must name an axis", shapes=((1, 2),), attrs={"axes": [], "keepdims": True}),
    BadCase("of size 0", shapes=((2, 0),), attrs={"axes": [1], "keepdims": True}),
)

for _name, _reduction in REDUCTIONS.items():
    register(
        Operator(
            name=_name,
            summary=f"{_reduction.formula} over axes",
            output_shape=output_shape,
            reference=_make_reference(_reduction),
            onnx={_reduction.onnx: _importer(_name, _reduction)},
            cases=CASES,
            bad_cases=BAD_CASES,
            compute=compute,
        )
    )
