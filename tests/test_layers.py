"""The table of real layers is what it says: valid, without repeats, and as often in its network."""

from __future__ import annotations

from collections import Counter
from functools import cache
from pathlib import Path

import onnx
import pytest

from tests.networks import NETWORKS
from tvmconv.errors import InputError
from tvmconv.layers import FAMILY, LAYERS, SIX, SUITES, Layer, suite
from tvmconv.problem import Problem

LIGHT = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light"
MOST_MACS = 4_000_000_000


@pytest.mark.parametrize(("rows", "least"), [(LAYERS, 60), (FAMILY, 25)])
def test_rows_are_canonical_problems_and_differ(rows: tuple[Layer, ...], least: int) -> None:
    texts = [layer.problem for layer in rows]
    assert [Problem.parse(text).text for text in texts] == texts
    assert len(set(texts)) == len(texts)
    assert len({layer.origin for layer in rows}) == len(rows)
    assert len(rows) >= least
    assert max(Problem.parse(text).macs for text in texts) <= MOST_MACS


def test_suites_are_found_by_name_and_filtered() -> None:
    assert suite("layers") == LAYERS
    assert LAYERS[:6] == SIX
    assert suite("six") == SIX
    assert {row.network for row in suite("layers", "yolov3:")} == {"yolov3"}
    assert all("dilation=2" in row.problem for row in suite("layers", "dilation=2"))
    assert set(SUITES) == {"layers", "family", "six"}
    with pytest.raises(InputError, match="unknown suite 'seven', known: layers, family, six"):
        suite("seven")
    with pytest.raises(InputError, match="suite six: no layer contains 'yolo'"):
        suite("six", "yolo")


def test_origin_names_network_batch_and_count() -> None:
    layer = Layer("net@8:block/conv*3", "conv2d:8x3x8x8:4x3x3")
    assert (layer.network, layer.count) == ("net", 3)
    assert Layer("net:conv", "").count == 1
    for layer in LAYERS:
        batch = Problem.parse(layer.problem).batch
        assert layer.origin.partition(":")[0] == layer.network + (f"@{batch}" if batch > 1 else "")


class Graph:
    """A light network's nodes, found by what they make and by what reads it."""

    def __init__(self, network: str) -> None:
        model = onnx.shape_inference.infer_shapes(onnx.load(LIGHT / f"light_{network}.onnx"))
        self.nodes = model.graph.node
        self.shapes = {
            value.name: tuple(d.dim_value for d in value.type.tensor_type.shape.dim)
            for value in [*model.graph.value_info, *model.graph.input]
        }
        self.shapes.update({t.name: tuple(t.dims) for t in model.graph.initializer})

    def readers(self, name: str) -> list[onnx.NodeProto]:
        return [node for node in self.nodes if name in node.input]

    def after(self, node: onnx.NodeProto) -> tuple[bool, str]:
        """Whether a bias is added after a layer, and the activation after it or after its sum."""
        bias, summed = False, False
        while True:
            readers = self.readers(node.output[0])
            if len(readers) != 1 or (summed and readers[0].op_type != "Relu"):
                return bias, ""
            node = readers[0]
            if node.op_type == "Relu":
                return bias, "relu"
            if node.op_type == "Sum":
                summed = True
            elif node.op_type in ("BatchNormalization", "Add", "Mul"):
                bias = True
            else:
                return bias, ""

    def problem(self, node: onnx.NodeProto) -> Problem | None:
        attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
        shape = self.shapes[node.input[0]]
        options = {
            "stride": tuple(attributes.get("strides", ())),
            "padding": tuple(attributes.get("pads", ())),
        }
        if node.op_type in ("Conv", "Gemm"):
            weight = self.shapes[node.input[1]]
            bias, activation = self.after(node)
            options["activation"] = activation
            options["bias"] = bias or len(node.input) > 2
            if node.op_type == "Gemm":
                return problem("dense", shape, weight[:1], options)
            options["groups"] = attributes.get("group", 1)
            if options["groups"] == shape[1]:
                del options["groups"]
                return problem("depthwise_conv", shape, (weight[0], *weight[2:]), options)
            return problem("conv", shape, (weight[0], *weight[2:]), options)
        if node.op_type in ("MaxPool", "AveragePool"):
            op = "max_pool" if node.op_type == "MaxPool" else "avg_pool"
            return problem(op, shape, tuple(attributes["kernel_shape"]), options)
        if node.op_type == "GlobalAveragePool":
            return problem("global_avg_pool", shape, (), {})
        return None


def problem(
    op: str, shape: tuple[int, ...], filter_shape: tuple[int, ...], options: dict[str, object]
) -> Problem:
    return Problem.make(op, shape, filter_shape, **{k: v for k, v in options.items() if v})


@cache
def layers_of(network: str) -> Counter[str]:
    """Every layer of a network, as the text of its problem, and how often it occurs."""
    if network in NETWORKS:
        return NETWORKS[network]().layers
    graph = Graph(network)
    problems = (graph.problem(node) for node in graph.nodes)
    return Counter(found.text for found in problems if found)


@pytest.mark.parametrize("layer", LAYERS, ids=lambda layer: layer.origin)
def test_the_network_has_the_layer_as_often_as_the_row_says(layer: Layer) -> None:
    row = Problem.parse(layer.problem)
    alone = Problem(row.op, (1, *row.input_shape[1:]), row.filter_shape, row.options)
    assert layers_of(layer.network)[alone.text] == layer.count


def test_every_convolution_of_resnet50_has_a_row() -> None:
    rows = {layer.problem for layer in LAYERS if layer.origin.startswith("resnet50:")}
    assert set(layers_of("resnet50")) <= rows


def test_the_light_resnet50_is_the_papers() -> None:
    drawn, graph = NETWORKS["resnet50"]().layers, Graph("resnet50")
    found = Counter(p.text for p in map(graph.problem, graph.nodes) if p and p.op == "conv")
    assert found == Counter({k: n for k, n in drawn.items() if k.startswith("conv")})
