"""Local response normalisation across channels.

References
----------
Krizhevsky, Sutskever, Hinton, ImageNet classification with deep convolutional neural networks,
NIPS 2012, section 3.3.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from tvmconv import te_math
from tvmconv.errors import InputError
from tvmconv.kernel import KernelSpec
from tvmconv.ops import BadCase, Case, Operator, expressions, register
from tvmconv.ops._shapes import Shape, expect_inputs, integer, number, text

if TYPE_CHECKING:
    from tvmconv.frontend.node import Builder, OnnxNode
    from tvmconv.graph.ir import Value

Array = npt.NDArray[Any]
Attrs = Mapping[str, Any]


def window(size: int) -> tuple[int, int]:
    """Return how many channels the window reaches below and above its own: ⌊(size−1)/2⌋, ⌈…⌉."""
    return (size - 1) // 2, size // 2


def output_shape(shapes: Sequence[Shape], attrs: Attrs) -> Shape:
    """Return the input's shape, (N, C, ...)."""
    expect_inputs(shapes, 1)
    if len(shapes[0]) < 2:
        raise InputError(f"needs a channel axis, has shape {text(shapes[0])}")
    if integer(attrs, "size") < 1:
        raise InputError(f"attribute 'size' must be at least 1, is {attrs['size']}")
    for key in ("alpha", "beta", "bias"):
        number(attrs, key)
    return shapes[0]


def reference(arrays: Sequence[Array], attrs: Attrs) -> Array:
    """Return ``y[c] = x[c] / (bias + alpha/size · Σ x[j]²)^beta``, j in the window around c."""
    x = np.asarray(arrays[0], np.float64)
    below, above = window(attrs["size"])
    channels = x.shape[1]
    # Prefix sums would cancel; the window is short, so adding shifted squares is exact enough.
    squares, total = x * x, np.zeros_like(x)
    for shift in range(-min(below, channels - 1), min(above, channels - 1) + 1):
        low, high = max(0, -shift), channels - max(0, shift)
        total[:, low:high] += squares[:, low + shift : high + shift]
    y: Array = x / (attrs["bias"] + attrs["alpha"] / attrs["size"] * total) ** attrs["beta"]
    return y.astype(arrays[0].dtype)


def compute(spec: KernelSpec) -> list[Any]:
    """Squares of a block and of its neighbours as a stage; then sums of them and the division."""
    attrs, x_layout, block = spec.attrs, spec.inputs[0], spec.output.block
    x = expressions.placeholder(x_layout, "x")
    below, above = (min(side, x_layout.shape[1] - 1) for side in window(attrs["size"]))
    before = -(-below // block)
    squares = _squares(spec, x, before, -(-above // block))
    scale = te_math.number(attrs["alpha"] / attrs["size"])

    def body(*index: Any) -> Any:
        *place, lane = index
        # Two axes, block and lane, of one row: flattened, the places of a sum are consecutive.
        at = [before * block + lane + shift for shift in range(-below, above + 1)]
        total = squares[(*place, at[0] // block, at[0] % block)]
        for k in at[1:]:
            total = total + squares[(*place, k // block, k % block)]
        element = x_layout.at_slot(x, index[0], index[1], index[2:-1], (lane,))
        base = te_math.number(attrs["bias"]) + scale * total
        return _divided(element, base, attrs["beta"])

    operands, output = expressions.finish(spec, body)
    return [x, *operands, output]


def _squares(spec: KernelSpec, x: Any, before: int, after: int) -> Any:
    """Squares of ``before`` blocks below each block, of itself and of ``after`` blocks above.

    Shape (N, slots, *spatial, before + 1 + after, block); zero where there is no channel.
    """
    from tvmconv._tvm import te, tirx

    layout, block = spec.inputs[0], spec.output.block
    channels, slots = layout.shape[1], layout.own_slots

    def square(*index: Any) -> Any:
        batch, slot, *position, part, lane = index
        source = slot + part - before
        near = te.max(te.min(source, slots - 1), 0)
        element = layout.at_slot(x, batch, near, position, (lane,))
        inside = [source >= 0, source < slots]
        if channels % block:
            # Lanes past the last channel hold anything, an infinity too: choose, never multiply.
            element = tirx.Select(near * block + lane < channels, element, te_math.number(0.0))
        return tirx.if_then_else(tirx.all(*inside), element * element, te_math.number(0.0))

    shape = (*spec.output.iteration_shape[:-1], before + 1 + after, block)
    return expressions.elements(shape, square, "squares", "nearby")


def _divided(x: Any, base: Any, beta: float) -> Any:
    """``x / base^beta``, without a power for the usual exponents."""
    if beta == 0.75:
        root = te_math.bind(te_math.sqrt(base))
        return x / (root * te_math.sqrt(root))
    if beta == 0.5:
        return x / te_math.sqrt(base)
    return x * te_math.power(base, te_math.number(-beta))


def _import(node: OnnxNode, builder: Builder) -> Value:
    attrs = {
        "size": node.int_attr("size"),
        "alpha": node.float_attr("alpha", 1e-4),
        "beta": node.float_attr("beta", 0.75),
        "bias": node.float_attr("bias", 1.0),
    }
    return builder.emit("lrn", [node.input(0)], attrs)


_ALEXNET = {"size": 5, "alpha": 1e-4, "beta": 0.75, "bias": 1.0}

OPERATOR = register(
    Operator(
        name="lrn",
        summary="y = x / (bias + alpha/size · Σ x²)^beta over neighbouring channels",
        output_shape=output_shape,
        reference=reference,
        onnx={"LRN": _import},
        cases=(
            Case("bvlc_alexnet norm1", shapes=((1, 96, 13, 13),), attrs=_ALEXNET),
            Case(
                "zfnet512 norm1",
                shapes=((1, 96, 9, 9),),
                attrs={"size": 5, "alpha": 5e-4, "beta": 0.75, "bias": 2.0},
            ),
            Case(
                "an even window reaches further up",
                shapes=((2, 13, 3, 3),),
                attrs={"size": 4, "alpha": 0.5, "beta": 0.5, "bias": 1.0},
            ),
            Case(
                "a window wider than the channels",
                shapes=((1, 3, 4, 4),),
                attrs={"size": 9, "alpha": 0.5, "beta": 0.75, "bias": 1.0},
            ),
        ),
        bad_cases=(
            BadCase("'size' must be at least 1", shapes=((1, 3, 4),), attrs={"size": 0}),
            BadCase("'alpha' must be a number", shapes=((1, 3, 4),), attrs={"size": 5}),
            BadCase("needs a channel axis", shapes=((3,),), attrs=_ALEXNET),
        ),
        compute=compute,
        layout="blocked",
        takes_program=True,
    )
)
