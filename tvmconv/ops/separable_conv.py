"""Depthwise-separable convolution: each channel on its own, then all channels, pixel by pixel.

``d[n,c,o] = f(sum over k of x[n,c,o*stride-low+k*dilation] * depthwise[c,0,k] + depthwise_bias)``
and ``y[n,co,o] = sum over c of d[n,c,o] * weight[co,c] + bias``, f being ``inner_activation``.

The kernel makes the depthwise result of some rows of the output at a time, which stay in a cache
while the pointwise convolution reads them. Whether this or two kernels are faster is decided in
:mod:`tvmconv.graph.separable`.

References
----------
Howard et al., MobileNets, 2017, section 3.1. Chollet, Xception, CVPR 2017.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from tvmconv.kernel import KIND, KernelSpec, activation_steps, canonical_json
from tvmconv.layout import Layout
from tvmconv.ops import (
    Array,
    Family,
    Float64,
    Shape,
    activation,
    channels,
    conv,
    depthwise_conv,
    expressions,
    summing,
)
from tvmconv.ops import family as shared
from tvmconv.ops import options as opt
from tvmconv.problem import Problem

#: Its weights and biases, in order, and the part and the name that each has there.
_ROLES = {
    "depthwise": (0, "weight"),
    "depthwise_bias": (0, "bias"),
    "weight": (1, "weight"),
    "bias": (1, "bias"),
}
_INNER_BIAS = opt.flag("inner_bias")
_INNER_ACTIVATION = opt.activation_of("inner_activation")


@lru_cache(maxsize=1024)
def parts(problem: Problem) -> tuple[Problem, ...]:
    """The depthwise convolution and the pointwise one."""
    window = {name: problem.option(name) for name in ("stride", "padding", "dilation", "dtype")}
    inner = {"bias": problem.option("inner_bias"), "activation": problem.option("inner_activation")}
    filters = (problem.ci, *problem.kernel)
    depthwise = Problem("depthwise_conv", problem.input_shape, filters, {**window, **inner})
    points = (problem.co, *(1,) * problem.rank)
    outer = {"bias": problem.bias, "activation": problem.activation, "dtype": problem.dtype}
    return depthwise, Problem("conv", depthwise.output_shape, points, outer)


def inputs(problem: Problem) -> dict[str, Shape]:
    """Shapes of the input, the two weights and their biases."""
    points = (problem.co, problem.ci, *(1,) * problem.rank)
    shapes: dict[str, Shape] = {"x": problem.input_shape}
    shapes["depthwise"] = (problem.ci, 1, *problem.kernel)
    if problem.option("inner_bias"):
        shapes["depthwise_bias"] = (problem.ci,)
    shapes["weight"] = points
    if problem.bias:
        shapes["bias"] = (problem.co,)
    return shapes


def taps(problem: Problem) -> int:
    """Terms of both sums."""
    return int(np.prod(problem.kernel)) + problem.ci


def _arrays(arrays: Mapping[str, Array], part: int, x: Array) -> dict[str, Array]:
    """What a part reads."""
    own = {name: _ROLES[name][1] for name in arrays if name != "x" and _ROLES[name][0] == part}
    return {"x": x, **{role: arrays[name] for name, role in own.items()}}


def reference(problem: Problem, arrays: Mapping[str, Array]) -> Float64:
    """Output before the activation: the references of the two parts."""
    first, second = parts(problem)
    inner = first.reference(_arrays(arrays, 0, arrays["x"]))
    return second.family.reference(second, _arrays(arrays, 1, inner))


def magnitude(problem: Problem, arrays: Mapping[str, Array]) -> Float64:
    """The pointwise convolution's magnitude, of what is between and of the error that it has."""
    first, second = parts(problem)
    given = _arrays(arrays, 0, arrays["x"])
    size, text = first.magnitude(given), first.activation
    if text:
        function, parameters = activation.split(text)
        value = np.abs(first.reference(given))
        size = np.maximum(function.lipschitz(*parameters) * size, value)
        size = size if function.exact else size + value + function.spread
    return second.magnitude(_arrays(arrays, 1, size))


def largest_sum(problem: Problem, m: int) -> int:
    """A sum over the channels of sums over the taps."""
    inner = (taps(problem) - problem.ci) * m * m + m
    return problem.ci * inner * m + m


def pack(spec: KernelSpec, constants: Sequence[Array]) -> list[Array]:
    """Each part's weight and bias as its own kernel on blocks reads them."""
    problem = Problem.parse(spec.attrs["problem"])
    named = list(zip(list(problem.inputs)[1:], constants, strict=True))
    first, second = parts(problem)
    between = Layout(first.output_shape, spec.output.block, dtype=spec.output.dtype)
    layouts = (spec.inputs[0], between, spec.output)
    packed: list[Array] = []
    for number, (part, own_pack) in enumerate(((first, depthwise_conv.pack), (second, conv.pack))):
        text = canonical_json({"problem": part.text})
        own = KernelSpec(part.op, text, (layouts[number],), layouts[number + 1])
        packed += own_pack(own, [a for name, a in named if _ROLES[name][0] == number])
    return packed


