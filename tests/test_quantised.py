"""Quantised operators and networks, against ONNX's formulas in NumPy and against ONNX Runtime."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from onnx import helper

import tvmconv
from tests import test_frontend_conformance as conformance
from tests.kernels import (
    compile_specs,
    host,
    problem_kernel,
    problem_spec,
    runnable_targets,
    trials,
)
from tests.quantised_models import Maker, qdq_block, random_conv
from tests.strategies import random_problem
from tvmconv.autoschedule.space import space_for
from tvmconv.codegen.kernels import prim_func
from tvmconv.errors import InputError
from tvmconv.frontend import load
from tvmconv.graph.evaluate import evaluate
from tvmconv.graph.fuse import fuse
from tvmconv.ops import quads
from tvmconv.oracle import evaluate_model
from tvmconv.problem import Problem
from tvmconv.target import Target
from tvmconv.verify import random_feeds, verify

Array = npt.NDArray[Any]

LAYER = "qconv2d:1x40x9x11:36x3x3:padding=1:bias=true:zero_point=7:scale=0.0004"
SIGNED = "qconv2d:2x24x8x7:20x3x2:padding=1,0,0,1:dtype=int8:zero_point=-9:weight_terms=3"


def with_dot(name: str) -> Target:
    """This machine, with another instruction for products of bytes."""
    return replace(host(), vector=replace(host().vector, byte_dot=name))


TARGETS = [*runnable_targets(), with_dot("pmaddwd"), with_dot("portable")]


@pytest.mark.parametrize("target", TARGETS, ids=lambda t: f"{t.name}-{t.byte_dot}")
@pytest.mark.parametrize("text", [LAYER, SIGNED])
def test_every_instruction_gives_the_same_sums(text: str, target: Target) -> None:
    problem = Problem.parse(text)
    spec = problem_spec(problem)
    compiled = compile_specs([spec], target)
    for trial in trials(problem):
        report = trial.check(compiled.run(0, problem_kernel(trial, spec)))
        assert report.passed, report.message


@pytest.mark.parametrize("text", [LAYER, SIGNED])
def test_every_schedule_gives_the_same_sums(text: str) -> None:
    problem = Problem.parse(text)
    spec = problem_spec(problem)
    found = space_for(host()).candidates(prim_func(spec, "k"), host())
    rng = np.random.default_rng(0)
    chosen = [found[k] for k in sorted(rng.choice(len(found), min(24, len(found)), replace=False))]
    compiled = compile_specs([spec] * len(chosen), host(), chosen)
    trial = trials(problem)[0]
    for k, candidate in enumerate(chosen):
        report = trial.check(compiled.run(k, problem_kernel(trial, spec)))
        assert report.passed, f"{candidate.knobs}: {report.message}"


@pytest.mark.parametrize("seed", range(4))
def test_random_problems(seed: int) -> None:
    """The schedule of the model for half of them, any one for the others."""
    rng = np.random.default_rng(seed)
    problems = [random_problem(rng, 400_000, quantised=True) for _ in range(25)]
    blocks = [int(rng.choice([16, 16, 8])) for _ in problems]
    specs = [problem_spec(problem, block) for problem, block in zip(problems, blocks, strict=True)]
    choices = []
    for k, spec in enumerate(specs):
        found = space_for(host()).candidates(prim_func(spec, "k"), host())
        choices.append(found[0 if k % 2 else int(rng.integers(len(found)))])
    compiled = compile_specs(specs, host(), choices)
    for k, (problem, spec) in enumerate(zip(problems, specs, strict=True)):
        trial = trials(problem, seed)[0]
        report = trial.check(compiled.run(k, problem_kernel(trial, spec)))
        assert report.status != "wrong", f"{problem} {choices[k].knobs}: {report.message}"


def test_the_sums_are_made_by_the_instruction_that_the_target_names() -> None:
    spec = problem_spec(Problem.parse("qconv2d:1x64x14x14:64x3x3:padding=1"))
    for name, mnemonic in (("vpdpbusd", "vpdpbusd"), ("pmaddwd", "vpmaddwd")):
        if host().vector.byte_dot != "vpdpbusd":
            pytest.skip("this machine has no VNNI")
        asm = compile_specs([spec], with_dot(name)).asm
        assert asm.count(f"\t{mnemonic}\t") > 10
        assert "vpmaddubsw" not in asm


@pytest.mark.parametrize("value", [0, 255])
def test_extreme_bytes_do_not_saturate(value: int) -> None:
    """255·127 four times is far beyond 16 bits."""
    problem = Problem.parse("qconv2d:1x256x3x3:16x3x3:padding=1:zero_point=0")
    x = np.full(problem.input_shape, value, np.uint8)
    for sign in (-128, 127):
        w = np.full(problem.inputs["weight"], sign, np.int8)
        module = tvmconv.compile(problem.text, params={"weight": w})
        (y,) = module(x)
        np.testing.assert_array_equal(y, problem.reference({"x": x, "weight": w}))


def test_a_switched_off_feature_takes_the_instruction_away() -> None:
    target = with_dot("vpdpbusd")
    name = "avx512vnni" if target.vector.bits == 512 else "avxvnni"
    off = replace(target, llvm=replace(target.llvm, features=(f"-{name}",)))
    assert off.byte_dot.startswith("pmaddwd")


def test_weights_as_sums_of_bytes() -> None:
    weight = np.arange(-255, 256)
    for terms, low, high in ((1, -128, 127), (2, -256, 254), (3, -255, 255)):
        part = weight[(weight >= low) & (weight <= high)]
        assert quads.terms_of(part) <= terms
        np.testing.assert_array_equal(
            sum(p.astype(int) for p in quads.split_terms(part, terms)), part
        )
    with pytest.raises(ValueError, match="2 bytes do not hold 255"):
        quads.split_terms(np.array([255]), 2)


# --- single operators


def run(model: onnx.ModelProto, feeds: Mapping[str, Array]) -> list[Array]:
    return tvmconv.compile(model)(dict(feeds))


def feeds_of(model: onnx.ModelProto, seed: int = 0) -> dict[str, Array]:
    return random_feeds(load(model), seed)


def check_exactly(model: onnx.ModelProto, seed: int = 0) -> None:
    """Compare with ONNX's formulas."""
    feeds = feeds_of(model, seed)
    names = [output.name for output in model.graph.output]
    for got, wanted in zip(run(model, feeds), evaluate_model(model, feeds, names), strict=True):
        assert got.dtype == wanted.dtype
        np.testing.assert_array_equal(got, wanted)


