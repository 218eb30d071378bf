"""Nearest resize and convolution in one: the same sums, for all that it fits and nothing else."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

import tvmconv
from tvmconv import accuracy
from tvmconv.autoschedule.choose import Chooser
from tvmconv.graph.evaluate import evaluate
from tvmconv.graph.ir import Graph, Node, Value
from tvmconv.graph.upsampled import join_upsampled
from tvmconv.kernel import KernelSpec
from tvmconv.ops.resize import COORDINATES, ROUNDINGS
from tvmconv.problem import Problem


@dataclass
class Costs:
    """Prices of the transposed convolution, of others, and of what moves a tensor."""

    phases: float = 0.0
    other: float = 1.0
    moving: float = 1.0
    exact: bool = False

    def forms(self, blocks: KernelSpec, planes: KernelSpec) -> tuple[float, float]:
        price = self.phases if blocks.op == "conv_transpose" else self.other
        return price, 2 * price

    def conversion(self, nbytes: int) -> float:
        return self.moving

    def together(self, one: KernelSpec, two: tuple[KernelSpec, KernelSpec]) -> bool:
        raise NotImplementedError

    def algorithm(self, spec: KernelSpec) -> str:
        return "direct"


def pair(resize: str, conv: str, seed: int = 0, **attrs: Any) -> Graph:
    """A resize and a convolution ``OP:FILTER:OPTIONS`` of its result, by small integers."""
    rng = np.random.default_rng(seed)
    first = Problem.parse(resize)
    op, *rest = conv.split(":")
    shape = "x".join(map(str, first.output_shape))
    second = Problem.parse(":".join((op, shape, *rest)))
    arrays = {
        name: rng.integers(-4, 5, size).astype(first.dtype) for name, size in second.inputs.items()
    }
    constants = [Value(name, a.shape, first.dtype, a) for name, a in arrays.items() if name != "x"]
    x = Value("x", first.input_shape, first.dtype)
    wide = Value("wide", first.output_shape, first.dtype)
    y = Value("y", second.output_shape, first.dtype)
    nodes = [
        Node(first.op, [x], wide, {"problem": first.text}, "resize"),
        Node(second.op, [wide, *constants], y, {"problem": second.text, **attrs}, "conv"),
    ]
    return Graph("pair", [x], [y], nodes)


def image(graph: Graph) -> np.ndarray[Any, Any]:
    x = graph.inputs[0]
    return np.random.default_rng(1).integers(-4, 5, x.shape).astype(x.dtype)


def joined(graph: Graph, costs: Costs | None = None) -> Graph:
    """The graph after the pass, which computes the same."""
    found = join_upsampled(graph, 16, costs or Costs())
    for got, wanted in zip(*(evaluate(g, [image(graph)]) for g in (found, graph)), strict=True):
        np.testing.assert_array_equal(got, wanted)
    return found


@pytest.mark.parametrize(
    ("resize", "conv", "text"),
    [
        ("resize2d:1x8x5x4:10x8:coordinates=asymmetric:nearest=floor", "conv2d:12x3x3:padding=1",
         "conv2d_transpose:1x8x5x4:12x4x4:stride=2:padding=1"),
        ("resize2d:1x8x5x4:10x8", "conv2d:8x3x3:padding=0,1,2,0:groups=4:bias=true",
         "conv2d_transpose:1x8x5x4:8x4x4:stride=2:padding=2,1,0,2:groups=4:bias=true"),
        ("resize2d:2x6x4x5:12x5", "depthwise_conv2d:12x5x2:activation=relu",
         "conv2d_transpose:2x6x4x5:12x7x2:stride=3,1:padding=4,1:groups=6:activation=relu"),
        ("resize2d:1x3x4x4:8x8", "conv2d:5x1x1:flipped=true",
         "conv2d_transpose:1x3x4x4:5x2x2:stride=2"),
        ("resize1d:1x4x9:36", "conv1d:6x6:padding=5,2:flipped=true",
         "conv1d_transpose:1x4x9:6x9:stride=4:padding=0,3"),
        ("resize3d:1x2x3x2x3:3x4x6", "conv3d:3x3x3x3:padding=1",
         "conv3d_transpose:1x2x3x2x3:3x3x4x4:stride=1,2,2:padding=1"),
    ],
)  # fmt: skip
def test_the_same_sums(resize: str, conv: str, text: str) -> None:
    (node,) = joined(pair(resize, conv)).nodes
    assert node.attrs["problem"] == text


def test_every_map_that_repeats_elements_is_taken_and_no_other() -> None:
    taken = set()
    for kind, rounding, count in itertools.product(COORDINATES, ROUNDINGS, (5, 9, 10, 15)):
        text = f"resize1d:1x2x5:{count}:coordinates={kind}:nearest={rounding}"
        text += ":roi=0,1" if kind == "tf_crop_and_resize" else ""
        problem = Problem.parse(text)
        numbers = np.arange(5.0).reshape(1, 1, 5).repeat(2, 1)
        repeats = (problem.reference({"x": numbers})[0, 0] == np.arange(count) * 5 // count).all()
        fits = repeats and count in (10, 15)
        graph = joined(pair(text, "conv1d:3x3:padding=1"))
        assert (len(graph.nodes) == 1) == fits, text
        taken |= {(kind, rounding)} if fits else set()
    assert ("half_pixel", "round_prefer_floor") in taken
    assert ("asymmetric", "floor") in taken
    assert ("half_pixel", "ceil") not in taken


@pytest.mark.parametrize(
    ("resize", "conv"),
    [
        ("resize2d:1x8x5x4:10x8:mode=linear", "conv2d:12x3x3:padding=1"),
        ("resize2d:1x8x5x4:10x8", "conv2d:12x3x3:stride=2"),
        ("resize2d:1x8x5x4:10x8", "conv2d:12x3x3:dilation=2"),
        ("resize2d:1x8x5x4:10x8", "conv2d:12x3x3:padding=3"),
        ("resize2d:1x8x5x4:10x8", "conv2d:12x3x3:padding=1:padding_mode=edge"),
        ("resize2d:1x8x5x4:10x8", "conv2d:12x3x3:algorithm=direct"),
        ("resize2d:1x8x5x4:10x8:dtype=float16", "conv2d:12x3x3:dtype=float16"),
    ],
)
def test_others_are_left_alone(resize: str, conv: str) -> None:
    assert len(joined(pair(resize, conv)).nodes) == 2


def test_left_alone_where_more_is_seen_or_done() -> None:
    def graph(**attrs: Any) -> Graph:
        return pair("resize2d:1x8x5x4:10x8", "conv2d:12x3x3:padding=1", **attrs)

    assert len(joined(graph(program=[{"op": "relu"}])).nodes) == 1
    assert len(joined(graph(), Costs(exact=True)).nodes) == 2
    assert len(joined(graph(), Costs(phases=2.0, moving=1.1)).nodes) == 1
    assert len(joined(graph(), Costs(phases=2.0, moving=0.9)).nodes) == 2
    bent, seen, unknown = graph(), graph(), graph()
    bent.nodes[0].attrs["program"] = [{"op": "relu"}]
    seen.outputs.append(seen.nodes[0].output)
    unknown.nodes[1].inputs[1].data = None
    for case in (bent, seen, unknown):
        assert len(join_upsampled(case, 16, Costs()).nodes) == 2


@pytest.mark.parametrize(
    ("resize", "conv"),
    [
        ("resize2d:1x24x9x7:18x14", "conv2d:20x5x5:padding=2:bias=true"),
        ("resize3d:1x8x3x4x4:6x8x8", "conv3d:17x3x3x3:padding=1"),
    ],
)
def test_compiled(resize: str, conv: str) -> None:
    """Held to the formula of the convolution of the enlarged map; exact if asked for."""
    graph = pair(resize, conv)
    problem = Problem.parse(graph.nodes[1].attrs["problem"])
    arrays = accuracy.random_inputs(problem, 0)
    for value in graph.nodes[1].inputs[1:]:
        value.data = arrays[value.name]
    x = accuracy.random_inputs(Problem.parse(resize), 1)["x"]
    arrays["x"] = Problem.parse(resize).reference({"x": x}).astype(np.float32)
    module = tvmconv.compile(graph, tuned=False)
    assert [s["kind"] for s in module.metadata["steps"] if "macs" in s] == ["conv_transpose"]
    magnitude = problem.magnitude(arrays)
    report = accuracy.check(problem, module(x)[0], problem.reference(arrays), magnitude)
    assert report.passed, report.message


def test_exact_forbids_it() -> None:
    graph = pair("resize2d:1x24x9x7:18x14", "conv2d:20x5x5:padding=2")
    module = tvmconv.compile(graph, tuned=False, exact=True)
    assert "conv_transpose" not in [step.get("kind") for step in module.metadata["steps"]]
    assert Chooser.of(tvmconv.target.load_target("h100")).exact