def compute(spec: KernelSpec) -> list[Any]:
    """Sums over the taps, what comes between, and the sum over the channels ``rc`` and ``ri``.

    Arguments are ``x``, the depthwise weight (slots, *kernel, block) and its bias (slots, block) if
    there is one, the weight of :func:`tvmconv.ops.channels.packed_shape`, the bias (slots, block)
    if there is one, the operands of the program, and the output.
    """
    from tvmconv._tvm import te

    p = Problem.parse(spec.attrs["problem"])
    first, second = parts(p)
    x_layout, block = spec.inputs[0], spec.output.block
    x = expressions.placeholder(x_layout, "x")
    filters = te.placeholder(depthwise_conv.packed_shape(first, block, block), name="depthwise")
    slots = x_layout.own_slots
    inner_bias = te.placeholder((slots, block), name="depthwise_bias") if first.bias else None
    taps = expressions.tap_axes(first)

    def window(*index: Any) -> Any:
        n, slot, *position, lane = index
        element = x_layout.at_slot(x, n, slot, expressions.window(p, position, taps), (lane,))
        return te.sum(element * filters[(slot, *taps, lane)], axis=taps)

    shape = (p.batch, slots, *p.out_spatial, block)
    sums = te.compute(shape, window, name="depthwise_sums", attrs={KIND: "inner_window"})

    def between(*index: Any) -> Any:
        value = sums(*index)
        if inner_bias is not None:
            value = value + inner_bias[index[1], index[-1]]
        steps = activation_steps(first.text)
        return expressions.apply_program(value, steps, lambda k: None)

    inner = expressions.elements(shape, between, name="between", kind="between")
    plan = channels.channel_plan(second, block, block)
    weight = te.placeholder(channels.packed_shape(second, block, block), name="weight")
    bias = te.placeholder((spec.output.own_slots, block), name="bias") if p.bias else None
    together = summing.together(plan.trips, plan.step)
    rc, rk = te.reduce_axis((0, together), "rc"), expressions.tap_axes(second)
    ri = te.reduce_axis((0, plan.step), "ri")

    def terms(index: tuple[Any, ...], first_trip: Any) -> Any:
        n, slot, *position, lane = index
        trip = first_trip + rc
        channel = trip * plan.step + ri
        element = inner[(n, channel // block, *position, channel % block)]
        return te.sum(element * weight[(slot, trip, *rk, ri, lane)], axis=[rc, *rk, ri])

    result = summing.summed(spec.output.iteration_shape, terms, plan.trips, together, "contraction")
    operands, output = expressions.finish(spec, lambda *index: result(*index), bias)
    biases = ([] if inner_bias is None else [inner_bias], [] if bias is None else [bias])
    return [x, filters, *biases[0], weight, *biases[1], *operands, output]


FAMILY = Family(
    filter_form=("CO", "K"),
    options=(
        opt.STRIDE,
        opt.PADDING,
        opt.DILATION,
        _INNER_BIAS,
        _INNER_ACTIVATION,
        opt.BIAS,
        opt.ACTIVATION,
        opt.DTYPE,
    ),
    validate=lambda problem: None,
    inputs=inputs,
    out_spatial=shared.out_spatial,
    taps=taps,
    reference=reference,
    magnitude=magnitude,
    parts=parts,
    largest_sum=largest_sum,
)

_BETWEEN = ":inner_bias=true:inner_activation=relu6"

CASES = (
    ("separable_conv2d:1x32x56x56:64x3x3:padding=1", "like MobileNet v1's second, without"
     " what comes between"),
    (f"separable_conv2d:1x32x28x28:64x3x3:padding=1{_BETWEEN}:bias=true:activation=relu6",
     "MobileNet v1, smaller"),
    (f"separable_conv2d:1x144x28x28:32x3x3:stride=2:padding=1{_BETWEEN}:bias=true",
     "MobileNet v2: a linear bottleneck"),
    (f"separable_conv2d:1x20x14x14:40x5x5:padding=2{_BETWEEN}", "channels that no block divides"),
    ("separable_conv2d:2x24x9x13:17x3x3:padding=0,1,2,1:inner_activation=silu:activation=silu",
     "prime sizes, two batches, EfficientNet's activation"),
    ("separable_conv2d:1x16x12x12:16x3x3:padding=2:dilation=2:inner_activation=sigmoid",
     "DeepLab v3+: atrous, an activation that is not 0 at 0"),
    ("separable_conv1d:1x32x60:48x7:padding=6,0:inner_bias=true", "causal temporal convolution"),
    ("separable_conv3d:1x16x4x8x8:24x3x3x3:padding=1:bias=true", "X3D-like"),
    ("separable_conv2d:1x2304x2x2:16x1x1", "a sum of parts"),
)  # fmt: skip

BAD_CASES = (
    ("separable_conv2d:1x32x9x9:48x3x3:groups=32", "option 'groups' is unknown"),
    (
        "separable_conv2d:1x32x9x9:48x3x3:inner_activation=rellu",
        "inner_activation must be one of relu",
    ),
    ("separable_conv2d:1x32x9x9:48x3x3:inner_bias=2", "inner_bias must be true or false, got '2'"),
    ("separable_conv2d:1x32x1x9:32x3x3", "the output would have size 0"),
)

shared.register_family(
    "separable_conv",
    "depthwise-separable convolution: depthwise, then pointwise, as one kernel where that pays",
    FAMILY,
    ranks=(1, 2, 3),
    onnx={},
    cases=CASES,
    bad_cases=BAD_CASES,
    compute=compute,
    pack=pack,
)
