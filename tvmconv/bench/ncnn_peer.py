"""ncnn as a peer: single 2-D layers, written in its own param and bin format, and networks.

ncnn's Python package reads no ONNX. The network of a layer is made here: an Input, the layer, and
an activation where ncnn does not fuse it. Others are converted by
:mod:`tvmconv.bench.ncnn_networks`.

References
----------
ncnn, docs/developer-guide/operators.md and param-and-model-file-structure.md.
"""

from __future__ import annotations

import struct
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from tvmconv.bench import ncnn_networks
from tvmconv.bench.harness import Contender
from tvmconv.bench.layer import Arrays, read_problem
from tvmconv.bench.peers import Inputs, PeerRefusal, load_library
from tvmconv.ops import activation as activations
from tvmconv.problem import Problem

Entry = tuple[str, str, bytes]
PARAM_MAGIC = 7767517
RAW_FLOAT32 = struct.pack("<I", 0)
#: Number of an activation that ncnn computes inside a convolution, by our name for it.
FUSED = {"relu": 1, "leaky_relu": 2, "relu6": 3, "clip": 3, "sigmoid": 4, "hardswish": 6}
#: Layer type of an activation of its own.
SEPARATE = {
    "relu": "ReLU",
    "relu6": "Clip",
    "clip": "Clip",
    "leaky_relu": "ReLU",
    "elu": "ELU",
    "sigmoid": "Sigmoid",
    "tanh": "TanH",
    "silu": "Swish",
    "hard_sigmoid": "HardSigmoid",
    "hardswish": "HardSwish",
}
#: Parameters that our names imply and ncnn's layers need.
IMPLIED = {"relu6": (0.0, 6.0), "hardswish": (1 / 6, 0.5)}


def make_ncnn(model: onnx.ModelProto, inputs: Inputs, threads: int) -> Contender:
    """Prepare a model in ncnn: all of its float32 algorithms, no float16 or bfloat16.

    Raises
    ------
    EnvironmentError_
        If ncnn is not installed.
    PeerRefusal
        If the model is of another batch than 1, a problem that ncnn has no equal layer for, or a
        network that its converter does not convert, or that is not installed.
    """
    ncnn = load_library("ncnn")
    net = ncnn.Net()
    options = net.opt
    options.num_threads = threads
    options.use_fp16_packed = options.use_fp16_storage = options.use_fp16_arithmetic = False
    options.use_bf16_packed = options.use_bf16_storage = options.use_vulkan_compute = False
    with tempfile.TemporaryDirectory(prefix="tvmconv-ncnn-") as folder:
        param, binary = _files(model, Path(folder))
        if net.load_param(str(param)) or net.load_model(str(binary)):
            raise PeerRefusal("ncnn: cannot load what was made of the model")
    for name, array in inputs.items():
        if array.shape[:1] != (1,):
            raise PeerRefusal(f"ncnn: {name}: runs batch 1")
    # Its rows are aligned as ncnn wants them.
    sources = [ncnn.Mat(np.ascontiguousarray(array[0])).clone() for array in inputs.values()]
    shapes = [[d.dim_value for d in v.type.tensor_type.shape.dim] for v in model.graph.output]

    def run() -> list[npt.NDArray[Any]]:
        extractor = net.create_extractor()
        for k, source in enumerate(sources):
            extractor.input(f"in{k}", source)
        outputs = []
        for k, shape in enumerate(shapes):
            code, y = extractor.extract(f"out{k}")
            if code:
                raise PeerRefusal(f"ncnn: extract failed with code {code}")
            outputs.append(np.asarray(y).reshape(shape))
        return outputs

    return Contender("ncnn", run, net.clear, str(ncnn.__version__))


def _files(model: onnx.ModelProto, folder: Path) -> tuple[Path, Path]:
    """Write a model as ncnn's param and bin files, with inputs in0, in1, … and outputs out0, …."""
    found = read_problem(model)
    if found is None:
        return ncnn_networks.convert(model, folder)
    problem, constants = found
    if problem.batch != 1 or problem.rank not in (0, 2):
        raise PeerRefusal("ncnn: runs 2-D layers of batch 1")
    text, weights = network(problem, constants)
    param, binary = folder / "layer.param", folder / "layer.bin"
    param.write_text(text, encoding="ascii")
    binary.write_bytes(weights)
    return param, binary


