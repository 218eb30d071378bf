"""Which nodes work on planes: the least of all choices, and the same results either way."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
import pytest

from tests.graph_cases import CASES, Maker, build
from tests.graphs import Dice, feeds, random_graph
from tests.simulate import simulate
from tvmconv.graph.evaluate import evaluate
from tvmconv.graph.forms import BOTH, on_planes, over_pixels
from tvmconv.graph.fuse import fuse
from tvmconv.graph.ir import Graph, Value
from tvmconv.graph.layout import place
from tvmconv.kernel import KernelSpec

BLOCK = 16


@dataclass
class Always:
    """One form is free, the other is not."""

    planes: bool

    def forms(self, blocks: KernelSpec, planes: KernelSpec) -> tuple[float, float]:
        return (1.0, 0.0) if self.planes else (0.0, 1.0)

    def conversion(self, nbytes: int) -> float:
        return 1e-9


def cost(graph: Graph, planes: frozenset[Value], clock: Dice) -> float:
    """What a choice costs, by the definition; infinite if an operator has no such kernel."""
    from tvmconv.graph import forms

    total = 0.0
    makers = graph.producers()
    for node in graph.nodes:
        total += forms.seconds(node, graph, BLOCK, clock)[node.output in planes]
        for value in forms._read(node):
            if (value in planes or value not in makers) != (node.output in planes):
                total += forms._move(value, clock)
    given = (v for v in graph.outputs if v in makers and v not in planes)
    return total + sum(forms._move(v, clock) for v in given)


@pytest.mark.parametrize("seed", range(20))
def test_no_choice_is_cheaper(seed: int) -> None:
    graph = fuse(random_graph(seed, size=8))
    clock = Dice(seed, conversions=(0.1, 1.0, 3.0)[seed % 3])
    free = [node.output for node in graph.nodes][:12]
    found = on_planes(graph, BLOCK, clock)
    rest = found - set(free)
    least = min(
        cost(graph, rest | {v for v, on in zip(free, choice, strict=True) if on}, clock)
        for choice in itertools.product((False, True), repeat=len(free))
    )
    # On blocks throughout is a choice too if nothing can be on planes.
    if any(node.op in BOTH for node in graph.nodes):
        assert cost(graph, found, clock) <= least * (1 + 1e-6) + 1e-7 * len(graph.nodes)
    else:
        assert not found


@pytest.mark.parametrize("name", CASES)
def test_cases_compute_the_same_on_planes(name: str) -> None:
    graph = build(name)
    inputs = feeds(graph)
    expected = evaluate(graph, inputs)
    placed = place(fuse(graph), BLOCK, Always(planes=True))
    for got, wanted in zip(simulate(placed, inputs), expected, strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-4)


def test_what_is_faster_decides() -> None:
    m = Maker(np.random.default_rng(0))
    x = m.x(1, 32, 8, 8)
    graph = fuse(Graph("g", m.inputs, [m.conv(m.pool(m.conv(x, 32)), 32)], m.nodes))
    assert len(on_planes(graph, BLOCK, Always(planes=True))) == 3
    assert not on_planes(graph, BLOCK, Always(planes=False))


def test_a_pointwise_convolution_runs_over_pixels() -> None:
    text = "conv2d:2x8x5x7:12x1x1:groups=4:bias=true:activation=relu"
    flat = over_pixels("conv", text, [(2, 12, 5, 7), (1, 12, 1, 1)])
    assert flat is not None
    assert flat.text == "conv1d:2x8x35:12x1:groups=4:bias=true:activation=relu"
    assert over_pixels("conv", text, [(2, 12, 1, 7)]) is None
    for other in ("3x3", "1x1:stride=2", "1x1:padding=1"):
        assert over_pixels("conv", f"conv2d:2x8x5x7:12x{other}", []) is None
    assert over_pixels("conv", flat.text, []) is None
