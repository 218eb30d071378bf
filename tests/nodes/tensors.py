"""Random products, functions of elements, reductions and moves: nodes on any tensors."""

from __future__ import annotations

import numpy as np

from tests.nodes.draw import CHANNELS, SIZES, Draw, Node

# --- products


def gemm(d: Draw) -> Node:
    m, k, n = (d.pick(CHANNELS) for _ in range(3))
    turned = {"transA": d.flag(), "transB": d.flag()}
    a = d.normal(*((k, m) if turned["transA"] else (m, k)))
    b = d.normal(*((n, k) if turned["transB"] else (k, n)))
    c = [d.normal(*d.part((m, n)))] if d.flag() else []
    attributes = {**turned, "alpha": d.pick((1.0, 0.5)), "beta": d.pick((1.0, 2.0))}
    return Node("Gemm", [a, b, *c], attributes, d.pick((1, 2)))


def matmul(d: Draw) -> Node:
    batch = d.shape(0, 2)
    m, k, n = (d.pick(CHANNELS) for _ in range(3))
    a, b = (*batch, m, k), (*(batch if d.flag() else ()), k, n)
    return Node("MatMul", [d.normal(*a), d.normal(*b)], given=d.pick((1, 2)))


# --- elements


def unary(op: str, d: Draw) -> Node:
    x = d.normal(*(d.map(2) if d.flag() else d.shape()))
    if op in ("Log", "Sqrt", "Reciprocal"):
        x = np.abs(x) + np.float32(0.1)
    if op == "Acosh":
        x = np.abs(x) + 1
    if op in ("Acos", "Asin", "Atanh"):
        x = np.tanh(x)
    if op in ("Floor", "Ceil", "Round", "IsInf", "IsNaN"):
        x *= 5
        x.reshape(-1)[::3] = d.pick((0.5, np.inf, np.nan) if op.startswith("Is") else (0.5, 2.0))
    names = {
        "LeakyRelu": "alpha",
        "Elu": "alpha",
        "ThresholdedRelu": "alpha",
        "HardSigmoid": "beta",
    }
    return Node(op, [x], {names[op]: d.pick((0.1, 0.7))} if op in names else {})


def binary(op: str, d: Draw) -> Node:
    shape = d.map(2) if d.flag() else d.shape()
    shapes = [shape, d.part(shape)][:: d.pick((1, -1))]
    a, b = (d.normal(*s) for s in shapes)
    if op in ("Div", "Mod"):
        b = np.sign(b) * (np.abs(b) + np.float32(0.25))
    if op == "Pow":
        a = np.abs(a) + np.float32(0.25)
    if op in ("Less", "LessOrEqual", "Greater", "GreaterOrEqual", "Equal"):
        a, b = np.round(a), np.round(b)
    if op in ("And", "Or", "Xor"):
        a, b = a > 0, b > 0
    return Node(op, [a, b], {"fmod": 1} if op == "Mod" else {}, d.pick((1, 2)))


def several(op: str, d: Draw) -> Node:
    shape = d.shape()
    operands = [d.normal(*shape), *(d.normal(*d.part(shape)) for _ in range(d.integer(0, 2)))]
    return Node(op, operands, given=d.integer(1, len(operands)))


def prelu(d: Draw) -> Node:
    shape = d.map(2)
    return Node("PRelu", [d.normal(*shape), d.normal(*d.pick(((shape[1], 1, 1), (1,), shape)))])


def clip(d: Draw) -> Node:
    limits = [np.array(v, np.float32) if d.flag() else None for v in (-0.5, 0.8)]
    return Node("Clip", [d.normal(*d.shape()), *limits])


def where(d: Draw) -> Node:
    shape = d.shape()
    return Node("Where", [d.truths(*d.part(shape)), d.normal(*shape), d.normal(*d.part(shape))],
                given=d.integer(1, 3))  # fmt: skip


def not_(d: Draw) -> Node:
    return Node("Not", [d.truths(*d.shape())])


# --- axes


def reduction(op: str, d: Draw) -> Node:
    shape = d.map(2) if d.flag() else d.shape()
    x = d.positive(*shape) if op in ("ReduceLogSum", "ReduceProd") else d.normal(*shape)
    axes = [d.axes(len(shape))] if d.integer(0, 4) else []
    return Node(op, [x, *axes], {"keepdims": d.flag()})


def arg(op: str, d: Draw) -> Node:
    x = np.round(2 * d.normal(*d.shape()))
    attributes = {"axis": d.axis(x.ndim), "keepdims": d.flag(), "select_last_index": d.flag()}
    return Node(op, [x], attributes)


def along_axis(op: str, d: Draw) -> Node:
    x = d.normal(*d.shape())
    attributes = {"axis": d.axis(x.ndim)}
    if op == "LpNormalization":
        attributes["p"] = d.integer(1, 2)
    return Node(op, [x], attributes)


def concat(d: Draw) -> Node:
    shape = list(d.map(2)) if d.flag() else list(d.shape())
    axis, operands = d.axis(len(shape)), []
    for _ in range(d.integer(1, 4)):
        shape[axis] = d.pick(SIZES)
        operands.append(d.normal(*shape))
    return Node("Concat", operands, {"axis": axis}, d.integer(1, len(operands)))


def split(d: Draw) -> Node:
    shape = list(d.shape())
    axis = d.axis(len(shape))
    parts = [d.integer(1, 5) for _ in range(d.integer(1, 4))]
    shape[axis] = sum(parts)
    return Node("Split", [d.normal(*shape), np.array(parts)], {"axis": axis}, outputs=len(parts))


def transpose(d: Draw) -> Node:
    shape = d.shape()
    return Node("Transpose", [d.normal(*shape)], {"perm": d.rng.permutation(len(shape)).tolist()})


def slice_(d: Draw) -> Node:
    shape = d.shape()
    axes = d.axes(len(shape))
    starts = np.array([d.integer(0, shape[a] - 1) for a in axes])
    ends = np.array([d.integer(s + 1, shape[a]) for a, s in zip(axes, starts, strict=True)])
    steps = np.array([d.integer(1, 3) for _ in axes])
    if d.integer(0, 3) == 0:  # backwards, from the last to the first
        starts, ends, steps = np.full_like(axes, -1), np.full_like(axes, -(2**31)), -steps
    return Node("Slice", [d.normal(*shape), starts, ends, axes, steps])


def reshape(d: Draw) -> Node:
    shape = d.shape(2, 4)
    wanted = [-1, *shape[2:]] if d.flag() else [0, -1]
    return Node("Reshape", [d.normal(*shape), np.array(wanted)])


def flatten(d: Draw) -> Node:
    shape = d.shape()
    return Node("Flatten", [d.normal(*shape)], {"axis": d.integer(-len(shape), len(shape))})


def squeeze(d: Draw) -> Node:
    shape = (1, *d.shape(1, 2), 1)
    axes = [np.array(d.pick(([0], [-1], [0, -1])))] if 1 in shape[1:-1] or d.flag() else []
    return Node("Squeeze", [d.normal(*shape), *axes])


def unsqueeze(d: Draw) -> Node:
    return Node("Unsqueeze", [d.normal(*d.shape(1, 3)), np.array(d.pick(([0], [-1], [1, -1])))])


def tile(d: Draw) -> Node:
    shape = d.shape(1, 4)
    return Node("Tile", [d.normal(*shape), np.array([d.integer(1, 3) for _ in shape])])


def expand(d: Draw) -> Node:
    shape = d.shape()
    return Node("Expand", [d.normal(*d.part(shape)), np.array(shape)])
