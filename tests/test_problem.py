"""Problems: the text's round trip, canonical form, ONNX's arithmetic, and what is refused."""

from __future__ import annotations

import pickle
import subprocess
import sys
from collections.abc import Callable
from math import prod

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.strategies import OTHER_MEANINGS, problems, random_problem
from tvmconv import ops
from tvmconv.errors import InputError
from tvmconv.ops import activation, windows
from tvmconv.problem import Problem

FAMILIES = [op for op in ops.operators().values() if op.family is not None]
CASES = [case.problem for op in FAMILIES for case in op.cases]
BAD = [(case.problem, case.message) for op in FAMILIES for case in op.bad_cases]


@pytest.mark.parametrize("text", CASES)
def test_round_trip(text: str) -> None:
    problem = Problem.parse(text)
    assert Problem.parse(problem.text) == problem
    assert Problem.parse(problem.text).text == problem.text == str(problem)
    assert pickle.loads(pickle.dumps(problem)) == problem
    assert hash(Problem.parse(problem.text)) == hash(problem)


@settings(max_examples=200, deadline=None)
@given(problems())
def test_round_trip_of_any(problem: Problem) -> None:
    assert Problem.parse(problem.text) == problem
    assert Problem.parse(problem.text).text == problem.text


@pytest.mark.parametrize(
    "texts",
    [
        ("conv2d:1x64x56x56:64x3x3:padding=1", "conv2d:1x64x56x56:64x3x3:padding=1,1:stride=1"),
        ("conv2d:1x64x56x56:64x3x3:padding=1", "conv2d:1x64x56x56:64x3x3:padding=same_upper"),
        ("conv2d:1x64x56x56:64x3x3:padding=1", "conv2d:1x64x56x56:64x3x3:padding=1,1,1,1"),
        ("conv2d:1x64x56x56:64x3x3", "conv2d:1x64x56x56:64x3x3:padding=valid:dtype=float32"),
        ("conv2d:1x64x56x56:64x3x3", "conv2d:1x064x56x56:64x3x3:bias=false:groups=1"),
        ("conv2d:1x8x9x9:8x3x3:padding=0,1", "conv2d:1x8x9x9:8x3x3:padding=0,1,0,1"),
        ("conv2d:1x8x9x9:8x3x3:padding=1,1,2,2", "conv2d:1x8x9x9:8x3x3:padding=01,1,2,2"),
        ("conv1d:1x8x9:8x3:padding=1,2", "conv1d:1x8x9:8x3:dilation=1:padding=1,2"),
        ("conv2d:1x8x9x9:8x3x3:stride=2:padding=1", "conv2d:1x8x9x9:8x3x3:padding=1:stride=2,2"),
        ("conv2d:1x8x9x9:8x3x3:bias=true", "conv2d:1x8x9x9:8x3x3:bias=1:activation=none"),
        (
            "conv2d:1x8x9x9:8x3x3:activation=relu6",
            "conv2d:1x8x9x9:8x3x3:activation=clip,0,6.0",
        ),
        (
            "conv2d:1x8x9x9:8x3x3:activation=leaky_relu",
            "conv2d:1x8x9x9:8x3x3:activation=leaky_relu,1e-2",
        ),
        (
            "max_pool1d:1x1x5:2:stride=2:padding=0,1",
            "max_pool1d:1x1x5:2:stride=2:padding=same_upper:ceil_mode=true",
        ),
    ],
)  # fmt: skip
def test_equal_problems_have_one_text(texts: tuple[str, str]) -> None:
    assert [Problem.parse(text).text for text in texts] == [texts[0]] * 2
    assert Problem.parse(texts[0]) == Problem.parse(texts[1])


def test_made_in_python() -> None:
    text = "conv2d:1x8x9x9:8x3x3:stride=2:padding=0,0,1,1:groups=4:bias=true:activation=relu"
    shape = tuple(np.array([1, 8, 9, 9]))
    options = {"bias": True, "padding": np.array([0, 0, 1, 1]), "stride": [2, 2], "groups": 4}
    problem = Problem.make("conv", shape, [8, 3, 3], activation="relu", **options)
    assert problem == Problem.parse(text)
    assert problem.text == text
    assert all(type(size) is int for size in problem.input_shape)
    assert problem.replace(activation="", bias=False).text == text.split(":bias")[0]
    with pytest.raises(InputError, match=r"^conv2d:1x8x9x9:8x3x3:dilation=0,1: dilation must be"):
        Problem.make("conv", shape, [8, 3, 3], dilation=(0, 1))
    with pytest.raises(InputError, match=r"stride must be an integer .*, got '2.5'"):
        Problem.make("conv", shape, [8, 3, 3], stride=2.5)
    with pytest.raises(InputError, match="concat: operator exists only in graphs"):
        Problem.make("concat", shape)


