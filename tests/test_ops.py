"""The registry; the references of the convolution family: by hand, loops, ONNX and relations."""

from __future__ import annotations

import itertools
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

from tests.strategies import random_problem
from tvmconv import accuracy, ops
from tvmconv.errors import InputError
from tvmconv.ops import Case, Family, Operator
from tvmconv.problem import Problem

Array = npt.NDArray[Any]

FAMILIES: dict[str, Family] = {
    op.name: op.family for op in ops.operators().values() if op.family is not None
}
CASES = [case.problem for name in FAMILIES for case in ops.get(name).cases]
ONNX_TYPES = {
    "conv": "Conv",
    "conv_transpose": "ConvTranspose",
    "depthwise_conv": "Conv",
    "max_pool": "MaxPool",
    "avg_pool": "AveragePool",
    "lp_pool": "LpPool",
    "global_max_pool": "GlobalMaxPool",
    "global_avg_pool": "GlobalAveragePool",
    "dense": "Gemm",
}


def seeded(count: int, seed: int, max_flops: int) -> list[Problem]:
    rng = np.random.default_rng(seed)
    return [random_problem(rng, max_flops) for _ in range(count)]


# --- the registry


def test_registry_is_complete() -> None:
    operators = ops.operators()
    assert list(operators) == sorted(operators)
    assert set(ONNX_TYPES) <= set(FAMILIES)
    assert all(len(ops.get(name).cases) >= 4 for name in FAMILIES)
    assert all(ops.get(name).bad_cases for name in FAMILIES)
    assert all(case.source for op in operators.values() for case in op.cases)
    assert {"Conv", "MaxPool", "AveragePool", "Gemm", "MatMul"} <= set(ops.importers())


def test_texts_of_cases_differ() -> None:
    texts = [Problem.parse(text).text for text in CASES]
    assert sorted(texts) == sorted(set(texts))


def test_registering_twice_is_refused() -> None:
    with pytest.raises(ValueError, match="operator 'conv' is registered twice"):
        ops.register(ops.get("conv"))
    other = Operator("other", "", lambda s, a: (), lambda x, a: x, onnx={"Conv": lambda n, b: n})
    with pytest.raises(ValueError, match="operator 'other': ONNX type 'Conv' has an importer"):
        ops.register(other)
    assert "other" not in ops.operators()


def test_unknown_operator() -> None:
    with pytest.raises(InputError, match="unknown operator 'convolution'"):
        ops.get("convolution")
    with pytest.raises(InputError, match="unknown operator 'max_pol'; did you mean max_pool"):
        ops.get("max_pol")


def test_nodes_of_the_family() -> None:
    attrs = {"problem": "conv2d:1x2x3x3:4x3x3:bias=true:activation=relu"}
    conv = ops.get("conv")
    shapes = [(1, 2, 3, 3), (4, 2, 3, 3), (4,)]
    assert conv.output_shape(shapes, attrs) == (1, 4, 1, 1)
    arrays = [np.full(shape, -1 if i == 0 else 2, np.float32) for i, shape in enumerate(shapes)]
    y = conv.reference(arrays, attrs)
    assert y.dtype == np.float32
    assert y.tolist() == np.zeros((1, 4, 1, 1)).tolist()
    with pytest.raises(InputError, match=r"weight must have shape \(4, 2, 3, 3\), has \(4, 1"):
        conv.output_shape([shapes[0], (4, 1, 3, 3), shapes[2]], attrs)
    with pytest.raises(InputError, match="needs inputs x, weight, bias, got 2"):
        conv.output_shape(shapes[:2], attrs)
    with pytest.raises(InputError, match="inputs must have shapes"):
        Problem.parse(attrs["problem"]).reference({"x": arrays[0], "weight": arrays[1]})


# --- references by hand


def run(text: str, **arrays: Any) -> list[Any]:
    problem = Problem.parse(text)
    shaped = {k: np.asarray(v, np.float32).reshape(problem.inputs[k]) for k, v in arrays.items()}
    y = problem.reference(shaped)
    assert y.shape == problem.output_shape
    assert y.dtype == np.float64
    return y.ravel().tolist()


RAMP = np.arange(1, 10)


