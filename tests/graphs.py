"""Random graphs: every operator, joined in every way that their shapes allow, seeded."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from tvmconv import ops
from tvmconv.errors import InputError
from tvmconv.graph.ir import Graph, Node, Value
from tvmconv.kernel import KernelSpec
from tvmconv.problem import Problem

Array = npt.NDArray[Any]
Shape = tuple[int, ...]
T = TypeVar("T")

_CHANNELS = (1, 2, 3, 5, 8, 13, 16, 16, 17, 24, 32, 33, 40)
_SIZES = {1: (1, 4, 9, 20), 2: (1, 2, 3, 5, 7, 8), 3: (1, 2, 4, 5)}
#: Functions that neither leave the reals nor make large numbers of small ones.
_UNARY: tuple[tuple[str, dict[str, float]], ...] = (
    ("relu", {}), ("sigmoid", {}), ("tanh", {}), ("neg", {}), ("abs", {}), ("hard_swish", {}),
    ("clip", {"min": 0.0, "max": 6.0}), ("clip", {"min": -0.5, "max": 0.5}),
    ("leaky_relu", {"alpha": 0.1}), ("elu", {"alpha": 0.5}),
)  # fmt: skip
_ACTIVATIONS = ("", "", "relu", "relu6", "sigmoid", "hard_swish", "silu")
_LARGEST = 6000


class GraphMaker:
    """Appends random nodes to a graph."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng
        self.values: list[Value] = []
        self.inputs: list[Value] = []
        self.nodes: list[Node] = []

    def pick(self, choices: Sequence[T]) -> T:
        return choices[int(self.rng.integers(len(choices)))]

    def chance(self, probability: float) -> bool:
        return bool(self.rng.random() < probability)

    def input(self, shape: Shape) -> Value:
        value = Value(f"in{len(self.inputs)}", shape)
        self.inputs.append(value)
        self.values.append(value)
        return value

    def constant(self, *shape: int, scale: float = 1.0) -> Value:
        data = np.asarray(self.rng.standard_normal(shape) * scale, np.float32)
        return Value(f"c{self.rng.integers(1 << 40)}", tuple(shape), "float32", data)

    def emit(self, op: str, inputs: Sequence[Value], attrs: dict[str, Any] | None = None) -> Value:
        """Append a node; InputError if its operator refuses it or its result is large."""
        attrs = attrs or {}
        shape = tuple(ops.get(op).output_shape([v.shape for v in inputs], attrs))
        if math.prod(shape) > _LARGEST or math.prod(shape) < 1:
            raise InputError("too large")
        number = len(self.nodes)
        value = Value(f"v{number}", shape)
        self.nodes.append(Node(op, list(inputs), value, attrs, f"node{number}"))
        self.values.append(value)
        return value

    def value(self, fits: Callable[[Value], bool] = lambda v: True) -> Value:
        """A value that fits, more often a late one."""
        fitting = [v for v in self.values if fits(v)]
        if not fitting:
            raise InputError("nothing fits")
        late = int(self.rng.geometric(0.35))
        return fitting[-late] if late <= len(fitting) else self.pick(fitting)

    def map(self) -> Value:
        """A value with spatial axes."""
        return self.value(lambda v: 3 <= len(v.shape) <= 5)


def _parameter(m: GraphMaker, shape: Shape, scale: float = 1.0) -> Value:
    """A constant, or now and then an input of the graph or a value that has the right size."""
    if m.chance(0.1):
        return m.input(shape)
    if m.chance(0.08):
        size = math.prod(shape)
        return m.emit("reshape", [m.value(lambda v: math.prod(v.shape) == size)],
                      {"shape": list(shape)})  # fmt: skip
    return m.constant(*shape, scale=scale)


