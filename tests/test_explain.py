"""Explanations of problems: textbook arithmetic, what reads what, costs, and the command's text."""

from __future__ import annotations

import itertools
import json
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tvmconv
from tests.strategies import random_problem
from tvmconv.errors import InputError
from tvmconv.explain import explain, matrix, roofline
from tvmconv.explain.alternatives import alternatives
from tvmconv.explain.axes import Axis, TransposedAxis, axes_of, input_channels, pairs_below
from tvmconv.explain.problem import ProblemExplanation
from tvmconv.explain.text import digits, duration, scaled, times
from tvmconv.ops import Array
from tvmconv.problem import Problem
from tvmconv.target import targets

TARGET = "znver5"


def explained(text: str, **options: Any) -> ProblemExplanation:
    found = explain(text, TARGET, **options)
    assert isinstance(found, ProblemExplanation)
    return found


def filled(problem: str, *numbers: Any) -> dict[str, Array]:
    """Arrays of a problem from nested lists."""
    inputs = Problem.parse(problem).inputs
    pairs = zip(inputs.items(), numbers, strict=True)
    return {name: np.asarray(a, np.float32).reshape(shape) for (name, shape), a in pairs}


# --- textbook cases


def test_3x3_by_2x2() -> None:
    problem = "conv2d:1x1x3x3:1x2x2"
    found = explained(problem, arrays=filled(problem, range(9), range(4)), at=(0, 0))
    assert found.to_json()["y"] == [[[[19.0, 25.0], [37.0, 43.0]]]]
    assert "y[0,0,0,0] = 0·0 + 1·1 + 3·2 + 4·3 = 19" in str(found)


#: A 4×5 image of which the first value is 66 by cross-correlation, the usual convolution of
#: networks, and 66 by true convolution, with the kernel flipped, too.
IMAGE = [[9, 2, 5, 8, 1], [1, 4, 7, 0, 3], [3, 6, 9, 2, 5], [5, 8, 1, 4, 7]]
KERNEL = np.array([[1, 1, 1], [2, 1, 2], [3, 2, 1]])


@pytest.mark.parametrize("kernel", [KERNEL, KERNEL[::-1, ::-1]], ids=["correlation", "flipped"])
def test_4x5_by_3x3(kernel: Any) -> None:
    problem = "conv2d:1x1x4x5:1x3x3"
    found = explained(problem, arrays=filled(problem, IMAGE, kernel), at=(0, 0))
    first = sum(IMAGE[i][j] * kernel[i, j] for i in range(3) for j in range(3))
    y = found.to_json()["y"][0][0]
    assert first == y[0][0] == 66.0
    assert np.shape(y) == (2, 3)
    assert str(found).count("= 66\n") == 1


def test_true_convolution_reads_the_last_tap_first() -> None:
    """The textbook's: 1 2 3 4 by 1 10 100 is 1 2+10 ... with the kernel turned around."""
    problem = "conv1d:1x1x4:1x3:flipped=true"
    found = explained(problem, arrays=filled(problem, [1, 2, 3, 4], [1, 10, 100]), at=(0,))
    assert found.to_json()["y"] == [[[123.0, 234.0]]]
    text = str(found)
    assert "y[0,0,0] = 3·1 + 2·10 + 1·100 = 123" in text
    assert "o·s − low + (K − 1 − k)·d" in text
    assert "  w2 w1 w0  ·\n   · w2 w1 w0" in text
    assert "taps in the opposite order" in found.svg()


def test_an_image_to_a_dense_layer_and_to_a_convolution() -> None:
    found = explained("dense:1x49152:1000:bias=true")
    assert found.problem.parameters == 49_152_000 + 1000
    (convolution,) = alternatives(found.problem, found.axes)
    assert convolution.how == "conv2d:1x3x128x128:1000x3x3:padding=1:bias=true"
    assert convolution.parameters == 3 * 9 * 1000 + 1000
    whole = explained("conv2d:1x3x128x128:1000x128x128:bias=true")
    dense = alternatives(whole.problem, whole.axes)[-1]
    assert dense.parameters == whole.problem.parameters == 49_153_000


def test_sums_with_bias_and_activation() -> None:
    problem = "conv1d:1x1x3:1x2:bias=true:activation=relu"
    arrays = filled(problem, [1, 2, 3], [-1, -2], [4])
    assert "y[0,0,1] = relu(2·(-1) + 3·(-2) + 4) = 0" in str(explained(problem, arrays=arrays))


