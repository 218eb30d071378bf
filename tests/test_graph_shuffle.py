"""Channel shuffles become part of the convolution that reads them."""

import numpy as np
import pytest

import tvmconv
from tvmconv.graph.evaluate import evaluate
from tvmconv.graph.ir import Graph, Node, Value
from tvmconv.graph.shuffle import fold_shuffles


def unit(groups: int, channels: int, between: str) -> Graph:
    """Shuffle, what is between, grouped 1×1 convolution."""
    rng = np.random.default_rng(0)
    shape = (2, channels, 5, 6)
    size = "x".join(map(str, shape))

    def constant(name: str, *extents: int) -> Value:
        return Value(name, extents, data=rng.standard_normal(extents).astype(np.float32))

    x, shuffled = Value("x", shape), Value("shuffled", shape)
    nodes = [Node("channel_shuffle", [x], shuffled, {"groups": groups}, "shuffle")]
    value = shuffled
    if between in ("depthwise", "both"):
        problem = f"depthwise_conv2d:{size}:{channels}x3x3:padding=1:bias=true"
        out = Value("depthwise", shape)
        weights = [constant("w", channels, 1, 3, 3), constant("b", channels)]
        nodes.append(Node("depthwise_conv", [value, *weights], out, {"problem": problem}, "dw"))
        value = out
    if between in ("relu", "both"):
        out = Value("relu", shape)
        nodes.append(Node("relu", [value], out, {}, "relu"))
        value = out
    y = Value("y", (2, 24, 5, 6))
    problem = f"conv2d:{size}:24x1x1:groups={groups}"
    weight = constant("v", 24, channels // groups, 1, 1)
    nodes.append(Node("conv", [value, weight], y, {"problem": problem}, "conv"))
    return Graph("unit", [x], [y], nodes)


@pytest.mark.parametrize("between", ["nothing", "relu", "depthwise", "both"])
def test_folded(between: str) -> None:
    graph = unit(4, 40, between)
    folded = fold_shuffles(graph)
    assert [n.op for n in folded.nodes] == [n.op for n in graph.nodes[1:]]
    assert folded.nodes[-1].attrs["shuffled"] == 4


@pytest.mark.parametrize(("groups", "channels"), [(2, 16), (3, 24), (8, 136)])
def test_compiled(groups: int, channels: int) -> None:
    graph = unit(groups, channels, "both")
    x = np.random.default_rng(1).standard_normal(graph.inputs[0].shape).astype(np.float32)
    (got,) = tvmconv.compile(graph)(x)
    np.testing.assert_allclose(got, evaluate(graph, [x])[0], rtol=1e-4, atol=1e-4)


def test_kept_where_the_shuffled_value_is_an_output_or_is_read_twice() -> None:
    graph = unit(2, 16, "nothing")
    shuffled = graph.nodes[0].output
    seen = Graph("seen", graph.inputs, [*graph.outputs, shuffled], graph.nodes)
    assert fold_shuffles(seen).nodes == graph.nodes
    twice = Node("relu", [shuffled], Value("r", shuffled.shape), {}, "r")
    nodes = [*graph.nodes, twice]
    outputs = [*graph.outputs, twice.output]
    assert fold_shuffles(Graph("twice", graph.inputs, outputs, nodes)).nodes == nodes


def test_the_folded_graph_means_the_same() -> None:
    graph = unit(4, 40, "both")
    x = np.random.default_rng(1).standard_normal(graph.inputs[0].shape).astype(np.float32)
    np.testing.assert_array_equal(evaluate(fold_shuffles(graph), [x])[0], evaluate(graph, [x])[0])