def _window(m: GraphMaker, rank: int, pool: bool) -> tuple[list[int], dict[str, Any]]:
    kernel = [m.pick((1, 2, 3, 3, 5)) for _ in range(rank)]
    low = [int(m.rng.integers(0, k)) if m.chance(0.5) else 0 for k in kernel]
    high = [int(m.rng.integers(0, k)) if m.chance(0.5) else 0 for k in kernel]
    options: dict[str, Any] = {"padding": [*low, *high], "stride": m.pick((1, 1, 1, 2, 3))}
    if not pool:
        options["dilation"] = m.pick((1, 1, 1, 2))
    elif m.chance(0.3):
        options["ceil_mode"] = True
    return kernel, options


def _family(m: GraphMaker, op: str, x: Value, filters: Shape, **options: object) -> Value:
    problem = Problem.make(op, x.shape, filters, **options)
    shapes = list(problem.inputs.values())[1:]
    taps = math.prod(shapes[0][1:]) if shapes else 1
    weights = [_parameter(m, s, 1 / math.sqrt(taps) if len(s) > 1 else 1.0) for s in shapes]
    return m.emit(op, [x, *weights], {"problem": problem.text})


def conv(m: GraphMaker) -> None:
    x = m.map()
    kernel, options = _window(m, len(x.shape) - 2, False)
    groups = m.pick((1, 1, 1, *(g for g in (2, 3, 4) if x.shape[1] % g == 0)))
    out = m.pick(_CHANNELS) * (groups if groups > 1 else 1)
    if groups > 1:
        options["groups"] = groups
    _family(m, "conv", x, (out, *kernel), bias=m.chance(0.5),
            activation=m.pick(_ACTIVATIONS), **options)  # fmt: skip


def pointwise(m: GraphMaker) -> None:
    x = m.map()
    _family(m, "conv", x, (m.pick(_CHANNELS), *(1,) * (len(x.shape) - 2)), bias=m.chance(0.5))


def depthwise(m: GraphMaker) -> None:
    x = m.map()
    kernel, options = _window(m, len(x.shape) - 2, False)
    out = x.shape[1] * m.pick((1, 1, 1, 2))
    _family(m, "depthwise_conv", x, (out, *kernel), bias=m.chance(0.5), **options)


def transposed(m: GraphMaker) -> None:
    x = m.map()
    kernel, options = _window(m, len(x.shape) - 2, False)
    options["padding"] = 0
    _family(m, "conv_transpose", x, (m.pick(_CHANNELS), *kernel), bias=m.chance(0.5), **options)


def pool(m: GraphMaker) -> None:
    x = m.map()
    kernel, options = _window(m, len(x.shape) - 2, True)
    _family(m, m.pick(("max_pool", "max_pool", "avg_pool")), x, tuple(kernel), **options)


def global_pool(m: GraphMaker) -> None:
    _family(m, m.pick(("global_avg_pool", "global_max_pool")), m.map(), ())


def dense(m: GraphMaker) -> None:
    x = m.value(lambda v: len(v.shape) == 2)
    _family(m, "dense", x, (m.pick(_CHANNELS),), bias=m.chance(0.5))


def flatten(m: GraphMaker) -> None:
    x = m.map()
    m.emit("reshape", [x], {"shape": [x.shape[0], math.prod(x.shape[1:])]})