@pytest.mark.parametrize(
    ("problem", "line"),
    [
        ("max_pool1d:1x1x4:2:stride=2", "y[0,0,1] = max of 2, 3 = 3"),
        ("avg_pool1d:1x1x4:2:stride=2", "y[0,0,1] = mean of 2, 3 = 2.5"),
        ("global_avg_pool1d:1x1x4", "y[0,0,0] = mean of 0, 1, 2, 3 = 1.5"),
        ("lp_pool1d:1x1x4:3:p=3", "y[0,0,1] = 3-norm of 1, 2, 3 = 3.3019"),
    ],
)
def test_pools_on_numbers(problem: str, line: str) -> None:
    assert line in str(explained(problem, arrays=filled(problem, range(4))))


# --- what reads what


def test_what_outputs_read_is_what_they_depend_on() -> None:
    """Against the reference: an element is read if the output changes with it."""
    rng = np.random.default_rng(5)
    checked = 0
    while checked < 60:
        problem = random_problem(rng, max_flops=20_000)
        axes = axes_of(problem)
        linear = problem.family.arithmetic == "multiply-add" and not problem.activation
        linear = linear and not any(part.activation for part in problem.parts)
        if axes is None or not linear or prod(problem.input_shape) > 400:
            continue
        checked += 1
        place = tuple(int(rng.integers(size)) for size in problem.output_shape)
        arrays = {k: rng.uniform(1, 2, shape) for k, shape in problem.inputs.items()}
        expected = np.zeros(problem.input_shape, bool)
        for index in np.ndindex(problem.input_shape):
            moved = {**arrays, "x": arrays["x"].copy()}
            moved["x"][index] += 1
            expected[index] = problem.reference(moved)[place] != problem.reference(arrays)[place]
        found = np.zeros(problem.input_shape, bool)
        along = [
            [axis.index(axis.position(output, tap)) for tap in axis.taps_inside(output)]
            for axis, output in zip(axes, place[2:], strict=True)
        ]
        for channel, *index in itertools.product(input_channels(problem, place[1]), *along):
            found[(place[0], channel, *index)] = True
        assert np.array_equal(found, expected), problem


AXES = [
    kind(*sizes)
    for kind in (Axis, TransposedAxis)
    for sizes in itertools.product((1, 2, 7), (1, 3, 4), (1, 2, 3), (1, 2, 4), (0, 2), (0, 1))
]
AXES += [replace(axis, flipped=True) for axis in AXES if type(axis) is Axis]


@pytest.mark.parametrize("kind", [Axis, TransposedAxis])
def test_an_axis_by_enumeration(kind: type) -> None:
    for axis in AXES:
        if type(axis) is not kind or axis.outputs < 1:
            continue
        useful = 0
        for output in range(axis.outputs):
            reads = list(axis.reads(output))
            inside = [read.tap for read in reads if read.index is not None]
            assert inside == list(axis.taps_inside(output)), (axis, output)
            useful += len(inside)
            first, last = axis.span
            assert all(first <= read.position < last for read in reads)
            found = [read.index for read in reads if read.index is not None]
            low, high = axis.interval(output, output)
            assert not found or low <= min(found) <= max(found) <= high
            assert high - low < axis.field
            kinds = {read.index is not None: axis.kind(read.position) for read in reads}
            assert kinds.get(True, "input") == "input" != kinds.get(False)
        assert useful == axis.useful_terms, axis


def test_counting_does_not_take_as_long_as_the_problem_is_large() -> None:
    big = 2**31 - 15
    assert pairs_below(big, 1, big, 1, 2 * big) == big * big
    found = explained(f"conv1d:1x1x{big}:1x{big // 2}:padding=7")
    assert found.useful_flops < found.flops
    assert "receptive field" in str(found)


@pytest.mark.parametrize(
    "text",
    [
        "conv1d:1x1x9:1x3",
        "conv2d:1x1x4x4:1x3x3:padding=1:stride=2",
        "conv2d:1x1x5x4:1x2x3:padding=1,0,0,1:dilation=2,1",
        "conv3d:1x1x2x3x2:1x2x2x1",
        "conv1d:1x1x3:1x5:padding=2:padding_mode=reflect",
        "conv1d:1x1x4:1x4:padding=3,2:padding_mode=wrap",
        "conv2d:1x1x3x4:1x3x3:padding=2:stride=2:padding_mode=edge",
        "conv2d:1x1x2x4:1x3x2:padding=1,1,2,0:padding_mode=sphere",
        "conv2d:1x1x5x4:1x2x3:padding=1,0,0,1:dilation=2,1:flipped=true",
    ],
)
def test_the_dense_matrix_computes_the_same(text: str) -> None:
    problem = Problem.parse(text)
    axes = axes_of(problem)
    assert axes is not None
    rng = np.random.default_rng(1)
    arrays = {name: rng.standard_normal(shape) for name, shape in problem.inputs.items()}
    dense = np.zeros((prod(problem.out_spatial), prod(problem.in_spatial)))
    for place, taps in matrix.entries(axes).items():
        dense[place] = sum(arrays["weight"][(0, 0, *tap)] for tap in taps)
    expected = problem.reference(arrays).reshape(-1)
    np.testing.assert_allclose(dense @ arrays["x"].reshape(-1), expected)
    section = matrix.matrix_section(problem, axes)
    assert section is not None
    assert len(section.lines) == 1 + prod(problem.out_spatial)