@pytest.mark.parametrize(
    ("text", "arrays", "expected"),
    [
        # 1 2 3 / 4 5 6 / 7 8 9 with a filter 1 2 / 3 4: 1 + 2*2 + 3*4 + 4*5 = 37
        ("conv2d:1x1x3x3:1x2x2", {"weight": [1, 2, 3, 4]}, [37, 47, 67, 77]),
        ("conv2d:1x1x3x3:1x2x2:padding=1,0,0,0", {"weight": [1, 2, 3, 4]},
         [11, 18, 37, 47, 67, 77]),
        ("conv2d:1x1x3x3:1x2x2:stride=2:padding=0,0,1,1", {"weight": [1, 2, 3, 4]},
         [37, 21, 23, 9]),
        ("conv2d:1x1x3x3:1x2x2:dilation=2", {"weight": [1, 2, 3, 4]}, [1 + 6 + 21 + 36]),
        ("conv2d:1x1x3x3:2x1x1:bias=true", {"weight": [1, -1], "bias": [10, 0]},
         [*range(11, 20), *range(-1, -10, -1)]),
        ("conv2d:1x1x3x3:1x3x3:activation=relu", {"weight": [-1] * 9}, [0]),
        ("conv2d:1x1x3x3:1x2x2:flipped=true", {"weight": [1, 2, 3, 4]}, [23, 33, 53, 63]),
        ("conv1d:1x3x3:1x1", {"weight": [1, 10, 100]}, [741, 852, 963]),
        ("conv1d:1x3x3:3x3:groups=3", {"weight": [1, 0, 0, 0, 1, 0, 0, 0, 1]}, [1, 5, 9]),
        ("depthwise_conv1d:1x3x3:6x1", {"weight": [1, 2, 3, 4, 5, 6]},
         [1, 2, 3, 2, 4, 6, 12, 15, 18, 16, 20, 24, 35, 40, 45, 42, 48, 54]),
        ("depthwise_conv1d:1x3x3:3x2:padding=0,1", {"weight": [1, 10] * 3},
         [21, 32, 3, 54, 65, 6, 87, 98, 9]),
        # Each element times 1 10, one after the other; with stride 1 they overlap.
        ("conv1d_transpose:1x1x9:1x2:stride=2:padding=0,15", {"weight": [1, 10]}, [1, 10, 2]),
        ("conv1d_transpose:1x3x3:1x2", {"weight": [1, 10, 0, 0, 0, 0]}, [1, 12, 23, 30]),
        ("conv1d_transpose:1x3x3:6x1:groups=3:padding=1", {"weight": [1, 2, 3, 4, 5, 6]},
         [2, 4, 15, 20, 40, 48]),
        ("conv1d_transpose:1x1x9:1x2:stride=3:padding=0,20:bias=true",
         {"weight": [1, 10], "bias": [100]}, [101, 110, 100, 102, 120, 100]),
        ("max_pool2d:1x1x3x3:2x2", {}, [5, 6, 8, 9]),
        ("max_pool1d:1x1x9:2:stride=3:padding=1", {}, [1, 4, 7, 9]),
        ("max_pool1d:1x1x9:2:stride=4:ceil_mode=true", {}, [2, 6, 9]),
        ("max_pool1d:1x3x3:2:dilation=2", {}, [3, 6, 9]),
        ("avg_pool2d:1x1x3x3:2x2:padding=1,1,0,0", {}, [1, 1.5, 2.5, 2.5, 3, 4, 5.5, 6, 7]),
        ("avg_pool1d:1x1x9:4:stride=5:padding=0,1:ceil_mode=true", {}, [2.5, 7.5]),
        ("avg_pool1d:1x1x9:4:stride=4:padding=0,1:ceil_mode=true", {}, [2.5, 6.5, 9]),
        ("avg_pool1d:1x1x9:4:stride=4:padding=0,1:ceil_mode=true:count_include_pad=true", {},
         [2.5, 6.5, 4.5]),
        ("avg_pool1d:1x3x3:2:padding=1:count_include_pad=true", {},
         [0.5, 1.5, 2.5, 1.5, 2, 4.5, 5.5, 3, 3.5, 7.5, 8.5, 4.5]),
        ("global_avg_pool2d:1x1x3x3", {}, [5]),
        ("global_avg_pool1d:3x1x3", {}, [2, 5, 8]),
        ("global_max_pool3d:1x3x1x3x1", {}, [3, 6, 9]),
        ("dense:3x3:2:bias=true", {"weight": [1, 0, 0, 1, 1, 1], "bias": [0, 100]},
         [1, 106, 4, 115, 7, 124]),
    ],
)  # fmt: skip
def test_by_hand(text: str, arrays: dict[str, Any], expected: list[float]) -> None:
    assert run(text, x=RAMP, **arrays) == expected