def reshape(m: GraphMaker) -> None:
    x = m.value()
    kind, shape = int(m.rng.integers(5)), list(x.shape)
    if kind == 0:
        shape.append(1)
    elif kind == 1 and len(shape) > 2:
        shape = [shape[0], shape[1] * shape[2], *shape[3:]]
    elif kind == 2 and len(shape) > 1 and shape[1] % 2 == 0:
        shape = [shape[0], 2, shape[1] // 2, *shape[2:]]
    elif kind == 3:
        shape = [extent for extent in shape if extent != 1]
    else:
        shape = [math.prod(shape)]
    if len(shape) > 6:
        raise InputError("too many axes")
    m.emit("reshape", [x], {"shape": shape})


def transpose(m: GraphMaker) -> None:
    x = m.value(lambda v: len(v.shape) > 1)
    m.emit("transpose", [x], {"perm": [int(k) for k in m.rng.permutation(len(x.shape))]})


def concat(m: GraphMaker) -> None:
    x = m.value(lambda v: len(v.shape) > 1)
    axis = 1 if m.chance(0.8) else int(m.rng.integers(len(x.shape)))

    def fits(v: Value) -> bool:
        return len(v.shape) == len(x.shape) and all(
            a == b for k, (a, b) in enumerate(zip(v.shape, x.shape, strict=True)) if k != axis
        )

    parts = [x, *(m.value(fits) for _ in range(int(m.rng.integers(1, 4))))]
    if m.chance(0.15):
        shape = list(x.shape)
        shape[axis] = m.pick((1, 3, 16))
        parts.append(m.constant(*shape))
    order = m.rng.permutation(len(parts))
    m.emit("concat", [parts[k] for k in order], {"axis": axis})


def branches(m: GraphMaker) -> None:
    """Convolutions and pools of one value, concatenated, as in an inception block."""
    x = m.map()
    rank = len(x.shape) - 2
    parts = []
    for _ in range(int(m.rng.integers(2, 5))):
        out = m.pick((3, 16, 16, 32, 48))
        kernel = m.pick((1, 1, 3))
        padding = [kernel // 2] * 2 * rank
        source = m.pick([x, x, *parts])
        activation = m.pick(("", "relu"))
        parts.append(_family(m, "conv", source, (out, *(kernel,) * rank), padding=padding,
                             activation=activation))  # fmt: skip
        if m.chance(0.3):
            parts[-1] = m.emit(*_unary(m, parts[-1]))
    m.emit("concat", parts, {"axis": 1})


def _unary(m: GraphMaker, x: Value) -> tuple[str, list[Value], dict[str, Any]]:
    op, attrs = m.pick(_UNARY)
    return op, [x], dict(attrs)


def unary(m: GraphMaker) -> None:
    m.emit(*_unary(m, m.value()))


def binary(m: GraphMaker) -> None:
    x = m.value()
    pair = [x, _operand(m, x)]
    if m.chance(0.4):
        pair.reverse()
    op = m.pick(("add", "add", "add", "sub", "mul", "maximum", "minimum"))
    m.emit(op, pair)


def _operand(m: GraphMaker, x: Value) -> Value:
    """What an elementwise operator may combine ``x`` with."""
    kind = int(m.rng.integers(8))
    if kind == 0:
        return x
    if kind < 4:
        return m.value(lambda v: v.shape == x.shape)
    if kind == 4:
        return m.value(lambda v: _broadcasts(v.shape, x.shape))
    shape = [extent if m.chance(0.6) else 1 for extent in x.shape]
    return _parameter(m, tuple(shape[int(m.rng.integers(len(shape) + 1)) :]))


def _broadcasts(shape: Shape, to: Shape) -> bool:
    try:
        return math.prod(np.broadcast_shapes(shape, to)) <= _LARGEST
    except ValueError:
        return False


def per_channel(m: GraphMaker) -> None:
    x = m.value(lambda v: len(v.shape) > 1)
    channels = (x.shape[1],)
    if m.chance(0.5):
        m.emit("scale_shift", [x, _parameter(m, channels), _parameter(m, channels)])
    else:
        m.emit("prelu", [x, _parameter(m, channels if m.chance(0.7) else ())])


def normalize(m: GraphMaker) -> None:
    if m.chance(0.5):
        x = m.value(lambda v: len(v.shape) > 0)
        m.emit(m.pick(("softmax", "log_softmax")), [x],
               {"axis": int(m.rng.integers(len(x.shape)))})  # fmt: skip
    else:
        size, beta = m.pick((3, 5, 4)), m.pick((0.5, 0.75, 0.6))
        m.emit("lrn", [m.map()], {"size": size, "alpha": 0.1, "beta": beta, "bias": 1.0})


def shuffle(m: GraphMaker) -> None:
    x = m.map()
    groups = [g for g in (2, 3, 4, 5) if x.shape[1] % g == 0]
    if not groups:
        raise InputError("no groups")
    m.emit("channel_shuffle", [x], {"groups": m.pick(groups)})


def reduction(m: GraphMaker) -> None:
    x = m.value(lambda v: len(v.shape) > 1)
    axes = [k for k in range(len(x.shape)) if m.chance(0.5)] or [len(x.shape) - 1]
    m.emit(
        m.pick(("reduce_mean", "reduce_sum", "reduce_max", "reduce_l2")),
        [x],
        {"axes": axes, "keepdims": m.chance(0.6)},
    )


def pad(m: GraphMaker) -> None:
    x = m.value(lambda v: len(v.shape) > 0)
    low, high = ([int(m.rng.integers(0, 3)) for _ in x.shape] for _ in range(2))
    value = m.pick((0.0, -1.5))
    m.emit("pad", [x], {"lows": low, "highs": high, "value": value, "mode": "constant"})


def cut(m: GraphMaker) -> None:
    x = m.value(lambda v: max(v.shape, default=1) > 1)
    axis = int(np.argmax(x.shape))
    start = int(m.rng.integers(0, x.shape[axis]))
    end = int(m.rng.integers(start + 1, x.shape[axis] + 1))
    step = m.pick((1, 1, 2))
    m.emit("slice", [x], {"starts": [start], "ends": [end], "axes": [axis], "steps": [step]})


_MAKERS: tuple[tuple[Callable[[GraphMaker], None], int], ...] = (
    (conv, 6), (pointwise, 3), (depthwise, 2), (transposed, 1), (pool, 3), (global_pool, 1),
    (dense, 2), (flatten, 2), (reshape, 2), (transpose, 1), (concat, 4), (branches, 3), (unary, 4),
    (binary, 6), (per_channel, 2), (normalize, 1), (shuffle, 1), (reduction, 1), (pad, 1), (cut, 1),
)  # fmt: skip


def random_graph(seed: int, size: int = 10) -> Graph:
    """A graph of at least so many nodes; outputs are any of its values, the last one included."""
    m = GraphMaker(np.random.default_rng(seed))
    rank = m.pick((1, 2, 2, 2, 2, 3))
    batch = m.pick((1, 1, 2, 3))
    for _ in range(m.pick((1, 1, 2))):
        m.input((batch, m.pick(_CHANNELS), *(m.pick(_SIZES[rank]) for _ in range(rank))))
    if m.chance(0.2):
        m.input((batch, m.pick(_CHANNELS)))
    makers = [maker for maker, weight in _MAKERS for _ in range(weight)]
    for _ in range(20 * size):
        if len(m.nodes) >= size:
            break
        kept = [list(part) for part in (m.values, m.inputs, m.nodes)]
        try:
            m.pick(makers)(m)
        except InputError:
            m.values, m.inputs, m.nodes = kept  # type: ignore[assignment]
    return Graph(f"random{seed}", m.inputs, _outputs(m), m.nodes)


def _outputs(m: GraphMaker) -> list[Value]:
    read = {value for node in m.nodes for value in node.inputs}
    outputs = [v for v in m.values if v not in read and v not in m.inputs]
    outputs = outputs[-4:] or [m.values[-1]]
    for _ in range(m.pick((0, 0, 1, 2))):
        outputs.insert(0, m.pick(m.values))
    if m.chance(0.1):
        outputs.append(m.constant(2, 3))
    return list(dict.fromkeys(outputs))


def feeds(graph: Graph, seed: int = 0) -> dict[str, Array]:
    """Random inputs of a graph."""
    rng = np.random.default_rng(seed)
    return {v.name: rng.standard_normal(v.shape).astype(np.float32) for v in graph.inputs}


@dataclass
class Dice:
    """Choices by the dice for the graph passes, the same to the same question."""

    seed: int
    conversions: float = 1.0
    exact: bool = False

    def _roll(self, question: object) -> float:
        return random.Random(f"{self.seed} {question}").randint(1, 99) * 1e-6

    def forms(self, blocks: KernelSpec, planes: KernelSpec) -> tuple[float, float]:
        return self._roll(blocks.text), self._roll(planes.text)

    def conversion(self, nbytes: int) -> float:
        return self.conversions * self._roll(nbytes)

    def algorithm(self, spec: KernelSpec) -> str:
        return "direct"