def test_a_large_matrix_is_not_printed() -> None:
    assert "as a dense matrix" not in str(explained("conv2d:1x1x12x12:1x3x3"))


# --- cost


def test_cost_is_the_problems() -> None:
    for text in (
        "conv2d:1x64x28x28:64x3x3:padding=1",
        "max_pool2d:1x8x9x9:3x3",
        "dense:2x8:4",
        "qconv2d:1x8x9x9:8x3x3",
    ):
        found, problem = explained(text), Problem.parse(text)
        data = found.to_json()
        assert (found.macs, found.flops) == (problem.macs, problem.flops)
        assert found.intensity == problem.intensity
        assert data["bytes_read"] + data["bytes_written"] == problem.bytes_moved
        assert json.loads(json.dumps(data)) == data


def test_bytes_of_a_quantised_problem() -> None:
    sums = explained("qconv2d:1x2x3x3:5x1x1")
    rescaled = explained("qconv2d:1x2x3x3:5x1x1:bias=true:scale=0.1")
    words = [" ".join(str(found).split()) for found in (sums, rescaled)]
    assert "bytes read 28 1 × (x 18 + weight 10) bytes written 180 4 × 45" in words[0]
    assert "bytes read 48 1 × (x 18 + weight 10) + 4 × (bias 5) bytes written 45" in words[1]
    assert rescaled.to_json()["bytes_read"] == 48


def test_what_is_read_beyond_an_edge() -> None:
    for mode, rows, columns in (("reflect", 1, [0, 1, 3]), ("wrap", 2, [0, 5, 3])):
        problem = f"conv2d:1x1x3x6:1x3x3:padding=1:padding_mode={mode}"
        reads = explained(problem, at=(0, 0)).to_json()["reads"]
        assert (reads["H"], reads["W"]) == ([0, rows, 3], columns)
    sphere = str(explained("conv2d:1x1x3x6:1x3x3:padding=1:padding_mode=sphere", at=(0, 0)))
    assert "beyond a pole the columns are those half a turn away" in sphere


def test_a_gated_convolution_is_compared_with_one_without_the_gate() -> None:
    found = explained("gated_conv1d:1x4x9:4x2")
    plain = alternatives(found.problem, found.axes)[0]
    assert (plain.name, plain.how) == ("without the gate", "conv1d:1x4x9:4x2")
    assert (2 * plain.parameters, 2 * plain.macs) == (found.problem.parameters, found.macs)


def test_what_the_padding_takes() -> None:
    for mode in ("zeros", "wrap"):
        found = explained(f"conv2d:1x4x5x5:4x3x3:padding=3:padding_mode={mode}")
        ones = {name: np.ones(shape) for name, shape in found.problem.inputs.items()}
        assert found.useful_flops == 2 * found.problem.reference(ones).sum()
    assert "a kernel may skip" not in str(found)


@pytest.mark.parametrize("mode", ["reflect", "edge", "wrap", "sphere"])
def test_padding_by_elements(mode: str) -> None:
    """An output at a corner is the sum that is written out; other layers have the same padding."""
    problem = f"conv2d:1x1x3x4:1x3x3:padding=1:padding_mode={mode}"
    found = explained(problem, arrays=filled(problem, range(1, 13), range(1, 10)), at=(0, 0))
    (line,) = re.findall(r"y\[0,0,0,0\] = (.*) = (\d+)", str(found))
    products = [term.split("·") for term in line[0].split(" + ")]
    assert len(products) == 9
    assert sum(int(x) * int(w) for x, w in products) == int(line[1])
    assert all(mode in a.how for a in alternatives(found.problem, found.axes) if a.name != "dense")


