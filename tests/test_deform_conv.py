"""Deformable convolution: ONNX's reference is the judge, and the plain convolution it contains."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from onnx.reference import ReferenceEvaluator

import tvmconv
from tests.onnx_models import net, normal
from tvmconv.errors import InputError

Array = npt.NDArray[Any]


def compiled(model: onnx.ModelProto, **inputs: Array) -> Array:
    """The only output of a compiled model."""
    (y,) = tvmconv.compile(model)(inputs)
    return np.asarray(y)


def deformed(
    x: str, offset: str, weight: Array, attrs: str = "", mask: str = ""
) -> onnx.ModelProto:
    """A model of one node, with the weight and a bias as constants."""
    signature = f"float[{x}] x, float[{offset}] offset"
    signature += f", float[{mask}] mask" if mask else ""
    operands = "x, w, offset, b, mask" if mask else "x, w, offset, b"
    body = f"y = DeformConv{f'<{attrs}>' if attrs else ''}({operands});"
    bias = normal(weight.shape[0], seed=3)
    return net(body, inputs=signature, opset=19, w=weight, b=bias)


def judge(model: onnx.ModelProto, **inputs: Array) -> Array:
    """What ONNX's evaluator computes."""
    return np.asarray(ReferenceEvaluator(model).run(None, inputs)[0])


@pytest.mark.parametrize(
    ("x", "out", "weight", "attrs", "parts", "masked"),
    [
        ((1, 32, 6, 7), (6, 7), (8, 32, 3, 3), "pads=[1,1,1,1]", 1, False),
        ((2, 32, 7, 6), (3, 4), (4, 16, 3, 2), "strides=[2,1],group=2,dilations=[1,2]", 2, True),
        ((1, 6, 5, 5), (4, 6), (6, 2, 2, 2), "group=3,pads=[0,1,0,1],offset_group=3", 3, True),
        ((1, 5, 9, 4), (9, 4), (3, 5, 1, 1), "", 1, False),
    ],
)  # fmt: skip
def test_by_onnx(
    x: tuple[int, ...], out: tuple[int, ...], weight: tuple[int, ...], attrs: str, parts: int,
    masked: bool,
) -> None:  # fmt: skip
    """Places between pixels, at the border and far outside."""
    taps = weight[2] * weight[3]
    if parts > 1 and "offset_group" not in attrs:
        attrs += f",offset_group={parts}"
    shapes = {"x": x, "offset": (x[0], 2 * parts * taps, *out)}
    if masked:
        shapes["mask"] = (x[0], parts * taps, *out)
    texts = {name: ",".join(map(str, shape)) for name, shape in shapes.items()}
    model = deformed(texts["x"], texts["offset"], normal(*weight), attrs, texts.get("mask", ""))
    arrays = {name: normal(*shape, seed=k) for k, (name, shape) in enumerate(shapes.items())}
    module = tvmconv.compile(model)
    for spread in (0.5, 8.0):
        arrays["offset"] *= np.float32(spread)
        expected = judge(model, **arrays)
        assert expected.std() > 0.1
        scale = float(np.abs(expected).max())
        np.testing.assert_allclose(module(arrays)[0], expected, rtol=1e-5, atol=2e-5 * scale)


def test_without_offsets_it_is_a_convolution() -> None:
    weight = normal(24, 16, 3, 3)
    attrs = "pads=[1,1,1,1],strides=[2,2]"
    x = normal(1, 16, 9, 9)
    model = deformed("1,16,9,9", "1,18,5,5", weight, attrs)
    plain = net(f"y = Conv<{attrs}>(x, w, b);", x="1,16,9,9", w=weight, b=normal(24, seed=3))
    got = compiled(model, x=x, offset=np.zeros((1, 18, 5, 5), np.float32))
    np.testing.assert_allclose(got, compiled(plain, x=x), rtol=1e-5, atol=1e-5)


def test_places_that_are_no_places_read_nothing() -> None:
    """NaN and infinite offsets, and infinite pixels that an offset does not reach."""
    x = normal(1, 16, 4, 4)
    x[0, :, 0, 0] = np.inf
    offset = np.full((1, 2, 4, 4), 40.0, np.float32)
    offset[0, 0, 0] = np.nan
    offset[0, 1, 1] = np.inf
    offset[0, 0, 2] = -np.inf
    offset[0, :, 3, 3] = 0.0
    model = deformed("1,16,4,4", "1,2,4,4", normal(8, 16, 1, 1))
    bias, y = normal(8, seed=3), compiled(model, x=x, offset=offset)
    elsewhere = np.broadcast_to(bias[None, :, None], (1, 8, 15))
    np.testing.assert_array_equal(y.reshape(1, 8, 16)[:, :, :15], elsewhere)
    pixel = normal(8, 16, 1, 1)[:, :, 0, 0] @ x[0, :, 3, 3] + bias
    np.testing.assert_allclose(y[0, :, 3, 3], pixel, rtol=1e-5, atol=1e-5)


def test_offsets_of_a_convolution() -> None:
    """As in a network: features in channel blocks, offsets of the same features, then ReLU."""
    body = """h = Conv<pads=[1,1,1,1]>(x, w0); p = Conv<pads=[1,1,1,1]>(h, w1);
        d = DeformConv<pads=[1,1,1,1]>(h, w2, p); y = Relu(d);"""
    model = net(body, x="1,3,10,10", opset=19, w0=normal(32, 3, 3, 3) / 4,
                w1=normal(18, 32, 3, 3) / 9, w2=normal(32, 32, 3, 3) / 9)  # fmt: skip
    report = tvmconv.verify(model)
    assert report.ok


def test_weights_may_be_computed() -> None:
    signature = "float[1,16,5,5] x, float[1,8,4,4] offset, float[4,16,2,2] w"
    model = net("y = DeformConv(x, w, offset);", inputs=signature, opset=19)
    arrays = {"x": normal(1, 16, 5, 5), "offset": normal(1, 8, 4, 4), "w": normal(4, 16, 2, 2)}
    expected = judge(model, **arrays)
    np.testing.assert_allclose(compiled(model, **arrays), expected, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize(
    ("x", "offset", "attrs", "message"),
    [
        ("1,4,5,5", "1,18,5,5", "", "offset must have shape 1x18x3x3, has 1x18x5x5"),
        ("1,4,5", "1,9,5", "", "is supported for 2 spatial axes, has 1"),
        ("1,4,5,5", "1,18,3,3", "group=2", "does not fit the input's 4 channels"),
        ("1,4,5,5", "1,18,3,3", "kernel_shape=[3,2]", "disagrees with the weight's"),
        ("1,4,5,5", "1,54,3,3", "offset_group=3", "does not divide the 4 channels"),
        ("1,4,5,5", "1,18,3,3", "auto_pad=\"VALID\"", "unknown attribute 'auto_pad'"),
    ],
)  # fmt: skip
def test_refused(x: str, offset: str, attrs: str, message: str) -> None:
    with pytest.raises(InputError, match=rf"\(DeformConv\): .*{message}"):
        tvmconv.compile(deformed(x, offset, normal(2, 4, 3, 3), attrs))
