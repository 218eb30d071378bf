"""Loading: what is accepted, names and batches, problems as models, and evaluation of graphs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

from tests.onnx_models import check, feeds, ints, net, normal, ops_of
from tvmconv.errors import InputError
from tvmconv.frontend import load
from tvmconv.graph.evaluate import evaluate, trace
from tvmconv.graph.ir import Graph
from tvmconv.problem import Problem

W = normal(6, 3, 3, 3)
PROBLEM = "conv2d:1x3x8x8:6x3x3:padding=1"


def test_names_are_the_files() -> None:
    model = net("c = Conv(x, w); r = Relu(c); y = Identity(r);", w=W)
    graph = load(model)
    assert [value.name for value in graph.inputs] == ["x"]
    assert [value.name for value in graph.outputs] == ["y"]
    assert graph.name == "net"
    assert [value.name for value in load(model, simplify=False).outputs] == ["y"]


def test_values_have_the_names_of_the_file() -> None:
    """So that a wrong value in between can be compared with ONNX's."""
    graph = load(net("c = Conv(x, w); a = Relu(c); b = Sigmoid(c); y = Add(a, b);", w=W))
    assert [node.output.name for node in graph.nodes] == ["c", "a", "b", "y"]


def test_names_are_unique() -> None:
    body = "a = Mish(x); b = Mish(a); y = Mish(b);"
    model = net(body, inputs="float[2] x", opset=18)
    for node in model.graph.node:
        node.name = "same"
    graph = load(model)
    names = [node.output.name for node in graph.nodes]
    assert len(set(names)) == len(names)


def test_names_that_rewrites_would_choose() -> None:
    body = "c = Conv(x, w); n = Add(c, k); y = Sub(n, n);"
    model = net(body, w=W, k=normal(6, 1, 1))
    for node in model.graph.node:
        for i, name in enumerate(node.input):
            node.input[i] = "n:bias" if name == "w" else name
    model.graph.initializer[0].name = "n:bias"
    graph = load(model)
    names = [value.name for value in graph.constants()]
    assert sorted(names) == ["n:bias", "n:bias.1"]


def test_inputs_with_initializers_are_constants_and_unused_inputs_stay() -> None:
    inputs = "float[1,3,8,8] x, float[6,3,3,3] w, float[5] unused"
    graph = load(net("y = Conv(x, w);", inputs=inputs, w=W))
    assert [value.name for value in graph.inputs] == ["x", "unused"]


def test_weights_can_be_inputs() -> None:
    graph = check(net("y = Conv(x, w);", inputs="float[1,3,8,8] x, float[6,3,3,3] w"))
    assert not graph.nodes[0].inputs[1].is_constant


def test_constant_output_and_aliases_of_inputs() -> None:
    graph = check(
        net("y = Add(k, k); z = Identity(x);", outputs="float[] y, float[] z", k=normal(3))
    )
    assert graph.outputs[0].is_constant
    assert ops_of(graph) == ["reshape"]


@pytest.mark.parametrize("dim", ["N", None])
def test_symbolic_batch(dim: str | None) -> None:
    model = net("c = Conv(x, w); f = Flatten(c); y = Reshape(f, s);", w=W, s=ints(-1, 6, 36))
    model.graph.input[0].type.tensor_type.shape.dim[0].Clear()
    if dim:
        model.graph.input[0].type.tensor_type.shape.dim[0].dim_param = dim
    with pytest.raises(InputError, match="give it with --batch N"):
        load(model)
    assert load(model, batch=4).outputs[0].shape == (4, 6, 36)


def test_declared_shapes_in_between_are_not_believed() -> None:
    model = net("c = Conv(x, w); y = Relu(c);", w=W)
    lie = onnx.helper.make_tensor_value_info("c", onnx.TensorProto.FLOAT, (7, 7))
    model.graph.value_info.append(lie)
    assert check(model).outputs[0].shape == (1, 6, 6, 6)


def test_outputs_in_between() -> None:
    model = net("c = Conv(x, w); r = Relu(c); y = Sigmoid(r);", w=W)
    graph = load(model, outputs=["r", "c"])
    assert [value.name for value in graph.outputs] == ["r", "c"]
    assert ops_of(graph) == ["conv", "relu"]
    assert ops_of(load(model, outputs=["x"])) == []


def test_dead_nodes_may_be_anything() -> None:
    assert ops_of(load(net("n = Nonsense(x); y = Relu(x);"))) == ["relu"]


def test_path_bytes_and_message_are_the_same(tmp_path: Path) -> None:
    model = net("y = Conv(x, w);", w=W)
    before = model.SerializeToString()
    path = tmp_path / "some model.onnx"
    path.write_bytes(before)
    graphs = [load(model), load(before), load(path), load(str(path))]
    assert model.SerializeToString() == before
    assert [graph.name for graph in graphs] == ["net", "net", "some model", "some model"]
    x = feeds(graphs[0])
    results = [evaluate(graph, x)[0] for graph in graphs]
    assert all((result == results[0]).all() for result in results)