def network(problem: Problem, constants: Arrays) -> tuple[str, bytes]:
    """Write a problem as ncnn's param text and weight file.

    Raises
    ------
    PeerRefusal
        If ncnn has no equal layer.
    """
    kind, parameters, weights = _entry(problem, constants)
    lines = ["Input input 0 1 in0"]
    if not problem.activation:
        lines.append(f"{kind} layer 1 1 in0 out0 {parameters}")
    else:
        activation, values = activations.split(problem.activation)
        values = IMPLIED.get(activation.name, values)
        if weights and activation.name in FUSED:
            numbers = ",".join(f"{v:.9e}" for v in values)
            array = f" -23310={len(values)},{numbers}" if values else ""
            lines.append(
                f"{kind} layer 1 1 in0 out0 {parameters} 9={FUSED[activation.name]}{array}"
            )
        else:
            numbers = " ".join(f"{i}={v:.9e}" for i, v in enumerate(values))
            lines.append(f"{kind} layer 1 1 in0 linear {parameters}")
            lines.append(f"{SEPARATE[activation.name]} activation 1 1 linear out0 {numbers}")
    count = len(lines)
    return "\n".join([str(PARAM_MAGIC), f"{count} {count}", *lines, ""]), weights


def _entry(problem: Problem, constants: Arrays) -> Entry:
    """Give the layer's type, its parameters and its weights."""
    if problem.op.startswith("global_"):
        return "Pooling", f"0={int(problem.op == 'global_avg_pool')} 4=1", b""
    if problem.op in ("max_pool", "avg_pool"):
        return _pooling(problem)
    if problem.op == "dense":
        weight = constants["weight"]
        parameters = f"0={problem.co} 1={int(problem.bias)} 2={weight.size}"
        return "InnerProduct", parameters, _weights(weight, constants)
    if problem.op == "resize":
        raise PeerRefusal("ncnn: interpolates otherwise than ONNX")
    return _convolution(problem, constants)


def _pooling(problem: Problem) -> Entry:
    if problem.ceil_mode or set(problem.dilation) != {1}:
        raise PeerRefusal("ncnn: pools need dilation 1 and no ceil_mode")
    (kh, kw), (sh, sw) = problem.kernel, problem.stride
    (top, left), (bottom, right) = problem.pads_low, problem.pads_high
    kind = f"0=1 6={int(problem.count_include_pad)}" if problem.op == "avg_pool" else "0=0"
    sides = f"3={left} 13={top} 14={right} 15={bottom}"
    return "Pooling", f"{kind} 1={kw} 11={kh} 2={sw} 12={sh} {sides} 5=1", b""


def _convolution(problem: Problem, constants: Arrays) -> Entry:
    weight = constants["weight"]
    (kh, kw), (sh, sw), (dh, dw) = problem.kernel, problem.stride, problem.dilation
    (top, left), (bottom, right) = problem.pads_low, problem.pads_high
    parameters = (
        f"0={problem.co} 1={kw} 11={kh} 2={dw} 12={dh} 3={sw} 13={sh} 4={left} 14={top}"
        f" 15={right} 16={bottom} 5={int(problem.bias)} 6={weight.size}"
    )
    kind = "Convolution"
    if problem.op == "conv_transpose":
        kind = "Deconvolution"
        extra_h, extra_w = problem.option("output_padding")
        parameters += f" 18={extra_w} 19={extra_h}"
        # ONNX keeps (CI, CO / groups, KH, KW), ncnn (groups, CO / groups, CI / groups, KH, KW).
        weight = weight.reshape(problem.groups, -1, *weight.shape[1:]).swapaxes(1, 2)
    if problem.groups > 1:
        kind, parameters = f"{kind}DepthWise", f"{parameters} 7={problem.groups}"
    return kind, parameters, _weights(weight, constants)


def _weights(weight: npt.NDArray[Any], constants: Arrays) -> bytes:
    """Write the weight, flagged as raw float32, and the bias, which has no flag."""
    data = RAW_FLOAT32 + np.ascontiguousarray(weight, "<f4").tobytes()
    return data + constants["bias"].astype("<f4").tobytes() if "bias" in constants else data
