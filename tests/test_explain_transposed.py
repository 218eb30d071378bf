"""Transposed convolutions explained: sizes, phases, checkerboards, and the zeros in the picture."""

from __future__ import annotations

import itertools
from math import gcd
from xml.etree import ElementTree

import numpy as np
import pytest

from tvmconv.explain import explain
from tvmconv.explain.alternatives import alternatives
from tvmconv.explain.axes import TransposedAxis, axes_of
from tvmconv.explain.overlap import even_kernel, is_even, overlap, phase_taps
from tvmconv.explain.problem import ProblemExplanation
from tvmconv.explain.receptive import receptive_fields
from tvmconv.explain.shapes import formula, macs, reads_section, shape_section, useful_flops
from tvmconv.graph.ir import Graph, Node, Value
from tvmconv.problem import Problem

#: (size, kernel, stride, dilation, low, high, output_padding) and the output size.
SIZES = [
    ((28, 4, 2, 1, 1, 1, 0), 56),  # DCGAN's doubling
    ((28, 2, 2, 1, 0, 0, 0), 56),  # U-Net's
    ((28, 3, 2, 1, 1, 1, 1), 56),  # with output_padding
    ((3, 3, 2, 1, 0, 0, 0), 7),
    ((4, 3, 1, 2, 0, 1, 0), 7),
    ((1, 4, 1, 1, 0, 0, 0), 4),  # DCGAN's projection
    ((5, 1, 3, 1, 0, 0, 2), 15),
]


def axis_of(
    size: int, kernel: int, stride: int, dilation: int, low: int, high: int, extra: int
) -> TransposedAxis:
    return TransposedAxis(size, kernel, stride, dilation, low, high, extra=extra)


@pytest.mark.parametrize(("numbers", "outputs"), SIZES)
def test_sizes_and_products(numbers: tuple[int, ...], outputs: int) -> None:
    axis = axis_of(*numbers)
    assert axis.outputs == outputs
    met = [0] * outputs
    for index, tap in itertools.product(range(axis.size), range(axis.taps)):
        place = index * axis.stride - axis.low + tap * axis.dilation
        if 0 <= place < outputs:
            met[place] += 1
            assert tap in axis.taps_inside(place)
            assert axis.index(axis.position(place, tap)) == index
    assert [len(axis.taps_inside(place)) for place in range(outputs)] == met
    assert overlap(axis) == met[:24]
    assert axis.useful_terms == sum(met)


def test_even_overlap() -> None:
    for kernel, stride, dilation in itertools.product(range(1, 9), range(1, 5), range(1, 5)):
        axis = TransposedAxis(40, kernel, stride, dilation)
        counts = phase_taps(axis)
        assert sum(counts) == kernel
        assert len(counts) == stride
        assert is_even(axis) == (len(set(counts)) == 1)
        middle = range(axis.extent, axis.outputs - axis.extent)
        products = {len(axis.taps_inside(output)) for output in middle}
        assert products == set(counts)
        better = even_kernel(axis)
        assert bool(better) == (gcd(stride, dilation) == 1)
        if better:
            assert is_even(TransposedAxis(40, better, stride, dilation))
            assert kernel <= better < kernel + stride


def problem_of(kernel: int = 3, **options: object) -> Problem:
    return Problem.make("conv_transpose", (1, 2, 4, 4), (3, kernel, kernel), **options)


def test_cost_without_zeros() -> None:
    problem = Problem.make("conv_transpose", (1, 64, 28, 28), (32, 4, 4), stride=2, padding=1)
    axes = axes_of(problem)
    assert axes is not None
    assert macs(problem, axes) == 28 * 28 * 64 * 32 * 16
    assert useful_flops(problem, axes) == 2 * 64 * 32 * (28 * 4 - 2) ** 2
    assert [axis.field for axis in axes] == [2, 2]
    (resized, dense) = alternatives(problem, axes)
    assert resized.how == "nearest → conv2d:1x64x56x56:32x3x3:padding=1"
    assert (resized.parameters, dense.macs) == (64 * 32 * 9, 64 * 28**2 * 32 * 56**2)


def test_formula_and_reads() -> None:
    problem = problem_of(stride=2, padding=1, output_padding=1)
    axes = axes_of(problem)
    assert axes is not None
    assert formula(problem, axes[0], "H") == (
        "(H − 1)·s + d·(K − 1) + 1 + output_padding − low − high"
        " = (4 − 1)·2 + 1·(3 − 1) + 1 + 1 − 1 − 1 = 8"
    )
    assert shape_section(problem, axes).lines == ("input 1x2x4x4 → output 1x3x8x8",)
    section = reads_section(problem, axes, (0, 1, 2, 3))
    assert section.rows[2:] == (
        ("H", "2", "1 (tap 1)", "0, 2"),
        ("W", "3", "2 (tap 0), 1 (tap 2)", "1"),
    )
    assert section.rows[1] == ("C", "1", "0, 1", "")


