"""Layers with random weights, one after the other, as nodes of an ONNX model."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import onnx

Ints = int | tuple[int, ...]
_OPSET, _IR_VERSION = 17, 8


class BlockMaker:
    """Makes nodes and weights; shapes come from ONNX's shape inference.

    Parameters
    ----------
    shape : tuple of int
        Of the only input, ``x``.
    share : float
        Of the channels that layers ask for, how many they get.
    seed : int
        Of the weights.
    """

    def __init__(self, shape: tuple[int, ...], share: float, seed: int) -> None:
        self._shape, self._share = shape, share
        self._rng = np.random.default_rng(seed)
        self._nodes: list[onnx.NodeProto] = []
        self._constants: dict[str, npt.NDArray[Any]] = {}
        self._shapes = {"x": shape}

    def width(self, channels: int) -> int:
        """Channels that a layer gets."""
        return max(4, int(channels * self._share))

    def size(self, x: str) -> tuple[int, ...]:
        """Spatial sizes of a value."""
        return self._shapes[x][2:]

    def node(self, kind: str, *inputs: str, **attributes: Any) -> str:
        """Append a node and return its output."""
        return self._append(kind, inputs, 1, attributes)[0]

    def _append(
        self, kind: str, inputs: tuple[str, ...], outputs: int, attributes: dict[str, Any]
    ) -> list[str]:
        from onnx import TensorProto, helper, numpy_helper, shape_inference

        name = f"{kind.lower()}{len(self._nodes)}"
        names = [name, *(f"{name}_{k}" for k in range(1, outputs))]
        node = helper.make_node(kind, list(inputs), names, name=name, **attributes)
        self._nodes.append(node)
        given = {k: self._shapes[k] for k in inputs if k in self._shapes}
        constants = [numpy_helper.from_array(self._constants[k], k) for k in inputs
                     if k in self._constants]  # fmt: skip
        graph = helper.make_graph(
            [node],
            "one",
            [helper.make_tensor_value_info(k, TensorProto.FLOAT, v) for k, v in given.items()],
            [helper.make_tensor_value_info(k, TensorProto.FLOAT, None) for k in names],
            constants,
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", _OPSET)])
        found = shape_inference.infer_shapes(model, strict_mode=True, data_prop=True).graph.output
        for value in found:
            dims = value.type.tensor_type.shape.dim
            self._shapes[value.name] = tuple(d.dim_value for d in dims)
        return names

    def _constant(self, role: str, array: npt.NDArray[Any]) -> str:
        name = f"{role}{len(self._constants)}"
        self._constants[name] = array
        return name

    def _weights(self, shape: tuple[int, ...], fan_in: int, outputs: int) -> tuple[str, str]:
        """Weight and bias: He-scaled normal, and small normal numbers."""
        scale = np.float32(np.sqrt(2 / fan_in))
        weight = self._constant("w", self._rng.standard_normal(shape, np.float32) * scale)
        bias = self._rng.standard_normal(outputs, np.float32) * np.float32(0.1)
        return weight, self._constant("b", bias)

    def conv(
        self, x: str, channels: int, kernel: int, *, stride: int = 1, pad: Ints = 0,
        dilation: int = 1, groups: int = 1, exact: bool = False,
    ) -> str:  # fmt: skip
        """Append a convolution with a bias; of ``exact`` channels there are as many as asked."""
        rank, ins = len(self._shapes[x]) - 2, self._shapes[x][1]
        outs = channels if exact else self.width(channels)
        outs = -(-outs // groups) * groups
        weight = (outs, ins // groups, *(kernel,) * rank)
        names = self._weights(weight, prod(weight[1:]), outs)
        attributes = _window(rank, stride, pad) | {"dilations": [dilation] * rank, "group": groups}
        return self.node("Conv", x, *names, **attributes)

    def depthwise(self, x: str, kernel: int, *, stride: int = 1, pad: Ints = 0) -> str:
        """Append a depthwise convolution."""
        channels, rank = self._shapes[x][1], len(self._shapes[x]) - 2
        names = self._weights((channels, 1, *(kernel,) * rank), kernel**rank, channels)
        return self.node("Conv", x, *names, group=channels, **_window(rank, stride, pad))

    def transposed(
        self, x: str, channels: int, kernel: int, *, stride: int = 1, pad: Ints = 0,
        exact: bool = False,
    ) -> str:  # fmt: skip
        """Append a transposed convolution."""
        rank, ins = len(self._shapes[x]) - 2, self._shapes[x][1]
        outs = channels if exact else self.width(channels)
        fan_in = max(1, ins * kernel**rank // stride**rank)
        names = self._weights((ins, outs, *(kernel,) * rank), fan_in, outs)
        return self.node("ConvTranspose", x, *names, **_window(rank, stride, pad))

    def dense(self, x: str, units: int) -> str:
        """Append a dense layer."""
        ins = self._shapes[x][1]
        return self.node("Gemm", x, *self._weights((units, ins), ins, units), transB=1)

    def norm(self, x: str) -> str:
        """Append batch normalisation, with statistics in the file."""
        channels = self._shapes[x][1]
        scale, variance = (self._rng.uniform(0.5, 1.5, channels) for _ in range(2))
        shift, mean = (self._rng.standard_normal(channels) * 0.1 for _ in range(2))
        arrays = (scale, shift, mean, variance)
        names = [self._constant("n", array.astype(np.float32)) for array in arrays]
        return self.node("BatchNormalization", x, *names)

    def relu(self, x: str) -> str:
        """Append max(x, 0)."""
        return self.node("Relu", x)

    def clip6(self, x: str) -> str:
        """Append relu6."""
        limits = (self._constant("limit", np.array(v, np.float32)) for v in (0.0, 6.0))
        return self.node("Clip", x, *limits)

    def pool(self, x: str, kind: str, kernel: Ints, *, stride: Ints = 0, pad: Ints = 0) -> str:
        """Append a pool whose stride is its window if left out."""
        rank = len(self._shapes[x]) - 2
        window = kernel if isinstance(kernel, tuple) else (kernel,) * rank
        step = stride or window
        return self.node(kind, x, kernel_shape=window, **_window(rank, step, pad))

    def resize(self, x: str, to: Ints, mode: str = "nearest") -> str:
        """Append a resize by a factor, or to spatial sizes."""
        if isinstance(to, int):
            to = tuple(to * size for size in self.size(x))
        sizes = self._constant("sizes", np.array([*self._shapes[x][:2], *to], np.int64))
        how = {
            "coordinate_transformation_mode": "asymmetric" if mode == "nearest" else "half_pixel"
        }
        return self.node("Resize", x, "", "", sizes, mode=mode, **how)

    def shuffle(self, x: str, groups: int) -> str:
        """Append a channel shuffle as exporters write it."""
        batch, channels, *space = self._shapes[x]
        apart = np.array([batch, groups, channels // groups, *space], np.int64)
        y = self.node("Reshape", x, self._constant("shape", apart))
        y = self.node("Transpose", y, perm=[0, 2, 1, *range(3, 3 + len(space))])
        together = np.array([batch, channels, *space], np.int64)
        return self.node("Reshape", y, self._constant("shape", together))

    def halves(self, x: str) -> tuple[str, str]:
        """Append a split of the channels."""
        first, second = self._append("Split", (x,), 2, {"axis": 1})
        return first, second

    def model(self, name: str, output: str) -> onnx.ModelProto:
        """The model from ``x`` to a value."""
        from onnx import TensorProto, helper, numpy_helper

        graph = helper.make_graph(
            self._nodes,
            name,
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, self._shape)],
            [helper.make_tensor_value_info(output, TensorProto.FLOAT, self._shapes[output])],
            [numpy_helper.from_array(a, k) for k, a in self._constants.items()],
        )
        opsets = [helper.make_opsetid("", _OPSET)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=_IR_VERSION)


def _window(rank: int, stride: Ints, pad: Ints) -> dict[str, Any]:
    """Strides and pads; a pair of pads is of one axis."""
    steps = stride if isinstance(stride, tuple) else (stride,) * rank
    pads = pad if isinstance(pad, tuple) else (pad,) * (2 * rank)
    return {"strides": list(steps), "pads": list(pads)}