# --- references by loops


def by_loops(problem: Problem, arrays: dict[str, Array]) -> Array:
    """The definition, element by element, in exact integers (or float64 for means)."""
    if problem.rank == 0:
        return by_loops_dense(problem, arrays)
    if problem.family.transposed:
        return by_loops_transposed(problem, arrays)
    x, weight = arrays["x"].astype(int), arrays.get("weight")
    y = np.zeros(problem.output_shape)
    per_group = problem.ci // problem.groups
    outputs_a_group = problem.co // problem.groups
    for n, co, *place in np.ndindex(*problem.output_shape):
        group = co // outputs_a_group
        terms, counted = [], 0
        channels = range(per_group) if weight is not None else [co]
        for tap in itertools.product(*map(range, problem.kernel)):
            at = [
                o * s - low + k * d
                for o, s, low, k, d in zip(
                    place, problem.stride, problem.pads_low, tap, problem.dilation, strict=True
                )
            ]
            ends = zip(at, problem.in_spatial, problem.pads_high, strict=True)
            counted += all(i < size + high for i, size, high in ends)
            if not all(0 <= i < size for i, size in zip(at, problem.in_spatial, strict=True)):
                continue
            for c in channels:
                source = c if weight is None else group * per_group + c
                place_of = tap
                if problem.flipped:
                    place_of = tuple(n - 1 - k for n, k in zip(problem.kernel, tap, strict=True))
                factor = 1 if weight is None else int(weight[(co, c, *place_of)])
                terms.append(int(x[(n, source, *at)]) * factor)
        if problem.family.arithmetic == "maximum":
            y[(n, co, *place)] = max(terms)
        elif problem.family.arithmetic == "norm":
            power = problem.option("p")
            y[(n, co, *place)] = sum(abs(term) ** power for term in terms) ** (1 / power)
        elif problem.family.arithmetic == "mean":
            y[(n, co, *place)] = sum(terms) / (counted if problem.count_include_pad else len(terms))
        else:
            y[(n, co, *place)] = sum(terms) + (int(arrays["bias"][co]) if problem.bias else 0)
    return y


def by_loops_transposed(problem: Problem, arrays: dict[str, Array]) -> Array:
    y = np.zeros(problem.output_shape)
    per_in, per_out = problem.ci // problem.groups, problem.co // problem.groups
    for n, ci, *place in np.ndindex(*problem.input_shape):
        for j, *tap in np.ndindex(per_out, *problem.kernel):
            axes = zip(place, problem.stride, tap, problem.dilation, problem.pads_low, strict=True)
            at = [i * s + k * d - low for i, s, k, d, low in axes]
            if all(0 <= o < size for o, size in zip(at, problem.out_spatial, strict=True)):
                term = int(arrays["x"][(n, ci, *place)]) * int(arrays["weight"][(ci, j, *tap)])
                y[(n, ci // per_in * per_out + j, *at)] += term
    return y + arrays.get("bias", np.zeros(problem.co)).reshape(-1, *(1,) * problem.rank)


def by_loops_dense(problem: Problem, arrays: dict[str, Array]) -> Array:
    y = np.zeros(problem.output_shape)
    for n, m in np.ndindex(*problem.output_shape):
        y[n, m] = sum(
            int(arrays["x"][n, k]) * int(arrays["weight"][m, k]) for k in range(problem.ci)
        )
        y[n, m] += int(arrays["bias"][m]) if problem.bias else 0
    return y


def single(problems: list[Problem]) -> list[Problem]:
    """Those that are one sum, maximum or mean, and one operator of ONNX."""
    return [problem for problem in problems if problem.op in ONNX_TYPES]


@pytest.mark.parametrize("problem", single(seeded(150, 5, 4000)), ids=str)
def test_by_loops(problem: Problem) -> None:
    linear = problem.replace(activation="") if problem.activation else problem
    arrays = accuracy.integer_inputs(linear, 3)
    assert linear.reference(arrays).tolist() == by_loops(linear, arrays).tolist()


# --- references by ONNX


def to_onnx(problem: Problem) -> onnx.ModelProto:
    attributes: dict[str, Any] = {"transB": 1} if problem.op == "dense" else {}
    if not problem.op.startswith("global") and problem.rank:
        attributes = {
            "kernel_shape": problem.kernel,
            "strides": problem.stride,
            "dilations": problem.dilation,
            "pads": problem.pads_low + problem.pads_high,
        }
        if problem.op.endswith("pool"):
            attributes["ceil_mode"] = int(problem.ceil_mode)
        else:
            attributes["group"] = problem.groups
        if problem.op == "lp_pool":
            attributes["p"] = problem.option("p")
        if problem.op == "avg_pool":
            attributes["count_include_pad"] = int(problem.count_include_pad)
        if problem.family.transposed:
            attributes["output_padding"] = problem.option("output_padding")
    node = helper.make_node(ONNX_TYPES[problem.op], list(problem.inputs), ["y"], **attributes)
    inputs = [
        helper.make_tensor_value_info(name, TensorProto.DOUBLE, shape)
        for name, shape in problem.inputs.items()
    ]
    output = helper.make_tensor_value_info("y", TensorProto.DOUBLE, None)
    graph = helper.make_graph([node], "one", inputs, [output])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 22)])