@pytest.mark.parametrize("kind", ["QLinearConv", "ConvInteger"])
@pytest.mark.parametrize("seed", range(12))
def test_random_convolutions(kind: str, seed: int) -> None:
    check_exactly(random_conv(np.random.default_rng(seed), kind), seed)


def test_random_convolutions_beside_onnxruntime() -> None:
    """Where ONNX Runtime has the operator: it refuses some scales and zero points of channels."""
    ort = pytest.importorskip("onnxruntime")
    from onnxruntime.capi import onnxruntime_pybind11_state as errors

    options = ort.SessionOptions()
    options.log_severity_level = 4
    compared = 0
    for seed in range(100, 120):
        model = random_conv(np.random.default_rng(seed), "QLinearConv")
        feeds = feeds_of(model, seed)
        try:
            session = ort.InferenceSession(
                model.SerializeToString(), options, providers=["CPUExecutionProvider"]
            )
            (wanted,) = session.run(None, feeds)
        except (errors.Fail, errors.InvalidArgument, errors.NotImplemented):
            continue
        (got,) = run(model, feeds)
        np.testing.assert_array_equal(got, wanted)
        compared += 1
    assert compared >= 8


def test_the_conformance_cases_of_onnx() -> None:
    """With all inputs but the first constants; those refused have another element type."""
    kinds = {"ConvInteger", "QLinearConv", "MatMulInteger", "QLinearMatMul"}
    kinds |= {"QuantizeLinear", "DequantizeLinear"}
    right, refused = [], []
    for name, model, inputs, expected in conformance.cases():
        if not kinds & {node.op_type for node in model.graph.node}:
            continue
        changed, feeds = conformance.with_constants(model, inputs)
        try:
            results = run(changed, feeds)
        except InputError as error:
            refused.append((name, str(error)))
            continue
        for got, wanted in zip(results, expected, strict=True):
            np.testing.assert_array_equal(got, wanted, name)
        right.append(name)
    assert {
        "test_convinteger_without_padding",
        "test_convinteger_with_padding",
        "test_qlinearconv",
        "test_matmulinteger",
        "test_qlinearmatmul_2D_int8_float32",
        "test_qlinearmatmul_2D_uint8_float32",
        "test_qlinearmatmul_3D_int8_float32",
        "test_qlinearmatmul_3D_uint8_float32",
        "test_quantizelinear",
        "test_quantizelinear_axis",
        "test_dequantizelinear",
        "test_dequantizelinear_axis",
    } <= set(right)
    reasons = ("float16", "float8", "int16", "int4", "int2", "block_size", "element type")
    reasons += ("constants only",)
    assert all(any(reason in text for reason in reasons) for _, text in refused), refused


