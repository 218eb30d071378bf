"""The network as a Relax module: exact round trips, TVM's checker, passes and instruments."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

import tvmconv
from tests.graphs import feeds, random_graph
from tests.simulate import simulate
from tvmconv._tvm import relax, tvm
from tvmconv.errors import InputError
from tvmconv.frontend import load
from tvmconv.graph.evaluate import evaluate
from tvmconv.graph.fuse import fuse
from tvmconv.graph.ir import Graph, Node, Value
from tvmconv.graph.layout import Placed, assign_forms, assign_halos, place
from tvmconv.graph.pipeline import fusion_passes, graph_pass, optimized
from tvmconv.graph.relax import from_relax, operator, script, to_relax
from tvmconv.models import light_path

PROBLEM = "conv2d:1x3x8x8:4x3x3:padding=1"


def conv_relu(**names: str) -> Graph:
    """A convolution and a relu."""
    x = Value(names.get("x", "x"), (1, 3, 8, 8))
    weight = Value(names.get("w", "w"), (4, 3, 3, 3), data=np.ones((4, 3, 3, 3), np.float32))
    middle, y = Value("middle", (1, 4, 8, 8)), Value("y", (1, 4, 8, 8))
    nodes = [
        Node("conv", [x, weight], middle, {"problem": PROBLEM}, "the conv"),
        Node("relu", [middle], y, {}, ""),
    ]
    return Graph("net", [x], [y], nodes)


def assert_same(a: Graph, b: Graph) -> None:
    """Equal graphs: equal nodes over equal values, joined alike, with the very same arrays."""
    twin: dict[Value, Value] = {}

    def check(ours: list[Value], theirs: list[Value]) -> None:
        for u, v in zip(ours, theirs, strict=True):
            assert (u.name, u.shape, u.dtype) == (v.name, v.shape, v.dtype)
            assert u.data is v.data
            assert twin.setdefault(u, v) is v

    assert a.name == b.name
    check(a.inputs, b.inputs)
    for one, two in zip(a.nodes, b.nodes, strict=True):
        assert (one.op, one.name) == (two.op, two.name)
        assert json.dumps(one.attrs, sort_keys=True) == json.dumps(two.attrs, sort_keys=True)
        check([*one.inputs, one.output], [*two.inputs, two.output])
    check(a.outputs, b.outputs)


@pytest.mark.parametrize("seed", range(30))
def test_graphs_survive_the_round_trip_and_tvm_accepts_them(seed: int) -> None:
    graph = random_graph(seed)
    for stage in (graph, fuse(graph), place(fuse(graph), 16).to_graph()):
        module = to_relax(stage)
        relax.analysis.well_formed(module)
        assert_same(stage, from_relax(module))


def test_the_module_reads_like_the_network() -> None:
    text = script(to_relax(conv_relu()))
    assert 'middle: R.Tensor((1, 4, 8, 8), dtype="float32") = R.tvmconv.conv(x, w' in text
    assert f'name="the conv", problem="{PROBLEM}"' in text
    assert 'R.func_attr({"network": "net", "num_input": 1})' in text
    assert "metadata" not in text


def test_the_placed_module_shows_layouts() -> None:
    module = optimized(conv_relu(), 16)
    text = script(module)
    assert "R.tvmconv.convert(x" in text
    assert 'layout={"block": 1, "highs": [1, 1], "lows": [1, 1]}' in text
    assert 'program=[{"op": "relu"}]' in text
    assert Placed.of(from_relax(module)).graph.nodes[-1].attrs.keys() == {"problem", "program"}


def test_any_name_survives() -> None:
    graph = conv_relu(x="gpu_0/data:0 é", w="'\"\n")
    assert_same(graph, from_relax(to_relax(graph)))


def test_constants_of_one_name_are_told_apart() -> None:
    graph = conv_relu(w="x")
    again = from_relax(to_relax(graph))
    assert [v.name for v in again.nodes[0].inputs] == ["x", "x:1"]
    assert again.nodes[0].inputs[1].data is graph.nodes[0].inputs[1].data


def test_attributes_of_every_kind_survive() -> None:
    graph = conv_relu()
    attrs: dict[str, Any] = {
        "flag": True, "count": 3, "big": -(2**63), "real": 1.0, "infinite": float("-inf"),
        "none": None, "text": "é\n", "list": [1, [2.5, False], []], "map": {"b": {}, "a": [None]},
    }  # fmt: skip
    graph.nodes[1].attrs = attrs
    again = from_relax(to_relax(graph)).nodes[1].attrs
    assert again == attrs
    assert [type(again[key]) for key in attrs] == [type(value) for value in attrs.values()]


def test_a_network_without_nodes() -> None:
    x, c = Value("x", (2, 3)), Value("c", (), data=np.ones((), np.float32))
    graph = Graph("empty", [x], [x, c, x], [])
    module = to_relax(graph)
    relax.analysis.well_formed(module)
    assert_same(graph, from_relax(module))


def test_tvm_refuses_a_wrong_shape() -> None:
    graph = conv_relu()
    graph.nodes[0].output.shape = (1, 4, 8, 9)
    with pytest.raises(TypeError, match="the expression outputs"):
        relax.analysis.well_formed(to_relax(graph))


def test_tvm_refuses_wrong_inputs() -> None:
    graph = conv_relu()
    graph.nodes[0].inputs[0].shape = (1, 5, 8, 8)
    with pytest.raises(TypeError, match=r"conv: .*x must have shape"):
        relax.analysis.well_formed(to_relax(graph))


def test_unknown_operators_are_refused() -> None:
    with pytest.raises(InputError, match=r"unknown operator 'convv'; did you mean conv"):
        operator("convv")


def test_what_is_not_ours_is_refused() -> None:
    x = relax.Var("x", relax.TensorType([2], "float32"))
    builder = relax.BlockBuilder()
    with builder.function("main", [x], attrs={"network": "n", "num_input": 1}):
        with builder.dataflow():
            y = builder.emit_output(relax.op.add(x, x))
        builder.emit_func_output(y)
    module = builder.get().with_attr("constants", to_relax(conv_relu()).attrs["constants"])
    with pytest.raises(ValueError, match="is no call of an operator of tvmconv"):
        from_relax(module)


def test_passes_of_tvm_fit_between_ours() -> None:
    for seed in range(20):
        graph = random_graph(seed)
        inputs = feeds(graph)
        passes = [
            relax.transform.EliminateCommonSubexpr(),
            relax.transform.CanonicalizeBindings(),
            relax.transform.DeadCodeElimination(),
        ]
        module = tvm.transform.Sequential(passes)(to_relax(graph))
        results = evaluate(from_relax(module), inputs)
        for got, wanted in zip(results, evaluate(graph, inputs), strict=True):
            np.testing.assert_array_equal(got, wanted)


def test_an_own_pass_can_be_inserted() -> None:
    def negate(graph: Graph) -> Graph:
        for node in graph.nodes:
            node.attrs = {**node.attrs, "program": [*node.attrs["program"], {"op": "neg"}]}
        return graph

    passes = tvm.transform.Sequential([*fusion_passes(), graph_pass("Negate", negate)])
    graph = from_relax(passes(to_relax(conv_relu())))
    inputs = feeds(graph)
    (got,) = tvmconv.compile(graph, fused=True)(inputs)
    (wanted,) = evaluate(conv_relu(), inputs)
    np.testing.assert_allclose(got, -wanted, 1e-4, 1e-5)


@tvm.instrument.pass_instrument  # type: ignore[untyped-decorator]
class Recorder:
    """Notes which passes ran."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def run_after_pass(self, module: Any, info: Any) -> None:
        relax.analysis.well_formed(module)
        self.names.append(str(info.name))


