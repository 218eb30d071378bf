"""Malformed and hostile models: one line that names file and node; little time and memory."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from tests.onnx_models import ints, net, normal
from tvmconv.errors import InputError
from tvmconv.frontend import load

W = normal(6, 3, 3, 3)
CONV = "y = Conv{}(x, w);"


def refused(model: onnx.ModelProto | str | Path | bytes, **options: object) -> str:
    """The message with which a model is refused."""
    with pytest.raises(InputError) as raised:
        load(model, **options)  # type: ignore[arg-type]
    message = str(raised.value)
    assert "\n" not in message
    assert len(message) < 600
    assert raised.value.exit_code == 2
    return message


#: (attributes of a Conv over x 1x3x8x8 and w 6x3x3x3, what the message says)
ATTRIBUTES = [
    ("<dilations=[0,1]>", "dilation must be at least 1, got 0"),
    ("<strides=[0,0]>", "stride must be at least 1, got 0"),
    ("<strides=[1]>", "attribute 'strides' must have 2 values"),
    ("<pads=[-1,0,0,0]>", "padding must be at least 0, got -1"),
    ("<pads=[1,1]>", "attribute 'pads' must have 4 values"),
    ("<kernel_shape=[5,5]>", "attribute 'kernel_shape' [5, 5] disagrees with the weight's [3, 3]"),
    ("<group=2>", "input has 3 channels, but the weight takes 3 in each of 2 groups"),
    ("<group=0>", "attribute 'group' must be at least 1, is 0"),
    ('<auto_pad="SAME_UPPER", pads=[1,1,1,1]>', "cannot be given together with auto_pad"),
    ('<auto_pad="SAME">', "attribute 'auto_pad' must be one of"),
    ("<dilations=[9,9]>", "the output would have size 0"),
    ("<dilations=[2147483647,1]>", "dilation makes the filter span"),
    ("<pads=[2147483647,0,2147483647,0]>", "padding makes the input"),
    ("<stride=[2,2]>", "unknown attribute 'stride'"),
    ("<strides=2>", "attribute 'strides' must be a list of integers, is an integer"),
]


@pytest.mark.parametrize(("attributes", "message"), ATTRIBUTES)
def test_attributes_of_conv(attributes: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.onnx"
    path.write_bytes(net(CONV.format(attributes), w=W).SerializeToString())
    text = refused(path)
    assert text.startswith(f"{path}: node 'y' (Conv): ")
    assert message in text


#: (statement, opset, constants, what the message says)
STATEMENTS = [
    (
        "y = Conv(x, w);",
        13,
        {"w": normal(6, 4, 3, 3)},
        "input has 3 channels, but the weight takes 4",
    ),
    ("y = Conv(x, w, b);", 13, {"w": W, "b": normal(5)}, "bias must have shape (6,), has (5,)"),
    ("y = MatMul(x, k);", 13, {"k": normal(3)}, "the left side has 8 columns, the right 3 rows"),
    ("y = MaxPool(x);", 13, {}, "attribute 'kernel_shape' is required"),
    ("y = MaxPool<kernel_shape=[9,9]>(x);", 13, {}, "the output would have size 0"),
    ("y, i = MaxPool<kernel_shape=[2,2]>(x); z = Cast<to=1>(i);", 13, {}, "constants only"),
    ("y = Nonsense(x);", 13, {}, "operator 'Nonsense' (domain ai.onnx, opset 13) is not supported"),
    ("y = custom.Op(x);", 13, {}, "operator 'Op' (domain custom, opset 13) is not supported"),
    ("y = LSTM(x, x, x);", 13, {}, "operator 'LSTM' (domain ai.onnx, opset 13) is not supported"),
    ("y = HardSwish(x);", 13, {}, "operator does not exist in opset 13"),
    ("y = Relu(x, x);", 13, {}, "has 2 inputs, must have 1"),
    ("y = Add(x);", 13, {}, "has 1 inputs, must have 2"),
    ("y = Add(, x);", 13, {}, "input 0 is required"),
    ("y = Add(x, k);", 13, {"k": ints(1)}, "different element types: 'x' is float32, 'k' is int64"),
    ("y = Add(x, k);", 13, {"k": normal(1, 3, 8, 7)}, "shapes 1x3x8x8 and 1x3x8x7 cannot be"),
    ("y = Relu(z);", 13, {}, "input 'z' is no input, initializer or output of a node before it"),
    ("y = Relu(y);", 13, {}, "input 'y' is no input, initializer or output of a node before it"),
    ("a = Relu(b); b = Relu(a); y = Relu(a);", 13, {}, "input 'b' is no input"),
    ("y = Relu(x); y = Neg(x);", 13, {}, "output 'y' is made twice"),
    ("x = Relu(x); y = Relu(x);", 13, {}, "output 'x' is made twice"),
    ("w = Relu(x); y = Relu(w);", 13, {"w": W}, "output 'w' is made twice"),
    ("z = Relu(x);", 13, {}, "output 'y' is made by no node"),
    ("y = Shape(x);", 13, {}, "output 'y' is declared as float32, but is int64"),
    ("y = Concat<axis=4>(x, x);", 13, {}, "axis 4 is outside a tensor of rank 4"),
    ("y = Concat(x, x);", 13, {}, "attribute 'axis' is required"),
    ("y = Reshape(x, s);", 13, {"s": ints(-1, -1)}, "may have one -1"),
    ("y = Reshape(x, s);", 13, {"s": ints(5, -1)}, "cannot be reshaped to [5, -1]"),
    ("y = Reshape(x, s);", 13, {"s": ints(1, 1, 1, 1, 0)}, "copies an axis that x lacks"),
    ("y = Reshape(x, s);", 13, {"s": ints(2**40)}, "cannot become"),
    ("y = Reshape(x, s);", 13, {"s": normal(2)}, "must be a 1-D integer tensor"),
    ("y = Transpose<perm=[0,0,1,2]>(x);", 13, {}, "no permutation"),
    ("y = Squeeze<axes=[1]>(x);", 11, {}, "axis 1 of 1x3x8x8 is not 1"),
    ("y = Slice(x, a, a, a);", 13, {"a": ints(1)}, "size 0"),
    ("y = Slice(x, a, b, a, z);", 13, {"a": ints(1), "b": ints(2), "z": ints(0)}, "must not be 0"),
    ("y, z = Split<axis=1>(x);", 11, {}, "3 elements cannot be split into 2 equal parts"),
    ("y = Pad(x, p);", 13, {"p": ints(1, 1)}, "must have 8 elements"),
    ("t = IsNaN(x); y = Less(t, t);", 13, {}, "(Less): takes number, not bool"),
    ("y = Pad(x, p);", 13, {"p": ints(0, 0, -9, 0, 0, 0, 0, 0)}, "crop everything"),
    ('y = Pad<mode="wrap">(x, p);', 13, {"p": ints(*[9] * 8)}, "too wide for axis 0 of 1"),
    ('y = Pad<mode="mirror">(x, p);', 13, {"p": ints(*[1] * 8)}, "'mode' 'mirror' is unknown"),
    ("y = BatchNormalization<training_mode=1>(x, k, k, k, k);", 15, {"k": normal(3)}, "inference"),
    ("y, a, b = BatchNormalization(x, k, k, k, k);", 9, {"k": normal(3)}, "outputs of training"),
    (
        "y = BatchNormalization(x, k, k, k, k);",
        9,
        {"k": normal(4)},
        "scale must have shape 3, has 4",
    ),
    ("y = BatchNormalization(x, k, k, k, k);", 9, {"k": -abs(normal(3))}, "must be positive"),
    (
        "y = BatchNormalization(x, k, k, k, x);",
        9,
        {"k": normal(3)},
        "var must have shape 3, has 1x3x8x8",
    ),
    ("y = BatchNormalization<spatial=0>(x, k, k, k, k);", 8, {"k": normal(3)}, "'spatial' 0"),
    ("y = Clip(x, x);", 13, {}, "a bound must be a scalar, has shape (1, 3, 8, 8)"),
    ("y = Dropout(x, r, t);", 13, {"r": np.float32(1), "t": np.array(True)}, "training_mode"),
    ("y = Tile(x, r);", 13, {"r": ints(1, 1, 2)}, "repeats [1, 1, 2] must have 4 elements"),
    ("y = Gather(x, i);", 13, {"i": ints(0)}, "is supported for constants only"),
    (
        "g = Gather(i, i); c = Cast<to=1>(g); y = Add(x, c);",
        13,
        {"i": ints(5)},
        "outside axis 0 of 1",
    ),
    (
        "d = Div(i, z); c = Cast<to=1>(d); y = Add(x, c);",
        13,
        {"i": ints(1), "z": ints(0)},
        "by zero",
    ),
    ("y = Cast<to=11>(x);", 13, {}, "'x' is computed at run time"),
    ("y = Cast<to=99>(x);", 13, {}, "ONNX element type 99 is not supported"),
    ("y = LRN<size=0>(x);", 13, {}, "attribute 'size' must be at least 1"),
    ("y = Softmax<axis=4>(x);", 13, {}, "axis 4 is outside"),
    ('y = Gelu<approximate="fast">(x);', 20, {}, "must be 'none' or 'tanh'"),
    ("y = PRelu(x, k);", 13, {"k": normal(2, 3, 8, 8)}, "cannot be broadcast to 1x3x8x8"),
]


@pytest.mark.parametrize(
    ("body", "opset", "constants", "message"),
    STATEMENTS,
    ids=[f"{s[0]} {s[3]}" for s in STATEMENTS],
)
def test_statements(body: str, opset: int, constants: dict[str, np.ndarray], message: str) -> None:
    outputs = "float[] y, float[] z" if "z = " in body and "(Conv)" not in body else "float[] y"
    outputs = "float[] y" if body == "z = Relu(x);" else outputs
    arrays = {name: np.asarray(array) for name, array in constants.items()}
    text = refused(net(body, opset=opset, outputs=outputs, **arrays))
    assert message in text
    assert text.startswith("model: ")


def changed(change: Callable[[onnx.ModelProto], object]) -> onnx.ModelProto:
    """A good model, spoilt."""
    model = net("c = Conv(x, w); y = Relu(c);", w=W)
    load(model)
    change(model)
    return model


def set_shape(model: onnx.ModelProto, *dims: int | str | None) -> None:
    shape = model.graph.input[0].type.tensor_type.shape
    del shape.dim[:]
    for dim in dims:
        entry = shape.dim.add()
        if isinstance(dim, int):
            entry.dim_value = dim
        elif dim is not None:
            entry.dim_param = dim


def replace_raw(model: onnx.ModelProto, raw: bytes) -> None:
    model.graph.initializer[0].raw_data = raw


def set_floats(model: onnx.ModelProto) -> None:
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.float_data.extend([1.0, 2.0])


def set_dims(model: onnx.ModelProto, *dims: int) -> None:
    del model.graph.initializer[0].dims[:]
    model.graph.initializer[0].dims.extend(dims)


def set_opset(model: onnx.ModelProto, *versions: int) -> None:
    del model.opset_import[:]
    model.opset_import.extend(helper.make_opsetid("", version) for version in versions)


def add_sparse(model: onnx.ModelProto) -> None:
    model.graph.sparse_initializer.add().dims.append(3)


def add_subgraph(model: onnx.ModelProto) -> None:
    branch = helper.make_graph([], "g", [], [])
    node = helper.make_node("If", ["c"], ["y"], then_branch=branch, else_branch=branch)
    model.graph.node[1].CopyFrom(node)


def reference_attribute(model: onnx.ModelProto) -> None:
    attribute = model.graph.node[0].attribute.add(name="group", type=onnx.AttributeProto.INT)
    attribute.ref_attr_name = "g"


def repeat_attribute(model: onnx.ModelProto) -> None:
    for _ in range(2):
        model.graph.node[0].attribute.append(helper.make_attribute("group", 1))


def make_sequence(model: onnx.ModelProto) -> None:
    info = helper.make_tensor_sequence_value_info("x", TensorProto.FLOAT, [1])
    model.graph.input[0].CopyFrom(info)


def declare(model: onnx.ModelProto, *shape: int) -> None:
    model.graph.output[0].CopyFrom(helper.make_tensor_value_info("y", TensorProto.FLOAT, shape))


MODELS: list[tuple[Callable[[onnx.ModelProto], object], str]] = [
    (
        lambda m: set_shape(m, "N", 3, 8, 8),
        "input 'x': the batch is symbolic ('N'); give it with --batch N",
    ),
    (lambda m: set_shape(m, None, 3, 8, 8), "the batch is symbolic"),
    (
        lambda m: set_shape(m, 1, 3, "H", 8),
        "input 'x': axis 2 is symbolic ('H'); shapes must be static",
    ),
    (lambda m: set_shape(m, 1, -3, 8, 8), "input 'x' has a negative extent: shape 1x-3x8x8"),
    (lambda m: set_shape(m, 0, 3, 8, 8), "input 'x' has size 0"),
    (lambda m: set_shape(m, 1, 3, 2**31, 8), "more than 2³¹ − 1"),
    (lambda m: set_shape(m, 1, 2**62, 2**62, 8), "more than 2³¹ − 1"),
    (lambda m: set_shape(m, *[1] * 40), "has 40 axes, more than 16"),
    (lambda m: m.graph.input[0].type.tensor_type.ClearField("shape"), "input 'x' has no shape"),
    (lambda m: m.graph.input[0].ClearField("type"), "input 'x' is not a tensor"),
    (make_sequence, "input 'x' is not a tensor"),
    (
        lambda m: setattr(m.graph.input[0].type.tensor_type, "elem_type", TensorProto.INT64),
        "dtype must be one of float32, float16, bfloat16, got 'int64'",
    ),
    (
        lambda m: setattr(m.graph.input[0].type.tensor_type, "elem_type", 77),
        "input 'x': element type ONNX element type 77",
    ),
    (lambda m: declare(m, 1, 6, 8, 8), "output 'y' is declared as 1x6x8x8, but has shape 1x6x6x6"),
    (lambda m: declare(m, 6, 36), "output 'y' is declared as 6x36"),
    (lambda m: m.graph.ClearField("output"), "has no outputs"),
    (lambda m: m.graph.input.append(m.graph.input[0]), "input 'x' occurs twice"),
    (lambda m: m.graph.output.append(m.graph.output[0]), "output 'y' occurs twice"),
    (lambda m: m.graph.initializer.append(m.graph.initializer[0]), "initializer 'w' occurs twice"),
    (lambda m: setattr(m.graph.initializer[0], "name", ""), "initializer without a name"),
    (add_sparse, "sparse initializers are not supported"),
    (add_subgraph, "operator 'If' (domain ai.onnx, opset 13) is not supported"),
    (reference_attribute, "attribute 'group' refers to a function's attribute"),
    (repeat_attribute, "attribute 'group' occurs twice"),
    (lambda m: set_opset(m, 5), "opset 5 is not supported; opsets 6 to"),
    (lambda m: set_opset(m, 99), "opset 99 is not supported; opsets 6 to"),
    (lambda m: set_opset(m), "must import one version of ONNX's operators, imports none"),
    (lambda m: set_opset(m, 13, 14), "imports several (13, 14)"),
    (lambda m: replace_raw(m, b"123"), "initializer 'w': dims [6, 3, 3, 3] need 648 bytes"),
    (set_floats, "initializer 'w': dims [6, 3, 3, 3] need 162 elements"),
    (lambda m: set_dims(m, 6, 3, 3, -3), "initializer 'w': tensor has a negative extent"),
    (lambda m: set_dims(m, 2**31, 2**31), "initializer 'w': tensor of shape 2147483648x2147483648"),
    (lambda m: setattr(m.graph.initializer[0], "data_type", 8), "ONNX element type 8 is not supp"),
    (lambda m: setattr(m.graph.initializer[0], "data_location", 1), "give the model as a path"),
    (lambda m: m.graph.node[0].input.append("nothing"), "input 'nothing' is no input, initializer"),
    (lambda m: setattr(m.graph.node[0], "op_type", "a\nb"), r"operator 'a\nb' (domain ai.onnx"),
]


@pytest.mark.parametrize(("change", "message"), MODELS, ids=[message for _, message in MODELS])
def test_models(change: Callable[[onnx.ModelProto], object], message: str) -> None:
    assert message in refused(changed(change))


def test_names_in_messages_are_one_short_line() -> None:
    model = changed(lambda m: setattr(m.graph.node[0], "name", "\x1b[31m\n" + "a" * 10_000))
    model.graph.node[0].attribute.append(helper.make_attribute("strides", [0, 0]))
    text = refused(model)
    assert "\x1b" not in text
    assert len(text) < 300


def test_files(tmp_path: Path) -> None:
    good = net("y = Relu(x);").SerializeToString()
    assert refused(tmp_path / "none.onnx") == f"{tmp_path}/none.onnx: no such file"
    assert "is a directory" in refused(tmp_path)
    assert "is not a regular file" in refused("/dev/zero")
    assert "cannot be read: embedded null byte" in refused("a\0b")
    for name, data, message in (
        ("empty.onnx", b"", "is empty"),
        ("text.onnx", b"Dear reader, this is no model.", "is not an ONNX model"),
        ("zeros.onnx", bytes(1000), "is not an ONNX model"),
        ("cut.onnx", good[:-7], "is not an ONNX model, or is truncated"),
        ("numpy.onnx", b"\x93NUMPY\x01\x00v\x00{'descr'", "is not an ONNX model"),
        ("other.onnx", onnx.TensorProto(dims=[1, 2]).SerializeToString(), "is not an ONNX model"),
    ):
        path = tmp_path / name
        path.write_bytes(data)
        text = refused(path)
        assert text.startswith(f"{path}: ")
        assert message in text
    assert "is empty" in refused(b"")


def external(path: Path, location: str, **entries: str) -> None:
    model = changed(lambda m: None)
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in {"location": location, **entries}.items():
        tensor.external_data.add(key=key, value=value)
    path.write_bytes(model.SerializeToString())


def test_external_data(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    path = folder / "model.onnx"
    (folder / "weights.bin").write_bytes(b"1234" + W.tobytes())
    (tmp_path / "outside.bin").write_bytes(W.tobytes())
    external(path, "weights.bin", offset="4")
    weight = load(path).nodes[0].inputs[1].data
    assert weight is not None
    np.testing.assert_array_equal(weight, W)
    for location, entries, message in (
        ("missing.bin", {}, "tensor 'w': external data cannot be read"),
        ("../outside.bin", {}, "tensor 'w': external data cannot be read"),
        (str(tmp_path / "outside.bin"), {}, "tensor 'w': external data cannot be read"),
        ("weights.bin", {"offset": "8"}, "tensor 'w': external data cannot be read"),
        ("weights.bin", {"offset": "-4"}, "tensor 'w': external data cannot be read"),
        ("weights.bin", {"length": "12"}, "need 648 bytes, the external data have length '12'"),
        ("weights.bin", {"length": "9" * 30}, "need 648 bytes, the external data have length"),
    ):
        external(path, location, **entries)
        text = refused(path)
        assert text.startswith(f"{path}: ")
        assert message in text
    (folder / "link.bin").symlink_to(tmp_path / "outside.bin")
    external(path, "link.bin")
    assert "external data cannot be read" in refused(path)


def test_params_and_batch() -> None:
    model = net("y = Relu(x);")
    assert "has the fixed batch 1, not 2" in refused(model, batch=2)
    assert "--batch must be at least 1, is 0" in refused(model, batch=0)
    assert "params are for problems" in refused(model, params={})
    assert "output 'nosuch' is made by no node" in refused(model, outputs=["nosuch"])


def test_tensor_attribute_that_lies() -> None:
    model = net("y = Add(x, x);")
    tensor = numpy_helper.from_array(normal(3), "value")
    tensor.dims[0] = 2**30
    model.graph.node[0].CopyFrom(helper.make_node("Constant", [], ["y"], value=tensor))
    assert "attribute 'value': dims [1073741824] need" in refused(model)