def evaluator_is_wrong(problem: Problem) -> bool:
    """Where ONNX 1.23's evaluator does not compute what its operators' text says.

    Maxima with unit strides, and over whole maps, are written for two axes, whose paddings they
    take in another order, and without ceil mode. Groups of a transposed convolution take the weight
    of others, and give one channel each, and output padding of the stride or more is refused. A
    norm is made of a mean times the window's size, but ceil mode's last mean is of fewer. And where
    ceil mode's last window of an average reaches 2 or more elements beyond the padding, half of
    that is put before the input, which moves all windows.
    """
    if problem.family.arithmetic == "maximum":
        unit = set(problem.stride + problem.dilation) == {1}
        uneven = problem.rank != 2 or problem.pads_low[1] != problem.pads_high[0]
        return unit and (uneven or problem.ceil_mode)
    if problem.family.transposed:
        long = zip(problem.option("output_padding"), problem.stride, strict=True)
        return problem.groups > 1 or any(more >= stride for more, stride in long)
    if not problem.ceil_mode:
        return False
    if problem.family.arithmetic == "norm":
        return True
    ends = zip(
        problem.out_spatial,
        problem.stride,
        problem.kernel_extent,
        problem.in_spatial,
        problem.pads_low,
        problem.pads_high,
        strict=True,
    )
    beyond = [(o - 1) * s + k - i - low - high for o, s, k, i, low, high in ends]
    return any(elements >= 2 for elements in beyond)


@pytest.mark.parametrize("problem", single(seeded(120, 6, 100_000)), ids=str)
def test_by_onnx(problem: Problem) -> None:
    linear = problem.replace(activation="") if problem.activation else problem
    model = to_onnx(linear)
    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True).graph.output[0]
    sizes = tuple(d.dim_value for d in inferred.type.tensor_type.shape.dim)
    assert sizes == linear.output_shape
    if evaluator_is_wrong(linear):
        return
    arrays = {k: v.astype(np.float64) for k, v in accuracy.random_inputs(linear, 1).items()}
    given = dict(arrays)
    if linear.flipped:
        given["weight"] = np.flip(given["weight"], axis=tuple(range(2, 2 + linear.rank)))
    (expected,) = list(ReferenceEvaluator(model).run(None, given))
    np.testing.assert_allclose(linear.reference(arrays), expected, rtol=1e-9, atol=1e-12)


# --- references by relations between them


def test_depthwise_is_grouped_with_a_group_a_channel() -> None:
    for problem in (p for p in seeded(200, 7, 100_000) if p.op == "depthwise_conv"):
        options = {**dict(problem.options), "groups": problem.ci}
        grouped = Problem("conv", problem.input_shape, problem.filter_shape, options)
        assert grouped.inputs == problem.inputs
        assert (grouped.taps, grouped.macs) == (problem.taps, problem.macs)
        arrays = accuracy.integer_inputs(problem, 1)
        assert np.array_equal(
            grouped.replace(activation="").reference(arrays),
            problem.replace(activation="").reference(arrays),
        )


