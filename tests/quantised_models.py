"""Small quantised ONNX models: one operator, or a few as quantisation tools write them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

import tvmconv
from tvmconv.frontend import load
from tvmconv.oracle import evaluate_model
from tvmconv.verify import random_feeds

Array = npt.NDArray[Any]


@dataclass
class Maker:
    """Collects nodes and constants.

    Attributes
    ----------
    rng : Generator
        Of scales, zero points and weights.
    """

    rng: np.random.Generator
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    constants: dict[str, Array] = field(default_factory=dict)

    def constant(self, name: str, data: Any) -> str:
        self.constants[name] = np.asarray(data)
        return name

    def node(self, kind: str, inputs: Sequence[str], output: str, **attrs: Any) -> str:
        name = f"{kind}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [output], name=name, **attrs))
        return output

    def bytes(self, name: str, shape: Sequence[int], dtype: str, halved: bool = False) -> str:
        """Any bytes; ``halved``: those of 7 bits."""
        limits = np.iinfo(dtype)
        low, high = (limits.min // 2, limits.max // 2) if halved else (limits.min, limits.max)
        drawn = self.rng.integers(low, high, tuple(shape), dtype, endpoint=True)
        return self.constant(name, drawn)

    def quantize(self, x: str, output: str, scale: float, zero: int, dtype: str) -> str:
        factors = self._factors(output, scale, zero, dtype)
        return self.node("QuantizeLinear", [x, *factors], output)

    def dequantize(self, x: str, output: str, scale: float, zero: int, dtype: str) -> str:
        factors = self._factors(output, scale, zero, dtype)
        return self.node("DequantizeLinear", [x, *factors], output)

    def _factors(self, output: str, scale: float, zero: int, dtype: str) -> list[str]:
        return [
            self.constant(f"{output}_scale", np.float32(scale)),
            self.constant(f"{output}_zero", np.array(zero, dtype)),
        ]

    def model(
        self, inputs: Mapping[str, tuple[str, Sequence[int]]], outputs: Mapping[str, str]
    ) -> onnx.ModelProto:
        graph = helper.make_graph(
            self.nodes,
            "quantised",
            [
                helper.make_tensor_value_info(name, _number(dtype), list(shape))
                for name, (dtype, shape) in inputs.items()
            ],
            [
                helper.make_tensor_value_info(name, _number(dtype), None)
                for name, dtype in outputs.items()
            ],
            [numpy_helper.from_array(data, name) for name, data in self.constants.items()],
        )
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)


def _number(dtype: str) -> int:
    return int(helper.np_dtype_to_tensor_dtype(np.dtype(dtype))) if dtype else TensorProto.FLOAT


def _zero(rng: np.random.Generator, dtype: str, count: int | None = None) -> Array:
    limits = np.iinfo(dtype)
    return rng.integers(limits.min, limits.max, count, dtype, endpoint=True)


def _requantisation(m: Maker, dtype: str, terms: int, channels: int | None) -> None:
    """Scales with which sums of so many products fill the bytes, and a zero point."""
    m.constant("x_scale", np.float32(m.rng.uniform(0.001, 0.1)))
    m.constant("w_scale", np.asarray(m.rng.uniform(0.001, 0.1, channels), np.float32))
    size = 74.0 * 74.0 * 2 * np.sqrt(terms)
    m.constant("y_scale", np.float32(m.constants["x_scale"] * 0.05 * size / 60))
    m.constant("y_zero", _zero(m.rng, dtype))


_QLINEAR = ["x", "x_scale", "x_zero", "w", "w_scale", "w_zero", "y_scale", "y_zero"]


def random_conv(rng: np.random.Generator, kind: str, halved: bool = False) -> onnx.ModelProto:
    """A QLinearConv or ConvInteger of random shape, types, zero points and padding.

    The zero point of a ConvInteger's input may be known only at run time. ``halved``: weights have
    7 bits, and those that are signed no zero point, so that sums of two products fit 16 bits.
    """
    rank = int(rng.choice([1, 2, 2, 2, 3]))
    groups = int(rng.choice([1, 1, 1, 2, 3]))
    ci, co = (groups * int(rng.integers(1, 20)) for _ in range(2))
    if rng.random() < 0.2:
        groups = ci
        co = ci * int(rng.integers(1, 3))
    kernel = rng.integers(1, 4, rank)
    attrs = {
        "group": groups,
        "strides": rng.integers(1, 3, rank).tolist(),
        "dilations": rng.integers(1, 3, rank).tolist(),
        "pads": rng.integers(0, 3, 2 * rank).tolist(),
    }
    shape = (int(rng.integers(1, 3)), ci, *rng.integers(6, 11, rank).tolist())
    dtype, of_weight = (str(rng.choice(["uint8", "int8"])) for _ in range(2))
    m = Maker(rng)
    m.bytes("w", (co, ci // groups, *kernel), of_weight, halved)
    channels = co if rng.random() < 0.5 else None
    symmetric = rng.random() < 0.4 or (halved and of_weight == "int8")
    m.constant("w_zero", _zero(rng, of_weight, channels) * (not symmetric))
    if kind == "ConvInteger":
        ports = {"x": (dtype, shape)}
        if rng.random() < 0.5:
            m.constant("x_zero", _zero(rng, dtype))
        else:
            ports["x_zero"] = (dtype, ())
        m.node(kind, ["x", "w", "x_zero", "w_zero"], "y", **attrs)
        return m.model(ports, {"y": "int32"})
    m.constant("x_zero", _zero(rng, dtype))
    _requantisation(m, dtype, ci // groups * int(np.prod(kernel)), channels)
    operands = list(_QLINEAR)
    if rng.random() < 0.5:
        bias = rng.integers(-20000, 20000, co).astype(np.int32)
        operands.append(m.constant("bias", bias))
    m.node(kind, operands, "y", **attrs)
    return m.model({"x": (dtype, shape)}, {"y": dtype})


def random_product(rng: np.random.Generator, kind: str, halved: bool = False) -> onnx.ModelProto:
    """A QLinearMatMul or MatMulInteger of random shape, types and zero points."""
    m = Maker(rng)
    dtype, of_weight = (str(rng.choice(["uint8", "int8"])) for _ in range(2))
    rows, depth, columns = (int(v) for v in rng.integers(1, 40, 3))
    stack = (int(rng.integers(1, 4)),) if rng.random() < 0.5 else ()
    m.bytes("w", (*stack, depth, columns) if rng.random() < 0.3 else (depth, columns), of_weight,
            halved)  # fmt: skip
    m.constant("w_zero", _zero(rng, of_weight) * (not (halved and of_weight == "int8")))
    ports = {"x": (dtype, (*stack, rows, depth))}
    if kind == "MatMulInteger":
        if rng.random() < 0.5:
            m.constant("x_zero", _zero(rng, dtype))
        else:
            ports["x_zero"] = (dtype, ())
        m.node(kind, ["x", "w", "x_zero", "w_zero"], "y")
        return m.model(ports, {"y": "int32"})
    m.constant("x_zero", _zero(rng, dtype))
    _requantisation(m, dtype, depth, None)
    m.node(kind, _QLINEAR, "y")
    return m.model(ports, {"y": dtype})


def random_conversion(rng: np.random.Generator, kind: str) -> onnx.ModelProto:
    """A QuantizeLinear or DequantizeLinear of random shape, along any axis, with any factors."""
    m = Maker(rng)
    shape = tuple(int(v) for v in rng.integers(1, 9, int(rng.integers(1, 5))))
    dtype = str(rng.choice(["uint8", "int8"]))
    axis = int(rng.integers(len(shape)))
    count = shape[axis] if rng.random() < 0.5 else None
    given, result = (dtype, "float32") if kind == "DequantizeLinear" else ("float32", dtype)
    ports: dict[str, tuple[str, Sequence[int]]] = {"x": (given, shape)}
    m.constant("scale", np.asarray(rng.uniform(0.005, 0.05, count), np.float32))
    m.constant("zero", _zero(rng, dtype, count))
    if rng.random() < 0.4:  # at run time
        del m.constants["zero"]
        ports["zero"] = (dtype, () if count is None else (count,))
    m.node(kind, ["x", "scale", "zero"], "y", axis=axis)
    return m.model(ports, {"y": result})


def dynamic_conv(rng: np.random.Generator) -> onnx.ModelProto:
    """A convolution whose input is quantised by the range that it has at run time."""
    m = Maker(rng)
    m.bytes("w", (12, 5, 3, 3), "int8", halved=True)
    m.constant("w_scale", np.float32(0.01))
    m.nodes.append(helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "s", "z"], name="range"))
    m.node("ConvInteger", ["q", "w", "z"], "sums", pads=[1, 0, 1, 2], strides=[1, 2])
    m.node("Cast", ["sums"], "real", to=TensorProto.FLOAT)
    m.node("Mul", ["s", "w_scale"], "scale")
    m.node("Mul", ["real", "scale"], "y")
    outputs = {"y": "float32", "q": "uint8", "s": "float32", "z": "uint8"}
    return m.model({"x": ("float32", (2, 5, 9, 8))}, outputs)


def qdq_block(rng: np.random.Generator, dtype: str = "uint8") -> onnx.ModelProto:
    """A small residual network as quantisation tools write it, with every operator they keep."""
    m = Maker(rng)
    low = 0 if dtype == "uint8" else -128
    ci, co, size = 6, 24, 12

    def activation(name: str, scale: float, zero: int) -> str:
        q = m.quantize(name, f"{name}_q", scale, zero, dtype)
        return m.dequantize(q, f"{name}_d", scale, zero, dtype)

    def conv(x: str, x_scale: float, name: str, sizes: Sequence[int], **attrs: Any) -> str:
        scale = rng.uniform(0.002, 0.01, sizes[0]).astype(np.float32)
        m.bytes(f"{name}_w", sizes, "int8")
        factors = [
            m.constant(f"{name}_ws", scale),
            m.constant(f"{name}_wz", np.zeros(sizes[0], np.int8)),
        ]
        w = m.node("DequantizeLinear", [f"{name}_w", *factors], f"{name}_wd", axis=0)
        m.constant(f"{name}_b", rng.integers(-3000, 3000, sizes[0]).astype(np.int32))
        m.constant(f"{name}_bs", scale * np.float32(x_scale))
        b = m.node("DequantizeLinear", [f"{name}_b", f"{name}_bs"], f"{name}_bd", axis=0)
        return m.node("Conv", [x, w, b], name, **attrs)

    x = activation("x", 0.03, low + 120)
    c = conv(x, 0.03, "c0", (co, ci, 3, 3), pads=[1, 1, 1, 1])
    a = activation(m.node("Relu", [c], "r0"), 0.2, low)
    p = m.node("MaxPool", [a], "p0", kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
    p = activation(p, 0.2, low)
    d = activation(conv(p, 0.2, "c1", (co, co, 3, 3), pads=[1, 1, 1, 1]), 0.9, low + 120)
    s = activation(conv(p, 0.2, "c2", (co, 1, 3, 3), pads=[1, 1, 1, 1], group=co), 0.3, low + 100)
    e = activation(m.node("Relu", [m.node("Add", [d, s], "s0")], "r1"), 0.8, low)
    f = activation(m.node("Add", [e, p], "s1"), 0.85, low)
    v = m.node(
        "AveragePool", [f], "v0", kernel_shape=[3, 3], pads=[1, 1, 1, 1], count_include_pad=0
    )
    v = activation(v, 0.5, low)
    j = activation(m.node("Concat", [f, v, e], "j0", axis=1), 0.9, low)
    g = activation(m.node("GlobalAveragePool", [j], "g0"), 0.4, low)
    flat = m.node("Flatten", [g], "flat")
    m.bytes("fw", (3 * co, 10), "int8")
    w = m.dequantize("fw", "fw_d", 0.01, 0, "int8")
    m.constant("fb", rng.standard_normal(10).astype(np.float32))
    activation(m.node("Gemm", [flat, w, "fb"], "h0"), 3.0, low + 128)
    m.node("Identity", ["h0_d"], "y")
    return m.model({"x": ("float32", (1, ci, size, size))}, {"y": "float32"})


def run(model: onnx.ModelProto, feeds: Mapping[str, Array]) -> list[Array]:
    return tvmconv.compile(model)(dict(feeds))


def feeds_of(model: onnx.ModelProto, seed: int = 0) -> dict[str, Array]:
    return random_feeds(load(model), seed)


def check_exactly(model: onnx.ModelProto, seed: int = 0) -> None:
    """Compare with ONNX's formulas."""
    feeds = feeds_of(model, seed)
    names = [output.name for output in model.graph.output]
    for got, wanted in zip(run(model, feeds), evaluate_model(model, feeds, names), strict=True):
        assert got.dtype == wanted.dtype
        np.testing.assert_array_equal(got, wanted)