def test_properties() -> None:
    problem = Problem.parse("conv2d:2x6x10x11:9x3x2:stride=2,1:padding=0,1,1,2:groups=3:bias=true")
    assert (problem.op, problem.name, problem.rank) == ("conv", "conv2d", 2)
    assert (problem.batch, problem.ci, problem.co, problem.groups) == (2, 6, 9, 3)
    assert (problem.in_spatial, problem.kernel) == ((10, 11), (3, 2))
    assert (problem.pads_low, problem.pads_high) == ((0, 1), (1, 2))
    assert (problem.stride, problem.dilation, problem.kernel_extent) == ((2, 1), (1, 1), (3, 2))
    assert problem.output_shape == (2, 9, 5, 13)
    assert problem.inputs == {"x": (2, 6, 10, 11), "weight": (9, 2, 3, 2), "bias": (9,)}
    assert (problem.bias, problem.activation, problem.dtype) == (True, "", "float32")
    depthwise = Problem.parse("depthwise_conv2d:1x6x9x9:12x3x3")
    assert (depthwise.groups, depthwise.inputs["weight"]) == (6, (12, 1, 3, 3))
    assert Problem.parse("global_avg_pool2d:1x6x9x7").kernel == (9, 7)
    dense = Problem.parse("dense:3x20:7")
    assert (dense.rank, dense.kernel, dense.pads_low, dense.pads_high) == (0, (), (), ())
    assert (dense.inputs, dense.output_shape) == ({"x": (3, 20), "weight": (7, 20)}, (3, 7))


@pytest.mark.parametrize(
    ("text", "taps", "macs", "flops", "parameters", "bytes_moved"),
    [
        # By hand: 64 * 112² * 147, 64 * 147, 4 * (3 * 224² + 9408 + 64 * 112²)
        ("conv2d:1x3x224x224:64x7x7:stride=2:padding=3", 147, 118013952, 236027904, 9408, 3851008),
        ("conv2d:1x4x5x5:6x3x3:groups=2:bias=true", 18, 972, 1944, 114, 1072),
        ("depthwise_conv2d:1x4x5x5:8x3x3", 9, 648, 1296, 72, 976),
        ("dense:2x10:3:bias=true", 10, 60, 120, 33, 236),
        ("max_pool2d:1x4x6x6:2x2:stride=2", 4, 0, 144, 0, 720),
        ("global_avg_pool2d:1x4x6x6", 36, 0, 144, 0, 592),
    ],
)
def test_cost(
    text: str, taps: int, macs: int, flops: int, parameters: int, bytes_moved: int
) -> None:
    problem = Problem.parse(text)
    assert (problem.taps, problem.macs, problem.flops) == (taps, macs, flops)
    assert (problem.parameters, problem.bytes_moved) == (parameters, bytes_moved)
    assert problem.intensity == flops / bytes_moved


@pytest.mark.parametrize(
    ("text", "out_spatial", "pads"),
    [
        ("max_pool1d:1x1x4:3:stride=2:ceil_mode=true", (2,), (0, 0)),
        ("max_pool1d:1x1x2:3:stride=2:ceil_mode=true", (1,), (0, 0)),
        ("max_pool1d:1x1x3:2:stride=3:padding=1:ceil_mode=true", (2,), (1, 1)),
        # The third window would start at 6 - 1 = 5, behind the input: dropped.
        ("max_pool1d:1x1x5:2:stride=3:padding=1:ceil_mode=true", (2,), (1, 1)),
        ("avg_pool1d:1x1x6:4:stride=5:ceil_mode=true", (2,), (0, 0)),
        ("max_pool1d:1x1x5:1:stride=3:padding=same_upper", (2,), (0, 0)),  # total would be -1
        ("conv1d:1x1x56:1x1:stride=2:padding=same_upper", (28,), (0, 0)),  # ResNet v1 shortcut
        ("conv1d:1x1x5:1x4:padding=same_upper", (5,), (1, 2)),
        ("conv1d:1x1x5:1x4:padding=same_lower", (5,), (2, 1)),
        ("conv1d:1x1x7:1x3:stride=2:padding=same_upper:dilation=2", (4,), (2, 2)),
        ("conv1d:1x1x6:1x3:stride=2:padding=same_lower:dilation=2", (3,), (2, 1)),
        ("conv1d:1x1x7:1x3:stride=2:padding=valid", (3,), (0, 0)),
        ("conv1d:1x1x1:1x3:padding=1", (1,), (1, 1)),
    ],
)
def test_windows_by_hand(text: str, out_spatial: tuple[int, ...], pads: tuple[int, int]) -> None:
    problem = Problem.parse(text)
    assert problem.out_spatial == out_spatial
    assert problem.pads_low + problem.pads_high == pads


SMALL = st.integers(1, 9)