@pytest.mark.parametrize("pads", [(0, 0, 0, 0), (1, 1, 1, 1), (2, 0, 1, 3), (3, 3, 3, 3)])
@pytest.mark.parametrize("zero", [0, 1, 128, 255])
def test_padding_is_the_zero_point(pads: Sequence[int], zero: int) -> None:
    m = Maker(np.random.default_rng(zero))
    m.bytes("w", (8, 3, 3, 3), "int8")
    m.constant("zero", np.uint8(zero))
    m.node("ConvInteger", ["x", "w", "zero"], "y", pads=list(pads))
    check_exactly(m.model({"x": ("uint8", (1, 3, 5, 4))}, {"y": "int32"}))


def test_readers_with_different_zero_points() -> None:
    """A value that two convolutions and a pool read, each with its own padding."""
    m = Maker(np.random.default_rng(1))
    m.bytes("w", (8, 16, 3, 3), "int8")
    m.constant("a_zero", np.uint8(3))
    m.constant("b_zero", np.uint8(200))
    m.quantize("x", "q", 0.02, 100, "uint8")
    m.node("ConvInteger", ["q", "w", "a_zero"], "a", pads=[1, 1, 1, 1])
    m.node("ConvInteger", ["q", "w", "b_zero"], "b", pads=[2, 2, 2, 2])
    m.node("MaxPool", ["q"], "c", kernel_shape=[3, 3], pads=[1, 1, 1, 1])
    outputs = {"a": "int32", "b": "int32", "c": "uint8"}
    check_exactly(m.model({"x": ("float32", (1, 16, 6, 7))}, outputs))


@pytest.mark.parametrize("dtype", ["uint8", "int8"])
@pytest.mark.parametrize("shape", [(1, 24, 7, 7), (2, 13, 5, 3), (3, 10), (7,)])
def test_quantize_and_dequantize(dtype: str, shape: tuple[int, ...]) -> None:
    m = Maker(np.random.default_rng(2))
    m.quantize("x", "q", 0.0217, -3 if dtype == "int8" else 120, dtype)
    m.dequantize("q", "y", 0.0417, 7, dtype)
    check_exactly(m.model({"x": ("float32", shape)}, {"q": dtype, "y": "float32"}))


def test_halves_are_rounded_to_even() -> None:
    m = Maker(np.random.default_rng(0))
    m.quantize("x", "y", 2.0, 1, "uint8")
    x = np.array([[-3.0, -1, 1, 3, 5, 7, 9, 1e9, -1e9, np.inf, -np.inf]], np.float32)
    (y,) = run(m.model({"x": ("float32", x.shape)}, {"y": "uint8"}), {"x": x})
    assert y.tolist() == [[0, 1, 1, 3, 3, 5, 5, 255, 0, 255, 0]]


@pytest.mark.parametrize("zeros", [[84, 24, 196], [7, 7, 7]])
def test_scales_along_an_axis(zeros: list[int]) -> None:
    m = Maker(np.random.default_rng(3))
    m.constant("s", np.array([0.02, 0.4, 0.05], np.float32))
    m.constant("z", np.array(zeros, np.uint8))
    m.node("QuantizeLinear", ["x", "s", "z"], "q", axis=1)
    m.node("DequantizeLinear", ["q", "s", "z"], "y", axis=1)
    check_exactly(m.model({"x": ("float32", (2, 3, 5, 4))}, {"q": "uint8", "y": "float32"}))


@pytest.mark.parametrize("stack", [(), (2, 3)])
def test_matrix_products(stack: tuple[int, ...]) -> None:
    m = Maker(np.random.default_rng(4))
    m.bytes("w", (*stack, 20, 9), "uint8")
    for name, value in (("a", 11), ("b", 130), ("c", 99)):
        m.constant(f"{name}_zero", np.uint8(value))
    m.constant("a_scale", np.float32(0.01))
    m.constant("b_scale", np.float32(0.02))
    m.constant("c_scale", np.float32(0.9))
    m.node("MatMulInteger", ["x", "w", "a_zero", "b_zero"], "s")
    operands = ["x", "a_scale", "a_zero", "w", "b_scale", "b_zero", "c_scale", "c_zero"]
    m.node("QLinearMatMul", operands, "y")
    check_exactly(m.model({"x": ("uint8", (*stack, 5, 20))}, {"s": "int32", "y": "uint8"}))


# --- networks


@pytest.mark.parametrize("dtype", ["uint8", "int8"])
def test_a_network_of_quantised_floats_runs_on_integers(dtype: str) -> None:
    model = qdq_block(np.random.default_rng(5), dtype)
    graph = load(model)
    kinds = [node.op for node in graph.nodes]
    assert not {"conv", "depthwise_conv", "dense", "avg_pool", "global_avg_pool"} & {*kinds}
    assert kinds.count("qconv") == 3
    assert kinds.count("depthwise_qconv") == 1
    feeds = random_feeds(graph, 0)
    module = tvmconv.compile(model)
    (got,), (exact,) = module(feeds), evaluate(graph, feeds, "float32")
    np.testing.assert_allclose(got, exact, rtol=1e-6)
    assert np.unique(got).size > 4
    stored = [node.output.dtype for node in fuse(graph).nodes]
    assert set(stored[:-2]) == {dtype}, "what is elementwise is part of kernels that write bytes"