def test_instruments_see_every_pass_and_a_well_formed_module() -> None:
    recorder = Recorder()
    with tvm.transform.PassContext(instruments=[recorder]):
        optimized(load(light_path("light_squeezenet")), 16)
    assert recorder.names == [
        "SplitParts", "SplitPaddingModes", "FlipTransposed", "FoldShuffles", "FindGates",
        "AsPrograms", "SinkReshapes", "DenseOnMaps", "SinkReshapes", "AbsorbConversions",
        "FuseElementwise", "DeadCodeElimination", "JoinUpsampled", "ChooseGates", "FuseSeparable",
        "AssignForms", "ChooseAlgorithms", "AssignHalos", "ShareConcatenations", "ShareViews",
        "tvmconv",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "disabled",
    ["SinkReshapes", "DenseOnMaps", "AbsorbConversions", "FuseElementwise", "DeadCodeElimination",
     "ShareConcatenations"],
)  # fmt: skip
def test_results_are_right_without_a_pass(disabled: str) -> None:
    for seed in range(10):
        graph = random_graph(seed)
        inputs = feeds(graph)
        with tvm.transform.PassContext(disabled_pass=[disabled]):
            module = optimized(graph, 8)
        results = simulate(Placed.of(from_relax(module)), inputs)
        for got, wanted in zip(results, evaluate(graph, inputs), strict=True):
            np.testing.assert_allclose(got, wanted, 1e-3, 1e-4 * (1 + np.abs(wanted).max()))


def test_dead_nodes_go_but_inputs_stay() -> None:
    graph = conv_relu()
    unused = Value("unused", (2, 3))
    graph.inputs.insert(0, unused)
    graph.nodes.append(Node("relu", [unused], Value("dead", (2, 3))))
    again = from_relax(optimized(graph, 16))
    assert [(v.name, v.shape) for v in again.inputs] == [("unused", (2, 3)), ("x", (1, 3, 8, 8))]
    assert [node.op for node in again.nodes] == ["convert", "conv"]


def test_a_module_without_layouts_cannot_be_lowered() -> None:
    with pytest.raises(ValueError, match=r"the conv \(conv\) has no layout"):
        Placed.of(conv_relu())
    assert Placed.of(assign_halos(assign_forms(fuse(conv_relu()), 16))).graph.nodes


def test_weights_pass_by_reference() -> None:
    graph = load(light_path("light_vgg19"))  # 574 MB of weights
    before = {id(value.data.base if value.data.base is not None else value.data)
              for value in graph.constants() if value.data is not None}  # fmt: skip
    for value in from_relax(optimized(graph, 16)).constants():
        assert value.data is not None
        base = value.data.base if value.data.base is not None else value.data
        assert id(base) in before, value.name


def test_the_structure_can_be_saved() -> None:
    module = to_relax(conv_relu()).without_attr("constants")
    again = tvm.ir.load_json(tvm.ir.save_json(module))
    tvm.ir.assert_structural_equal(module, again)
