"""Gated convolution: ``y = φ(conv(x, f)) · σ(conv(x, g))``, φ being the activation, σ the sigmoid.

The weight has the filters f in its first half and g in its second, as the bias has. With φ = tanh
it is WaveNet's unit, with none (``activation=linear``) the gated linear unit. A block of the kernel
has both halves of its channels as lanes, so that one tile of sums holds what the product needs.

References
----------
van den Oord et al., WaveNet, 2016, equation 2. Dauphin et al., Language modeling with gated
convolutional networks, ICML 2017, equation 1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import prod
from typing import Any

import numpy as np

from tvmconv.kernel import KernelSpec, activation_steps, canonical_json
from tvmconv.ops import Array, Float64, Shape, activation, channels, conv, expressions, get, summing
from tvmconv.ops import family as shared
from tvmconv.ops import options as opt
from tvmconv.problem import Problem

#: Lipschitz constant of the sigmoid.
_GATE = 0.25


def half(problem: Problem) -> Problem:
    """The convolution that makes one half, before its activation."""
    names = ("stride", "padding", "padding_mode", "dilation", "bias", "dtype")
    options = {name: problem.option(name) for name in names}
    return Problem("conv", problem.input_shape, problem.filter_shape, options)


def halves(problem: Problem, arrays: Mapping[str, Array]) -> tuple[dict[str, Array], ...]:
    """What each half reads."""
    parts = {name: np.split(arrays[name], 2) for name in arrays if name != "x"}
    return tuple({"x": arrays["x"], **{k: v[n] for k, v in parts.items()}} for n in (0, 1))


def inputs(problem: Problem) -> dict[str, Shape]:
    """Shapes of the input, the weight (2·CO, CI, kernel) and the bias (2·CO)."""
    weight = (2 * problem.co, problem.ci, *problem.kernel)
    bias = {"bias": (2 * problem.co,)} if problem.bias else {}
    return {"x": problem.input_shape, "weight": weight, **bias}


def reference(problem: Problem, arrays: Mapping[str, Array]) -> Float64:
    """The output, with its activation, which is part of the product."""
    value, gate = (half(problem).reference(own) for own in halves(problem, arrays))
    return activation.apply(problem.activation, value) * activation.apply("sigmoid", gate)


def magnitude(problem: Problem, arrays: Mapping[str, Array]) -> Float64:
    """Each factor times the magnitude of the other: how far errors of both move the product.

    Of the two functions' own roundings, up to 8 each, the formula's least factor, 4, covers half.
    """
    own = halves(problem, arrays)
    sizes = [half(problem).magnitude(part) for part in own]
    value, gate = (half(problem).reference(part) for part in own)
    gate = activation.apply("sigmoid", gate)
    moved, rounded = sizes[0], np.zeros_like(value)
    if problem.activation:
        function, parameters = activation.split(problem.activation)
        value = activation.apply(problem.activation, value)
        moved = function.lipschitz(*parameters) * moved
        rounded = rounded if function.exact else np.abs(value) + function.spread
    return gate * (moved + 2 * rounded) + np.abs(value) * (_GATE * sizes[1] + 2 * gate)


def pack(spec: KernelSpec, constants: Sequence[Array]) -> list[Array]:
    """Weight (slots, trips, *kernel, step, 2·block) and bias (slots, 2·block), halves as lanes."""
    plain = half(Problem.parse(spec.attrs["problem"]))
    own = KernelSpec("conv", canonical_json({"problem": plain.text}), spec.inputs, spec.output)
    parts = zip(*(np.split(array, 2) for array in constants), strict=True)
    packed = zip(*(channels.pack(own, part) for part in parts), strict=True)
    return [np.concatenate(pair, axis=-1) for pair in packed]


def compute(spec: KernelSpec) -> list[Any]:
    """The sums of both halves over ``rc``, ``rk0`` … and ``ri``, and their product.

    Arguments are ``x``, what :func:`pack` gives, the operands of the program, and the output.
    """
    from tvmconv._tvm import te

    p = shared.with_zeros(Problem.parse(spec.attrs["problem"]))
    x_layout, block = spec.inputs[0], spec.output.block
    plan = channels.channel_plan(p, x_layout.block, block)
    x = expressions.placeholder(x_layout, "x")
    *outer, _ = channels.packed_shape(p, x_layout.block, block)
    weight = te.placeholder((*outer, 2 * block), name="weight")
    own = (spec.output.own_slots, 2 * block)
    bias = te.placeholder(own, name="bias") if p.bias else None
    together = summing.together(plan.trips, plan.step * prod(p.kernel))
    rc, rk = te.reduce_axis((0, together), "rc"), expressions.tap_axes(p)
    ri = te.reduce_axis((0, plan.step), "ri")

    def terms(index: tuple[Any, ...], first_trip: Any) -> Any:
        n, slot, *position, lane = index
        trip = first_trip + rc
        element = x_layout.at(x, n, trip * plan.step + ri, expressions.window(p, position, rk))
        return te.sum(element * weight[(slot, trip, *rk, ri, lane)], axis=[rc, *rk, ri])

    shape = (*spec.output.iteration_shape[:-1], 2 * block)
    attrs = expressions.window_attrs(p)
    sums = summing.summed(shape, terms, plan.trips, together, "contraction", attrs)

    def product(*index: Any) -> Any:
        lanes = (index[-1], index[-1] + block)
        value, gate = (
            sums(*index[:-1], lane) + (bias[index[1], lane] if bias is not None else 0.0)
            for lane in lanes
        )
        sigmoid = get("sigmoid").expression
        if sigmoid is None:
            raise ValueError("sigmoid has no expression")
        value = expressions.apply_program(value, activation_steps(p.text), lambda k: None)
        return value * sigmoid(gate, {})

    operands, output = expressions.finish(spec, product)
    return [x, weight, *([] if bias is None else [bias]), *operands, output]


_NOT_TAKEN = (opt.GROUPS, opt.FLIPPED, opt.ALGORITHM)
FAMILY = replace(
    conv.FAMILY,
    options=tuple(option for option in conv.FAMILY.options if option not in _NOT_TAKEN),
    validate=shared.check_padding,
    inputs=inputs,
    reference=reference,
    magnitude=magnitude,
    gated=True,
)

CASES = (
    ("gated_conv1d:1x64x1000:64x2:padding=8,0:dilation=8:bias=true:activation=tanh", "WaveNet"),
    ("gated_conv2d:1x64x28x28:64x3x3:padding=1:bias=true", "a gated linear unit on a map"),
    ("gated_conv2d:1x32x14x14:40x3x3:stride=2:padding=1:activation=relu", "free-form inpainting"),
    ("gated_conv1d:2x20x33:17x4:padding=3,0:activation=tanh", "channels that no block divides"),
    ("gated_conv2d:1x3x9x8:16x3x2:padding=1,0,0,1:dilation=2:activation=leaky_relu", "an image"),
    ("gated_conv3d:1x8x3x5x5:16x2x3x3:padding=0,1,1:bias=true:activation=tanh", "three axes"),
    ("gated_conv1d:1x2304x2:16x1", "a sum of parts"),
    ("gated_conv2d:1x1x1x1:1x1x1:activation=tanh", "one element"),
)

BAD_CASES = (
    ("gated_conv1d:1x16x9:16x2:groups=2", "option 'groups' is unknown"),
    ("gated_conv1d:1x16x9:16x2:activation=tanhh", "did you mean tanh"),
    (
        "gated_conv1d:1x16x4:16x9:padding=4:padding_mode=reflect",
        "a border of 4 in mode 'reflect' is",
    ),
    ("gated_conv1d:1x16x1:16x2", "the output would have size 0"),
)

shared.register_family(
    "gated_conv",
    "gated convolution: the activation of one half times the sigmoid of the other",
    FAMILY,
    ranks=(1, 2, 3),
    onnx={},
    cases=CASES,
    bad_cases=BAD_CASES,
    compute=compute,
    pack=pack,
    layout="any",
)