@pytest.mark.parametrize(
    ("options", "advice"),
    [
        ({"stride": 2}, "taps that the stride divides: 4x4 with padding=0,0,1,1"),
        ({"stride": 2, "padding": 1}, "4x4 with padding=1,1,2,2 gives the same shape, 7x7"),
        ({"stride": 2, "padding": 1, "output_padding": 1}, "4x4 with padding=1 gives the same"),
        ({"stride": 3, "output_padding": 2, "kernel": 2}, "3x3 with padding=0,0,1,1, the same"),
        ({"stride": 2, "dilation": 2}, "have a common factor: no kernel can be even"),
    ],
)
def test_checkerboard(options: dict[str, object], advice: str) -> None:
    problem = problem_of(**options)
    text = str(explain(problem, "znver5"))
    assert "overlap (checkerboard)" in text
    assert advice in text
    assert "or resize to " in text
    assert "██" in text
    if "with padding=" in advice:
        words = advice.partition("padding=")[2].split()
        better: dict[str, object] = {"kernel": 4, "padding": words[0], "output_padding": 0}
        if "the" in words[:2]:
            better = {"kernel": 3, "padding": words[0].rstrip(",")}
        same = problem_of(**{**options, **better})
        assert same.output_shape == problem.output_shape
        assert "even: every output away from the edges" in str(explain(same, "znver5"))


def test_numbers_and_matrix() -> None:
    problem = Problem.make("conv_transpose", (1, 1, 2, 2), (1, 2, 2), stride=1)
    arrays = {
        "x": np.arange(4.0).reshape(1, 1, 2, 2),
        "weight": np.arange(4.0).reshape(1, 1, 2, 2),
    }
    found = explain(problem, "znver5", at=(1, 1), arrays=arrays)
    assert isinstance(found, ProblemExplanation)
    assert found.to_json()["y"] == [[[[0, 0, 1], [0, 4, 6], [4, 12, 9]]]]
    text = str(found)
    assert "y[0,0,1,1] = 3·0 + 2·1 + 1·2 + 0·3 = 4" in text
    assert "the transpose of the matrix of the convolution" in text
    assert "  w11 w10 w01 w00\n" in text


def test_picture_has_the_zeros() -> None:
    problem = problem_of(stride=2)
    found = explain(problem, "znver5")
    assert isinstance(found, ProblemExplanation)
    root = ElementTree.fromstring(found.svg())
    kinds = [element.get("class") for element in root.iter()]
    frames = 4
    legend = 1
    # The map of 4×4 inputs is spread to 7×7.
    assert kinds.count("input") == frames * 16 + legend
    assert kinds.count("zero") == frames * (49 - 16) + legend
    assert kinds.count("padding") == frames * (11 * 11 - 49) + legend
    words = " ".join(element.text or "" for element in root.iter())
    assert "the compiler inserts none" in words


@pytest.mark.parametrize("rank", [1, 3])
def test_other_ranks_are_drawn(rank: int) -> None:
    shape, kernel = (1, 2, *(3,) * rank), (2, *(3,) * rank)
    problem = Problem.make("conv_transpose", shape, kernel, stride=2, padding=1)
    found = explain(problem, "znver5")
    assert isinstance(found, ProblemExplanation)
    words = [element.text or "" for element in ElementTree.fromstring(found.svg()).iter()]
    assert any("zero)" in word for word in words) == (rank == 3)
    assert problem.text in words


def test_receptive_fields_after_upsampling() -> None:
    """Against the references: neighbours differ, and the longest field is meant."""
    chain = [
        Problem.make("conv", (1, 1, 64), (1, 3), stride=2, padding=1),
        Problem.make("conv", (1, 1, 32), (1, 2), stride=2),
        Problem.make("conv_transpose", (1, 1, 16), (1, 3), stride=2, padding=1, output_padding=1),
        Problem.make("conv_transpose", (1, 1, 32), (1, 2), stride=2),
        Problem.make("conv", (1, 1, 64), (1, 3), padding=1),
    ]
    source = Value("x", (1, 1, 64))
    values = [source, *(Value(f"v{k}", p.output_shape) for k, p in enumerate(chain))]
    nodes = [
        Node(problem.op, [before], after, {"problem": problem.text})
        for problem, before, after in zip(chain, values, values[1:], strict=False)
    ]
    fields = receptive_fields(Graph("net", [source], [values[-1]], nodes))
    seen = np.eye(64).reshape(64, 1, 64)  # an image for each input that is not 0
    for problem, value in zip(chain, values[1:], strict=True):
        batch = Problem.make(
            problem.op,
            (64, *problem.input_shape[1:]),
            problem.filter_shape,
            **dict(problem.options),
        )
        weight = np.ones(problem.inputs["weight"])
        seen = batch.reference({"x": seen, "weight": weight})
        middle = seen[:, 0, value.shape[2] // 4 : -value.shape[2] // 4]
        spans = [np.ptp(np.nonzero(column)[0]) + 1 for column in middle.T if column.any()]
        assert fields[value].size == (max(spans),)
    jumps = [str(fields[value].jump[0]) for value in values]
    assert jumps == ["1", "2", "4", "2", "1", "1"]
