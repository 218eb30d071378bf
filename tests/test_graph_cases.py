"""The graphs of :mod:`tests.graph_cases`: simulated for several block sizes, and compiled."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import tvmconv
from tests.graph_cases import CASES, build
from tests.graphs import feeds
from tests.simulate import simulate
from tvmconv.graph.evaluate import evaluate
from tvmconv.graph.fuse import fuse
from tvmconv.graph.ir import Graph, Value
from tvmconv.graph.layout import place
from tvmconv.ops import Array


def compare(graph: Graph, results: list[Array], inputs: dict[str, Array]) -> None:
    wanted = evaluate(graph, inputs)
    for value, got, right in zip(graph.outputs, results, wanted, strict=True):
        assert got.shape == right.shape, value.name
        atol = 1e-4 * (1 + np.abs(right).max())
        np.testing.assert_allclose(got, right, 1e-3, atol, err_msg=value.name)


@pytest.mark.parametrize("name", CASES)
def test_simulated(name: str) -> None:
    for block in (4, 8, 16):
        graph = build(name)
        inputs = feeds(graph)
        compare(graph, simulate(place(fuse(graph), block), inputs), inputs)


@pytest.mark.slow
def test_compiled(tmp_path: Path) -> None:
    """All of them as one network, which is called twice: the arena is then not what it was."""
    graphs = [build(name) for name in CASES]
    network = Graph(
        "cases",
        [value for graph in graphs for value in graph.inputs],
        [value for graph in graphs for value in graph.outputs],
        [node for graph in graphs for node in graph.nodes],
    )
    module = tvmconv.compile(network, threads=2)
    assert [port.name for port in module.outputs] == [v.name for v in network.outputs]
    module.save(tmp_path / "cases.so")
    for run in (module, module, tvmconv.load(tmp_path / "cases.so", threads=1)):
        inputs = feeds(network)
        compare(network, run(inputs), inputs)


def test_a_network_without_nodes_is_compiled() -> None:
    x = Value("x", (2, 3))
    data = np.arange(4, dtype=np.int64)
    graph = Graph("nothing", [x], [x, Value("c", (4,), "int64", data)], [])
    array = np.random.default_rng(0).standard_normal((2, 3)).astype(np.float32)
    same, constant = tvmconv.compile(graph)(array)
    assert (same == array).all()
    assert (constant == data).all()
    assert constant.dtype == np.int64
