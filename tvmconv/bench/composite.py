"""Problems that ONNX has no single operator for, as small graphs of those that it has."""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper

from tvmconv.bench.activations import activation_nodes
from tvmconv.problem import Problem

Arrays = dict[str, npt.NDArray[Any]]
#: Nodes from ``x`` to a given name, and their constants.
Nodes = tuple[list[onnx.NodeProto], Arrays]


def window(problem: Problem) -> dict[str, Any]:
    """The attributes of the ``Conv`` that slides over a problem's input, without groups."""
    return {
        "kernel_shape": problem.kernel,
        "strides": problem.stride,
        "pads": problem.pads_low + problem.pads_high,
        "dilations": problem.dilation,
    }


def _separable(problem: Problem, arrays: Arrays, last: str) -> Nodes:
    """``Conv`` with a group a channel, the activation between, pointwise ``Conv``."""
    first, _ = problem.parts
    inner = [name for name in ("depthwise", "depthwise_bias") if name in arrays]
    linear = "inner" if first.activation else "between"
    attributes = {**window(first), "group": first.groups}
    depthwise = helper.make_node("Conv", ["x", *inner], [linear], name="depthwise", **attributes)
    after, limits = activation_nodes(first.activation, linear, "between")
    names = [name for name in ("weight", "bias") if name in arrays]
    pointwise = helper.make_node("Conv", ["between", *names], [last], name="layer")
    return [depthwise, *after, pointwise], {**arrays, **limits}


def _gated(problem: Problem, arrays: Arrays, last: str) -> Nodes:
    """One ``Conv`` for both halves, ``Split``, the two functions, ``Mul``."""
    inputs = ["x", *(name for name in ("weight", "bias") if name in arrays)]
    conv = helper.make_node("Conv", inputs, ["both"], name="layer", **window(problem))
    linear = "linear" if problem.activation else "value"
    after, limits = activation_nodes(problem.activation, linear, "value")
    return [
        conv,
        helper.make_node("Split", ["both"], [linear, "gate"], axis=1),
        *after,
        helper.make_node("Sigmoid", ["gate"], ["share"]),
        helper.make_node("Mul", ["value", "share"], [last]),
    ], {**arrays, **limits}


def _unshared(problem: Problem, arrays: Arrays, last: str) -> Nodes:
    """What each position reads, gathered; a matrix product for each position; in order again."""
    pixels = prod(problem.out_spatial)
    places = _places(problem)
    terms = (pixels, problem.batch, problem.ci * places.shape[1])
    weight = arrays["weight"].reshape(pixels, problem.co, -1).transpose(0, 2, 1)
    constants: Arrays = {
        "pads": np.array([0, 0, *problem.pads_low, 0, 0, *problem.pads_high], np.int64),
        "planes": np.array([problem.batch, problem.ci, -1], np.int64),
        "places": places,
        "terms": np.array(terms, np.int64),
        "matrices": np.ascontiguousarray(weight),
        "shape": np.array(problem.output_shape, np.int64),
    }
    result = "summed" if problem.bias else last
    nodes = [
        helper.make_node("Pad", ["x", "pads"], ["padded"]),
        helper.make_node("Reshape", ["padded", "planes"], ["flat"]),
        helper.make_node("Gather", ["flat", "places"], ["gathered"], axis=2),
        helper.make_node("Transpose", ["gathered"], ["by_place"], perm=[2, 0, 1, 3]),
        helper.make_node("Reshape", ["by_place", "terms"], ["rows"]),
        helper.make_node("MatMul", ["rows", "matrices"], ["products"]),
        helper.make_node("Transpose", ["products"], ["in_order"], perm=[1, 2, 0]),
        helper.make_node("Reshape", ["in_order", "shape"], [result], name="layer"),
    ]
    if problem.bias:
        constants["bias"] = arrays["bias"].reshape(1, problem.co, *problem.out_spatial)
        nodes.append(helper.make_node("Add", [result, "bias"], [last]))
    return nodes, constants


def _places(problem: Problem) -> npt.NDArray[np.int64]:
    """Which elements of a padded plane each output reads: (outputs, taps)."""
    pads = zip(problem.pads_low, problem.pads_high, strict=True)
    sizes = [n + sum(sides) for n, sides in zip(problem.in_spatial, pads, strict=True)]
    outputs, taps = np.indices(problem.out_spatial), np.indices(problem.kernel)
    found = np.zeros((prod(problem.out_spatial), prod(problem.kernel)), np.int64)
    for axis, size in enumerate(sizes):
        start = outputs[axis].reshape(-1, 1) * problem.stride[axis]
        found = found * size + start + taps[axis].reshape(1, -1) * problem.dilation[axis]
    return found


#: By operator.
COMPOSITES: dict[str, Callable[[Problem, Arrays, str], Nodes]] = {
    "gated_conv": _gated,
    "locally_connected": _unshared,
    "separable_conv": _separable,
}
