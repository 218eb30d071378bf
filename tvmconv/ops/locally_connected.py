"""Locally connected layer: a convolution whose every output position has weights of its own.

``y[n,co,o] = sum over rc, k of x[n,rc,o*stride - low + k*dilation] * w[o,co,rc,k] + b[co,o]``

Each weight is used once for an image, so that the kernel takes as long as reading them takes: they
are packed in the order in which the kernel reads them.

References
----------
Taigman et al., DeepFace, CVPR 2014, section 3. Torch7's SpatialConvolutionLocal, whose order of the
weight's and the bias's axes is the one here.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import prod
from typing import Any

import numpy as np

from tvmconv.kernel import KernelSpec
from tvmconv.ops import (
    Array,
    Float64,
    PackedWeight,
    Shape,
    channels,
    conv,
    expressions,
    summing,
)
from tvmconv.ops import family as shared
from tvmconv.ops import options as opt
from tvmconv.problem import Problem


def inputs(problem: Problem) -> dict[str, Shape]:
    """Shapes of the input, the weight (*output sizes, CO, CI, kernel), the bias (CO, *sizes)."""
    out = problem.out_spatial
    bias = {"bias": (problem.co, *out)} if problem.bias else {}
    weight = (*out, problem.co, problem.ci, *problem.kernel)
    return {"x": problem.input_shape, "weight": weight, **bias}


def reference(problem: Problem, arrays: Mapping[str, Array]) -> Float64:
    """Output before the activation: for each tap, a matrix product at each position."""
    padded, pixels = shared.padded(problem, arrays["x"], 0.0), prod(problem.out_spatial)
    weight = np.asarray(arrays["weight"], np.float64)
    weight = weight.reshape(pixels, problem.co, problem.ci, *problem.kernel)
    y = np.zeros((pixels, problem.co, problem.batch))
    for tap in itertools.product(*map(range, problem.kernel)):
        read = shared.tap_view(problem, padded, tap)
        read = read.reshape(problem.batch, problem.ci, pixels).transpose(2, 1, 0)
        y += weight[(slice(None),) * 3 + tap] @ read
    found = y.transpose(2, 1, 0).reshape(problem.output_shape)
    return found + np.asarray(arrays["bias"], np.float64) if problem.bias else found


def packed_shape(problem: Problem, in_block: int, block: int) -> Shape:
    """Shape of the packed weight: (slots, *output sizes, channels / step, *kernel, step, block)."""
    plan = channels.channel_plan(problem, in_block, block)
    slots = -(-problem.co // block)
    return (slots, *problem.out_spatial, plan.trips, *problem.kernel, plan.step, block)


def packed_element(
    problem: Problem, in_block: int, block: int, source: Any, index: Sequence[Any]
) -> Any:
    """Element of the packed weight as an expression of the weight in its own order."""
    from tvmconv._tvm import te, tirx

    plan, rank = channels.channel_plan(problem, in_block, block), problem.rank
    slot, position, (trip, *taps, inner, lane) = index[0], index[1 : 1 + rank], index[1 + rank :]
    co = slot * block + lane
    near = te.min(co, problem.co - 1)
    element = source[(*position, near, trip * plan.step + inner, *taps)]
    return tirx.if_then_else(co < problem.co, element, 0.0)


def pack(spec: KernelSpec, constants: Sequence[Array]) -> list[Array]:
    """Weight as :func:`packed_shape` says, bias (slots, *output sizes, block), padded with 0."""
    problem, rank = Problem.parse(spec.attrs["problem"]), len(spec.output.shape) - 2
    block, slots = spec.output.block, spec.output.own_slots
    plan = channels.channel_plan(problem, spec.inputs[0].block, block)
    wide = np.zeros(
        (*problem.out_spatial, slots * block, problem.ci, *problem.kernel), constants[0].dtype
    )
    wide[(slice(None),) * rank + (slice(problem.co),)] = constants[0]
    parts = (*problem.out_spatial, slots, block, plan.trips, plan.step, *problem.kernel)
    taps = range(rank + 4, 2 * rank + 4)
    order = (rank, *range(rank), rank + 2, *taps, rank + 3, rank + 1)
    packed = [np.ascontiguousarray(wide.reshape(parts).transpose(order))]
    for bias in constants[1:]:
        rows = np.zeros((slots * block, *problem.out_spatial), bias.dtype)
        rows[: problem.co] = bias
        split = rows.reshape(slots, block, *problem.out_spatial)
        packed.append(np.ascontiguousarray(np.moveaxis(split, 1, -1)))
    return packed


def compute(spec: KernelSpec) -> list[Any]:
    """The sum over ``rc`` (trips over channels), ``rk0`` … (taps) and ``ri`` (inner channels).

    Arguments are ``x``, the weight of :func:`packed_shape`, the bias (slots, *output sizes, block)
    if there is one, the operands of the program, and the output.
    """
    from tvmconv._tvm import te

    p = shared.with_zeros(Problem.parse(spec.attrs["problem"]))
    x_layout, block = spec.inputs[0], spec.output.block
    plan = channels.channel_plan(p, x_layout.block, block)
    x = expressions.placeholder(x_layout, "x")
    weight = te.placeholder(packed_shape(p, x_layout.block, block), name="weight")
    own = (spec.output.own_slots, *p.out_spatial, block)
    bias = te.placeholder(own, name="bias") if p.bias else None
    together = summing.together(plan.trips, plan.step * prod(p.kernel))
    rc, rk = te.reduce_axis((0, together), "rc"), expressions.tap_axes(p)
    ri = te.reduce_axis((0, plan.step), "ri")

    def terms(index: tuple[Any, ...], first_trip: Any) -> Any:
        n, slot, *position, lane = index
        trip = first_trip + rc
        channel = trip * plan.step + ri
        element = x_layout.at(x, n, channel, expressions.window(p, position, rk))
        factor = weight[(slot, *position, trip, *rk, ri, lane)]
        return te.sum(element * factor, axis=[rc, *rk, ri])

    shape, attrs = spec.output.iteration_shape, expressions.window_attrs(p)
    result = summing.summed(shape, terms, plan.trips, together, "unshared", attrs)

    def finished(*index: Any) -> Any:
        return result(*index) if bias is None else result(*index) + bias[index[1:]]

    operands, output = expressions.finish(spec, finished)
    return [x, weight, *([] if bias is None else [bias]), *operands, output]


_NOT_TAKEN = (opt.GROUPS, opt.FLIPPED, opt.ALGORITHM)
FAMILY = replace(
    conv.FAMILY,
    options=tuple(option for option in conv.FAMILY.options if option not in _NOT_TAKEN),
    validate=shared.check_padding,
    inputs=inputs,
    reference=reference,
    unshared=True,
)

CASES = (
    ("locally_connected2d:1x16x21x21:16x5x5:stride=2:bias=true", "DeepFace L6"),
    ("locally_connected2d:1x16x25x25:16x7x7:stride=2:activation=relu", "DeepFace L5"),
    ("locally_connected2d:1x64x9x9:64x3x3:padding=1:bias=true:activation=relu", "CIFAR, local3"),
    ("locally_connected2d:3x3x8x7:20x3x2:padding=1,0,0,2:dilation=1,2", "batch 3, asymmetric"),
    ("locally_connected2d:2x20x6x5:33x1x1:bias=true", "a matrix for each pixel"),
    ("locally_connected2d:1x5x7x7:3x3x3:stride=5", "stride longer than the kernel"),
    ("locally_connected1d:1x24x40:16x5:padding=2:bias=true", "along one axis"),
    ("locally_connected3d:1x8x4x5x5:16x2x3x3:padding=0,1,1", "along three"),
    ("locally_connected1d:1x2304x2:16x1", "a sum of parts"),
)

BAD_CASES = (
    ("locally_connected2d:1x16x9x9:16x3x3:groups=2", "option 'groups' is unknown"),
    ("locally_connected2d:1x16x9x9:16x3x3:flipped=true", "option 'flipped' is unknown"),
    ("locally_connected2d:1x8x4x5:8x3x3:padding=1:padding_mode=sphere", "image of even width"),
    ("locally_connected2d:1x16x2x9:16x3x3", "the output would have size 0"),
    ("locally_connected2d:1x64x9000x9000:64x9x9", "weight of shape 8992x8992x64x64x9x9 is too"),
)

shared.register_family(
    "locally_connected",
    "locally connected layer: a convolution with weights of its own at each position",
    FAMILY,
    ranks=(1, 2, 3),
    onnx={},
    cases=CASES,
    bad_cases=BAD_CASES,
    compute=compute,
    pack=pack,
    packed_weight=PackedWeight(packed_shape, packed_element),
    layout="any",
)
