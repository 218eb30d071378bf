"""Explanations of models: shapes, costs, shared weights, receptive fields."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import tvmconv
from tests.onnx_models import ints, net, normal
from tvmconv.explain.model import LayerExplanation, ModelExplanation
from tvmconv.explain.receptive import receptive_fields
from tvmconv.frontend import load
from tvmconv.graph.evaluate import evaluate

LENET = net(
    """c1 = Conv <pads = [2, 2, 2, 2]> (x, w1, b1); r1 = Tanh (c1);
    p2 = AveragePool <kernel_shape = [2, 2], strides = [2, 2]> (r1);
    c3 = Conv (p2, w3, b3); r3 = Tanh (c3);
    p4 = AveragePool <kernel_shape = [2, 2], strides = [2, 2]> (r3);
    f = Flatten (p4);
    f5 = Gemm <transB = 1> (f, w5, b5); r5 = Tanh (f5);
    f6 = Gemm <transB = 1> (r5, w6, b6); r6 = Tanh (f6);
    y = Gemm <transB = 1> (r6, w7, b7);""",
    x="1,1,28,28",
    w1=normal(6, 1, 5, 5),
    b1=normal(6),
    w3=normal(16, 6, 5, 5),
    b3=normal(16),
    w5=normal(120, 400),
    b5=normal(120),
    w6=normal(84, 120),
    b6=normal(84),
    w7=normal(10, 84),
    b7=normal(10),
)


def explained(model: onnx.ModelProto | str) -> ModelExplanation:
    found = tvmconv.explain(model, "znver5")
    assert isinstance(found, ModelExplanation)
    return found


def layers(model: onnx.ModelProto | str) -> list[LayerExplanation]:
    return list(explained(model).layers)


def fields(model: onnx.ModelProto) -> list[tuple[int, ...]]:
    return [layer.field.size for layer in layers(model)]


def test_lenet() -> None:
    found = explained(LENET)
    sizes = [28, *(layer.output_shape[-1] for layer in found.layers if layer.op != "tanh")]
    assert sizes == [28, 28, 14, 10, 5, 400, 120, 84, 10]
    by_op = [layer.parameters for layer in found.layers if layer.parameters]
    assert by_op == [156, 2416, 48120, 10164, 850]
    assert found.parameters == 61_706
    convolutions = 28 * 28 * 6 * 25 + 10 * 10 * 16 * 150
    assert found.macs == convolutions + 400 * 120 + 120 * 84 + 84 * 10


def test_text(
    tvmconv: Callable[..., Any], snapshot: Callable[[str, str], None], tmp_path: Path
) -> None:
    file = tmp_path / "lenet.onnx"
    onnx.save(LENET, file)
    result = tvmconv("explain", file, "--target", "znver5")
    assert (result.code, result.err) == (0, "")
    snapshot("explain-lenet", result.out)
    data = json.loads(tvmconv("explain", file, "--target", "znver5", "--json", "-").out)
    assert data == json.loads(json.dumps({**explained(LENET).to_json(), "model": "lenet"}))
    for option in (("--at", "1,1"), ("--svg", tmp_path / "e.svg"), ("--params", file)):
        refused = tvmconv("explain", file, *option)
        assert (refused.code, refused.out) == (2, "")
        assert refused.err.endswith("--at, --svg, --input and --params are for problems\n")


@pytest.mark.parametrize(
    ("name", "parameters", "gmacs", "op", "field", "jump"),
    [
        # Araujo et al., Computing receptive fields of CNNs, Distill 2019, appendix; parameters and
        # multiply-adds as published.
        ("bvlc_alexnet", 60.97e6, 0.655, "max_pool", 195, 32),
        ("vgg19", 143.67e6, 19.6, "max_pool", 268, 32),
        ("inception_v2", 11.2e6, 2.02, "concat", 699, 32),
        ("resnet50", 25.5e6, 4.09, "add", 427, 32),  # with the stride in the 1×1, as in Caffe
    ],
)
def test_published_numbers(
    name: str, parameters: float, gmacs: float, op: str, field: int, jump: int
) -> None:
    found = explained(f"light_{name}.onnx")
    assert found.parameters == pytest.approx(parameters, rel=2e-3)
    assert found.macs / 1e9 == pytest.approx(gmacs, rel=2e-3)
    last = [layer for layer in found.layers if layer.op == op and layer.field.size][-1]
    assert last.field.size == (field, field)
    assert last.field.jump == (jump, jump)
    ends = [layer for layer in found.layers if layer.field.whole]
    assert ends
    assert ends[-1] is found.layers[-1]


def test_shared_weights_are_counted_once() -> None:
    shared = net("a = Conv (x, w); b = Relu (a); y = Conv (b, w);", w=normal(3, 3, 3, 3))
    found = explained(shared)
    assert found.parameters == 81
    assert [(layer.parameters, layer.shared) for layer in found.layers] == [
        (81, 0),
        (0, 0),
        (0, 81),
    ]
    assert "shared ones counted once, 81 more otherwise" in str(found)
    two = net(
        "a = Conv (x, w); b = Relu (a); y = Conv (b, v);",
        w=normal(3, 3, 3, 3),
        v=normal(3, 3, 3, 3, seed=1),
    )
    assert explained(two).parameters == 162
    # Equal elements say nothing where all are equal: two biases of zeros are two.
    zeros = np.zeros((3, 3, 3, 3), np.float32)
    same = net("a = Conv (x, w); b = Relu (a); y = Conv (b, v);", w=zeros, v=zeros.copy())
    assert explained(same).parameters == 162


def test_a_matrix_that_is_transposed_for_each_layer_is_one() -> None:
    model = net("a = Gemm (x, w); b = Relu (a); y = Gemm (b, w);", x="1,6", w=normal(6, 6))
    assert explained(model).parameters == 36


def test_fields_grow_by_the_jump() -> None:
    model = net(
        """a = Conv <pads = [1, 1, 1, 1]> (x, w); b = MaxPool <kernel_shape = [2, 2],
        strides = [2, 2]> (a); c = Conv <dilations = [2, 1]> (b, w); y = Relu (c);""",
        x="1,3,16,16",
        w=normal(3, 3, 3, 3),
    )
    assert fields(model) == [(3, 3), (4, 4), (12, 8), (12, 8)]


def test_fields_through_branches_take_the_union() -> None:
    model = net(
        """a = Conv <pads = [2, 0, 0, 0]> (x, w); b = Conv <pads = [0, 0, 2, 0]> (x, w);
        s = Add (a, b); c = Concat <axis = 1> (s, a); y = Sigmoid (c);""",
        x="1,3,9,9",
        w=normal(3, 3, 3, 3),
    )
    # One looks two rows up, the other two rows down.
    assert fields(model) == [(3, 3), (3, 3), (5, 3), (5, 3), (5, 3)]


def test_fields_of_what_only_moves() -> None:
    model = net(
        """a = Pad (x, p); b = Slice (a, s, e, k, t); c = Conv (b, w);
        d = Transpose <perm = [0, 2, 3, 1]> (c); y = Reshape (d, f);""",
        x="1,3,9,9",
        p=ints(0, 0, 2, 0, 0, 0, 0, 0),
        s=ints(1),
        e=ints(9),
        k=ints(3),
        t=ints(2),
        w=normal(3, 3, 3, 3),
        f=ints(1, -1),
    )
    found = {layer.op: layer.field for layer in layers(model)}
    assert found["conv"].size == (3, 5)
    assert tuple(map(float, found["conv"].jump)) == (1.0, 2.0)
    assert found["transpose"].size == found["reshape"].size == (3, 5)
    assert found["reshape"].jump == ()


def test_fields_of_a_gate_and_after_a_global_pool() -> None:
    model = net(
        """g = GlobalAveragePool (x); s = Sigmoid (g); m = Mul (x, s);
        y = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (m);"""
    )
    found = layers(model)
    assert all(layer.field.whole for layer in found)
    assert tuple(map(float, found[-1].field.jump)) == (2.0, 2.0)


def test_fields_are_what_the_network_depends_on() -> None:
    """Against the references: the spread of inputs that change a middle output."""
    model = net(
        """a = Conv <pads = [1, 1, 1, 1], strides = [2, 2]> (x, w);
        b = AveragePool <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (a);
        c = Conv <pads = [2, 2, 2, 2], dilations = [2, 2]> (b, w); d = Add (c, a);
        y = Conv <kernel_shape = [1, 3], pads = [0, 1, 0, 1]> (d, v);""",
        x="1,2,40,40",
        w=normal(2, 2, 3, 3),
        v=normal(2, 2, 1, 3),
    )
    graph = load(model)
    field = receptive_fields(graph)[graph.outputs[0]]
    x = normal(1, 2, 40, 40)
    before = evaluate(graph, [x])[0][0, :, 10, 10]
    changed = np.zeros((40, 40), bool)
    for row in range(40):
        for column in (20, *range(40)) if row == 20 else (20,):
            moved = x.copy()
            moved[0, :, row, column] += 1
            changed[row, column] = bool(np.any(evaluate(graph, [moved])[0][0, :, 10, 10] != before))
    rows, columns = np.nonzero(changed)
    assert field.size == (np.ptp(rows) + 1, np.ptp(columns) + 1)


def test_fields_through_resizes() -> None:
    """A U-Net's way up: nearest ×2 halves the jump; the 3×3 after it adds one input or two."""
    found = layers(
        net(
            """a = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (x);
            b = Resize <mode = "nearest", coordinate_transformation_mode = "asymmetric",
            nearest_mode = "floor"> (a, r, s); c = Conv <pads = [1, 1, 1, 1]> (b, w);
            y = Resize <mode = "linear"> (c, r, s);""",
            x="1,3,8,8",
            r=normal(0),
            s=np.array([1, 1, 2, 2], np.float32),
            w=normal(3, 3, 3, 3),
        )
    )
    assert [layer.field.size for layer in found] == [(2, 2), (2, 2), (4, 4), (6, 6)]
    assert [next(map(float, layer.field.jump)) for layer in found] == [2.0, 1.0, 1.0, 0.5]


