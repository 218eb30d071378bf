"""PyTorch as a peer: single layers, contiguous or channels-last."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from tvmconv.bench.harness import Contender
from tvmconv.bench.layer import Arrays, read_problem
from tvmconv.bench.peers import Inputs, PeerRefusal, first_line, load_library
from tvmconv.ops import activation as activations
from tvmconv.problem import Problem

Function = Callable[[Any], Any]


def make_torch(
    model: onnx.ModelProto, inputs: Inputs, threads: int, *, channels_last: bool = False
) -> Contender:
    """Prepare a single layer in PyTorch.

    Without `channels_last` it is what a call of ``conv2d`` does, which brings the weights into
    oneDNN's layout each time. With it the computation is NHWC, the weights of a convolution are
    packed once, as ``torch.compile`` does for frozen models, and the conversions from and back to
    NCHW are timed, because activations enter and leave in NCHW for everyone.

    Raises
    ------
    EnvironmentError_
        If torch is not installed.
    PeerRefusal
        If the model is not one problem, or PyTorch has no equal layer.
    """
    name = "torch-channels-last" if channels_last else "torch"
    found = read_problem(model)
    if found is None:
        raise PeerRefusal(f"{name}: runs single problems only, not networks")
    problem, constants = found
    if channels_last and problem.rank != 2:
        raise PeerRefusal(f"{name}: channels-last is for 2-D layers")
    torch = load_library("torch")
    torch.set_num_threads(threads)
    layer = layer_function(torch, problem, constants, name, channels_last=channels_last)
    x = torch.from_numpy(np.ascontiguousarray(inputs["x"]))

    def run() -> list[npt.NDArray[Any]]:
        with torch.inference_mode():
            value = x.contiguous(memory_format=torch.channels_last) if channels_last else x
            return [layer(value).contiguous().numpy()]

    try:
        run()
    except RuntimeError as error:
        raise PeerRefusal(f"{name}: {first_line(error)}") from error
    return Contender(name, run, version=str(torch.__version__))


def layer_function(
    torch: Any, problem: Problem, constants: Arrays, name: str, *, channels_last: bool = False
) -> Function:
    """Make the layer, its padding and its activation as a function of one tensor."""
    if problem.ceil_mode:
        raise PeerRefusal(f"{name}: rounds ceil_mode differently from ONNX")
    weight, bias = (
        torch.tensor(constants[key]) if key in constants else None for key in ("weight", "bias")
    )
    if channels_last and weight is not None and weight.ndim == 4:
        weight = weight.contiguous(memory_format=torch.channels_last)
    symmetric = problem.pads_low == problem.pads_high
    padding = problem.pads_low if symmetric else (0,) * problem.rank
    apply = _operator(torch, problem, padding, (weight, bias), name)
    if channels_last and problem.op in ("conv", "depthwise_conv"):
        apply = _packed(torch, problem, padding, (weight, bias)) or apply
    activation = _activation(torch, problem.activation)
    if symmetric:
        return lambda x: activation(apply(x))
    if problem.op == "conv_transpose" or (
        problem.op == "avg_pool" and not problem.count_include_pad
    ):
        raise PeerRefusal(f"{name}: {problem.name} has no asymmetric padding")
    sides = [
        n for axis in zip(problem.pads_low, problem.pads_high, strict=True) for n in axis[::-1]
    ]
    value = float("-inf") if problem.op == "max_pool" else 0.0
    pad = torch.nn.functional.pad
    return lambda x: activation(apply(pad(x, sides[::-1], value=value)))


def _operator(
    torch: Any, problem: Problem, padding: tuple[int, ...], weights: tuple[Any, Any], name: str
) -> Function:
    """Pick torch's function for the operator, without the activation."""
    f, rank, (weight, bias) = torch.nn.functional, problem.rank, weights
    if problem.op == "dense":
        return lambda x: f.linear(x, weight, bias)
    if problem.op in ("conv", "depthwise_conv"):
        conv = getattr(f, f"conv{rank}d")
        settings = (problem.stride, padding, problem.dilation, problem.groups)
        return lambda x: conv(x, weight, bias, *settings)
    if problem.op == "conv_transpose":
        conv = getattr(f, f"conv_transpose{rank}d")
        extra = problem.option("output_padding")
        options = (problem.stride, padding, extra, problem.groups, problem.dilation)
        return lambda x: conv(x, weight, bias, *options)
    if problem.op == "max_pool":
        pool = getattr(f, f"max_pool{rank}d")
        return lambda x: pool(x, problem.kernel, problem.stride, padding, problem.dilation)
    if problem.op == "avg_pool":
        pool = getattr(f, f"avg_pool{rank}d")
        include = problem.count_include_pad
        return lambda x: pool(x, problem.kernel, problem.stride, padding, False, include)
    if problem.op.startswith("global_"):
        axes = tuple(range(2, 2 + rank))
        reduce = torch.amax if problem.op == "global_max_pool" else torch.mean
        return lambda x: reduce(x, axes, keepdim=True)
    raise PeerRefusal(f"{name}: has no {problem.name}")


def _packed(
    torch: Any, problem: Problem, padding: tuple[int, ...], weights: tuple[Any, Any]
) -> Function | None:
    """Make a convolution with packed weights; None on a GPU or without oneDNN in PyTorch."""
    weight, bias = weights
    if weight.is_cuda or not torch.backends.mkldnn.is_available():
        return None
    pads = zip(problem.pads_low, problem.pads_high, strict=True)
    padded = [n + sum(sides) for n, sides in zip(problem.in_spatial, pads, strict=True)]
    shape = list(problem.input_shape) if any(padding) else [problem.batch, problem.ci, *padded]
    settings = (padding, problem.stride, problem.dilation, problem.groups)
    packed = torch.ops.mkldnn._reorder_convolution_weight(weight.contiguous(), *settings, shape)
    conv = torch.ops.mkldnn._convolution_pointwise
    return lambda x: conv(x, packed, bias, *settings, "none", [], "")


def _activation(torch: Any, text: str) -> Function:
    """Make the activation that a canonical text names."""
    if not text:
        return lambda y: y
    f = torch.nn.functional
    activation, values = activations.split(text)
    functions: dict[str, Function] = {
        "relu": torch.relu_,
        "relu6": lambda y: y.clamp_(0, 6),
        "clip": lambda y: y.clamp_(*values),
        "leaky_relu": lambda y: f.leaky_relu_(y, *values),
        "elu": lambda y: f.elu_(y, *values),
        "sigmoid": torch.sigmoid_,
        "tanh": torch.tanh_,
        "silu": lambda y: f.silu(y, inplace=True),
        "hard_sigmoid": lambda y: (y * values[0] + values[1]).clamp_(0, 1),
        "hardswish": lambda y: f.hardswish(y, inplace=True),
    }
    if activation.name not in functions:
        raise PeerRefusal(f"torch: has no activation {activation.name}")
    return functions[activation.name]
