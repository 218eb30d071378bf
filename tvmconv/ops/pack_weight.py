"""Brings a weight or bias that is known only at run time into the order that its kernel reads.

Only the layout pass makes such nodes, with these attributes: ``problem`` and ``host``, the problem
and the operator that reads the result; ``role``, ``"weight"`` or ``"bias"``; ``in_block`` and
``block``, the channel blocks of the host's input and output.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from tvmconv import ops
from tvmconv.errors import InputError
from tvmconv.kernel import KernelSpec, canonical_json
from tvmconv.layout import Layout
from tvmconv.ops import BadCase, Case, Operator, PackedWeight, expressions, register
from tvmconv.ops._shapes import Shape, expect_inputs, text
from tvmconv.problem import Problem

Array = npt.NDArray[Any]
Attrs = Mapping[str, Any]


def _form(attrs: Attrs) -> PackedWeight:
    """Return the packed form of the host's weight."""
    form = ops.get(attrs["host"]).packed_weight
    if form is None:
        raise InputError(f"attribute 'host': {attrs['host']} has no weight")
    return form


def output_shape(shapes: Sequence[Shape], attrs: Attrs) -> Shape:
    """Return the shape of the host's packed weight, or (slots, …, block) for a bias."""
    expect_inputs(shapes, 1)
    problem, form = Problem.parse(attrs["problem"]), _form(attrs)
    wanted = problem.inputs[attrs["role"]]
    if shapes[0] != wanted:
        raise InputError(f"{attrs['role']} must have shape {text(wanted)}, has {text(shapes[0])}")
    if attrs["role"] == "bias":
        return (-(-problem.co // attrs["block"]), *wanted[1:], attrs["block"])
    return form.shape(problem, attrs["in_block"], attrs["block"])


def reference(arrays: Sequence[Array], attrs: Attrs) -> Array:
    """Pack as constants are packed."""
    problem = Problem.parse(attrs["problem"])
    pack = ops.get(attrs["host"]).pack
    if pack is None:
        raise InputError(f"attribute 'host': {attrs['host']} has no weight")
    spec = KernelSpec(
        attrs["host"],
        canonical_json({"problem": problem.text}),
        (Layout(problem.input_shape, attrs["in_block"]),),
        Layout(problem.output_shape, attrs["block"]),
    )
    if attrs["role"] == "weight":
        return pack(spec, [arrays[0]])[0]
    weight = np.zeros(problem.inputs["weight"], arrays[0].dtype)
    return pack(spec, [weight, arrays[0]])[1]


def compute(spec: KernelSpec) -> list[Any]:
    """Gather from the weight (or bias) as ONNX has it."""
    from tvmconv._tvm import te, tirx

    attrs = spec.attrs
    problem, form = Problem.parse(attrs["problem"]), _form(attrs)
    source = expressions.placeholder(spec.inputs[0], "source")

    def body(*index: Any) -> Any:
        if attrs["role"] == "weight":
            return form.element(problem, attrs["in_block"], attrs["block"], source, index)
        slot, *place, lane = index
        channel = slot * attrs["block"] + lane
        near = te.min(channel, problem.co - 1)
        return tirx.if_then_else(channel < problem.co, source[(near, *place)], 0.0)

    return [source, expressions.elements(spec.output.shape, body)]


def _attrs(problem: str, host: str, role: str, in_block: int = 16) -> Attrs:
    return {"problem": problem, "host": host, "role": role, "in_block": in_block, "block": 16}


_GROUPED = "conv2d:1x24x9x9:40x3x2:groups=4:bias=true"
_LOCAL = "locally_connected2d:1x24x4x4:20x3x2:bias=true"

OPERATOR = register(
    Operator(
        name="pack_weight",
        summary="a weight in the order that its kernel reads",
        output_shape=output_shape,
        reference=reference,
        cases=(
            Case(
                "a first layer",
                shapes=((20, 3, 3, 3),),
                attrs=_attrs("conv2d:1x3x9x9:20x3x3", "conv", "weight", 1),
            ),
            Case(
                "groups that no block divides",
                shapes=((40, 6, 3, 2),),
                attrs=_attrs(_GROUPED, "conv", "weight"),
            ),
            Case("a bias", shapes=((40,),), attrs=_attrs(_GROUPED, "conv", "bias")),
            Case(
                "depthwise with a multiplier",
                shapes=((39, 1, 5),),
                attrs=_attrs("depthwise_conv1d:1x13x9:39x5", "depthwise_conv", "weight"),
            ),
            Case(
                "taps of a true convolution",
                shapes=((20, 3, 3, 2),),
                attrs=_attrs("conv2d:1x3x9x9:20x3x2:flipped=true", "conv", "weight", 1),
            ),
            Case(
                "weights of each position",
                shapes=((2, 3, 20, 24, 3, 2),),
                attrs=_attrs(_LOCAL, "locally_connected", "weight"),
            ),
            Case(
                "a bias for each position",
                shapes=((20, 2, 3),),
                attrs=_attrs(_LOCAL, "locally_connected", "bias"),
            ),
            Case(
                "a matrix", shapes=((10, 50),), attrs=_attrs("dense:2x50:10", "dense", "weight", 1)
            ),
        ),
        bad_cases=(
            BadCase(
                "bias must have shape 40, has 41",
                shapes=((41,),),
                attrs=_attrs(_GROUPED, "conv", "bias"),
            ),
            BadCase(
                "max_pool has no weight",
                shapes=((1,),),
                attrs=_attrs("max_pool2d:1x4x9x9:3x3", "max_pool", "weight"),
            ),
        ),
        compute=compute,
        internal=True,
    )
)