def test_roofline_of_a_target() -> None:
    target = targets()[TARGET]
    peak = 8 * 3.8e9 * 16 * 2 * 2
    assert roofline.compute_roof(target).rate == pytest.approx(peak)
    assert roofline.memory_roof(target).rate == pytest.approx(8 * 3.8e9 * 10)
    busy, idle = explained("conv2d:1x64x56x56:64x3x3"), explained("dense:1x2048:1000")
    assert (busy.bound.limit, idle.bound.limit) == ("multiply-adds", "main memory")
    assert busy.bound.seconds == pytest.approx(busy.flops / peak)
    assert idle.bound.seconds == pytest.approx(idle.problem.bytes_moved / (8 * 3.8e9 * 10))
    one = explain("conv2d:1x64x56x56:64x3x3", TARGET, threads=1)
    assert one.target.cores == 1
    assert "L3 cache" in str(busy)
    assert "L3 cache" not in str(explained("dense:1x25088:4096"))
    pool = explained("max_pool2d:1x64x56x56:3x3")
    assert roofline.compute_roof(target, pool.problem.family).rate == pytest.approx(peak / 2)


def test_alternatives_have_the_same_shapes() -> None:
    rng = np.random.default_rng(9)
    seen = set()
    for _ in range(150):
        problem = random_problem(rng)
        for other in alternatives(problem, axes_of(problem)):
            seen.add(other.name)
            if other.how.startswith(("conv", "depthwise")) and problem.rank:
                first, *_, last = map(Problem.parse, [*other.how.split(", then ")] * 2)
                assert first.input_shape == problem.input_shape
                assert last.output_shape == problem.output_shape
    assert {"depthwise separable", "spatially separable", "dense", "all channels with all"} <= seen


def test_depthwise_separable_is_cheaper_by_the_known_factor() -> None:
    found = explained("conv2d:1x64x28x28:128x3x3:padding=1")
    options = {other.name: other for other in alternatives(found.problem, found.axes)}
    ratio = options["depthwise separable"].macs / found.macs
    assert ratio == pytest.approx(1 / 128 + 1 / 9)
    assert options["32 groups"].macs * 32 == found.macs


# --- bad input, text, files


@pytest.mark.parametrize(
    ("model", "options", "message"),
    [
        ("conv2d:1x3x8x8:4x3x3", {"at": (6, 0)}, "at 6,0 is outside the output 1x4x6x6"),
        ("conv2d:1x3x8x8:4x3x3", {"at": (1,)}, "at takes 2 to 4 numbers, got 1"),
        ("conv2d:1x3x8x8:4x3x3", {"batch": 2}, "--batch is for models"),
        ("conv2d:1x3x8x8:4x3x3", {"arrays": {"x": 1}}, "inputs of at most 64 elements, x has 192"),
        ("conv1d:1x1x8:1x3", {"arrays": {"x": np.ones((1, 1, 8))}}, "need weight of shape 1x1x3"),
        (
            "max_pool1d:1x1x8:3",
            {"arrays": {"x": np.ones((1, 1, 8)), "w": 1}},
            "no input 'w'; it has x",
        ),
        ("max_pool1d:1x1x8:3", {"arrays": {"x": np.ones(8)}}, "x must have shape 1x1x8, has 8"),
        ("conv2d:1x3x8x8:4x3x3:stride=0", {}, "stride must be at least 1"),
        ("nosuch.onnx", {}, "nosuch.onnx"),
        ("light_squeezenet.onnx", {"at": (0, 0)}, "are for problems, not for models"),
    ],
)
def test_bad_input(model: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message.replace("(", r"\(")) as error:
        explain(model, TARGET, **options)
    assert "\n" not in str(error.value)


SNAPSHOTS = {
    "explain-dilated": "conv2d:1x64x28x28:64x3x3:padding=2:dilation=2:bias=true",
    "explain-small": "conv2d:1x1x4x4:1x3x3:stride=2:padding=1",
    "explain-depthwise": "depthwise_conv2d:1x96x14x14:96x5x5:stride=2:padding=2:activation=relu6",
    "explain-pool": "max_pool2d:1x64x112x112:3x3:stride=2:padding=1:ceil_mode=true",
    "explain-1d": "conv1d:1x64x1000:64x9:padding=32,0:dilation=4",
    "explain-dense": "dense:1x49152:1000:bias=true",
    "explain-conv-transpose": "conv2d_transpose:1x64x28x28:32x3x3:stride=2:padding=1",
}


