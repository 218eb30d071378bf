"""Verification: right networks pass, the first wrong node of a wrong one is named."""

import sys
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import tvmconv
from tvmconv.errors import InputError
from tvmconv.models import light_path
from tvmconv.oracle import batch_norm, before_softmax, evaluate_model, response_norm
from tvmconv.runtime.arrays import Port, poisoned

PROBLEM = "conv2d:1x20x9x9:24x3x3:padding=1:bias=true:activation=relu"


def network() -> onnx.ModelProto:
    """Three convolutions, a shuffle between the second and a depthwise one, a head with Softmax."""
    rng = np.random.default_rng(0)

    def weight(name: str, *shape: int) -> onnx.TensorProto:
        data = rng.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))
        return numpy_helper.from_array(data.astype(np.float32), name)

    weights = [weight("w1", 16, 3, 3, 3), weight("w2", 16, 4, 1, 1), weight("w3", 16, 1, 3, 3)]
    weights += [weight("w4", 10, 8, 1, 1)]
    five = numpy_helper.from_array(np.array([1, 4, 4, 8, 8]), "five")
    four = numpy_helper.from_array(np.array([1, 16, 8, 8]), "four")
    nodes = [
        helper.make_node("Conv", ["x", "w1"], ["a"], "first", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["a"], ["b"], "relu"),
        helper.make_node("Conv", ["b", "w2"], ["c"], "grouped", group=4),
        helper.make_node("Reshape", ["c", "five"], ["d"], "split"),
        helper.make_node("Transpose", ["d"], ["e"], "swap", perm=[0, 2, 1, 3, 4]),
        helper.make_node("Reshape", ["e", "four"], ["f"], "join"),
        helper.make_node("Conv", ["f", "w3"], ["g"], "depthwise", group=16, pads=[1, 1, 1, 1]),
        helper.make_node("Conv", ["g", "w4"], ["h"], "last", group=2),
        helper.make_node("GlobalAveragePool", ["h"], ["i"], "mean"),
        helper.make_node("Softmax", ["i"], ["y"], "softmax", axis=1),
    ]
    graph = helper.make_graph(
        nodes,
        "network",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 10, 1, 1])],
        [*weights, five, four],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def test_a_right_network_is_right_before_its_softmax() -> None:
    report = tvmconv.verify(network())
    assert report.ok
    assert [check.name for check in report.outputs] == ["y"]
    assert before_softmax(network()) == ["i"]


@pytest.mark.parametrize("broken", ["first", "depthwise", "last"])
def test_bisect_names_the_node_that_is_wrong(broken: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from tvmconv.graph import lower

    pack = lower._Lowerer._packed

    def wrong(self: Any, name: str, spec: Any, weights: Any) -> Any:
        node = next(n for n in self.nodes if n.inputs[1:2] == weights[:1])
        if node.name == broken:
            weights[0].data = weights[0].data + np.float32(0.5)
        return pack(self, name, spec, weights)

    monkeypatch.setattr(lower._Lowerer, "_packed", wrong)
    report = tvmconv.verify(network(), bisect=True)
    assert not report.ok
    # The depthwise convolution reads unshuffled channels: its result exists in no other order.
    assert report.first_wrong.startswith("last" if broken == "depthwise" else broken)
    assert report.to_json()["first_wrong"] == report.first_wrong


def test_a_problem_is_held_to_the_formula() -> None:
    report = tvmconv.verify(PROBLEM)
    assert report.ok
    assert 0 < report.outputs[0].ratio < 1


def test_options_that_do_not_fit_are_refused() -> None:
    with pytest.raises(InputError, match="batch and bisect are for models"):
        tvmconv.verify(PROBLEM, batch=2)
    with pytest.raises(InputError, match="params are for problems"):
        tvmconv.verify(network(), params={"weight": np.zeros(3, np.float32)})


def test_zeros_do_not_count_as_verified() -> None:
    module = sys.modules["tvmconv.verify"]
    zeros = np.zeros((2, 3), np.float32)
    check = module.compare("y", zeros, zeros)
    assert not check.ok
    assert "zero" in check.message


@pytest.mark.parametrize(
    "problem",
    [
        "conv2d_transpose:1x3x5x7:5x1x1:stride=3",
        "conv2d:1x3x1x1:4x3x3:padding=6",
        "conv1d_transpose:1x3x9:5x2:stride=11",
        "conv1d:1x1x3:1x1:padding=20:stride=50",
        "dense:1x3:1:activation=relu",
    ],
)
def test_zeros_that_the_problem_makes_are_right(problem: str) -> None:
    assert tvmconv.verify(problem).outputs[0].status == "right"


def sparse(slope: float) -> onnx.ModelProto:
    """Few elements of a border of zeros, or none."""
    nodes = [
        helper.make_node("Mul", ["x", "slope"], ["a"]),
        helper.make_node("Pad", ["a", "pads"], ["y"], "border"),
    ]
    given = [
        numpy_helper.from_array(np.float32(slope), "slope"),
        numpy_helper.from_array(np.array([0, 0, 9, 9, 0, 0, 9, 9]), "pads"),
    ]
    values = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        for name, shape in (("x", [1, 2, 3, 3]), ("y", [1, 2, 21, 21]))
    ]
    graph = helper.make_graph(nodes, "sparse", values[:1], values[1:], given)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def test_a_network_may_have_few_elements_that_are_not_zero() -> None:
    assert tvmconv.verify(sparse(2.0)).ok


