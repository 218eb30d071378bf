"""Weights of low rank: what is split, how exactly, and that nothing else is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import tvmconv
from tests.graph_cases import Maker
from tvmconv import accuracy
from tvmconv.frontend import load
from tvmconv.graph.evaluate import evaluate
from tvmconv.graph.ir import Graph
from tvmconv.graph.low_rank import split_low_rank
from tvmconv.problem import Problem

Array = npt.NDArray[Any]

SOBEL = np.array([[1, 0, -1], [2, 0, -2], [1, 0, -1]])
GAUSS = np.outer([1, 4, 6, 4, 1], [1, 4, 6, 4, 1]) / 256
SMOOTH = np.outer(np.exp(-(np.arange(-3, 4) ** 2) / 2), np.exp(-(np.arange(-3, 4) ** 2) / 3))
LAPLACE = np.array([[0, 1, 0], [1, -4, 1], [0, 1, 0]])


def split(text: str, weight: Array, **others: Array) -> Graph:
    weight = weight.reshape(Problem.parse(text).inputs["weight"])
    params = {"weight": weight, **others}
    return split_low_rank(load(text, params={k: v.astype(np.float32) for k, v in params.items()}))


def problems(graph: Graph) -> list[str]:
    return [node.attrs["problem"] for node in graph.nodes]


def same(text: str, graph: Graph, weight: Array, **others: Array) -> bool:
    """Whether the parts compute what the problem does, on integers."""
    problem = Problem.parse(text)
    x = accuracy.integer_inputs(problem, 1)["x"]
    shaped = weight.astype(np.float32).reshape(problem.inputs["weight"])
    expected = problem.reference({"x": x, "weight": shaped, **others})
    (got,) = evaluate(graph, [x])
    return bool(np.array_equal(got, expected))


@pytest.mark.parametrize("kernel", [SOBEL, SOBEL.T, GAUSS, np.ones((4, 3)) / 8, -SOBEL])
def test_filters_of_images_are_split_exactly(kernel: Array) -> None:
    rows, columns = kernel.shape
    text = f"depthwise_conv2d:2x3x9x8:6x{rows}x{columns}:stride=2,1:padding=1,2,0,1:bias=true"
    weight, bias = np.tile(kernel, (6, 1, 1)), np.arange(6, dtype=np.float32)
    graph = split(text, weight, bias=bias)
    first = f"depthwise_conv2d:2x3x9x8:6x{rows}x1:stride=2,1:padding=1,0,0,0"
    assert problems(graph)[0] == Problem.parse(first).text
    assert Problem.parse(problems(graph)[1]).kernel == (1, columns)
    assert same(text, graph, weight, bias=bias)


def test_each_channel_may_have_another_filter() -> None:
    rng = np.random.default_rng(0)
    columns, rows = rng.standard_normal((2, 8, 5))
    weight = (columns[:, :, None] * rows[:, None, :]).astype(np.float32)
    text = "depthwise_conv2d:1x8x9x9:8x5x5:padding=2"
    graph = split(text, weight)
    assert len(graph.nodes) == 2
    product = _product(graph)
    bound = 4 * 2.0**-24 * np.abs(weight).max(axis=(1, 2), keepdims=True)
    assert (np.abs(product[:, 0] - weight) <= bound).all()
    weight[3, 2, 2] *= 1 + 2.0**-18
    assert len(split(text, weight).nodes) == 1


def _product(graph: Graph) -> Array:
    """The weight that a column and a row stand for."""
    first, second = (np.asarray(node.inputs[1].data, np.float64) for node in graph.nodes)
    return first * second


@pytest.mark.parametrize("kernel", [LAPLACE, np.zeros((1, 5)) + 1, np.ones((3, 1))])
def test_others_are_left_alone(kernel: Array) -> None:
    text = "depthwise_conv2d:1x2x9x8:2x{}x{}".format(*kernel.shape)
    assert len(split(text, np.tile(kernel, (2, 1, 1))).nodes) == 1


def test_a_split_that_would_multiply_more_is_not_made() -> None:
    text = "depthwise_conv2d:1x2x40x40:2x2x2:stride=1,8"  # 40 columns, of which 8 are wanted
    assert len(split(text, np.ones((2, 2, 2))).nodes) == 1


def test_three_axes_are_split_twice() -> None:
    weight = np.tile(np.einsum("i,j,k->ijk", [1, 2, 1], [1, 0, -1], [1, 3, 1]), (4, 1, 1, 1))
    text = "depthwise_conv3d:1x4x6x6x6:4x3x3x3:padding=1:dilation=1,2,1"
    graph = split(text, weight)
    kernels = [Problem.parse(p).kernel for p in problems(graph)]
    assert kernels == [(3, 1, 1), (1, 3, 1), (1, 1, 3)]
    assert same(text, graph, weight)


def test_true_convolutions_stay_what_they_are() -> None:
    text = "depthwise_conv2d:1x2x9x8:2x3x3:flipped=true"
    weight = np.tile(np.outer([1, 2, 4], [1, 3, 9]), (2, 1, 1))
    graph = split(text, weight)
    assert len(graph.nodes) == 2
    assert same(text, graph, weight)


@pytest.mark.parametrize(
    ("text", "shapes", "kernels"),
    [
        ("conv2d:1x16x9x8:24x3x5:padding=1,2", ((4, 16, 3, 1), (24, 4, 1, 5)), [(3, 1), (1, 5)]),
        ("conv2d:1x32x7x7:32x1x1", ((5, 32, 1, 1), (32, 5, 1, 1)), [(1, 1), (1, 1)]),
        ("conv1d:1x32x20:40x9:stride=2", ((6, 32, 9), (40, 6, 1)), [(9,), (1,)]),
    ],
)
def test_weights_of_low_rank_are_split(
    text: str, shapes: tuple[tuple[int, ...], ...], kernels: list[tuple[int, ...]]
) -> None:
    rng = np.random.default_rng(1)
    a, b = (rng.standard_normal(shape) for shape in shapes)
    rank = a.shape[0]
    weight = sum(
        b[:, r, None] * a[r][None] for r in range(rank)
    ).astype(np.float32)  # fmt: skip
    problem = Problem.parse(text)
    graph = split(text, weight)
    found = [Problem.parse(p) for p in problems(graph)]
    assert [p.kernel for p in found] == kernels
    assert found[0].co == rank
    assert sum(p.macs for p in found) < problem.macs
    x = rng.standard_normal(problem.input_shape).astype(np.float32)
    expected = problem.reference({"x": x, "weight": weight})
    size = problem.magnitude({"x": x, "weight": np.full_like(weight, np.abs(weight).max())})
    (got,) = evaluate(graph, [x])
    assert (np.abs(got - expected) <= 4 * 2.0**-24 * np.sqrt(rank) * size).all()
    noisy = weight * (1 + 2.0**-15 * rng.standard_normal(weight.shape).astype(np.float32))
    assert len(split(text, noisy).nodes) == 1


def test_off_unless_asked_for(tmp_path: Path) -> None:
    text = "depthwise_conv2d:1x16x12x12:16x5x5:padding=2:bias=true:activation=relu"
    problem = Problem.parse(text)
    arrays = accuracy.integer_inputs(problem, 1)
    arrays["weight"] = np.tile(GAUSS * 256, (16, 1, 1, 1)).astype(np.float32)
    weights = {name: arrays[name] for name in ("weight", "bias")}
    expected = problem.reference(arrays)
    for asked, count in ((True, 2), (False, 1)):
        module = tvmconv.compile(text, params=weights, split_separable=asked)
        kinds = [step.get("kind") for step in module.metadata["steps"]]
        assert kinds.count("depthwise_conv") == count
        assert np.array_equal(module(arrays["x"])[0], expected)


def test_the_command(tvmconv: Any, tmp_path: Path) -> None:
    text, file = "depthwise_conv2d:1x16x12x12:16x5x5", tmp_path / "blur.so"
    np.savez(tmp_path / "w.npz", weight=np.tile(GAUSS, (16, 1, 1, 1)).astype(np.float32))
    arguments = ["compile", text, "--params", str(tmp_path / "w.npz"), "-o", str(file)]
    assert tvmconv(*arguments, "--split-separable").code == 0
    shown = tvmconv("inspect", str(file), "--json").out
    assert shown.count("depthwise_conv2d:1x16x") >= 2


def test_graphs_keep_what_is_around() -> None:
    m = Maker(np.random.default_rng(0))
    x = m.x(1, 4, 8, 8)
    problem = Problem.make("depthwise_conv", x.shape, (4, 3, 3), padding=1)
    weight = m.constant(4, 1, 3, 3)
    weight.data = np.tile(SOBEL, (4, 1, 1, 1)).astype(np.float32)
    y = m.relu(m.emit("depthwise_conv", [m.relu(x), weight], {"problem": problem.text}))
    graph = Graph("g", m.inputs, [y], m.nodes)
    parts = split_low_rank(graph)
    assert [n.op for n in parts.nodes] == ["relu", "depthwise_conv", "depthwise_conv", "relu"]
    data = np.random.default_rng(1).integers(-9, 9, x.shape)
    assert np.array_equal(evaluate(parts, [data])[0], evaluate(graph, [data])[0])


@pytest.mark.parametrize("mode", ["reflect", "edge", "wrap"])
@pytest.mark.parametrize(
    "text", ["conv2d:2x4x9x8:8x3x3:padding=1:bias=true", "depthwise_conv2d:2x4x9x8:4x3x3:padding=1"]
)
def test_borders_stay(text: str, mode: str) -> None:
    """The parts pad with zeros: what a mode puts there is put there before them."""
    text += f":padding_mode={mode}"
    problem = Problem.parse(text)
    weight = np.broadcast_to(SOBEL, problem.inputs["weight"])
    others = {"bias": np.arange(8, dtype=np.float32)} if problem.bias else {}
    graph = split(text, weight, **others)
    first, *parts = graph.nodes
    assert first.op == "pad"
    assert len(parts) > 1
    assert {node.op for node in parts} == {problem.op}
    x = accuracy.integer_inputs(problem, 1)["x"]
    (got,) = evaluate(graph, [x])
    np.testing.assert_allclose(got, problem.reference({"x": x, "weight": weight, **others}),
                               rtol=1e-5, atol=1e-4)  # fmt: skip


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("text", ["conv2d:1x4x9x8:8x3x3", "depthwise_conv2d:1x4x9x8:4x3x3"])
def test_weights_that_are_no_numbers_stay(text: str, bad: float) -> None:
    weight = np.ones(Problem.parse(text).inputs["weight"])
    weight[0, 0, 1, 1] = bad
    assert problems(split(text, weight)) == [Problem.parse(text).text]
