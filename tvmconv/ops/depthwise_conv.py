"""Depthwise convolution: each input channel has ``multiplier`` filters of its own.

``y[n,co,o] = sum over k of x[n, co // multiplier, o*stride - low + k*dilation] * w[co,0,k]``
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from tvmconv.kernel import KIND, KernelSpec
from tvmconv.layout import Layout
from tvmconv.ops import Array, Float64, PackedWeight, Shape, conv, expressions, rows
from tvmconv.ops import family as shared
from tvmconv.ops import options as opt
from tvmconv.problem import Problem


def validate(problem: Problem) -> None:
    """Refuse output channels that are no multiple of the input channels, padding that cannot be."""
    shared.check_padding(problem)
    if problem.co % problem.ci:
        problem.fail("filter", f"must have a multiple of the {problem.ci} input channels,"
                     f" got {problem.co}")  # fmt: skip


def correlate(problem: Problem, x: Array, weight: Float64) -> Float64:
    """Convolve by a product of all windows with their filters, summed over the kernel's axes."""
    windows = shared.window_view(problem, shared.padded(problem, x, 0.0))
    filters = weight.reshape(problem.ci, -1, *problem.kernel)
    out, kernel = "opq"[: problem.rank], "xyz"[: problem.rank]
    y = np.einsum(f"nc{out}{kernel},cm{kernel}->ncm{out}", windows, filters, optimize=False)
    return np.asarray(y, np.float64).reshape(problem.output_shape)


def reference(problem: Problem, arrays: Mapping[str, Array]) -> Float64:
    """Output before the activation."""
    weight = shared.as_read(problem, np.asarray(arrays["weight"], np.float64))
    y = correlate(problem, arrays["x"], weight)
    return shared.add_bias(problem, y, arrays)


