"""Random convolutions, pools, borders and normalisations: nodes on maps of channels."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np

from tests.nodes.draw import CHANNELS, SIZES, Draw, Node


def windows(d: Draw, rank: int, pool: bool) -> tuple[tuple[int, ...], dict[str, Any]]:
    """Sizes of a map, and the attributes of windows that fit it."""
    columns = []
    for _ in range(rank):
        taps, dilation = d.pick((1, 2, 3, 3, 5)), d.pick((1, 1, 1, 2, 3))
        span = (taps - 1) * dilation + 1
        most = min(taps - 1 if pool else span + 1, 3)
        low, high = d.integer(0, most), d.integer(0, most)
        size = max(d.pick(SIZES), span - low - high, 1)
        columns.append((size, taps, dilation, d.pick((1, 1, 2, 3)), low, high))
    sizes, kernel, dilations, strides, lows, highs = zip(*columns, strict=True)
    attributes: dict[str, Any] = {"kernel_shape": kernel}
    if d.flag():
        attributes["strides"] = strides
    if d.integer(0, 3):
        return sizes, {**attributes, "dilations": dilations, "pads": lows + highs}
    # Windows that skip inputs have no such padding: ONNX's formulas contradict each other there.
    attributes["strides"] = tuple(map(min, strides, kernel))
    attributes["auto_pad"] = d.pick(("SAME_UPPER", "SAME_LOWER", "VALID"))
    return tuple(map(max, sizes, kernel)), attributes


def conv(d: Draw) -> Node:
    rank, groups = d.pick((1, 2, 2, 2, 3)), d.pick((1, 1, 1, 2, 4))
    sizes, attributes = windows(d, rank, False)
    ci, co = d.pick(CHANNELS), d.pick(CHANNELS) * groups
    if d.integer(0, 3) == 0:  # depthwise
        groups, ci, co = co, 1, co * d.pick((1, 1, 2))
    x, weight = d.normal(1, ci * groups, *sizes), d.normal(co, ci, *attributes["kernel_shape"])
    bias = [d.normal(co)] if d.flag() else []
    return Node("Conv", [x, weight, *bias], {**attributes, "group": groups}, d.pick((1, 1, 2)))


def conv_transpose(d: Draw) -> Node:
    rank, groups = d.pick((1, 2, 2, 2, 3)), d.pick((1, 1, 1, 2, 4))
    sizes, attributes = windows(d, rank, False)
    steps = attributes.get("strides", (1,) * rank)
    if "pads" in attributes and any(
        (n - 1) * step < low + high
        for n, step, low, high in zip(
            sizes, steps, attributes["pads"][:rank], attributes["pads"][rank:], strict=True
        )
    ):
        del attributes["pads"]
    if "strides" in attributes:
        attributes["output_padding"] = [d.integer(0, step - 1) for step in attributes["strides"]]
    ci, co = d.pick(CHANNELS) * groups, d.pick(CHANNELS)
    x, weight = d.normal(1, ci, *sizes), d.normal(ci, co, *attributes["kernel_shape"])
    bias = [d.normal(co * groups)] if d.flag() else []
    return Node("ConvTranspose", [x, weight, *bias], {**attributes, "group": groups})


def pool(op: str, d: Draw) -> Node:
    sizes, attributes = windows(d, d.pick((1, 2, 2, 2, 3)), True)
    attributes["ceil_mode"] = d.flag() if "pads" in attributes else 0
    outputs = 1
    if op == "AveragePool":
        attributes["count_include_pad"] = d.flag()
    if op == "LpPool":
        attributes["p"] = d.integer(1, 4)
    if op == "MaxPool":
        attributes["storage_order"], outputs = d.flag(), 1 + d.flag()
    x = d.normal(d.pick((1, 2)), d.pick(CHANNELS), *sizes)
    return Node(op, [x], attributes, outputs=outputs)


def global_pool(op: str, d: Draw) -> Node:
    x = d.normal(*d.map(d.integer(1, 3)))
    if op == "GlobalLpPool":
        return Node(op, [x], {"p": d.integer(1, 4)}, opset=21)
    return Node(op, [x])


def max_unpool(d: Draw) -> Node:
    rank = d.integer(1, 3)
    kernel = [d.integer(2, 3) for _ in range(rank)]
    shape = d.map(rank)
    full = (*shape[:2], *(n * k for n, k in zip(shape[2:], kernel, strict=True)))
    places = d.rng.permutation(prod(full))[: prod(shape)].reshape(shape).astype(np.int64)
    attributes = {"kernel_shape": kernel, "strides": kernel}
    return Node("MaxUnpool", [d.normal(*shape), places], attributes, 2)


# --- other operators on maps


def pad(d: Draw) -> Node:
    shape, mode = d.shape(1, 4), d.pick(("constant", "reflect", "edge", "wrap"))
    sides = []
    for size in shape * 2:
        most = {"reflect": size - 1, "wrap": size}.get(mode, 4)
        sides.append(d.integer(0, min(most, 4)) if d.flag() else 0)
    if mode == "constant" and shape[0] > 2:
        sides[0] = -1
    value = np.array(d.pick((0.0, -1.5)), np.float32) if mode == "constant" else None
    return Node("Pad", [d.normal(*shape), np.array(sides), value], {"mode": mode})


def resize(d: Draw) -> Node:
    rank, mode = d.pick((1, 2, 2, 2)), d.pick(("nearest", "linear", "cubic"))
    shape = d.map(rank)
    places = ("half_pixel", "align_corners", "asymmetric", "pytorch_half_pixel", "half_pixel")
    attributes = {"mode": mode, "coordinate_transformation_mode": d.pick(places)}
    if mode == "nearest":
        rounding = ("round_prefer_floor", "round_prefer_ceil", "floor", "ceil")
        attributes["nearest_mode"] = d.pick(rounding)
    if mode == "cubic":
        attributes["cubic_coeff_a"] = d.pick((-0.75, -0.5))
    sizes = [*shape[:2], *(d.pick((1, 2, 3, 5, 8, 14)) for _ in range(rank))]
    if d.flag():
        return Node("Resize", [d.normal(*shape), None, None, np.array(sizes)], attributes)
    scales = np.array([1, 1, *(d.pick((0.5, 1, 2, 3, 1.5)) for _ in range(rank))], np.float32)
    shape = (*shape[:2], *(max(n, 2) for n in shape[2:]))
    return Node("Resize", [d.normal(*shape), None, scales], attributes)


def normalisation(op: str, d: Draw) -> Node:
    shape = d.map(2 if op == "LRN" else d.integer(1, 3))
    c = shape[1]
    x, scale, shift = d.normal(*shape), d.positive(c), d.normal(c)
    if op == "BatchNormalization":
        return Node(op, [x, scale, shift, d.normal(c), d.positive(c)], {"epsilon": 1e-3})
    if op == "InstanceNormalization":
        return Node(op, [x, scale, shift], {"epsilon": 1e-3})
    if op == "GroupNormalization":
        groups = d.pick([g for g in (1, 2, 4, 8) if c % g == 0])
        return Node(op, [x, scale, shift], {"num_groups": groups, "epsilon": 1e-3})
    if op == "LRN":
        return Node(op, [x], {"size": d.pick((1, 3, 5)), "alpha": 0.1, "bias": 1.0})
    axis = d.axis(len(shape))
    own = shape[axis % len(shape) :]
    extra = [d.normal(*own)] if op == "LayerNormalization" and d.flag() else []
    return Node(op, [x, d.positive(*own), *extra], {"axis": axis, "epsilon": 1e-3})


def blocks_of_depth(op: str, d: Draw) -> Node:
    size, (n, c, h, w) = d.integer(1, 3), d.map(2)
    if op == "DepthToSpace":
        mode = {"mode": d.pick(("DCR", "CRD"))}
        return Node(op, [d.normal(n, c * size**2, h, w)], {"blocksize": size, **mode})
    return Node(op, [d.normal(n, c, h * size, w * size)], {"blocksize": size})
