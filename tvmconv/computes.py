"""Temporary home of the compute functions."""
from __future__ import annotations
import math
from typing import Any
import numpy as np
from tvmconv.kernel import KIND, KernelSpec, channel_plan, channel_start, finish, placeholder, apply_program, operand_at
from tvmconv.problem import Problem


def pack_conv(spec: KernelSpec, constants: list[Any]) -> list[Any]:
    """Weight (slots, channels/step, *kernel, step, block) and bias (slots, block), zero-padded."""
    p = Problem.parse(spec.attrs["problem"])
    x_layout, out = spec.inputs[0], spec.output
    block, slots = out.block, out.own_slots
    plan = channel_plan(p.ci, p.co, p.groups, x_layout.block, block)
    weight = constants[0]
    kernel = p.kernel
    wide = np.zeros((slots * block, plan.length, *kernel), weight.dtype)
    per_in, per_out = p.ci // p.groups, p.co // p.groups
    for co in range(p.co) if p.groups > 1 else ():
        first = co // per_out * per_in - plan.starts[co // block]
        wide[co, first : first + per_in] = weight[co]
    if p.groups == 1:
        wide[: p.co] = weight.reshape(p.co, p.ci, *kernel)
    shaped = wide.reshape(slots, block, plan.length // plan.step, plan.step, *kernel)
    rank = len(kernel)
    packed = np.ascontiguousarray(shaped.transpose(0, 2, *range(4, 4 + rank), 3, 1))
    return [packed, *(pack_channels(b, slots, block) for b in constants[1:])]


def pack_channels(vector: Any, slots: int, block: int) -> Any:
    padded = np.zeros(slots * block, vector.dtype)
    padded[: vector.size] = vector.reshape(-1)
    return padded.reshape(slots, block)


def conv_compute(spec: KernelSpec) -> list[Any]:
    from tvmconv._tvm import te
    p = Problem.parse(spec.attrs["problem"])
    x_layout, out = spec.inputs[0], spec.output
    block, slots, kernel = out.block, out.own_slots, p.kernel
    plan = channel_plan(p.ci, p.co, p.groups, x_layout.block, block)
    x = placeholder(x_layout, "x")
    weight = te.placeholder((slots, plan.length // plan.step, *kernel, plan.step, block), name="weight")
    bias = te.placeholder((slots, block), name="bias") if p.bias else None
    rk = [te.reduce_axis((0, k), f"rk{i}") for i, k in enumerate(kernel)]
    ri = te.reduce_axis((0, plan.step), "ri")
    trips = plan.length // plan.step
    inner = summed_together(trips, plan.step * math.prod(kernel))
    rc = te.reduce_axis((0, inner), "rc")

    def term(index: Any, outer: Any) -> Any:
        n, slot, *position, lane = index
        trip = outer * inner + rc
        channel = channel_start(plan, slot, p.co, p.groups, block) + trip * plan.step + ri
        element = x_layout.at(x, n, channel, window(p, position, rk))
        return te.sum(element * weight[(slot, trip, *rk, ri, lane)], axis=[rc, *rk, ri])

    shape = out.iteration_shape
    kind = {KIND: "contraction"}
    if inner == trips:
        conv = te.compute(shape, lambda *i: term(i, 0), name="conv", attrs=kind)
    else:
        part = te.compute(
            (trips // inner, *shape), lambda o, *i: term(i, o), name="part", attrs=kind
        )
        ro = te.reduce_axis((0, trips // inner), "ro")
        conv = te.compute(
            shape, lambda *i: te.sum(part(ro, *i), axis=ro), name="conv", attrs={KIND: "total"}
        )
    operands, output = finish(spec, lambda *i: conv(*i), bias)
    return [x, weight, *([] if bias is None else [bias]), *operands, output]


#: Terms that one chain of additions sums; longer sums are sums of such sums.
_CHAIN = 1024


def summed_together(trips: int, terms: int) -> int:
    """How many trips of ``terms`` terms each one chain of additions takes: a divisor of ``trips``.

    The error of a chain of K random terms grows as sqrt(K); a sum of sums has that of the shorter
    chains, at the price of one more addition a chain.
    """
    if trips * terms <= 2 * _CHAIN:
        return trips
    fitting = [d for d in range(1, trips + 1) if trips % d == 0 and d * terms <= _CHAIN]
    return max(fitting, default=1)


def window(p: Problem, position: Any, taps: Any) -> list[Any]:
    """Input position of a tap of the window at an output position."""
    return [o * s + k * d - low for o, s, k, d, low in zip(position, p.stride, taps, p.dilation, p.pads_low, strict=True)]


def pack_depthwise(spec: KernelSpec, constants: list[Any]) -> list[Any]:
    p = Problem.parse(spec.attrs["problem"])
    block, slots = spec.output.block, spec.output.own_slots
    weight = constants[0]
    wide = np.zeros((slots * block, *p.kernel), weight.dtype)
    wide[: p.co] = weight.reshape(p.co, *p.kernel)
    packed = np.moveaxis(wide.reshape(slots, block, *p.kernel), 1, -1)
    return [np.ascontiguousarray(packed), *(pack_channels(b, slots, block) for b in constants[1:])]


def depthwise_conv_compute(spec: KernelSpec) -> list[Any]:
    from tvmconv._tvm import te
    p = Problem.parse(spec.attrs["problem"])
    x_layout, out = spec.inputs[0], spec.output
    block, slots = out.block, out.own_slots
    x = placeholder(x_layout, "x")
    weight = te.placeholder((slots, *p.kernel, block), name="weight")
    bias = te.placeholder((slots, block), name="bias") if p.bias else None
    taps = [te.reduce_axis((0, k), f"rk{i}") for i, k in enumerate(p.kernel)]
    multiplier = p.co // p.ci

    def body(*index: Any) -> Any:
        n, slot, *position, lane = index
        place = window(p, position, taps)
        if multiplier == 1:
            element = x_layout.at_slot(x, n, slot, place, (lane,))
        else:
            # Lanes past the last channel read the last one: their results are never read.
            channel = te.min((slot * block + lane) // multiplier, p.ci - 1)
            element = x_layout.at(x, n, channel, place)
        return te.sum(element * weight[(slot, *taps, lane)], axis=taps)

    conv = te.compute(out.iteration_shape, body, name="depthwise", attrs={KIND: "window"})
    operands, output = finish(spec, lambda *i: conv(*i), bias)
    return [x, weight, *([] if bias is None else [bias]), *operands, output]


def max_pool_compute(spec: KernelSpec) -> list[Any]:
    from tvmconv._tvm import te, tirx
    p = Problem.parse(spec.attrs["problem"])
    x_layout, out = spec.inputs[0], spec.output
    x = placeholder(x_layout, "x")
    taps = [te.reduce_axis((0, k), f"rk{i}") for i, k in enumerate(p.kernel)]
    tested = spec.attrs.get("edges") == "test"
    lowest = te.min_value("float32")

    def body(*index: Any) -> Any:
        n, slot, *position, lane = index
        place = window(p, position, taps)
        if tested and all(d == 1 for d in p.dilation):
            # The nearest element inside belongs to the window too: repeating it changes nothing.
            place = [te.max(te.min(q, size - 1), 0) for q, size in zip(place, p.in_spatial, strict=True)]
        element = x_layout.at_slot(x, n, slot, place, (lane,))
        if tested and any(d != 1 for d in p.dilation):
            inside = [c for q, size in zip(place, p.in_spatial, strict=True) for c in (q >= 0, q < size)]
            element = tirx.if_then_else(tirx.all(*inside), element, lowest)
        return te.max(element, axis=taps)

    pool = te.compute(out.iteration_shape, body, name="pool", attrs={KIND: "window"})
    operands, output = finish(spec, lambda *i: pool(*i))
    return [x, *operands, output]


def pack_avg(spec: KernelSpec, constants: list[Any]) -> list[Any]:
    p = Problem.parse(spec.attrs["problem"])
    from tvmconv.ops.avg_pool import divisors
    counts = divisors(p)
    return [] if np.ptp(counts) == 0 else [(1.0 / counts).astype(np.float32)]


def avg_pool_compute(spec: KernelSpec) -> list[Any]:
    from tvmconv._tvm import te, tirx
    p = Problem.parse(spec.attrs["problem"])
    from tvmconv.ops.avg_pool import divisors
    counts = divisors(p)
    table = None if np.ptp(counts) == 0 else te.placeholder(counts.shape, name="reciprocal")
    x_layout, out = spec.inputs[0], spec.output
    x = placeholder(x_layout, "x")
    taps = [te.reduce_axis((0, k), f"rk{i}") for i, k in enumerate(p.kernel)]

    def body(*index: Any) -> Any:
        n, slot, *position, lane = index
        return te.sum(x_layout.at_slot(x, n, slot, window(p, position, taps), (lane,)), axis=taps)

    pool = te.compute(out.iteration_shape, body, name="pool", attrs={KIND: "window"})

    def mean(*index: Any) -> Any:
        if table is None:
            return pool(*index) * tirx.const(1.0 / float(counts.flat[0]), "float32")
        return pool(*index) * table[tuple(index[2:-1])]

    operands, output = finish(spec, mean)
    return [x, *([] if table is None else [table]), *operands, output]


def global_compute(reduce: str) -> Any:
    def compute(spec: KernelSpec) -> list[Any]:
        from tvmconv._tvm import te, tirx
        x_layout, out = spec.inputs[0], spec.output
        x = placeholder(x_layout, "x")
        sizes = x_layout.shape[2:]
        taps = [te.reduce_axis((0, k), f"rk{i}") for i, k in enumerate(sizes)]

        def body(*index: Any) -> Any:
            n, slot, lane = index[0], index[1], index[-1]
            element = x_layout.at_slot(x, n, slot, taps, (lane,))
            return te.sum(element, axis=taps) if reduce == "avg" else te.max(element, axis=taps)

        pool = te.compute(out.iteration_shape, body, name="pool", attrs={KIND: "window"})
        factor = tirx.const(1.0 / math.prod(sizes), "float32")
        result = (lambda *i: pool(*i) * factor) if reduce == "avg" else (lambda *i: pool(*i))
        operands, output = finish(spec, result)
        return [x, *operands, output]
    return compute


def elementwise_compute(spec: KernelSpec) -> list[Any]:
    x_layout, out = spec.inputs[0], spec.output
    x = placeholder(x_layout, "x")
    operands, output = finish(spec, lambda *index: operand_at(x, x_layout, out, index))
    return [x, *operands, output]


def binary_compute(spec: KernelSpec) -> list[Any]:
    from tvmconv._tvm import te
    from tvmconv.ops.binary import FUNCTIONS as BINARY
    a, b = (placeholder(v, n) for v, n in zip(spec.inputs, "ab", strict=True))
    out = spec.output
    la, lb = spec.inputs
    f = BINARY[spec.op][2]
    return [a, b, te.compute(out.iteration_shape, lambda *i: f(operand_at(a, la, out, i), operand_at(b, lb, out, i)), name="output", attrs={KIND: "map"})]


def lrn_compute(spec: KernelSpec) -> list[Any]:
    from tvmconv._tvm import te, tirx
    from tvmconv.ops.lrn import window as reach
    attrs = spec.attrs
    layout, out = spec.inputs[0], spec.output
    x = placeholder(layout, "x")
    channels, block = layout.shape[1], layout.block
    below, above = reach(attrs["size"])
    below, above = min(below, channels - 1), min(above, channels - 1)
    n, *spatial = (layout.shape[0], *layout.shape[2:])

    def square(*index: Any) -> Any:
        batch, *position, channel = index
        inside = channel - below
        element = layout.at(x, batch, te.max(te.min(inside, channels - 1), 0), position)
        return tirx.if_then_else(tirx.all(inside >= 0, inside < channels), element * element, 0.0)

    slots = out.own_slots
    squares = te.compute((n, *spatial, slots * block + below + above), square, name="squares", attrs={KIND: "stage"})
    scale = tirx.const(attrs["alpha"] / attrs["size"], "float32")
    bias = tirx.const(attrs["bias"], "float32")

    def body(*index: Any) -> Any:
        batch, slot, *position, lane = index
        first = slot * block + lane
        total = squares[(batch, *position, first)]
        for k in range(1, below + above + 1):
            total = total + squares[(batch, *position, first + k)]
        base = bias + scale * total
        element = layout.at_slot(x, batch, slot, position, (lane,))
        if attrs["beta"] == 0.75:
            root = te.sqrt(base)
            return element / (root * te.sqrt(root))
        if attrs["beta"] == 0.5:
            return element / te.sqrt(base)
        return element * te.power(base, tirx.const(-attrs["beta"], "float32"))

    operands, output = finish(spec, body)
    return [x, *operands, output]


def channel_shuffle_compute(spec: KernelSpec) -> list[Any]:
    from tvmconv._tvm import te
    layout, out = spec.inputs[0], spec.output
    x = placeholder(layout, "x")
    groups = spec.attrs["groups"]
    per = layout.shape[1] // groups

    def body(*index: Any) -> Any:
        n, slot, *position, lane = index
        channel = te.min(slot * out.block + lane, layout.shape[1] - 1)
        return layout.at(x, n, channel % groups * per + channel // groups, position)

    return [x, te.compute(out.iteration_shape, body, name="output", attrs={KIND: "map"})]


def concat_compute(spec: KernelSpec) -> list[Any]:
    from tvmconv._tvm import te, tirx
    parts = [placeholder(v, f"part{k}") for k, v in enumerate(spec.inputs)]
    out, axis = spec.output, spec.attrs["axis"]

    def body(*index: Any) -> Any:
        logical = list(index)
        if out.block > 1:
            logical = [index[0], index[1] * out.block + index[-1], *index[2:-1]]
        first = sum(v.shape[axis] for v in spec.inputs)
        value: Any = tirx.const(0, out.dtype)
        for tensor, layout in zip(reversed(parts), reversed(spec.inputs), strict=True):
            first -= layout.shape[axis]
            place = list(logical)
            place[axis] = te.max(te.min(logical[axis] - first, layout.shape[axis] - 1), 0)
            element = layout.at(tensor, place[0], place[1], place[2:]) if len(place) > 1 else tensor[tuple(place)]
            value = element if tensor is parts[-1] else tirx.if_then_else(logical[axis] < first + layout.shape[axis], element, value)
        return value

    return [*parts, te.compute(out.iteration_shape, body, name="output", attrs={KIND: "map"})]


def _plain(spec: KernelSpec, body: Any) -> list[Any]:
    from tvmconv._tvm import te
    x = placeholder(spec.inputs[0], "x")
    layout = spec.inputs[0]
    def at(place: Any) -> Any:
        return x[tuple(i + o for i, o in zip(place, layout.offsets, strict=True))]
    return [x, te.compute(spec.output.shape, lambda *i: body(at, i), name="output", attrs={KIND: "map"})]


def transpose_compute(spec: KernelSpec) -> list[Any]:
    perm = spec.attrs["perm"]
    def body(at: Any, index: Any) -> Any:
        place = [None] * len(perm)
        for k, axis in enumerate(perm):
            place[axis] = index[k]
        return at(place)
    return _plain(spec, body)


def slice_compute(spec: KernelSpec) -> list[Any]:
    a = spec.attrs
    steps = {axis % len(spec.output.shape): (s, st) for axis, s, st in zip(a["axes"], a["starts"], a["steps"], strict=True)}
    return _plain(spec, lambda at, index: at([steps[k][0] + i * steps[k][1] if k in steps else i for k, i in enumerate(index)]))


def pad_compute(spec: KernelSpec) -> list[Any]:
    from tvmconv._tvm import te, tirx
    a = spec.attrs
    sizes = spec.inputs[0].shape
    def body(at: Any, index: Any) -> Any:
        place = [i - low for i, low in zip(index, a["lows"], strict=True)]
        inside = [c for q, size in zip(place, sizes, strict=True) for c in (q >= 0, q < size)]
        near = [te.max(te.min(q, size - 1), 0) for q, size in zip(place, sizes, strict=True)]
        return tirx.if_then_else(tirx.all(*inside), at(near), tirx.const(a["value"], spec.output.dtype))
    return _plain(spec, body)


def reduce_mean_compute(spec: KernelSpec) -> list[Any]:
    from tvmconv._tvm import te, tirx
    a = spec.attrs
    layout = spec.inputs[0]
    x = placeholder(layout, "x")
    rank = len(layout.shape)
    axes = sorted(axis % rank for axis in a["axes"])
    reduce = {axis: te.reduce_axis((0, layout.shape[axis]), f"r{axis}") for axis in axes}
    kept = [k for k in range(rank) if k not in reduce]
    where = {axis: (axis if a["keepdims"] else kept.index(axis)) for axis in kept}
    factor = tirx.const(1.0 / math.prod(layout.shape[k] for k in axes), "float32")
    def body(*index: Any) -> Any:
        place = [reduce[k] if k in reduce else index[where[k]] for k in range(rank)]
        return te.sum(x[tuple(i + o for i, o in zip(place, layout.offsets, strict=True))], axis=list(reduce.values()))
    total = te.compute(spec.output.shape, body, name="total", attrs={KIND: "stage"})
    return [x, te.compute(spec.output.shape, lambda *i: total(*i) * factor, name="output", attrs={KIND: "map"})]


def softmax_compute(log: bool) -> Any:
    def compute(spec: KernelSpec) -> list[Any]:
        from tvmconv._tvm import te
        from tvmconv.te_math import exp
        layout = spec.inputs[0]
        x = placeholder(layout, "x")
        shape = layout.shape
        axis = spec.attrs["axis"] % len(shape)
        rest = tuple(s for k, s in enumerate(shape) if k != axis)
        def at(place: Any) -> Any:
            return x[tuple(i + o for i, o in zip(place, layout.offsets, strict=True))]
        def over(index: Any, r: Any) -> Any:
            return [*index[:axis], r, *index[axis:]]
        k1, k2 = te.reduce_axis((0, shape[axis]), "k"), te.reduce_axis((0, shape[axis]), "k")
        top = te.compute(rest or (1,), lambda *i: te.max(at(over(i if rest else (), k1)), axis=k1), name="top", attrs={KIND: "stage"})
        def drop(i: Any) -> Any:
            j = tuple(q for k, q in enumerate(i) if k != axis)
            return j if rest else (0,)
        e = te.compute(shape, lambda *i: exp(at(i) - top(*drop(i))), name="e", attrs={KIND: "stage"})
        total = te.compute(rest or (1,), lambda *i: te.sum(e(*over(i if rest else (), k2)), axis=k2), name="total", attrs={KIND: "stage"})
        if log:
            return [x, te.compute(shape, lambda *i: at(i) - top(*drop(i)) - te.log(total(*drop(i))), name="output", attrs={KIND: "map"})]
        return [x, te.compute(shape, lambda *i: e(*i) / total(*drop(i)), name="output", attrs={KIND: "map"})]
    return compute


def pack_weight_compute(spec: KernelSpec) -> list[Any]:
    from tvmconv._tvm import te, tirx
    a = spec.attrs
    p = Problem.parse(a["problem"])
    block = a["block"]
    source = placeholder(spec.inputs[0], "source")

    def channel(slot: Any, lane: Any) -> tuple[Any, Any]:
        co = slot * block + lane
        return co < p.co, te.min(co, p.co - 1)

    def bias(slot: Any, lane: Any) -> Any:
        inside, co = channel(slot, lane)
        return tirx.if_then_else(inside, source[co], 0.0)

    def depthwise(slot: Any, *rest: Any) -> Any:
        inside, co = channel(slot, rest[-1])
        return tirx.if_then_else(inside, source[(co, 0, *rest[:-1])], 0.0)

    def conv(slot: Any, rc: Any, *rest: Any) -> Any:
        *taps, ri, lane = rest
        inside, co = channel(slot, lane)
        plan = channel_plan(p.ci, p.co, p.groups, a["in_block"], block)
        per_in, per_out = p.ci // p.groups, p.co // p.groups
        start = channel_start(plan, slot, p.co, p.groups, block) + rc * plan.step + ri
        local = start - co // per_out * per_in
        own = tirx.all(inside, local >= 0, local < per_in)
        near = te.max(te.min(local, per_in - 1), 0)
        return tirx.if_then_else(own, source[(co, near, *taps)], 0.0)

    body = bias if a["role"] == "bias" else depthwise if a["host"] == "depthwise_conv" else conv
    return [source, te.compute(spec.output.shape, body, name="output", attrs={KIND: "map"})]


COMPUTE = {
    "pack_weight": pack_weight_compute,
    "conv": conv_compute, "dense": conv_compute, "depthwise_conv": depthwise_conv_compute,
    "max_pool": max_pool_compute, "avg_pool": avg_pool_compute,
    "global_avg_pool": global_compute("avg"), "global_max_pool": global_compute("max"),
    "elementwise": elementwise_compute, "lrn": lrn_compute, "channel_shuffle": channel_shuffle_compute,
    "concat": concat_compute, "transpose": transpose_compute, "slice": slice_compute, "pad": pad_compute,
    "reduce_mean": reduce_mean_compute, "softmax": softmax_compute(False), "log_softmax": softmax_compute(True),
    **{name: binary_compute for name in ("add", "sub", "mul", "div", "maximum", "minimum", "pow")},
}
PACK = {"conv": pack_conv, "dense": pack_conv, "depthwise_conv": pack_depthwise, "avg_pool": pack_avg}
