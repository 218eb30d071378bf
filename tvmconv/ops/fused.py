"""A fused program on its own: elementwise steps that no kernel before them could take.

Only the fusion pass makes such nodes. ``attrs["program"]`` is a list of steps, each
``{"op": name, ...}`` with the attributes of that operator; a binary step has ``operand``, the
number of an input after the first, or ``scalar``, and ``reverse`` if the running value is its
second argument. An operand may have a ``program`` of its own, of steps without operands, which
comes first.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from tvmconv import ops
from tvmconv.errors import InputError
from tvmconv.kernel import KernelSpec
from tvmconv.ops import BadCase, Case, Operator, expressions, register
from tvmconv.ops._shapes import Shape, broadcast, text

Array = npt.NDArray[Any]
Attrs = Mapping[str, Any]


def output_shape(shapes: Sequence[Shape], attrs: Attrs) -> Shape:
    """Return the shape of ``x``, to which every operand broadcasts."""
    if not shapes:
        raise InputError("takes at least 1 input, has 0")
    for shape in shapes[1:]:
        if broadcast(shapes[0], shape) != shapes[0]:
            raise InputError(f"operand {text(shape)} does not broadcast to {text(shapes[0])}")
    return shapes[0]


def reference(arrays: Sequence[Array], attrs: Attrs) -> Array:
    """Apply the steps' own references in float64, and round once."""
    value, *operands = map(_wide, arrays)
    for step in attrs["program"]:
        operator = ops.get(step["op"])
        if "operand" not in step and "scalar" not in step:
            value = _wide(operator.reference([value], step))
            continue
        other = operands[step["operand"]] if "operand" in step else np.float64(step["scalar"])
        if step.get("program"):
            other = _wide(reference([np.asarray(other)], step))
        pair = [other, value] if step.get("reverse") else [value, other]
        value = operator.reference([np.asarray(array) for array in pair], step)
    dtype = ops.result_dtype("elementwise", [str(arrays[0].dtype)], attrs)
    return value.astype(dtype)


def _wide(array: Array) -> Array:
    """Floats in float64, other numbers as they are."""
    array = np.asarray(array)
    return array.astype(np.float64) if array.dtype.kind in "fV" else array  # V: bfloat16


def compute(spec: KernelSpec) -> list[Any]:
    """The program applied to ``x``."""
    x_layout, out = spec.inputs[0], spec.output
    x = expressions.placeholder(x_layout, "x")
    operands, output = expressions.finish(
        spec, lambda *index: expressions.operand_at(x, x_layout, out, index)
    )
    return [x, *operands, output]


def _program(*steps: dict[str, Any]) -> Attrs:
    return {"program": list(steps)}


OPERATOR = register(
    Operator(
        name="elementwise",
        summary="a fused program of elementwise steps",
        output_shape=output_shape,
        reference=reference,
        cases=(
            Case(
                "ResNet-50 res2a: the shortcut is added, then relu",
                shapes=((1, 24, 7, 7), (1, 24, 7, 7)),
                attrs=_program({"op": "add", "operand": 0}, {"op": "relu"}),
            ),
            Case(
                "DenseNet-121: batch normalisation, then relu",
                shapes=((1, 24, 7, 7), (1, 24, 1, 1), (1, 24, 1, 1)),
                attrs=_program(
                    {"op": "mul", "operand": 0}, {"op": "add", "operand": 1}, {"op": "relu"}
                ),
            ),
            Case(
                "a slope per channel, channels that no block divides",
                shapes=((2, 13, 5, 3), (1, 13, 1, 1)),
                attrs=_program({"op": "prelu", "operand": 0}),
            ),
            Case(
                "scalars on either side, a map of one channel and one of one row",
                shapes=((2, 13, 5, 3), (2, 1, 5, 3), (2, 13, 1, 3)),
                attrs=_program(
                    {"op": "sub", "scalar": 1.5, "reverse": True},
                    {"op": "mul", "operand": 0},
                    {"op": "maximum", "operand": 1, "reverse": True},
                    {"op": "div", "scalar": 3.0},
                ),
            ),
            Case(
                "many steps",
                shapes=((1, 20, 4, 4),),
                attrs=_program(
                    {"op": "leaky_relu", "alpha": 0.1},
                    {"op": "hard_swish"},
                    {"op": "silu"},
                    {"op": "abs"},
                    {"op": "sqrt"},
                    {"op": "clip", "min": 0.1, "max": 1.0},
                ),
            ),
            Case(
                "a matrix",
                shapes=((4, 10), (1, 10)),
                attrs=_program({"op": "add", "operand": 0}, {"op": "sigmoid"}),
            ),
        ),
        bad_cases=(
            BadCase("takes at least 1", attrs=_program()),
            BadCase("operand 2x4 does not broadcast to 1x4", shapes=((1, 4), (2, 4))),
        ),
        compute=compute,
        layout="same",
        takes_program=True,
        internal=True,
    )
)