@pytest.mark.parametrize("name", SNAPSHOTS)
def test_text(tvmconv: Callable[..., Any], snapshot: Callable[[str, str], None], name: str) -> None:
    result = tvmconv("explain", SNAPSHOTS[name], "--target", TARGET)
    assert (result.code, result.err) == (0, "")
    snapshot(name, result.out)
    assert result.out == str(explained(SNAPSHOTS[name])) + "\n"


def test_command_on_numbers(tvmconv: Callable[..., Any], tmp_path: Path) -> None:
    problem = "conv2d:1x1x3x3:1x2x2"
    arrays = filled(problem, range(9), range(4))
    np.save(tmp_path / "x.npy", arrays["x"])
    np.save(tmp_path / "w.npy", arrays["weight"])
    np.savez(tmp_path / "p.npz", weight=arrays["weight"])
    given = ("explain", problem, "--target", TARGET, "--input", f"x={tmp_path / 'x.npy'}")
    one = tvmconv(*given, "--params", tmp_path / "p.npz", "--at", "1,1")
    assert "y[0,0,1,1] = 4·0 + 5·1 + 7·2 + 8·3 = 43" in one.out
    other = tvmconv(*given, "--input", f"weight={tmp_path / 'w.npy'}", "--at", "0,0,1,1")
    assert (other.code, other.out) == (0, one.out)
    missing = tvmconv(*given)
    assert (missing.code, missing.out) == (2, "")
    assert missing.err == f"tvmconv: {problem}: needs --input weight=x.npy or --params\n"
    large = tvmconv(*("explain", "conv2d:1x3x9x9:4x3x3"), "--params", tmp_path / "p.npz")
    assert (large.code, large.err.count("\n")) == (2, 1)


def test_command_writes_files(tvmconv: Callable[..., Any], tmp_path: Path) -> None:
    problem, file, picture = "conv2d:1x3x8x8:4x3x3", tmp_path / "e.json", tmp_path / "e.svg"
    printed = json.loads(tvmconv("explain", problem, "--target", TARGET, "--json", "-").out)
    result = tvmconv("explain", problem, "--target", TARGET, "--json", file, "--svg", picture)
    assert (result.code, result.err) == (0, "")
    assert json.loads(file.read_text()) == printed == explained(problem).to_json()
    assert picture.read_text(encoding="utf-8") == explained(problem).svg()
    assert sorted(tmp_path.iterdir()) == [file, picture]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--at", "1;2"), "'--at': '1;2' is no list of numbers like 0,3,5"),
        (("--at", "9,9,9"), "at 9,9,9 is outside the output 1x4x6x6"),
        (("--svg", "nosuch/e.svg"), "nosuch is not a directory"),
        (("--svg", "e", "--json", "e"), "e: is both the picture and the JSON"),
        (("--target", "znver55"), "did you mean znver5"),
        (("--input", "x=e.npy"), "inputs of at most 64 elements"),
    ],
)
def test_wrong_arguments(
    tvmconv: Callable[..., Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[str, ...],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    result = tvmconv("explain", "conv2d:1x3x8x8:4x3x3", *arguments)
    assert (result.code, result.out, result.err.count("\n")) == (2, "", 1)
    assert message in result.err
    assert list(tmp_path.iterdir()) == []


def test_a_problem_is_explained_without_tvm_and_onnx() -> None:
    code = (
        "import sys, tvmconv\n"
        f"print(tvmconv.explain('conv2d:1x3x8x8:4x3x3', {TARGET!r}))\n"
        "sys.exit(bool({'tvm', 'onnx'} & set(sys.modules)))"
    )
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (process.returncode, process.stderr) == (0, "")
    assert process.stdout.startswith("conv2d:1x3x8x8:4x3x3\n")


def test_public_name() -> None:
    assert tvmconv.explain is explain
    assert tvmconv.ProblemExplanation is ProblemExplanation
    problem = Problem.parse("conv2d:1x3x8x8:4x3x3")
    assert tvmconv.explain(problem, TARGET).to_json() == explained(problem.text).to_json()


def test_numbers_as_text() -> None:
    assert [digits(v) for v in (0, 0.01234, 9.996, 12.34, 1945.6)] == [
        *("0", "0.0123", "10.0", "12.3", "1,950")
    ]
    assert [duration(v) for v in (2.5, 1e-3, 2.5e-5, 4e-10)] == [
        *("2.50 s", "1.00 ms", "25.0 µs", "0.400 ns")
    ]
    assert [scaled(v) for v in (12, 25_530_472, 4.1e9)] == ["12.0", "25.5 M", "4.10 G"]
    assert [times(1, 4), times(4, 1), times(3, 3), times(0, 3)] == [
        *("4.00× fewer", "4.00× more", "the same", "")
    ]
