"""Small graphs with one difficulty each, by name."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from tests.graphs import GraphMaker
from tvmconv.graph.ir import Graph, Value
from tvmconv.problem import Problem

Make = Callable[["Maker"], "list[Value] | Value"]
CASES: dict[str, Make] = {}


class Maker(GraphMaker):
    """Nodes by name, with random constants for weights."""

    def x(self, *shape: int) -> Value:
        return self.input(shape)

    def conv(self, x: Value, out: int, kernel: int = 1, **options: object) -> Value:
        rank = len(x.shape) - 2
        options.setdefault("padding", [kernel // 2] * 2 * rank)
        problem = Problem.make("conv", x.shape, (out, *(kernel,) * rank), **options)
        weights = [self.constant(*shape, scale=0.3) for shape in [*problem.inputs.values()][1:]]
        return self.emit("conv", [x, *weights], {"problem": problem.text})

    def pool(self, x: Value, op: str = "max_pool", **options: object) -> Value:
        options.setdefault("padding", [1] * 2 * (len(x.shape) - 2))
        kernel = () if op.startswith("global") else (3,) * (len(x.shape) - 2)
        given = {} if op.startswith("global") else options
        return self.emit(op, [x], {"problem": Problem.make(op, x.shape, kernel, **given).text})

    def dense(self, x: Value, out: int) -> Value:
        problem = Problem.make("dense", x.shape, (out,), bias=True)
        weights = [self.constant(*shape, scale=0.3) for shape in [*problem.inputs.values()][1:]]
        return self.emit("dense", [x, *weights], {"problem": problem.text})

    def relu(self, x: Value) -> Value:
        return self.emit("relu", [x])

    def concat(self, *parts: Value, axis: int = 1) -> Value:
        return self.emit("concat", parts, {"axis": axis})

    def reshape(self, x: Value, *shape: int) -> Value:
        return self.emit("reshape", [x], {"shape": list(shape)})

    def flatten(self, x: Value) -> Value:
        return self.reshape(x, x.shape[0], math.prod(x.shape[1:]))


def case(make: Make) -> Make:
    CASES[make.__name__] = make
    return make


@case
def residual(m: Maker) -> Value:
    x = m.conv(m.x(1, 17, 5, 5), 24, 3)
    return m.relu(m.emit("add", [m.conv(m.relu(m.conv(x, 16, 3)), 24, 3, bias=True), x]))


@case
def shortcut_computed_after_the_main_path(m: Maker) -> Value:
    x = m.x(2, 13, 4, 4)
    main = m.conv(m.relu(m.conv(x, 8)), 20)
    return m.relu(m.emit("add", [main, m.conv(x, 20)]))


@case
def operand_that_comes_too_late_for_both_hosts(m: Maker) -> Value:
    x = m.x(1, 16, 4, 4)
    a = m.conv(x, 16)
    b = m.conv(m.relu(a), 16)
    return m.emit("sub", [a, m.emit("mul", [b, m.emit("tanh", [b])])])


@case
def twice_itself(m: Maker) -> list[Value]:
    x = m.x(1, 5, 3, 3)
    y = m.conv(x, 8)
    return [m.emit("add", [x, x]), m.emit("mul", [y, y])]


@case
def cube(m: Maker) -> Value:
    y = m.conv(m.x(1, 16, 3, 3), 24)
    return m.emit("mul", [m.emit("mul", [y, y]), y])


@case
def one_convolution_for_two_programs(m: Maker) -> list[Value]:
    y = m.conv(m.x(1, 5, 4, 4), 16, 3)
    return [m.relu(y), m.emit("neg", [y])]


@case
def output_that_is_also_read(m: Maker) -> list[Value]:
    y = m.conv(m.x(1, 5, 4, 4), 16, 3)
    return [y, m.relu(y), m.conv(y, 8, 3)]


@case
def broadcast_constants(m: Maker) -> Value:
    y = m.conv(m.x(2, 5, 3, 4), 17)
    for shape in ((17, 1, 1), (3, 4), (), (1, 17, 3, 4), (2, 1, 3, 1), (2, 17, 3, 4), (1,)):
        y = m.emit("add", [m.constant(*shape), m.emit("abs", [y])])
        y = m.emit("sub", [m.constant(*shape), y])
    return y


@case
def gate_per_channel(m: Maker) -> Value:
    x = m.conv(m.x(2, 8, 5, 4), 40)
    gate = m.conv(m.relu(m.conv(m.pool(x, "global_avg_pool"), 5)), 40, bias=True)
    return m.emit("mul", [x, m.emit("sigmoid", [gate])])


@case
def gate_per_pixel(m: Maker) -> Value:
    x = m.conv(m.x(2, 8, 5, 4), 40)
    return m.emit("mul", [m.emit("sigmoid", [m.conv(x, 1)]), x])


@case
def computed_operand_of_lower_rank(m: Maker) -> Value:
    x = m.conv(m.x(1, 5, 4, 6), 17)
    row = m.reshape(m.relu(m.x(1, 6)), 6)
    plane = m.reshape(m.conv(m.x(1, 3, 4, 6), 1), 4, 6)
    return m.emit("sub", [row, m.emit("add", [plane, x])])


@case
def broadcast_both_ways(m: Maker) -> list[Value]:
    a, b = m.conv(m.x(1, 6, 1, 5), 6), m.conv(m.x(2, 1, 4, 1), 1)
    return [m.emit("add", [a, b]), m.emit("minimum", [m.x(3, 1), m.constant(1, 4)])]


@case
def per_channel_parameters_at_run_time(m: Maker) -> list[Value]:
    x = m.conv(m.x(2, 5, 3, 3), 13)
    scale, shift = m.x(13), m.reshape(m.x(1, 13), 13)
    return [
        m.emit("scale_shift", [x, scale, shift]),
        m.emit("prelu", [x, m.relu(scale)]),
        m.emit("prelu", [x, m.x()]),
    ]


@case
def nested_concatenations(m: Maker) -> Value:
    x = m.conv(m.x(1, 3, 5, 5), 16)
    inner = m.concat(m.conv(x, 16), m.conv(x, 32, 3))
    outer = m.concat(inner, m.relu(m.conv(inner, 16, 3)), m.conv(x, 3))
    return m.conv(outer, 8, 3)


@case
def concatenation_inside_another(m: Maker) -> Value:
    x = m.conv(m.x(2, 3, 5, 5), 16)
    inner = m.concat(m.conv(x, 16), m.concat(m.conv(x, 32, 3), m.relu(x)))
    return m.conv(m.concat(m.conv(inner, 32), inner, m.conv(inner, 7)), 8, 3)


@case
def constant_in_blocks_and_plain(m: Maker) -> list[Value]:
    x, y = m.x(1, 20, 3, 3), m.conv(m.x(1, 20, 3, 3), 20)
    part = m.constant(1, 20, 3, 3)
    return [m.emit("add", [x, part]), m.emit("add", [part, y]), m.concat(y, part)]


@case
def densenet(m: Maker) -> Value:
    x = m.conv(m.x(2, 3, 4, 4), 32, 3)
    for _ in range(3):
        x = m.concat(x, m.conv(m.relu(m.conv(x, 16)), 16, 3))
    return m.pool(x, "avg_pool")


@case
def inception(m: Maker) -> Value:
    x = m.relu(m.conv(m.x(1, 3, 7, 7), 24, 3))
    branches = [m.relu(m.conv(x, 16)), m.relu(m.conv(m.relu(m.conv(x, 8)), 32, 5))]
    y = m.concat(*branches, m.conv(m.pool(x), 7, bias=True))
    return m.concat(m.pool(y), m.conv(y, 5, 3))


@case
def concatenation_of_ragged_parts(m: Maker) -> Value:
    x = m.x(2, 5, 3, 3)
    return m.conv(m.concat(m.conv(x, 3), m.conv(x, 13), x, m.conv(x, 17)), 9, 3)


@case
def part_of_two_concatenations(m: Maker) -> list[Value]:
    x = m.conv(m.x(1, 3, 4, 4), 16)
    y = m.conv(x, 16, 3)
    return [m.concat(x, y), m.concat(y, x), m.concat(x, x), x]


@case
def concatenation_with_inputs_and_constants(m: Maker) -> list[Value]:
    x, y = m.x(1, 16, 3, 3), m.conv(m.x(1, 4, 3, 3), 16)
    part = m.constant(1, 16, 3, 3)
    return [m.concat(x, y), m.concat(part, y), m.concat(y, part, x), m.concat(x, x)]


@case
def concatenation_of_an_input_a_constant_and_ragged_parts(m: Maker) -> Value:
    x = m.x(2, 1, 1, 2, 4)
    y = m.conv(m.emit("sigmoid", [m.conv(x, 1, 3)]), 3)
    return m.concat(y, m.constant(2, 1, 1, 2, 4), x)


@case
def concatenation_along_other_axes(m: Maker) -> Value:
    x, y = m.conv(m.x(2, 3, 4, 4), 16), m.conv(m.x(2, 3, 4, 4), 16)
    return m.concat(m.concat(x, y, axis=2), m.concat(y, x, axis=2), axis=0)


@case
def plain_concatenation(m: Maker) -> Value:
    x = m.x(1, 3, 4, 4)
    parts = m.emit("transpose", [x], {"perm": [0, 1, 3, 2]}), m.relu(x)
    return m.conv(m.concat(*parts, x), 8, 3)


@case
def concatenation_of_six_axes(m: Maker) -> Value:
    x = m.reshape(m.x(1, 8, 2, 3), 1, 2, 4, 1, 2, 3)
    return m.concat(m.relu(x), m.emit("neg", [x]))


@case
def concatenation_of_matrices(m: Maker) -> Value:
    x = m.x(2, 7)
    return m.dense(m.concat(m.dense(x, 16), m.dense(x, 5), x), 3)


@case
def dense_layers_after_a_map(m: Maker) -> Value:
    x = m.pool(m.conv(m.x(2, 3, 6, 6), 13, 3), padding=[0] * 4, stride=2)
    return m.dense(m.relu(m.dense(m.relu(m.dense(m.flatten(x), 20)), 17)), 4)


@case
def two_dense_layers_on_one_map(m: Maker) -> list[Value]:
    flat = m.flatten(m.relu(m.conv(m.x(1, 3, 3, 3), 16)))
    return [m.emit("add", [m.dense(flat, 8), m.dense(flat, 8)]), m.dense(flat, 3)]


@case
def dense_layer_on_a_map_that_is_an_output(m: Maker) -> list[Value]:
    flat = m.flatten(m.conv(m.x(1, 3, 3, 3), 5))
    return [flat, m.dense(flat, 8)]


@case
def relu_behind_the_flatten(m: Maker) -> Value:
    return m.dense(m.relu(m.flatten(m.conv(m.x(1, 3, 3, 3), 16))), 8)


@case
def bias_behind_the_flatten(m: Maker) -> Value:
    y = m.dense(m.flatten(m.conv(m.x(1, 3, 3, 3), 16)), 8)
    return m.relu(m.emit("add", [m.constant(8), y]))


@case
def flatten_of_ragged_channels(m: Maker) -> list[Value]:
    x = m.flatten(m.pool(m.conv(m.x(3, 5, 4, 4), 13), "global_avg_pool"))
    y = m.flatten(m.pool(m.conv(m.x(1, 5, 4, 4), 13), "global_max_pool"))
    return [m.emit("softmax", [v], {"axis": 1}) for v in (x, y)]


@case
def weights_at_run_time(m: Maker) -> list[Value]:
    x, weight, bias = m.x(1, 8, 4, 4), m.x(12, 4, 3, 3), m.relu(m.x(12))
    text = "conv2d:1x8x4x4:12x3x3:padding=1:groups=2:bias=true"
    y = m.emit("conv", [x, weight, bias], {"problem": text})
    mixed = m.emit("conv", [x, m.constant(12, 4, 3, 3), bias], {"problem": text})
    z = m.emit("depthwise_conv", [y, m.x(12, 1, 3, 3)],
               {"problem": "depthwise_conv2d:1x12x4x4:12x3x3:stride=2"})  # fmt: skip
    matrix = m.reshape(m.concat(m.relu(m.x(4, 6)), m.x(4, 6)), 4, 12)
    flat = m.flatten(z)
    return [mixed, m.emit("dense", [flat, matrix], {"problem": "dense:1x12:4"})]


@case
def between_blocks_and_back(m: Maker) -> Value:
    x = m.conv(m.x(2, 3, 4, 6), 16, 3)
    x = m.emit("transpose", [x], {"perm": [0, 2, 3, 1]})
    return m.conv(m.reshape(x, 2, 8, 3, 16), 17, 3)


@case
def from_a_halo_into_another(m: Maker) -> Value:
    """A plain value with a halo, reshaped into one with a halo."""
    x = m.emit("transpose", [m.x(1, 4, 6, 3)], {"perm": [0, 3, 2, 1]})
    return m.emit("add", [m.conv(m.reshape(x, 1, 3, 4, 6), 5, 3),
                          m.reshape(m.conv(x, 5, 3), 1, 5, 4, 6)])  # fmt: skip


@case
def from_a_halo_into_blocks(m: Maker) -> list[Value]:
    """A plain value with a halo that is also needed in blocks."""
    x = m.emit("transpose", [m.x(1, 4, 6, 3)], {"perm": [0, 3, 2, 1]})
    return [m.conv(x, 5, 3), m.pool(x, "avg_pool")]


@case
def padded_maxima_of_either_sign(m: Maker) -> Value:
    x = m.conv(m.x(1, 3, 5, 5), 17)
    low = m.pool(m.emit("sub", [x, m.constant()]))
    high = m.pool(m.relu(x), stride=2, ceil_mode=True, padding=[1, 1, 0, 0])
    return m.emit("add", [m.pool(high), m.pool(low, stride=2)])


@case
def groups_that_no_block_divides(m: Maker) -> Value:
    x = m.conv(m.x(2, 12, 5, 5), 21, 3, groups=3, activation="relu")
    problem = "depthwise_conv2d:2x21x5x5:42x3x3:padding=1:stride=2"
    y = m.emit("depthwise_conv", [x, m.constant(42, 1, 3, 3)], {"problem": problem})
    return m.emit("channel_shuffle", [y], {"groups": 6})


@case
def normalisation_with_a_program(m: Maker) -> Value:
    x = m.conv(m.x(1, 3, 4, 4), 24)
    y = m.emit("lrn", [x], {"size": 5, "alpha": 0.1, "beta": 0.75, "bias": 1.0})
    return m.emit("add", [m.emit("sigmoid", [y]), x])


@case
def one_axis(m: Maker) -> Value:
    x = m.conv(m.x(2, 3, 20), 17, 5, stride=2)
    return m.concat(m.pool(x), m.conv(x, 9, 3, dilation=2, padding=[2, 2]))


@case
def three_axes(m: Maker) -> Value:
    x = m.conv(m.x(1, 3, 3, 4, 5), 16, 3)
    return m.pool(m.concat(x, m.relu(m.conv(x, 8, 3))), "avg_pool", stride=2)


@case
def scalars(m: Maker) -> list[Value]:
    x = m.conv(m.x(1, 3, 4, 4), 5)
    mean = m.emit("reduce_mean", [x], {"axes": [0, 1, 2, 3], "keepdims": False})
    return [mean, m.emit("sub", [x, mean]), m.relu(mean)]


@case
def six_axes(m: Maker) -> Value:
    x = m.reshape(m.conv(m.x(1, 3, 4, 6), 8), 1, 2, 4, 2, 2, 6)
    x = m.emit("transpose", [m.relu(x)], {"perm": [0, 3, 2, 5, 1, 4]})
    return m.conv(m.reshape(x, 1, 8, 12, 2), 5)


@case
def reduction_to_one_channel_that_is_padded(m: Maker) -> Value:
    mean = m.emit("reduce_mean", [m.x(3, 16, 3, 7)], {"axes": [1], "keepdims": True})
    return m.conv(mean, 5, 3)


@case
def result_with_a_halo_and_blocks_of_one_row(m: Maker) -> Value:
    x = m.emit("slice", [m.x(2, 40, 3, 16)],
               {"starts": [1], "ends": [4], "axes": [1], "steps": [1]})  # fmt: skip
    attrs = {"lows": [0, 0, 1, 0], "highs": [0, 2, 0, 0], "value": 0.5, "mode": "constant"}
    return m.conv(m.emit("pad", [x], attrs), 16, 3)


@case
def inputs_and_constants_as_outputs(m: Maker) -> list[Value]:
    x = m.x(2, 17)
    return [x, m.relu(x), m.constant(3, 2), m.constant(), m.x(2, 4, 3, 3)]


def build(name: str) -> Graph:
    m = Maker(np.random.default_rng(len(name)))
    made = CASES[name](m)
    outputs = made if isinstance(made, list) else [made]
    for value in {*m.values, *outputs, *m.inputs}:
        value.name = f"{name}:{value.name}"
    return Graph(name, m.inputs, outputs, m.nodes)
