"""One ONNX node as a model, and the random decisions of which it is made."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

Array = npt.NDArray[Any]

OPSET = 24
CHANNELS = (1, 2, 3, 5, 8, 16, 17, 24)
SIZES = (1, 2, 3, 5, 7, 8, 11, 16)


@dataclass
class Node:
    """A node: its operands in ONNX's order, None where one is left out.

    The first ``given`` operands are inputs of the model, the others are constants.
    """

    op: str
    operands: Sequence[Array | None]
    attributes: dict[str, Any] = field(default_factory=dict)
    given: int = 1
    outputs: int = 1
    opset: int = OPSET

    def model(self) -> onnx.ModelProto:
        """The model of this node alone; element types of outputs are inferred."""
        names = ["" if a is None else f"x{k}" for k, a in enumerate(self.operands)]
        outputs = [f"y{k}" for k in range(self.outputs)]
        node = helper.make_node(self.op, names, outputs, **self.attributes)
        inputs = [
            helper.make_tensor_value_info(
                name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape
            )
            for name, array in self.feeds().items()
        ]
        constants = [
            numpy_helper.from_array(a, name)
            for a, name in zip(self.operands[self.given :], names[self.given :], strict=True)
            if a is not None
        ]
        results = [helper.make_empty_tensor_value_info(name) for name in outputs]
        graph = helper.make_graph([node], "node", inputs, results, constants)
        imports = [helper.make_opsetid("", self.opset)]
        model = helper.make_model(graph, opset_imports=imports, ir_version=10)
        inferred = onnx.shape_inference.infer_shapes(model)
        del model.graph.output[:]
        for output in inferred.graph.output:
            kind = output.type.tensor_type.elem_type or onnx.TensorProto.FLOAT
            model.graph.output.append(helper.make_tensor_value_info(output.name, kind, None))
        return model

    def feeds(self) -> dict[str, Array]:
        """The model's inputs."""
        pairs = enumerate(self.operands[: self.given])
        return {f"x{k}": np.asarray(array) for k, array in pairs if array is not None}


class Draw:
    """Random decisions."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng

    def pick(self, values: Sequence[Any]) -> Any:
        """One of the values."""
        return values[int(self.rng.integers(len(values)))]

    def flag(self) -> int:
        """0 or 1."""
        return int(self.rng.integers(2))

    def integer(self, low: int, high: int) -> int:
        """An integer from low to high, both included."""
        return int(self.rng.integers(low, high + 1))

    def normal(self, *shape: int) -> Array:
        """Random float32."""
        return self.rng.standard_normal(shape).astype(np.float32)

    def positive(self, *shape: int) -> Array:
        """Random float32 from 0.5 to 1.5."""
        return self.rng.uniform(0.5, 1.5, shape).astype(np.float32)

    def truths(self, *shape: int) -> Array:
        """Random true and false."""
        return self.rng.integers(0, 2, shape).astype(bool)

    def shape(self, low: int = 1, high: int = 5) -> tuple[int, ...]:
        """Of a tensor of some rank: small, or a map of channels."""
        rank = self.integer(low, high)
        sizes = [self.pick(SIZES) for _ in range(rank)]
        while prod(sizes) > 4000:
            sizes[sizes.index(max(sizes))] = 2
        return tuple(sizes)

    def map(self, rank: int) -> tuple[int, ...]:
        """N, C and the sizes of a map."""
        sizes = SIZES[: 5 if rank == 3 else None]
        return (
            self.pick((1, 1, 2)),
            self.pick(CHANNELS),
            *(self.pick(sizes) for _ in range(rank)),
        )

    def part(self, shape: Sequence[int]) -> tuple[int, ...]:
        """A shape that broadcasts to another: some axes are 1, some leading ones left out."""
        kept = [n if self.rng.integers(3) else 1 for n in shape]
        return tuple(kept[self.integer(0, len(kept)) if self.flag() else 0 :])

    def axis(self, rank: int) -> int:
        """An axis, perhaps counted from the end."""
        return self.integer(-rank, rank - 1)

    def axes(self, rank: int) -> Array:
        """Some different axes, at least one."""
        count = self.integer(1, rank)
        found = self.rng.permutation(rank)[:count]
        return np.where(self.rng.integers(0, 2, count) == 1, found - rank, found)
