"""Random graphs through all passes, compared with the NumPy references.

Plans are simulated (:mod:`tests.simulate`), which takes milliseconds, and some graphs are compiled
and run. What once was wrong is a case of its own in :mod:`tests.graph_cases`.
"""

from __future__ import annotations

import numpy as np
import pytest

import tvmconv
from tests.graphs import Dice, feeds, random_graph
from tests.simulate import simulate
from tvmconv.graph.evaluate import evaluate
from tvmconv.graph.ir import Graph
from tvmconv.graph.layout import Placed
from tvmconv.graph.pipeline import optimized
from tvmconv.graph.relax import from_relax
from tvmconv.ops import Array


def compare(graph: Graph, results: list[Array], inputs: dict[str, Array]) -> None:
    for got, wanted in zip(results, evaluate(graph, inputs), strict=True):
        assert got.shape == wanted.shape
        np.testing.assert_allclose(got, wanted, 1e-3, 1e-4 * (1 + np.abs(wanted).max()))


@pytest.mark.parametrize("block", [4, 8, 16])
@pytest.mark.parametrize("tens", range(15))
def test_simulated(tens: int, block: int) -> None:
    for seed in range(10 * tens, 10 * tens + 10):
        graph = random_graph(seed, 12)
        inputs = feeds(graph)
        module = optimized(graph, block, Dice(seed))
        compare(graph, simulate(Placed.of(from_relax(module)), inputs), inputs)


@pytest.mark.parametrize("seed", range(8))
def test_compiled(seed: int) -> None:
    graph = random_graph(1000 + seed, 6)
    inputs = feeds(graph)
    module = tvmconv.compile(graph, threads=2)
    for _ in range(2):  # the arena is not what it was the first time
        compare(graph, module(inputs), inputs)
    assert [port.name for port in module.outputs] == [value.name for value in graph.outputs]
