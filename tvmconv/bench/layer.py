"""One problem as a model that every library can load: an ONNX graph of a single layer.

The problem's text travels in the model's ``metadata_props``, so a library without an ONNX reader
can make the same layer from the `Problem` and the constants.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

from tvmconv.accuracy import random_inputs
from tvmconv.bench.activations import activation_nodes
from tvmconv.bench.composite import COMPOSITES
from tvmconv.bench.report import BYTE_PRODUCTS
from tvmconv.errors import InputError
from tvmconv.ops.family import as_read
from tvmconv.problem import Problem

Arrays = dict[str, npt.NDArray[Any]]

OPSET, IR_VERSION = 17, 8
PROPERTY = "tvmconv.problem"
ONNX_TYPES = {
    "conv": "Conv",
    "depthwise_conv": "Conv",
    "conv_transpose": "ConvTranspose",
    "max_pool": "MaxPool",
    "avg_pool": "AveragePool",
    "global_max_pool": "GlobalMaxPool",
    "global_avg_pool": "GlobalAveragePool",
    "dense": "Gemm",
    "resize": "Resize",
    "qconv": "QLinearConv",
    "depthwise_qconv": "QLinearConv",
}
#: Options of Resize that are not benchmarked: ONNX has them in later opsets, or other inputs.
_LATER = ("antialias", "roi", "scales")
_RESIZE_ATTRIBUTES = {
    "mode": "mode",
    "coordinates": "coordinate_transformation_mode",
    "nearest": "nearest_mode",
}


def problem_to_onnx(problem: Problem, seed: int = 0) -> tuple[onnx.ModelProto, Arrays]:
    """Make a model of one layer with constant random weights, and a random input for it.

    Where ONNX has no operator for it, the model is a small graph (:mod:`tvmconv.bench.composite`).

    Parameters
    ----------
    problem : Problem
    seed : int
        Of the weights and the input.

    Returns
    -------
    model : ModelProto
        Input ``x``, output ``y``; weight and bias are initialisers.
    inputs : dict
        ``x`` only.

    Raises
    ------
    InputError
        If ONNX has no operator for the problem.
    """
    check_onnx(problem)
    arrays = random_inputs(problem, seed)
    x = arrays.pop("x")
    last = "linear" if problem.activation and not problem.family.gated else "y"
    arrays |= quantisation(problem)
    if problem.op in COMPOSITES:
        nodes, arrays = COMPOSITES[problem.op](problem, arrays, last)
    else:
        nodes = [_layer(problem, last)]
    if problem.op == "resize":
        arrays["sizes"] = np.array(problem.output_shape)
    if problem.flipped:  # ONNX has the cross-correlation only
        arrays["weight"] = np.ascontiguousarray(as_read(problem, arrays["weight"]))
    after, limits = activation_nodes(problem.activation if last != "y" else "", last, "y")
    used = {name for node in nodes for name in node.input}
    arrays = {name: array for name, array in arrays.items() if name in used}
    graph = helper.make_graph(
        [*nodes, *after],
        problem.name,
        [helper.make_tensor_value_info("x", _element(problem, "x"), x.shape)],
        [helper.make_tensor_value_info("y", _element(problem, "output"), problem.output_shape)],
        [numpy_helper.from_array(array, name) for name, array in {**arrays, **limits}.items()],
    )
    opsets = [helper.make_opsetid("", OPSET)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION)
    if problem.op not in COMPOSITES:
        helper.set_model_props(model, {PROPERTY: problem.text})
    return model, {"x": x}


def _layer(problem: Problem, output: str) -> onnx.NodeProto:
    """The single node of a problem."""
    kind = "ConvInteger" if _is_sums(problem) else ONNX_TYPES[problem.op]
    inputs = _operand_names(problem)
    return helper.make_node(kind, inputs, [output], name="layer", **_attributes(problem))


def layer_weights(problem: Problem, seed: int = 0) -> Arrays:
    """The constants of the layer that :func:`problem_to_onnx` makes, as the problem has them."""
    return {name: a for name, a in random_inputs(problem, seed).items() if name != "x"}


def check_onnx(problem: Problem) -> None:
    """Refuse a problem that ONNX cannot express, by an InputError."""
    plain = problem.option("padding_mode") in (None, "zeros")
    wide = problem.op in BYTE_PRODUCTS and problem.option("weight_terms") > 1
    unlike = wide or (_is_sums(problem) and problem.bias) or any(map(problem.option, _LATER))
    if problem.op not in {**ONNX_TYPES, **COMPOSITES} or not plain or unlike:
        raise InputError(f"{problem}: no ONNX operator does this, so no library has it")


def _is_sums(problem: Problem) -> bool:
    """Whether the result is sums of products of bytes, not quantised again."""
    return problem.op in BYTE_PRODUCTS and not problem.option("scale")


def _element(problem: Problem, name: str) -> int:
    """ONNX's number of an element type."""
    return int(helper.np_dtype_to_tensor_dtype(np.dtype(problem.dtypes[name])))