def test_a_network_of_zeros_is_neither_right_nor_wrong() -> None:
    report = tvmconv.verify(sparse(0.0), bisect=True)
    (check,) = report.outputs
    assert (report.ok, check.status, report.first_wrong) == (False, "inconclusive", "")
    assert "too few elements" in report.fault


@pytest.mark.parametrize("params", [{"bias": -1000.0}, {"weight": 0.0}, {"weight": -1e-30}])
def test_a_problem_of_zeros_is_neither_right_nor_wrong(params: dict[str, float]) -> None:
    problem = "conv2d:1x8x6x6:8x3x3:padding=1:bias=true:activation=relu"
    shapes = {"bias": (8,), "weight": (8, 8, 3, 3)}
    given = {name: np.full(shapes[name], value, np.float32) for name, value in params.items()}
    if "weight" in given:
        given["bias"] = np.full(8, -1.0, np.float32)
    report = tvmconv.verify(problem, params=given)
    assert report.outputs[0].status == "inconclusive"


def one_node(op: str, x: np.ndarray, dtype: int) -> onnx.ModelProto:
    """``y = op(x, constant)``."""
    values = [
        helper.make_tensor_value_info("x", TensorProto.FLOAT, x.shape),
        helper.make_tensor_value_info("y", dtype, x.shape),
    ]
    nodes = [helper.make_node("Add" if op == "Sqrt" else op, ["x", "c"], ["a"])]
    nodes += [helper.make_node(op if op == "Sqrt" else "Identity", ["a"], ["y"])]
    given = [numpy_helper.from_array(x, "c")]
    graph = helper.make_graph(nodes, "one", values[:1], values[1:], given)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def test_a_network_of_no_numbers_is_inconclusive() -> None:
    model = one_node("Sqrt", np.full((2, 9), -100, np.float32), TensorProto.FLOAT)
    assert tvmconv.verify(model).outputs[0].status == "inconclusive"


def test_a_quantised_network_of_zeros_is_inconclusive() -> None:
    module = sys.modules["tvmconv.verify"]
    zeros, ones = np.zeros((2, 3), np.float32), np.ones((2, 3), np.float32)
    assert module._compare_norms("y", zeros, zeros).status == "inconclusive"
    assert module._compare_norms("y", ones, zeros).status == "wrong"
    assert module._compare_norms("y", zeros, ones).status == "wrong"
    assert module._compare_norms("y", ones, ones).status == "right"


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "int8", "int64", "bool"])
@pytest.mark.parametrize("shape", [(), (2, 3), (2, 0)])
def test_outputs_begin_as_what_no_kernel_writes(dtype: str, shape: tuple[int, ...]) -> None:
    (array,) = poisoned([Port("y", shape, dtype)])
    assert (array.shape, str(array.dtype)) == (shape, dtype)
    assert set(array.tobytes()) <= {0xFF}
    assert array.flags.writeable
    if dtype.endswith(("16", "32")):
        assert np.isnan(array.astype(np.float32)).all()


def test_outputs_that_are_not_written_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    from tvmconv.runtime import loader

    monkeypatch.setattr(loader.Module, "_run", lambda _, arrays, out, function: list(out))
    true = one_node("Greater", np.full((2, 9), -100, np.float32), TensorProto.BOOL)
    for model in (PROBLEM, sparse(2.0), true):
        report = tvmconv.verify(model)
        assert report.outputs[0].status == "wrong"
        assert report.fault == "the output differs from the reference"


def test_the_oracle_takes_explicit_zeros() -> None:
    x = np.random.default_rng(0).standard_normal((1, 6, 2, 2)).astype(np.float32)
    node = helper.make_node("LRN", ["x"], ["y"], size=3, bias=0.0, alpha=1.0, beta=0.5)
    values = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, x.shape) for name in ("x", "y")
    ]
    graph = helper.make_graph([node], "lrn", values[:1], values[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    (got,) = evaluate_model(model, {"x": x}, ["y"])
    np.testing.assert_allclose(got, response_norm(x, 3, 1.0, 0.5, 0.0), rtol=1e-6)


def test_batch_normalisation_of_the_oracle_is_inference() -> None:
    x = np.arange(8, dtype=np.float32).reshape(1, 2, 2, 2)
    one, two = np.float32([1, 2]), np.float32([3, 4])
    y = batch_norm(x, one, two, np.float32([0, 1]), np.float32([4, 9]), 0.0)
    np.testing.assert_allclose(y[0, 0], x[0, 0] / 2 + 3)
    np.testing.assert_allclose(y[0, 1], 2 * (x[0, 1] - 1) / 3 + 4)


@pytest.mark.parametrize("weights", ["constant"])
def test_a_real_network_of_constant_weights(weights: str) -> None:
    assert tvmconv.verify(light_path("light_squeezenet")).ok
