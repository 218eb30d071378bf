"""What fusion does to the graph; that results stay right is tested with random graphs."""

from __future__ import annotations

import numpy as np
import pytest

from tests.graph_cases import Maker, build
from tvmconv.frontend import load
from tvmconv.graph.fuse import as_programs, dense_on_maps, fuse, remove_dead, sink_reshapes
from tvmconv.graph.ir import Graph, Value
from tvmconv.models import light_path


def ops_of(graph: Graph) -> list[str]:
    return [node.op for node in graph.nodes]


def programs(graph: Graph) -> list[list[str]]:
    """The steps of every node that has some."""
    found = (node.attrs.get("program", []) for node in graph.nodes)
    return [[step["op"] for step in program] for program in found if program]


@pytest.fixture
def m() -> Maker:
    return Maker(np.random.default_rng(0))


def graph(m: Maker, *outputs: Value) -> Graph:
    return Graph("g", m.inputs, list(outputs), m.nodes)


def test_a_residual_unit_is_two_kernels_behind_the_first() -> None:
    fused = fuse(build("residual"))
    assert ops_of(fused) == ["conv", "conv", "conv"]
    assert programs(fused) == [["relu"], ["add", "relu"]]
    assert fused.nodes[2].inputs[-1] is fused.nodes[0].output


def test_the_later_of_two_convolutions_takes_their_sum() -> None:
    fused = fuse(build("shortcut_computed_after_the_main_path"))
    assert ops_of(fused) == ["conv"] * 3
    assert programs(fused) == [["relu"], ["add", "relu"]]
    assert fused.nodes[2].inputs[-1] is fused.nodes[1].output


def test_what_two_nodes_read_is_not_fused() -> None:
    assert ops_of(fuse(build("one_convolution_for_two_programs"))) == [
        "conv", "elementwise", "elementwise",
    ]  # fmt: skip


def test_what_is_an_output_is_not_fused_away() -> None:
    fused = fuse(build("output_that_is_also_read"))
    assert ops_of(fused) == ["conv", "elementwise", "conv"]


def test_a_value_squared_is_an_operand_of_itself() -> None:
    fused = fuse(build("twice_itself"))
    assert ops_of(fused) == ["conv", "elementwise", "elementwise"]
    for node in fused.nodes[1:]:
        assert node.inputs[0] is node.inputs[1]


def test_numbers_are_part_of_the_program(m: Maker) -> None:
    x = m.conv(m.x(1, 3, 2, 2), 4)
    fused = fuse(graph(m, m.emit("div", [m.constant(1, 1), x])))
    (step,) = fused.nodes[0].attrs["program"]
    assert step["op"] == "div"
    assert step["reverse"]
    assert isinstance(step["scalar"], float)
    assert len(fused.nodes[0].inputs) == 2


def test_operands_of_a_chain_are_numbered_in_order(m: Maker) -> None:
    x = m.conv(m.x(1, 3, 2, 2), 4)
    y = m.emit("scale_shift", [x, m.constant(4), m.constant(4)])
    y = m.emit("sub", [m.constant(4, 1, 1), m.relu(y)])
    (node,) = fuse(graph(m, y)).nodes
    assert [s.get("operand") for s in node.attrs["program"]] == [0, 1, None, 2]
    assert [v.shape for v in node.inputs[2:]] == [(1, 4, 1, 1)] * 3


def test_a_computed_operand_of_lower_rank_is_reshaped(m: Maker) -> None:
    x, row = m.x(1, 3, 2, 5), m.x(5)
    nodes = as_programs(graph(m, m.emit("add", [row, x]))).nodes
    assert [(n.op, n.output.shape) for n in nodes] == [
        ("reshape", (1, 1, 1, 5)), ("elementwise", (1, 3, 2, 5)),
    ]  # fmt: skip
    assert nodes[1].inputs[0] is x


def test_broadcast_in_both_directions_stays_a_node_of_its_own(m: Maker) -> None:
    y = m.emit("add", [m.x(1, 6, 1, 5), m.x(2, 1, 4, 1)])
    assert ops_of(fuse(graph(m, y))) == ["add"]


def test_a_dense_layer_on_a_map_is_a_convolution(m: Maker) -> None:
    flat = m.flatten(m.x(2, 3, 4, 5))
    fused = dense_on_maps(graph(m, m.dense(flat, 7)))
    conv, reshape = fused.nodes
    assert conv.attrs["problem"] == "conv2d:2x3x4x5:7x4x5:bias=true"
    assert reshape.attrs == {"shape": [2, 7]}
    weight, dense_weight = conv.inputs[1].data, m.nodes[1].inputs[1].data
    assert weight is not None
    assert np.shares_memory(weight, dense_weight)


def test_a_flatten_that_others_read_stays(m: Maker) -> None:
    flat = m.flatten(m.x(2, 3, 4, 5))
    assert "reshape" in ops_of(dense_on_maps(graph(m, m.dense(flat, 7), flat)))[:1]


def test_other_reshapes_before_a_dense_layer_stay(m: Maker) -> None:
    mixed = m.reshape(m.x(2, 3, 4, 5), 4, 30)
    assert ops_of(dense_on_maps(graph(m, m.dense(mixed, 7)))) == ["reshape", "dense"]


def test_activations_behind_a_dense_layer_on_a_map_are_fused(m: Maker) -> None:
    y = m.relu(m.dense(m.flatten(m.conv(m.x(1, 3, 4, 4), 8)), 16))
    y = m.relu(m.emit("add", [m.constant(16), y]))
    fused = fuse(graph(m, y))
    assert ops_of(fused) == ["conv", "conv", "reshape"]
    assert programs(fused) == [["relu", "add", "relu"]]


def test_a_reshape_sinks_only_where_no_operand_minds(m: Maker) -> None:
    x = m.reshape(m.x(2, 3, 4), 2, 12)
    unary = sink_reshapes(as_programs(graph(m, m.relu(x))))
    assert ops_of(unary) == ["elementwise", "reshape"]
    m.nodes.pop()
    with_operand = sink_reshapes(as_programs(graph(m, m.emit("add", [x, m.constant(12)]))))
    assert ops_of(with_operand) == ["reshape", "elementwise"]


def test_dead_nodes_go(m: Maker) -> None:
    x = m.x(1, 3, 2, 2)
    y = m.relu(x)
    m.relu(m.relu(y))
    assert remove_dead(graph(m, y)).nodes == m.nodes[:1]


@pytest.mark.parametrize(
    ("name", "left"),
    [("light_resnet50", {}), ("light_squeezenet", {}), ("light_vgg19", {}),
     ("light_densenet121", {"elementwise": 62})],
)  # fmt: skip
def test_elementwise_nodes_left_in_real_networks(name: str, left: dict[str, int]) -> None:
    """DenseNet normalises concatenations: 58 layers, 3 transitions and the end."""
    ops = ops_of(fuse(load(light_path(name))))
    assert {op: ops.count(op) for op in ("elementwise", "relu", "add") if op in ops} == left