def test_where_a_deformable_convolution_reads_is_known_at_run_time() -> None:
    model = net(
        """c = Conv <pads = [1, 1, 1, 1]> (x, v); y = DeformConv <pads = [1, 1, 1, 1],
        offset_group = 2, strides = [2, 2]> (c, w, o, b);""",
        x="1,4,9,9",
        o=normal(1, 36, 5, 5),
        v=normal(4, 4, 3, 3),
        w=normal(8, 4, 3, 3),
        b=normal(8),
        opset=22,
    )
    first, samples, sums = layers(model)
    assert first.field.size == (3, 3)
    assert (samples.op, samples.macs, samples.output_shape) == ("deform_im2col", 0, (1, 36, 5, 5))
    assert samples.field.whole
    assert sums.field.whole
    assert (sums.parameters, sums.macs) == (8 * 36 + 8, 25 * 8 * 36)


def test_layers_of_bytes_between_conversions() -> None:
    """QDQ: weights of bytes, sums of 32 bits, and pools that read bytes."""
    found = layers(
        net(
            """q = QuantizeLinear (x, sx, zx); d = DequantizeLinear (q, sx, zx);
            wd = DequantizeLinear (w, sw, zw); c = Conv <pads = [1, 1, 1, 1], strides = [2, 2]>
            (d, wd); cq = QuantizeLinear (c, sy, zx); cd = DequantizeLinear (cq, sy, zx);
            y = MaxPool <kernel_shape = [3, 3], strides = [2, 2]> (cd);""",
            x="1,4,17,17",
            sx=np.float32(0.02),
            zx=np.uint8(128),
            w=np.arange(-144, 144).clip(-128, 127).astype(np.int8).reshape(8, 4, 3, 3),
            sw=np.float32(0.01),
            zw=np.int8(0),
            sy=np.float32(0.05),
        )
    )
    conv = next(layer for layer in found if layer.macs)
    assert conv.problem.startswith("qconv2d:1x4x17x17:8x3x3:stride=2:padding=1")
    assert (conv.parameters, conv.macs) == (288, 81 * 8 * 36)
    assert (conv.field.size, found[-1].field.size) == ((3, 3), (7, 7))
    pool = next(layer for layer in found if layer.op == "max_pool")
    assert "dtype=uint8" in pool.problem
    assert pool.bytes == 8 * 81 + 8 * 16


def test_a_name_cannot_steer_the_terminal() -> None:
    model = net("y = Relu (x);")
    model.graph.node[0].name = "a\x1b[2J"
    assert "a\\x1b[2J" in str(explained(model))