@settings(max_examples=300, deadline=None)
@given(SMALL, SMALL, SMALL, st.integers(1, 4), st.integers(0, 8), st.integers(0, 8), st.booleans())
def test_windows_by_counting(
    size: int, taps: int, stride: int, dilation: int, low: int, high: int, ceil: bool
) -> None:
    """Slide a window over a list of positions, as one would by hand."""
    span = windows.extent(taps, dilation)
    starts, start = [], -low
    while start + span <= size + high or (ceil and start + span < size + high + stride):
        starts.append(start)
        start += stride
    if ceil and starts and starts[-1] >= size:
        starts.pop()
    # In floor mode nothing is dropped, even if it starts behind the input.
    assert max(windows.outputs(size, span, stride, (low, high), ceil), 0) == len(starts)
    reads = [[start + tap * dilation for tap in range(taps)] for start in starts]
    inside = [sum(0 <= i < size for i in window) for window in reads]
    along = (taps, stride, dilation, low, (0, size))
    assert windows.tap_counts(len(starts), *along).tolist() == inside
    if low < span and high < span:
        empty = windows.has_empty_window(size, stride, dilation, low, len(starts))
        assert empty == (0 in inside)


@settings(max_examples=200, deadline=None)
@given(SMALL, SMALL, SMALL, st.booleans())
def test_same_padding_keeps_the_size(size: int, span: int, stride: int, upper: bool) -> None:
    low, high = windows.same_padding(size, span, stride, upper)
    assert windows.outputs(size, span, stride, (low, high)) == -(-size // stride)
    assert 0 <= (high - low if upper else low - high) <= 1
    # Minimal: one element less would lose an output.
    assert low + high == 0 or windows.outputs(size, span, stride, (low + high - 1, 0)) < (
        -(-size // stride)
    )


@pytest.mark.parametrize(("text", "message"), BAD)
def test_refused(text: str, message: str) -> None:
    with pytest.raises(InputError) as caught:
        Problem.parse(text)
    assert str(caught.value).startswith(f"{text}: ")
    assert message in str(caught.value)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", ": unknown operator ''; known are adaptive_avg_pool{1,2,3}d, "),
        ("conv2d", "conv2d: input sizes are missing"),
        ("conv2d:", "'' is no list of sizes"),
        ("conv2d:1x3x9x9:8x3x3:", "'' is not an option=value"),
        ("conv2d:1x3x9x9:8x3x3:stride", "'stride' is not an option=value"),
        ("conv2d:1x3x9x9:8x3x3:=2", "option '' is unknown"),
        ("conv2d:1x3x9x9:stride=2:8x3x3", "'8x3x3' is not an option=value"),
        ("conv2d:1x3x9x9:8x3x3:stride=", "stride must be an integer or a comma list"),
        ("conv2d:1x3x9x9:8x3x3:stride=2,", "stride must be an integer or a comma list"),
        ("conv2d:1x3x9x9:8x3x3:stride=1.5", "stride must be an integer or a comma list"),
        ("conv2d:1x3x9x9:8x3x3:stride=1_0", "stride must be an integer or a comma list"),
        ("conv2d:1x3x9x9:8x3x3:stride=٣", "stride must be an integer or a comma list"),
        ("conv2d:1x3x9x9:8x3x3:stride=2147483648", "stride must be at most 2147483647"),
        ("conv2d:1x3x9x9:8x3x3:padding=2147483647", "padding makes the input 4294967303 long"),
        ("conv2d:1x3x9x9:8x3x3:groups=1,1", "groups must have 1 values, got 2"),
        ("conv2d:1x3x9x9:8x3x3:groups=0", "groups must be at least 1, got 0"),
        ("conv2d:1X3x9x9:8x3x3", "'1X3x9x9' is no list of sizes"),
        ("conv2d:1x3x-9x9:8x3x3", "input sizes must be positive integers, got -9"),
        ("conv2d:1x3x9x9:8x3x0", "filter sizes must be positive integers, got 0"),
        ("conv2d:1x3x9x9:2147483647x9x9", "weight of shape 2147483647x3x9x9 is too large"),
        ("conv1d:1x1x9:99999999999x1", "filter sizes must be at most 2147483647"),
        ("conv1d:1x1x999:999999999x1", "output of shape 1x999999999x999 is too large"),
        ("conv1d:1x3x9:8x3:activation=leaky_relu,a", "activation leaky_relu needs numbers"),
        ("conv1d:1x3x9:8x3:activation=leaky_relu,nan", "cannot have a parameter that is not a"),
        ("conv1d:1x3x9:8x3:activation=relu,1", "activation relu takes 0 parameters, got 1"),
        ("conv1d:1x3x9:8x3:activation=clip,3,2", "activation clip needs min <= max, got 3 and 2"),
        ("conv2d :1x3x9x9:8x3x3", "did you mean conv2d"),
        ("Conv2d:1x3x9x9:8x3x3", "did you mean conv2d"),
        ("concat:1x3x9x9", "unknown operator 'concat'"),
        ("conv2d:1x3x9x9:8x3x3:stride=" + "9" * 5000, "stride must be an integer"),
        ("conv2d:1x3x" + "9" * 400 + "x9:8x3x3", "input sizes must be at most 2147483647"),
    ],
)  # fmt: skip
def test_malformed(text: str, message: str) -> None:
    with pytest.raises(InputError) as caught:
        Problem.parse(text)
    assert message in str(caught.value)
    assert len(str(caught.value)) < 500


