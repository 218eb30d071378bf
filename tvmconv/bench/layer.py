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

from tvmconv import ops
from tvmconv.accuracy import random_inputs
from tvmconv.bench.report import BYTE_PRODUCTS
from tvmconv.errors import InputError
from tvmconv.ops import activation as activations
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
    kind = onnx_type(problem)
    arrays = random_inputs(problem, seed)
    x = arrays.pop("x")
    quantised = quantisation(problem)
    names = operand_names(problem)
    arrays |= {name: array for name, array in quantised.items() if name in names}
    if problem.flipped:  # ONNX has the cross-correlation only
        arrays["weight"] = np.ascontiguousarray(as_read(problem, arrays["weight"]))
    constants = [numpy_helper.from_array(array, name) for name, array in arrays.items()]
    last = "linear" if problem.activation else "y"
    if kind == "Resize":
        constants.append(numpy_helper.from_array(np.array(problem.output_shape), "sizes"))
        names = ["x", "", "", "sizes"]
    node = helper.make_node(kind, names, [last], name="layer", **_attributes(problem))
    after, limits = _activation_nodes(problem.activation)
    graph = helper.make_graph(
        [node, *after],
        problem.name,
        [helper.make_tensor_value_info("x", _element(problem, "x"), x.shape)],
        [helper.make_tensor_value_info("y", _element(problem, "output"), problem.output_shape)],
        [*constants, *limits],
    )
    opsets = [helper.make_opsetid("", OPSET)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION)
    helper.set_model_props(model, {PROPERTY: problem.text})
    return model, {"x": x}


def layer_weights(problem: Problem, seed: int = 0) -> Arrays:
    """The constants of the layer that :func:`problem_to_onnx` makes, as the problem has them."""
    return {name: a for name, a in random_inputs(problem, seed).items() if name != "x"}


def onnx_type(problem: Problem) -> str:
    """Name the ONNX operator of a problem; InputError if there is none."""
    plain = problem.option("padding_mode") in (None, "zeros")
    sums = problem.op in BYTE_PRODUCTS and not problem.option("scale")
    wide = problem.op in BYTE_PRODUCTS and problem.option("weight_terms") > 1
    unlike = wide or (sums and problem.bias) or any(map(problem.option, _LATER))
    if problem.op not in ONNX_TYPES or not plain or unlike:
        raise InputError(
            f"{problem}: {problem.name} is no single ONNX operator, so no library has it"
        )
    return "ConvInteger" if sums else ONNX_TYPES[problem.op]


def _element(problem: Problem, name: str) -> int:
    """ONNX's number of an element type."""
    return int(helper.np_dtype_to_tensor_dtype(np.dtype(problem.dtypes[name])))


def operand_names(problem: Problem) -> list[str]:
    """The inputs of the layer's node, with what quantises its tensors."""
    names = list(problem.inputs)
    if problem.op not in BYTE_PRODUCTS:
        return names
    if not problem.option("scale"):
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

    A true convolution is given as the cross-correlation that the model has.
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


def _activation_nodes(text: str) -> tuple[list[onnx.NodeProto], list[onnx.TensorProto]]:
    """The nodes from ``linear`` to ``y`` that compute an activation, and their constants."""
    if not text:
        return [], []
    activation, values = activations.split(text)
    if activation.name == "silu":
        gate = helper.make_node("Sigmoid", ["linear"], ["gate"], name="gate")
        return [gate, helper.make_node("Mul", ["linear", "gate"], ["y"], name="activation")], []
    if activation.node == "clip":
        low, high = values or (0.0, 6.0)
        limits = {"min": low, "max": high}
        constants = [
            numpy_helper.from_array(np.array(v, np.float32), name) for name, v in limits.items()
        ]
        inputs = ["linear", *limits]
        return [helper.make_node("Clip", inputs, ["y"], name="activation")], constants
    kind = next(iter(ops.get(activation.node).onnx))
    attributes: dict[str, Any] = dict(
        zip((name for name, _ in activation.parameters), values, strict=True)
    )
    return [helper.make_node(kind, ["linear"], ["y"], name="activation", **attributes)], []
