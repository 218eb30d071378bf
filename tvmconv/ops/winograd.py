"""Winograd's algorithm for convolutions of stride 1: fewer multiplications, on transformed tiles.

Along one axis, ``m`` outputs of a filter of ``r`` taps take ``m + r - 1`` multiplications instead
of ``m·r``::

    y = Aᵀ[(G w) ⊙ (Bᵀ x)]

and along several axes the transforms nest. The products of all channels together are one matrix
product for each of the ``(m + r - 1)^axes`` transformed elements. :func:`matrices` makes A, G and B
from interpolation points; points in pairs ±p make sums that two rows of a transform share, and
points p and 1/p keep all their powers, and so the rounding errors, small.

The last two axes of three taps are transformed; the products sum over the taps of the others. A
dilated filter has its neighbours in tiles of elements that lie its dilation apart.

References
----------
Lavin, Gray, Fast algorithms for convolutional neural networks, 2016, sections 4 and 5.
Barabasz et al., Error analysis and improving the accuracy of Winograd convolution, 2020.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache, partial
from math import prod, sqrt
from typing import Any

import numpy as np

from tvmconv.kernel import KIND, TILES, KernelSpec
from tvmconv.layout import Layout
from tvmconv.ops import Array, Float64, Shape, channels, expressions, summing, tiling, transforms
from tvmconv.ops.tiling import Axis
from tvmconv.problem import Problem

#: Axes that are transformed, at most: the transformed weights of three would be too many.
_MAX_AXES = 2
#: Taps of the filter along a transformed axis.
TAPS = 3
#: Finite interpolation points by the number of outputs; infinity comes to them.
POINTS: dict[int, tuple[float, ...]] = {
    2: (0.0, 1.0, -1.0),
    4: (0.0, sqrt(0.5), -sqrt(0.5), sqrt(2.0), -sqrt(2.0)),
    6: (0.0, 1.0, -1.0, 0.5, -0.5, 2.0, -2.0),
}
#: Terms of one chain of additions, by the number of outputs: the rounding of the sums over the
#: channels, which the transform back amplifies, is five times that of everything else together.
CHAINS = {2: 64, 4: 64, 6: 32}
#: Values of a problem's option ``algorithm`` that name this one, and the tile of each.
ALGORITHMS = {f"winograd{outputs}": outputs for outputs in POINTS}
#: The one whose kernel reads the weights as they are, and transforms them itself.
ONLINE = "winograd4_online"


def fits(problem: Problem) -> bool:
    """Whether a convolution can be computed so, if its input lies in channel blocks.

    Where an output sees padding alone it is exactly zero, or the bias, but the others of its tile
    leave rounding errors in it: so much padding is left to sums.
    """
    steps = all(s == 1 for s in problem.stride)
    reaches = all(
        max(problem.pads_low[axis], problem.pads_high[axis]) <= (TAPS - 1) * problem.dilation[axis]
        for axis in _transformed_axes(problem)
    )
    there = TAPS in problem.kernel and steps and reaches
    return problem.groups == 1 and there and problem.dtype == "float32"


def alternatives(problem: Problem) -> tuple[str, ...]:
    """The algorithms that may be fast for a convolution whose input lies in channel blocks.

    Transforming the weights in the kernel pays where they are more than the input: less of them is
    read, while each thread transforms them for few tiles only if there are few.
    """
    if not fits(problem):
        return ()
    weights = prod(problem.kernel) * problem.co
    online = weights > problem.batch * prod(problem.in_spatial)
    return (*ALGORITHMS, ONLINE) if online else tuple(ALGORITHMS)


def tile_outputs(problem: Problem) -> int:
    """Outputs of a tile along each transformed axis; 0 if the problem is computed directly."""
    return (ALGORITHMS | {ONLINE: 4}).get(problem.option("algorithm") or "", 0)


def _online(problem: Problem) -> bool:
    """Whether the kernel transforms the weights."""
    return bool(problem.option("algorithm") == ONLINE)


def _transformed_axes(problem: Problem) -> list[int]:
    """Which spatial axes are transformed."""
    return [axis for axis, taps in enumerate(problem.kernel) if taps == TAPS][-_MAX_AXES:]


def tile_axes(problem: Problem, outputs: int) -> tuple[Axis, ...]:
    """How each spatial axis is divided."""
    chosen = _transformed_axes(problem)
    return tuple(
        Axis(*((outputs, dilation) if k in chosen else (1, 1)), taps, dilation, low, extent)
        for k, (taps, dilation, low, extent) in enumerate(
            zip(
                problem.kernel,
                problem.dilation,
                problem.pads_low,
                problem.out_spatial,
                strict=True,
            )
        )
    )


@cache
def matrices(outputs: int) -> tuple[Float64, Float64, Float64]:
    """The transforms Aᵀ (m × n), G (n × r) and Bᵀ (n × n), n = m + r - 1.

    With points p_k: ``Aᵀ[i, k] = p_k^i``, ``Bᵀ[k]`` has the coefficients of ``Π (x - p_j), j ≠ k``,
    and ``G[k, j] = p_k^j / Π (p_k - p_j)``; infinity takes the leading coefficients. The row of G
    may be scaled if that of Bᵀ is scaled inversely: the leading element of a row of Bᵀ is ±1.
    """
    points = POINTS[outputs]
    n = len(points) + 1
    at, g, bt = np.zeros((outputs, n)), np.zeros((n, TAPS)), np.zeros((n, n))
    for k, point in enumerate(points):
        others = [p for p in points if p != point]
        at[:, k] = [point**i for i in range(outputs)]
        g[k] = [point**j / prod(point - p for p in others) for j in range(TAPS)]
        bt[k, : n - 1] = np.poly(others)[::-1]
    at[-1, -1] = g[-1, -1] = 1
    bt[-1] = np.poly(points)[::-1]
    for matrix in (at, bt):
        matrix[np.abs(matrix) < 1e-12] = 0
    return at, g, bt


def transform_weight(weight: Array, outputs: int, axes: Sequence[int]) -> Float64:
    """``G w Gᵀ`` over some axes of a weight, in float64."""
    _, g, _ = matrices(outputs)
    result = weight.astype(np.float64)
    for axis in axes:
        result = np.moveaxis(np.tensordot(g, result, (1, axis)), 0, axis)
    return result


def halo(problem: Problem, outputs: int) -> tuple[list[int], list[int]]:
    """How far the tiles reach beyond the input, before and after each axis."""
    axes = zip(tile_axes(problem, outputs), problem.in_spatial, strict=True)
    return list(problem.pads_low), [max(0, axis.reach - axis.low - size) for axis, size in axes]


def packed_shape(problem: Problem, in_block: int, block: int) -> tuple[int, ...]:
    """Shape of the packed weight: (*elements, slots, channels / step, *taps, step, block).

    Where the kernel transforms the weight: (slots, channels / step, *taps, step, *kernel, block),
    with the kernel's transformed axes only, so that it is read from end to end.
    """
    plan = channels.channel_plan(problem, in_block, block)
    axes = tile_axes(problem, tile_outputs(problem))
    chosen = tiling.transformed(axes)
    slots = -(-problem.co // block)
    taps = (axis.taps for axis in tiling.summed(axes))
    if _online(problem):
        kernel = (axis.taps for axis in chosen)
        return (slots, plan.trips, *taps, plan.step, *kernel, block)
    elements = (tile_outputs(problem) + TAPS - 1,) * len(chosen)
    return (*elements, slots, plan.trips, *taps, plan.step, block)


def pack(spec: KernelSpec, constants: Sequence[Array]) -> list[Array]:
    """The weight, transformed or not, as :func:`packed_shape` says, and the bias (slots, block)."""
    problem = Problem.parse(spec.attrs["problem"])
    block, slots = spec.output.block, spec.output.own_slots
    plan = channels.channel_plan(problem, spec.inputs[0].block, block)
    wide = np.zeros((slots * block, problem.ci, *problem.kernel), np.float64)
    wide[: problem.co] = constants[0]
    chosen = [2 + axis for axis in _transformed_axes(problem)]
    if not _online(problem):
        wide = transform_weight(wide, tile_outputs(problem), chosen)
    shaped = wide.reshape(slots, block, plan.trips, plan.step, *wide.shape[2:])
    first = [2 + axis for axis in chosen]
    taps = [axis for axis in range(4, shaped.ndim) if axis not in first]
    rest = (0, 2, *taps, 3)
    order = (*rest, *first, 1) if _online(problem) else (*first, *rest, 1)
    packed = shaped.transpose(order).astype(constants[0].dtype)
    packed = packed.reshape(packed_shape(problem, spec.inputs[0].block, block))
    return [packed, *(expressions.pack_channels(b, slots, block) for b in constants[1:])]


def compute(spec: KernelSpec) -> list[Any]:
    """Tiles of the input, transformed; products; their sums transformed back, tile by tile.

    The result has the axes (tile, slot, *position in the tile, lane); the attribute ``TILES`` says
    where its elements belong.
    """
    from tvmconv._tvm import te

    p = Problem.parse(spec.attrs["problem"])
    outputs = tile_outputs(p)
    x_layout, block = spec.inputs[0], spec.output.block
    plan = channels.channel_plan(p, x_layout.block, block)
    axes = tile_axes(p, outputs)
    elements = (outputs + TAPS - 1,) * len(tiling.transformed(axes))
    tiles = p.batch * prod(axis.count for axis in axes)
    x = expressions.placeholder(x_layout, "x")
    weight = te.placeholder(packed_shape(p, x_layout.block, block), name="weight")
    transformed = _transformed_weight(weight, outputs, len(elements)) if _online(p) else None
    slots = spec.output.own_slots
    bias = te.placeholder((slots, block), name="bias") if p.bias else None
    data = _transformed_input(p, x_layout, x, outputs, axes)
    summed = tiling.summed(axes)
    taps = prod(axis.taps for axis in summed)
    length = summing.together(plan.trips, plan.step * taps, CHAINS[outputs])
    rc, ri = te.reduce_axis((0, length), "rc"), te.reduce_axis((0, plan.step), "ri")
    rk = [te.reduce_axis((0, axis.taps), f"rk{k}") for k, axis in enumerate(summed)]

    def terms(index: tuple[Any, ...], first_trip: Any) -> Any:
        *element, slot, tile, lane = index
        trip = first_trip + rc
        channel = trip * plan.step + ri
        place = (channel // x_layout.block, tiling.data_tile(axes, tile, rk))
        read = data[(*element, *place, channel % x_layout.block)]
        channel_taps = (slot, trip, *rk, ri)
        if transformed is None:
            factor = weight[(*element, *channel_taps, lane)]
        else:
            factor = transformed[(*channel_taps, *element, lane)]
        return te.sum(read * factor, axis=[rc, *rk, ri])

    shape = (*elements, slots, tiles, block)
    product = summing.summed(shape, terms, plan.trips, length, "product")
    # What is added part by part, each with its weights, is no copy of sums that are complete.
    if not _online(p) or length == plan.trips:
        product = te.compute(shape, lambda *i: product(*i), name="sums", attrs={KIND: "sums"})
    operands, output = _finished(spec, outputs, axes, product, bias)
    return [x, weight, *([] if bias is None else [bias]), *operands, output]


def _transformed_weight(weight: Any, outputs: int, rank: int) -> Any:
    """``G w Gᵀ``: (slot, trip, *taps, inner channel, *elements, lane), one axis after the other."""
    _, g, _ = matrices(outputs)
    *outer, block = (int(extent) for extent in weight.shape)
    outer = outer[:-rank]

    def body(stage: int, index: tuple[Any, ...], previous: Any) -> Any:
        *before, lane = index
        axis = len(outer) + stage

        def element(k: int) -> Any:
            return previous[(*before[:axis], k, *before[axis + 1 :], lane)]

        return transforms.row(g, before[axis], element)

    for stage in range(rank):
        elements = (*(g.shape[0],) * (stage + 1), *(TAPS,) * (rank - stage - 1))
        shape = (*outer, *elements, block)
        weight = _stage(shape, partial(body, stage), weight, f"weight{stage}", "weight_tile")
    return weight


def _transformed_input(
    p: Problem, layout: Layout, x: Any, outputs: int, axes: Sequence[Axis]
) -> Any:
    """``Bᵀ x B`` of every tile: (*elements, input slot, tile, lane), one axis after the other."""
    _, _, bt = matrices(outputs)
    n, rank = bt.shape[0], len(tiling.transformed(axes))

    def body(stage: int, index: tuple[Any, ...], previous: Any) -> Any:
        *place, slot, tile, lane = index

        def element(k: int) -> Any:
            at_k = [*place[:stage], k, *place[stage + 1 :]]
            if stage:
                return previous[(*at_k, slot, tile, lane)]
            batch, corner = _corner(axes, tile, at_k)
            return layout.at_slot(previous, batch, slot, corner, (lane,))

        return transforms.row(bt, place[stage], element)

    total = tiling.data_tiles(p.batch, axes)
    shape = ((n,) * rank) + (layout.own_slots, total, layout.block)
    for stage in range(rank):
        x = _stage(shape, partial(body, stage), x, f"data{stage}", "data_tile")
    return x


def _corner(axes: Sequence[Axis], tile: Any, elements: Sequence[Any]) -> tuple[Any, list[Any]]:
    """Batch and position in the input of an element of a tile of the input."""
    batch, places = tiling.data_place(axes, tile)
    element = iter(elements)
    position = []
    for axis, place in zip(axes, places, strict=True):
        offset = next(element) * axis.step if axis.transformed else 0
        position.append(axis.origin(place) + offset - axis.low)
    return batch, position


def _stage(
    shape: Shape, body: Callable[[tuple[Any, ...], Any], Any], previous: Any, name: str, kind: str
) -> Any:
    """A tensor whose elements are those of another one, transformed along one axis."""
    from tvmconv._tvm import te

    return te.compute(shape, lambda *index: body(index, previous), name=name, attrs={KIND: kind})


def _finished(
    spec: KernelSpec, outputs: int, axes: Sequence[Axis], sums: Any, bias: Any
) -> tuple[list[Any], Any]:
    """``Aᵀ s A`` of every tile, bias and program: (tile, slot, *position in the tile, lane)."""
    from tvmconv._tvm import te

    at, _, _ = matrices(outputs)
    n, rank = at.shape[1], len(tiling.transformed(axes))
    total, slots, block = int(sums.shape[-2]), spec.output.own_slots, spec.output.block

    def body(axis: int, index: tuple[Any, ...], previous: Any) -> Any:
        tile, slot, *place, lane = index

        def element(k: int) -> Any:
            at_k = [*place[:axis], k, *place[axis + 1 :]]
            if axis == 0:
                return previous[(*at_k, slot, tile, lane)]
            return previous[(tile, slot, *at_k, lane)]

        return transforms.row(at, place[axis], element)

    for axis in range(rank - 1):
        shape = (total, slots, *(outputs,) * (axis + 1), *(n,) * (rank - axis - 1), block)
        sums = _stage(shape, partial(body, axis), sums, f"tile{axis}", "output_tile")

    def result(*index: Any) -> Any:
        return body(rank - 1, index, sums)

    def locate(tile: Any, slot: Any, *rest: Any) -> tuple[Any, ...]:
        """Index of an element in the output, the nearest one for what a tile has too much."""
        *inner, lane = rest
        batch, places = tiling.output_place(axes, tile)
        offset = iter(inner)
        position = [
            te.min(axis.origin(place) + (next(offset) * axis.step if axis.transformed else 0),
                   axis.extent - 1)
            for axis, place in zip(axes, places, strict=True)
        ]  # fmt: skip
        return (batch, slot, *position, lane)

    shape = (total, slots, *(outputs,) * rank, block)
    attrs = {TILES: tiling.form(axes)}
    return expressions.finish(spec, result, bias, shape=shape, locate=locate, attrs=attrs)