@pytest.mark.parametrize("seed", range(3))
def test_a_quantised_network_is_right(seed: int) -> None:
    model = qdq_block(np.random.default_rng(seed))
    report = verify(model, seed=seed)
    assert report.ok, report.outputs


def test_floats_between_quantised_tensors_are_left_alone() -> None:
    """What has no integer form is computed in floats between explicit conversions."""
    m = Maker(np.random.default_rng(6))
    m.quantize("x", "q", 0.03, 10, "uint8")
    m.dequantize("q", "d", 0.03, 10, "uint8")
    m.constant("w", np.random.default_rng(0).standard_normal((8, 16, 3, 3)).astype(np.float32))
    m.node("Conv", ["d", "w"], "c", pads=[1, 1, 1, 1])
    m.quantize(m.node("Sigmoid", ["c"], "s"), "y", 1 / 255, 0, "uint8")
    model = m.model({"x": ("float32", (1, 16, 6, 6))}, {"y": "uint8"})
    assert [n.op for n in load(model).nodes if n.op in ("conv", "qconv")] == ["conv"]
    feeds = feeds_of(model)
    (got,), (wanted,) = run(model, feeds), evaluate_model(model, feeds, ["y"])
    assert np.abs(got.astype(int) - wanted).max() <= 1
    assert (got != wanted).mean() < 0.01


# --- refusals


def refusal(kind: str, inputs: Mapping[str, Any], shape: Sequence[int] = (1, 4, 5, 5)) -> str:
    """What a node is refused with; inputs that are strings are run-time inputs of that type."""
    m = Maker(np.random.default_rng(0))
    ports = {}
    for name, value in inputs.items():
        if isinstance(value, str):
            ports[name] = (value, shape)
        else:
            m.constant(name, value)
    m.node(kind, list(inputs), "y")
    with pytest.raises(InputError) as caught:
        load(m.model(ports, {"y": "float32"}))
    return str(caught.value)


ONE, ZERO = np.float32(1), np.uint8(0)


@pytest.mark.parametrize(
    ("kind", "inputs", "message"),
    [
        ("ConvInteger", {"x": "uint8", "w": "uint8"}, "the weight (input 'w') must be a constant"),
        (
            "ConvInteger",
            {"x": "uint8", "w": np.zeros((2, 4, 3, 3), np.uint8), "z": np.int8(0)},
            "the zero point (input 2) must be uint8, is int8",
        ),
        (
            "ConvInteger",
            {"x": "uint8", "w": np.zeros((2, 3, 3, 3), np.uint8)},
            "input has 4 channels, but the weight takes 3",
        ),
        ("QuantizeLinear", {"x": "uint8", "s": ONE}, "input 0 must be float32, is uint8"),
        ("QuantizeLinear", {"x": "float32", "s": ONE, "z": np.uint16(0)}, "quantises to uint16"),
        ("QuantizeLinear", {"x": "float32", "s": np.float32(-1)}, "must be positive and finite"),
        ("QuantizeLinear", {"x": "float32", "s": "float32"}, "the scale (input 's') must be a"),
        ("DequantizeLinear", {"x": "float32", "s": ONE}, "input 0 must be one of uint8, int8"),
        (
            "DequantizeLinear",
            {"x": "uint8", "s": np.ones(3, np.float32)},
            "the scale (input 1) must have 1 or 4 elements, has shape (3,)",
        ),
        ("Relu", {"x": "uint8"}, "is not supported for uint8 tensors"),
        ("Add", {"x": "uint8", "y2": np.ones((1, 4, 5, 5), np.float32)}, "different element types"),
    ],
)
def test_refused(kind: str, inputs: Mapping[str, Any], message: str) -> None:
    assert message in refusal(kind, inputs)


def test_a_weight_at_run_time_is_refused() -> None:
    with pytest.raises(InputError, match=r"weight must be a constant; give --params"):
        tvmconv.compile("qconv2d:1x8x5x5:8x3x3")


def test_the_node_that_is_refused_is_named() -> None:
    node = helper.make_node("ConvInteger", ["x", "w"], ["y"], name="first")
    assert node.name == "first"
    assert "'ConvInteger_0' (ConvInteger)" in refusal("ConvInteger", {"x": "uint8", "w": "uint8"})
