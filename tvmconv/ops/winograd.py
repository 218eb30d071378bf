"""Winograd's algorithm for convolutions of stride 1: fewer multiplications, on transformed tiles.

Along one axis, ``m`` outputs of a filter of ``r`` taps take ``m + r - 1`` multiplications instead
of ``m·r``::

    y = Aᵀ[(G w) ⊙ (Bᵀ x)]

and along several axes the transforms nest. The products of all channels together are one matrix
product for each of the ``(m + r - 1)^rank`` transformed elements. :func:`matrices` makes A, G and B
from interpolation points; points in pairs ±p make sums that two rows of a transform share, and
points p and 1/p keep all their powers, and so the rounding errors, small.

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
from tvmconv.ops import Array, Float64, Shape, channels, expressions, summing
from tvmconv.problem import Problem

#: Taps of the filter along every axis.
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


def fits(problem: Problem) -> bool:
    """Whether a convolution can be computed so, if its input lies in channel blocks."""
    return (
        problem.rank <= 2
        and problem.groups == 1
        and all(extent == TAPS for extent in problem.kernel)
        and all(step == 1 for step in (*problem.stride, *problem.dilation))
    )


def tile_outputs(problem: Problem) -> int:
    """Outputs of a tile along each axis; 0 if the problem is computed directly."""
    return ALGORITHMS.get(problem.option("algorithm") or "", 0)


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


def transform_weight(weight: Array, outputs: int) -> Float64:
    """``G w Gᵀ`` over the spatial axes of a weight (CO, CI, *taps), in float64."""
    _, g, _ = matrices(outputs)
    result = weight.astype(np.float64)
    for axis in range(2, weight.ndim):
        result = np.moveaxis(np.tensordot(g, result, (1, axis)), 0, axis)
    return result


def tile_counts(problem: Problem, outputs: int) -> tuple[int, ...]:
    """Number of tiles along each spatial axis."""
    return tuple(-(-size // outputs) for size in problem.out_spatial)


def halo(problem: Problem, outputs: int) -> tuple[list[int], list[int]]:
    """How far the tiles reach beyond the input, before and after each axis."""
    tiles = zip(tile_counts(problem, outputs), problem.pads_low, problem.in_spatial, strict=True)
    highs = [max(0, count * outputs + TAPS - 1 - low - size) for count, low, size in tiles]
    return list(problem.pads_low), highs


def packed_shape(problem: Problem, outputs: int, in_block: int, block: int) -> tuple[int, ...]:
    """Shape of the packed weight: (*elements, slots, channels / step, step, block)."""
    plan = channels.channel_plan(problem, in_block, block)
    elements = (outputs + TAPS - 1,) * problem.rank
    return (*elements, -(-problem.co // block), plan.trips, plan.step, block)


def pack(spec: KernelSpec, constants: Sequence[Array]) -> list[Array]:
    """The transformed weight as :func:`packed_shape` says, and the bias (slots, block)."""
    problem = Problem.parse(spec.attrs["problem"])
    outputs = tile_outputs(problem)
    block, slots = spec.output.block, spec.output.own_slots
    plan = channels.channel_plan(problem, spec.inputs[0].block, block)
    wide = np.zeros((slots * block, problem.ci, *problem.kernel), np.float64)
    wide[: problem.co] = constants[0]
    elements = transform_weight(wide, outputs).astype(constants[0].dtype)
    shaped = elements.reshape(slots, block, plan.trips, plan.step, *elements.shape[2:])
    order = (*range(4, shaped.ndim), 0, 2, 3, 1)
    packed = np.ascontiguousarray(shaped.transpose(order))
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
    n, tiles = outputs + TAPS - 1, tile_counts(p, outputs)
    elements, total = (n,) * p.rank, p.batch * prod(tiles)
    x = expressions.placeholder(x_layout, "x")
    weight = te.placeholder(packed_shape(p, outputs, x_layout.block, block), name="weight")
    slots = spec.output.own_slots
    bias = te.placeholder((slots, block), name="bias") if p.bias else None
    data = _transformed_input(p, x_layout, x, outputs, tiles)
    length = summing.together(plan.trips, plan.step, CHAINS[outputs])
    rc, ri = te.reduce_axis((0, length), "rc"), te.reduce_axis((0, plan.step), "ri")

    def terms(index: tuple[Any, ...], first_trip: Any) -> Any:
        *element, slot, tile, lane = index
        trip = first_trip + rc
        channel = trip * plan.step + ri
        read = data[(*element, channel // x_layout.block, tile, channel % x_layout.block)]
        return te.sum(read * weight[(*element, slot, trip, ri, lane)], axis=[rc, ri])

    shape = (*elements, slots, total, block)
    product = summing.summed(shape, terms, plan.trips, length, "product")
    sums = te.compute(shape, lambda *i: product(*i), name="sums", attrs={KIND: "sums"})
    operands, output = _finished(spec, p, outputs, tiles, sums, bias)
    return [x, weight, *([] if bias is None else [bias]), *operands, output]


def _transformed_input(
    p: Problem, layout: Layout, x: Any, outputs: int, tiles: Sequence[int]
) -> Any:
    """``Bᵀ x B`` of every tile: (*elements, input slot, tile, lane), one axis after the other."""
    _, _, bt = matrices(outputs)
    n, rank = bt.shape[0], p.rank
    total = p.batch * prod(tiles)

    def body(axis: int, index: tuple[Any, ...], previous: Any) -> Any:
        *place, slot, tile, lane = index

        def element(k: int) -> Any:
            at_k = [*place[:axis], k, *place[axis + 1 :]]
            if axis:
                return previous[(*at_k, slot, tile, lane)]
            batch, origin = _origin(tile, tiles, outputs)
            corner = [o + j - low for o, j, low in zip(origin, at_k, p.pads_low, strict=True)]
            return layout.at_slot(previous, batch, slot, corner, (lane,))

        return _row(bt, place[axis], element)

    shape = ((n,) * rank) + (layout.own_slots, total, layout.block)
    for axis in range(rank):
        x = _stage(shape, partial(body, axis), x, f"data{axis}", "data_tile")
    return x


def _stage(
    shape: Shape, body: Callable[[tuple[Any, ...], Any], Any], previous: Any, name: str, kind: str
) -> Any:
    """A tensor whose elements are those of another one, transformed along one axis."""
    from tvmconv._tvm import te

    return te.compute(shape, lambda *index: body(index, previous), name=name, attrs={KIND: kind})


def _origin(tile: Any, tiles: Sequence[int], outputs: int) -> tuple[Any, list[Any]]:
    """Batch and first output position of a tile."""
    position = []
    for count in reversed(tiles):
        position.append(tile % count * outputs)
        tile = tile // count
    return tile, position[::-1]


def _finished(
    spec: KernelSpec, p: Problem, outputs: int, tiles: Sequence[int], sums: Any, bias: Any
) -> tuple[list[Any], Any]:
    """``Aᵀ s A`` of every tile, bias and program: (tile, slot, *position in the tile, lane)."""
    from tvmconv._tvm import te

    at, _, _ = matrices(outputs)
    n, rank = at.shape[1], p.rank
    total, slots, block = int(sums.shape[-2]), spec.output.own_slots, spec.output.block

    def body(axis: int, index: tuple[Any, ...], previous: Any) -> Any:
        tile, slot, *place, lane = index

        def element(k: int) -> Any:
            at_k = [*place[:axis], k, *place[axis + 1 :]]
            if axis == 0:
                return previous[(*at_k, slot, tile, lane)]
            return previous[(tile, slot, *at_k, lane)]

        return _row(at, place[axis], element)

    for axis in range(rank - 1):
        shape = (total, slots, *(outputs,) * (axis + 1), *(n,) * (rank - axis - 1), block)
        sums = _stage(shape, partial(body, axis), sums, f"tile{axis}", "output_tile")

    def result(*index: Any) -> Any:
        return body(rank - 1, index, sums)

    def locate(tile: Any, slot: Any, *rest: Any) -> tuple[Any, ...]:
        """Index of an element in the output, the nearest one for what a tile has too much."""
        *place, lane = rest
        batch, origin = _origin(tile, tiles, outputs)
        position = [
            te.min(o + k, size - 1) for o, k, size in zip(origin, place, p.out_spatial, strict=True)
        ]
        return (batch, slot, *position, lane)

    shape = (total, slots, *(outputs,) * rank, block)
    form = [outputs, *p.out_spatial]
    return expressions.finish(spec, result, bias, shape=shape, locate=locate, attrs={TILES: form})


def _row(matrix: Float64, index: Any, element: Callable[[int], Any]) -> Any:
    """Row ``index`` of a transform, applied to elements; the loop over it is to be unrolled."""
    from tvmconv._tvm import tirx

    rows = [_combination(row, element) for row in matrix]
    value = rows[-1]
    for k in range(len(rows) - 2, -1, -1):
        value = tirx.Select(index == k, rows[k], value)
    return value


def _combination(row: Float64, element: Callable[[int], Any]) -> Any:
    """``sum of row[k]·element(k)``: the even terms and the odd ones, which rows of ±p share."""
    parts = [_scaled_sum(row, range(parity, len(row), 2), element) for parity in (0, 1)]
    (even, scale), (odd, odd_scale) = parts
    if even is None or odd is None:
        found, factor = (odd, odd_scale) if even is None else (even, scale)
        return found if factor == 1 else _times(found, factor)
    if scale == 1:
        return _plus(even, odd, odd_scale)
    return _plus(_times(even, scale), odd, odd_scale)


def _scaled_sum(
    row: Float64, places: range, element: Callable[[int], Any]
) -> tuple[Any | None, float]:
    """A sum of terms as (sum, factor) in which the last term has coefficient 1."""
    used = [k for k in places if row[k]]
    if not used:
        return None, 1.0
    factor = float(row[used[-1]])
    value = element(used[-1])
    for k in reversed(used[:-1]):
        value = _plus(value, element(k), float(row[k]) / factor)
    return value, factor


def _times(value: Any, factor: float) -> Any:
    from tvmconv._tvm import tirx

    return value * tirx.const(factor, "float32")


def _plus(value: Any, other: Any, factor: float) -> Any:
    """``value + factor·other``."""
    if abs(abs(factor) - 1) < 1e-12:
        return value + other if factor > 0 else value - other
    return value + _times(other, factor)