def _operand_names(problem: Problem) -> list[str]:
    """The inputs of the layer's node, with what quantises its tensors."""
    names = list(problem.inputs)
    if problem.op == "resize":
        return ["x", "", "", "sizes"]
    if problem.op not in BYTE_PRODUCTS:
        return names
    if _is_sums(problem):
        return ["x", "weight", "x_zero"]
    quantities = ["x", "x_scale", "x_zero", "weight", "weight_scale", "weight_zero"]
    return [*quantities, "y_scale", "y_zero", *names[2:]]


def quantisation(problem: Problem) -> Arrays:
    """Scales and zero points of a quantised layer: that of the weight is the problem's scale."""
    if problem.op not in BYTE_PRODUCTS:
        return {}
    one = np.float32(1)
    return {
        "x_scale": np.asarray(one),
        "x_zero": np.asarray(problem.option("zero_point"), problem.dtype),
        "weight_scale": np.asarray(problem.option("scale"), np.float32),
        "weight_zero": np.asarray(0, np.int8),
        "y_scale": np.asarray(one),
        "y_zero": np.asarray(problem.option("out_zero_point"), problem.dtype),
    }


def read_problem(model: onnx.ModelProto) -> tuple[Problem, Arrays] | None:
    """Give back the problem and the constants of a model that `problem_to_onnx` made, or None.

    Of a problem that takes several operators there is none either. A true convolution is given as
    the cross-correlation that the model has.
    """
    properties = {entry.key: entry.value for entry in model.metadata_props}
    if PROPERTY not in properties:
        return None
    problem = Problem.parse(properties[PROPERTY])
    if problem.flipped:
        problem = problem.replace(flipped=False)
    constants = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    return problem, {name: constants[name] for name in problem.inputs if name != "x"}


def _attributes(problem: Problem) -> dict[str, Any]:
    """The ONNX attributes of the layer's node."""
    if problem.op == "dense":
        return {"transB": 1}
    if problem.op.startswith("global_"):
        return {}
    if problem.op == "resize":
        found = {name: problem.option(key) for key, name in _RESIZE_ATTRIBUTES.items()}
        found["cubic_coeff_a"] = float(problem.option("cubic_coeff"))
        return {**found, "exclude_outside": int(problem.option("exclude_outside"))}
    attributes: dict[str, Any] = {
        "kernel_shape": problem.kernel,
        "strides": problem.stride,
        "pads": problem.pads_low + problem.pads_high,
    }
    if problem.op == "avg_pool":  # dilations came to AveragePool in a later opset
        attributes["count_include_pad"] = int(problem.count_include_pad)
    else:
        attributes["dilations"] = problem.dilation
    if problem.op.endswith("_pool"):
        attributes["ceil_mode"] = int(problem.ceil_mode)
    else:
        attributes["group"] = problem.groups
    if problem.op == "conv_transpose":
        attributes["output_padding"] = problem.option("output_padding")
    return attributes