def test_light_names_stand_for_the_files_of_the_onnx_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert load("light_squeezenet.onnx").inputs[0].shape == (1, 3, 224, 224)
    (tmp_path / "light_squeezenet.onnx").write_bytes(net("y = Relu(x);").SerializeToString())
    assert ops_of(load("light_squeezenet.onnx")) == ["relu"]
    with pytest.raises(InputError, match="no such file"):
        load("folder/light_squeezenet.onnx")


def test_problem() -> None:
    graph = load(PROBLEM + ":bias=true")
    assert [(value.name, value.shape) for value in graph.inputs] == [
        ("x", (1, 3, 8, 8)),
        ("weight", (6, 3, 3, 3)),
        ("bias", (6,)),
    ]
    assert [(value.name, value.shape) for value in graph.outputs] == [("y", (1, 6, 8, 8))]
    assert graph.name == graph.nodes[0].attrs["problem"] == PROBLEM + ":bias=true"
    x = feeds(graph)
    np.testing.assert_allclose(evaluate(graph, x)[0], Problem.parse(graph.name).reference(x))


def test_problem_with_parameters(tmp_path: Path) -> None:
    text = PROBLEM + ":bias=true"
    path = tmp_path / "params.npz"
    np.savez(path, weight=W)
    for params in ({"weight": W}, path, str(path)):
        graph = load(text, params=params)
        assert [value.name for value in graph.inputs] == ["x", "bias"]
        weight = graph.nodes[0].inputs[1].data
        assert weight is not None
        np.testing.assert_array_equal(weight, W)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"weights": W}, "parameter 'weights' is unknown; the problem has weight"),
        ({"x": W}, "parameter 'x' is unknown"),
        ({"weight": W[1:]}, "weight must have shape 6x3x3x3, has 5x3x3x3"),
        ({"weight": W.astype(np.float64)}, "weight must be float32, is float64"),
    ],
)
def test_bad_parameters(arrays: dict[str, np.ndarray], message: str, tmp_path: Path) -> None:
    path = tmp_path / "params.npz"
    np.savez(path, **arrays)
    for params in (arrays, path):
        with pytest.raises(InputError) as raised:
            load(PROBLEM, params=params)
        assert message in str(raised.value)


def test_bad_parameter_files(tmp_path: Path) -> None:
    path = tmp_path / "params.npz"
    with pytest.raises(InputError, match="no such file"):
        load(PROBLEM, params=path)
    for data in (b"", b"no archive", b"PK\x03\x04 broken"):
        path.write_bytes(data)
        with pytest.raises(InputError, match=r"is no readable \.npz file"):
            load(PROBLEM, params=path)
    np.savez(path, weight=np.array([{}], object))
    with pytest.raises(InputError, match="weight must have shape"):
        load(PROBLEM, params=path)


@pytest.mark.parametrize(
    "text",
    ["conv2d:1x3x8x8", "convd2:1x3x8x8:3x3x3", "nonsense:1", "conv2d:", "conv2d:" + "1x" * 999],
)
def test_what_looks_like_a_problem_is_one(text: str) -> None:
    with pytest.raises(InputError) as raised:
        load(text)
    assert "no such file" not in str(raised.value)


def test_file_whose_name_looks_like_a_problem(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "conv2d:1").write_bytes(net("y = Relu(x);").SerializeToString())
    assert ops_of(load("conv2d:1")) == ["relu"]


def test_batch_is_not_for_problems() -> None:
    with pytest.raises(InputError, match="a problem's text has its batch"):
        load(PROBLEM, batch=2)


def branching() -> Graph:
    return load(net("c = Conv(x, w); r = Relu(c); y = Add(r, c);", w=W))


def test_trace_yields_every_node_and_stops_when_asked() -> None:
    graph = branching()
    x = normal(1, 3, 8, 8)
    steps = [(node.output.name, array.shape) for node, array in trace(graph, [x])]
    assert steps == [(name, (1, 6, 6, 6)) for name in ("c", "r", "y")]
    first, _ = next(iter(trace(graph, {"x": x})))
    assert first.op == "conv"


def test_precision_of_evaluation() -> None:
    graph = branching()
    x = normal(1, 3, 8, 8)
    (wide,), (narrow,) = evaluate(graph, [x]), evaluate(graph, [x], "float32")
    assert (wide.dtype, narrow.dtype) == (np.float64, np.float32)
    np.testing.assert_allclose(narrow, wide, rtol=1e-5, atol=1e-5)
    assert (narrow != wide).any()


def test_evaluation_of_wrong_inputs() -> None:
    graph = branching()
    for inputs, message in (
        ([], "takes 1 inputs, got 0"),
        ({}, "input 'x' is missing"),
        ({"x": normal(1, 3, 8, 8), "z": W}, "there is no input 'z'"),
        ({"x": W}, r"must have shape \(1, 3, 8, 8\), has \(6, 3, 3, 3\)"),
    ):
        with pytest.raises(InputError, match=message):
            evaluate(graph, inputs)  # type: ignore[arg-type]


def test_neither_tvm_nor_onnx_is_imported_without_need() -> None:
    code = f"""
import sys
from tvmconv.errors import InputError
from tvmconv.frontend import load
load({PROBLEM!r})
try:
    load("nosuch.onnx")
except InputError:
    pass
print([name for name in sys.modules if name.split(".")[0] in ("tvm", "onnx", "torch")])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