def packed_shape(problem: Problem, in_block: int, block: int) -> Shape:
    """Shape of the packed weight: (slots, *kernel, block)."""
    return (-(-problem.co // block), *problem.kernel, block)


def packed_element(
    problem: Problem, in_block: int, block: int, source: Any, index: Sequence[Any]
) -> Any:
    """Element of the packed weight as an expression of the weight as ONNX has it."""
    from tvmconv._tvm import te, tirx

    slot, *taps, lane = index
    co = slot * block + lane
    element = shared.AsRead(problem, source)[(te.min(co, problem.co - 1), 0, *taps)]
    return tirx.if_then_else(co < problem.co, element, 0.0)


def pack(spec: KernelSpec, constants: Sequence[Array]) -> list[Array]:
    """Weight as :func:`packed_shape` says and bias (slots, block), both padded with 0.

    On planes: weight (CO, *kernel), bias (CO,).
    """
    problem = Problem.parse(spec.attrs["problem"])
    filters = shared.as_read(problem, constants[0]).reshape(problem.co, *problem.kernel)
    if spec.output.block == 1:
        return [filters, *constants[1:]]
    block, slots = spec.output.block, spec.output.own_slots
    wide = np.zeros((slots * block, *problem.kernel), constants[0].dtype)
    wide[: problem.co] = filters
    packed = np.moveaxis(wide.reshape(slots, block, *problem.kernel), 1, -1)
    biases = (expressions.pack_channels(bias, slots, block) for bias in constants[1:])
    return [np.ascontiguousarray(packed), *biases]


def compute(spec: KernelSpec) -> list[Any]:
    """The sum over the taps ``rk0`` …, channel by channel.

    Arguments are ``x``, the weight of :func:`packed_shape`, the bias (slots, block) if there is
    one, the operands of the program, and the output.
    """
    from tvmconv._tvm import te

    p = shared.with_zeros(Problem.parse(spec.attrs["problem"]))
    x_layout, out = spec.inputs[0], spec.output
    if out.block == 1:
        return _on_planes(spec, p)
    x = expressions.placeholder(x_layout, "x")
    shape = packed_shape(p, x_layout.block, out.block)
    weight = te.placeholder(shape, name="weight")
    bias = te.placeholder((out.own_slots, out.block), name="bias") if p.bias else None
    taps = expressions.tap_axes(p)
    channel_at = channel_reader(p, x_layout, out, x)

    def body(*index: Any) -> Any:
        n, slot, *position, lane = index
        element = channel_at(n, slot, expressions.window(p, position, taps), lane)
        return te.sum(element * weight[(slot, *taps, lane)], axis=taps)

    conv = te.compute(out.iteration_shape, body, name="depthwise", attrs={KIND: "window"})
    operands, output = expressions.finish(spec, lambda *index: conv(*index), bias)
    return [x, weight, *([] if bias is None else [bias]), *operands, output]


def channel_reader(p: Problem, x_layout: Layout, out: Layout, x: Any) -> Callable[..., Any]:
    """Make the function of (n, slot, place, lane) that reads what an output channel's sum needs."""
    from tvmconv._tvm import te

    multiplier = p.co // p.ci

    def channel_at(n: Any, slot: Any, place: Sequence[Any], lane: Any) -> Any:
        if multiplier == 1 and x_layout.block == out.block:
            return x_layout.at_slot(x, n, slot, place, (lane,))
        # Lanes past the last channel read that one: their results are never read.
        channel = te.min((slot * out.block + lane) // multiplier, p.ci - 1)
        return x_layout.at(x, n, channel, place)

    return channel_at


def _on_planes(spec: KernelSpec, p: Problem) -> list[Any]:
    """The sum over the taps on planes: weight (CO, *kernel), bias (CO,)."""
    from tvmconv._tvm import te

    x = expressions.placeholder(spec.inputs[0], "x")
    weight = te.placeholder((p.co, *p.kernel), name="weight")
    bias = te.placeholder((p.co,), name="bias") if p.bias else None
    taps = expressions.tap_axes(p)
    own = p.out_spatial[-1]
    # Short rows are computed as whole vectors and cropped, if no operand has such rows as well.
    width = own if spec.inputs[1:] else rows.whole_vectors(own)
    at = rows.neighbourhood(spec.inputs[0], x, p, width)

    def body(*index: Any) -> Any:
        n, channel, *position = index
        element = at(n, channel // (p.co // p.ci), position, taps)
        return te.sum(element * weight[(channel, *taps)], axis=taps)

    shape = (*spec.output.shape[:-1], width)
    conv = te.compute(shape, body, name="depthwise", attrs={KIND: "rows"})

    def result(*index: Any) -> Any:
        return conv(*index) if bias is None else conv(*index) + bias[index[1]]

    if width == own:
        operands, output = expressions.finish(spec, result)
    else:
        wide = expressions.elements(
            shape,
            lambda *index: expressions.apply_program(result(*index), spec.program, lambda k: None),
            name="wide",
            kind="wide",
        )
        operands, output = [], rows.cropped(spec, wide)
    return [x, weight, *([] if bias is None else [bias]), *operands, output]


_NOT_TAKEN = (opt.GROUPS, opt.ALGORITHM)
FAMILY = replace(
    conv.FAMILY,
    options=tuple(option for option in conv.FAMILY.options if option not in _NOT_TAKEN),
    validate=validate,
    reference=reference,
    depthwise=True,
)

CASES = (
    ("depthwise_conv2d:1x32x112x112:32x3x3:padding=1", "MobileNet v1 conv2_1/dw"),
    (
        "depthwise_conv2d:1x144x56x56:144x3x3:stride=2:padding=1:bias=true:activation=relu6",
        "MobileNet v2 block 3, batch norm folded",
    ),
    ("depthwise_conv2d:1x68x28x28:68x3x3:padding=1", "ShuffleNet v1: no block divides 68"),
    ("depthwise_conv2d:1x96x14x14:96x7x7:padding=3:bias=true", "ConvNeXt-T stage 1"),
    ("depthwise_conv2d:1x240x14x14:240x5x5:stride=2:padding=1,1,2,2", "EfficientNet-B0, SAME"),
    ("depthwise_conv2d:1x8x9x9:24x3x3:padding=1", "channel multiplier 3"),
    ("depthwise_conv2d:2x16x20x20:16x3x3:padding=3:dilation=3", "dilated"),
    ("depthwise_conv2d:1x20x9x8:40x3x2:stride=2:padding=1,0:flipped=true", "true convolution"),
    ("depthwise_conv2d:1x3x5x5:3x1x1", "a 1x1 kernel scales channels"),
    ("depthwise_conv2d:1x1x6x6:4x3x3", "one input channel: an ordinary convolution"),
    ("depthwise_conv1d:1x64x200:64x7:padding=6,0", "causal temporal convolution"),
    ("depthwise_conv3d:1x16x4x10x10:16x3x3x3:padding=1", "X3D-like"),
)

BAD_CASES = (
    ("depthwise_conv2d:1x32x9x9:48x3x3", "filter must have a multiple of the 32 input channels"),
    ("depthwise_conv2d:1x32x9x9:32x3x3:groups=32", "option 'groups' is unknown"),
    ("depthwise_conv2d:1x32x9x9:32x3x3:algorithm=winograd2", "option 'algorithm' is unknown"),
    ("depthwise_conv2d:1x32x9x9:32x3x3:dilation=-2", "dilation must be at least 1, got -2"),
    ("depthwise_conv2d:1x32x1x9:32x3x3", "the output would have size 0"),
)

shared.register_family(
    "depthwise_conv",
    "depthwise convolution, with a channel multiplier",
    FAMILY,
    ranks=(1, 2, 3),
    onnx={},
    cases=CASES,
    bad_cases=BAD_CASES,
    compute=compute,
    pack=pack,
    packed_weight=PackedWeight(packed_shape, packed_element),
    planes=True,
)