def test_a_grouped_convolution_is_several() -> None:
    problem = Problem.parse("conv2d:2x6x7x5:9x3x2:stride=2,1:padding=1,0,0,2:groups=3:bias=true")
    one = Problem.parse("conv2d:2x2x7x5:3x3x2:stride=2,1:padding=1,0,0,2:bias=true")
    a = accuracy.integer_inputs(problem, 1)
    parts = [
        one.reference(
            {
                "x": a["x"][:, 2 * g : 2 * g + 2],
                "weight": a["weight"][3 * g : 3 * g + 3],
                "bias": a["bias"][3 * g : 3 * g + 3],
            }
        )
        for g in range(3)
    ]
    assert np.array_equal(problem.reference(a), np.concatenate(parts, axis=1))


def test_true_convolution_is_cross_correlation_with_the_filter_flipped() -> None:
    flipped = [p for p in seeded(300, 9, 100_000) if p.flipped]
    assert len({p.op for p in flipped}) == 2
    for problem in flipped:
        arrays = accuracy.integer_inputs(problem, 1)
        other = {**arrays, "weight": np.flip(arrays["weight"], tuple(range(2, 2 + problem.rank)))}
        assert np.array_equal(
            problem.replace(activation="").reference(arrays),
            problem.replace(activation="", flipped=False).reference(other),
        )


def test_dilation_is_a_filter_with_holes() -> None:
    dilated = Problem.parse("conv2d:1x3x11x12:4x3x2:padding=2:dilation=2,3")
    plain = Problem.parse("conv2d:1x3x11x12:4x5x4:padding=2")
    arrays = accuracy.integer_inputs(dilated, 1)
    weight = np.zeros((4, 3, 5, 4), np.float32)
    weight[:, :, ::2, ::3] = arrays["weight"]
    assert np.array_equal(
        dilated.reference(arrays), plain.reference({"x": arrays["x"], "weight": weight})
    )


def test_a_stride_skips_outputs() -> None:
    for name in ("conv2d:1x3x11x12:4x3x2", "max_pool2d:1x3x11x12:3x2", "avg_pool2d:1x3x11x12:3x2"):
        every = Problem.parse(f"{name}:padding=1")
        some = Problem.parse(f"{name}:padding=1:stride=2,3")
        arrays = accuracy.random_inputs(every, 1)
        assert np.array_equal(some.reference(arrays), every.reference(arrays)[:, :, ::2, ::3])


def test_global_pools_are_pools_of_the_whole_map() -> None:
    for kind in ("avg", "max"):
        whole = Problem.parse(f"global_{kind}_pool2d:2x3x5x7")
        window = Problem.parse(f"{kind}_pool2d:2x3x5x7:5x7")
        arrays = accuracy.random_inputs(whole, 1)
        np.testing.assert_allclose(whole.reference(arrays), window.reference(arrays), rtol=1e-14)


def test_dense_is_a_pointwise_convolution_of_one_pixel() -> None:
    dense = Problem.parse("dense:3x70000:65:bias=true:activation=tanh")  # several blocks of columns
    conv = Problem.parse("conv2d:3x70000x1x1:65x1x1:bias=true:activation=tanh")
    arrays = accuracy.random_inputs(dense, 1)
    shaped = {name: arrays[name].reshape(shape) for name, shape in conv.inputs.items()}
    expected = conv.reference(shaped).reshape(dense.output_shape)
    np.testing.assert_allclose(dense.reference(arrays), expected, rtol=1e-9)


def test_magnitude_bounds_the_output() -> None:
    for problem in seeded(60, 8, 100_000):
        plain = problem.replace(activation="") if problem.activation else problem
        arrays = accuracy.random_inputs(plain, 1)
        y, magnitude = plain.reference(arrays), plain.magnitude(arrays)
        assert magnitude.shape == y.shape
        if plain.family.arithmetic == "maximum":
            assert not magnitude.any()
        else:
            assert (np.abs(y) <= magnitude * (1 + 1e-12)).all()


def test_cases_are_of_bounded_cost() -> None:
    """What a test run can compute in float64 with NumPy."""
    for text in CASES:
        problem = Problem.parse(text)
        assert problem.macs <= 10**9
        assert prod(problem.output_shape) <= 2 * 10**6
    assert all(isinstance(case, Case) for name in FAMILIES for case in ops.get(name).cases)