@settings(max_examples=300, deadline=None)
@given(
    st.lists(
        st.sampled_from(
            ["conv2d", "max_pool1d", "dense", ":", "x", "1", "0", "-3", "64", ",", "=", "stride",
             "padding", "groups", "dilation", "same_upper", "true", "\n", "é", "99999999999", " "]
        ),
        max_size=20,
    )
)  # fmt: skip
def test_any_text_is_a_problem_or_one_line(parts: list[str]) -> None:
    for text in ("".join(parts), "conv2d:1x8x9x9:8x3x3:" + "".join(parts)):
        try:
            result = Problem.parse(text).text
        except InputError as error:
            result = str(error)
        assert "\n" not in result


def test_refusal_is_quick_whatever_the_numbers() -> None:
    huge = 2**31 - 1
    for text in (
        f"max_pool1d:1x1x{huge // 4}:2:dilation={huge - huge // 4}:padding={huge // 4}",
        f"max_pool1d:1x1x1:{huge}:padding={huge // 4}:dilation=1",
        f"avg_pool2d:1x1x1x1:2x2:dilation={huge - 1}:padding={huge // 4}",
    ):
        with pytest.raises(InputError):
            Problem.parse(text)


def test_seeded_problems_repeat_and_vary() -> None:
    rng, again = np.random.default_rng(1), np.random.default_rng(1)
    first = [random_problem(rng) for _ in range(300)]
    assert first == [random_problem(again) for _ in range(300)]
    assert len(set(first)) > 270
    quantised = {random_problem(rng, quantised=True).op for _ in range(50)}
    drawn = {p.op for p in first}
    assert drawn | quantised == {op.name for op in FAMILIES} - {*OTHER_MEANINGS}
    assert not drawn & quantised
    assert {p.rank for p in first} == {0, 1, 2, 3}
    properties: tuple[Callable[[Problem], object], ...] = (
        lambda p: p.pads_low != p.pads_high,
        lambda p: any(map(int.__gt__, p.stride, p.kernel)),
        lambda p: 1 < p.groups < p.ci,
        lambda p: p.co > p.groups == p.ci,
        lambda p: max(p.dilation, default=1) > 1,
        lambda p: p.rank and prod(p.in_spatial) == 1,
        lambda p: p.batch == 3,
        lambda p: p.ceil_mode,
        lambda p: p.activation == "relu",
    )
    for some in properties:
        assert sum(bool(some(p)) for p in first) >= 3
    assert max(p.flops for p in first) <= 4_000_000


@pytest.mark.parametrize("name", list(activation.ACTIVATIONS))
def test_activations(name: str) -> None:
    """Lipschitz constants hold and are not loose; the graph operator of the same name agrees."""
    kind, parameters = activation.split(name)
    y = np.linspace(-12, 12, 24001)
    slope = np.max(np.abs(np.diff(kind.function(y, *parameters)) / np.diff(y)))
    limit = kind.lipschitz(*parameters)
    assert 0.99 * limit <= slope <= limit + 1e-9
    attrs = dict(zip((key for key, _ in kind.parameters), parameters, strict=True))
    if name == "relu6":
        attrs = {"min": 0.0, "max": 6.0}
    node = ops.get(kind.node)
    assert node.reference([y], attrs) == pytest.approx(kind.function(y, *parameters), abs=1e-12)
    assert activation.from_node(kind.node, attrs) == ("" if name == "clip" else name)


def test_activation_of_nodes() -> None:
    assert activation.from_node("leaky_relu", {"alpha": 0.1}) == "leaky_relu,0.1"
    assert activation.from_node("clip", {"min": 0.0, "max": 3.4028234663852886e38}) == "relu"
    assert activation.from_node("concat", {"axis": 1}) is None
    assert activation.split("leaky_relu,0.1")[1] == (float(np.float32(0.1)),)


def test_import_is_light() -> None:
    """The command line's argument check must not load TVM, ONNX or SciPy."""
    code = (
        "import sys; from tvmconv.problem import Problem;"
        "Problem.parse('conv2d:1x3x9x9:8x3x3:padding=1');"
        "print(sorted({'tvm', 'onnx', 'scipy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
