"""What the ONNX importers of the convolution family share: windows' attributes, the problem."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from tvmconv.errors import InputError
from tvmconv.problem import Problem

if TYPE_CHECKING:
    from tvmconv.frontend.node import Builder, OnnxNode
    from tvmconv.graph.ir import Value

_AUTO_PAD = {"SAME_UPPER": "same_upper", "SAME_LOWER": "same_lower", "VALID": "valid"}


def window_options(node: OnnxNode, rank: int) -> dict[str, object]:
    """The options ``stride``, ``dilation`` and ``padding`` of a node with ONNX's attributes.

    Raises
    ------
    InputError
        If an attribute has another number of values than the input has spatial axes, or
        ``auto_pad`` is unknown or given together with ``pads``.
    """
    options: dict[str, object] = {}
    for key, option, count in (
        ("strides", "stride", rank),
        ("dilations", "dilation", rank),
        ("pads", "padding", 2 * rank),
    ):
        values = node.ints_attr(key) if node.has(key) else []
        if node.has(key) and len(values) != count:
            node.fail(f"attribute '{key}' must have {count} values, has {len(values)}")
        if values:
            options[option] = tuple(values)
    auto = node.str_attr("auto_pad", "NOTSET")
    if auto in _AUTO_PAD:
        if any(node.ints_attr("pads") if node.has("pads") else []):
            node.fail(f"attribute 'pads' cannot be given together with auto_pad {auto}")
        options["padding"] = _AUTO_PAD[auto]
    elif auto not in ("NOTSET", ""):
        known = ", ".join(["NOTSET", *_AUTO_PAD])
        node.fail(f"attribute 'auto_pad' must be one of {known}, is '{auto}'")
    return options


def spatial_rank(node: OnnxNode) -> int:
    """Number of spatial axes of the node's first input, 1 to 3."""
    axes = len(node.input(0).shape)
    if axes not in (3, 4, 5):
        node.fail(f"input must have 3 to 5 axes (N, C, spatial), has {axes}")
    return axes - 2


def kernel_shape(node: OnnxNode, rank: int) -> tuple[int, ...]:
    """The required attribute ``kernel_shape``."""
    kernel = node.ints_attr("kernel_shape")
    if len(kernel) != rank:
        node.fail(f"attribute 'kernel_shape' must have {rank} values, has {len(kernel)}")
    return tuple(kernel)


def flag_attr(node: OnnxNode, key: str) -> bool:
    """An attribute that is 0 (the default) or 1."""
    value = node.int_attr(key, 0)
    if value not in (0, 1):
        node.fail(f"attribute '{key}' must be 0 or 1, is {value}")
    return bool(value)


def emit(
    node: OnnxNode,
    builder: Builder,
    op: str,
    inputs: Sequence[Value],
    filter_shape: tuple[int, ...] = (),
    options: dict[str, object] | None = None,
) -> Value:
    """Emit a node of the family; what its problem refuses names the file and the ONNX node.

    Whether there is a bias follows from the number of inputs.
    """
    x = inputs[0]
    given = {**(options or {}), "dtype": x.dtype}
    if len(inputs) == 3:
        given["bias"] = True
    try:
        problem = Problem(op, x.shape, filter_shape, given)
    except InputError as error:
        node.fail(str(error))
    return builder.emit(op, inputs, {"problem": problem.text})
