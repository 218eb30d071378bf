"""The official test suite of ONNX backends: a case passes, or is refused by name."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from fnmatch import fnmatchcase

import numpy as np
import onnx
import pytest
from onnx import helper

from tests import onnx_backend
from tests.onnx_backend import Outcome, cases, refusals
from tests.onnx_models import ints, net, normal
from tvmconv import backend
from tvmconv.errors import InputError


@pytest.fixture(scope="module")
def outcomes(request: pytest.FixtureRequest) -> Iterator[dict[str, Future[Outcome]]]:
    """The cases that are selected, all at once in some processes."""
    items = [item for item in request.session.items if item.path == request.path]
    names = [item.callspec.params["name"] for item in items if item.name.startswith("test_case[")]
    with onnx_backend.running(names) as futures:
        yield futures


@pytest.mark.parametrize("name", cases())
def test_case(name: str, outcomes: dict[str, Future[Outcome]]) -> None:
    try:
        outcome = outcomes[name].result(onnx_backend.TIME_LIMIT)
    except BrokenProcessPool:
        pytest.fail("a process that ran this case, or one at the same time, has crashed")
    message = onnx_backend.fault(name, outcome)
    assert not message, message


def test_refusals_are_listed_well() -> None:
    """Every entry has a reason and a case; no case has two entries."""
    found: Counter[str] = Counter()
    for entry in refusals():
        assert len(entry.reason) > 20, entry
        assert re.compile(entry.message).pattern, entry
        matched = [name for name in cases() if fnmatchcase(name, entry.glob)]
        assert matched, f"{entry.glob} matches no case"
        found.update(matched)
    assert not [name for name, count in found.items() if count > 1]


@pytest.mark.parametrize(
    ("name", "outcome", "fault"),
    [
        ("node/relu", Outcome("passed", "", 0), ""),
        ("node/relu", Outcome("wrong", "1 of 2 differ", 0), "wrong: 1 of 2 differ"),
        ("node/relu", Outcome("crashed", "IndexError", 0), "crashed: IndexError"),
        ("node/relu", Outcome("refused", "no", 0), "is refused and not listed: no"),
        ("node/lstm_defaults", Outcome("passed", "", 0), "passes, but is listed as node/lstm"),
        ("node/lstm_defaults", Outcome("refused", "no", 0), "is refused by 'no', not as listed"),
        ("node/lstm_defaults", Outcome("refused", "'LSTM' is not supported\n", 0), "is refused by"),
    ],
)
def test_faults_are_seen(name: str, outcome: Outcome, fault: str) -> None:
    found = onnx_backend.fault(name, outcome)
    assert found.startswith(fault) if fault else not found


def test_run_node() -> None:
    node = helper.make_node("Relu", ["x"], ["y"])
    x = normal(2, 3)
    (y,) = backend.run_node(node, [x])
    np.testing.assert_array_equal(y, np.maximum(x, 0))


def test_run_node_freezes_shapes() -> None:
    node = helper.make_node("Reshape", ["x", "shape"], ["y"])
    x = normal(2, 3)
    (y,) = backend.run_node(node, [x, ints(3, 2)], opset_version=13)
    np.testing.assert_array_equal(y, x.reshape(3, 2))


def test_run_model() -> None:
    model = net("y = Relu(x);", x="2,3")
    (y,) = backend.run_model(model, [normal(2, 3)])
    np.testing.assert_array_equal(y, np.maximum(normal(2, 3), 0))


def reshaped() -> onnx.ModelProto:
    """A reshape whose shape is computed from an input."""
    body = "two = Constant<value_ints=[2]>(); s = Concat<axis=0>(two, n); y = Reshape(x, s);"
    return net(body, inputs="float[2,6] x, int64[2] n")


def test_inputs_that_shapes_depend_on_are_frozen() -> None:
    """The model is compiled for each of their values, once."""
    assert backend.shape_inputs(reshaped()) == ["n"]
    prepared = backend.prepare(reshaped())
    x = normal(2, 6)
    for _ in range(2):
        for shape in ((2, 3), (6, 1)):
            (y,) = prepared.run({"x": x, "n": ints(*shape)})
            np.testing.assert_array_equal(y, x.reshape(2, *shape))
    assert len(prepared._modules) == 2


def test_old_modules_make_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backend, "_KEPT", 1)
    prepared = backend.prepare(reshaped())
    x = normal(2, 6)
    for shape in ((2, 3), (6, 1), (2, 3)):
        (y,) = prepared.run({"x": x, "n": ints(*shape)})
        assert y.shape == (2, *shape)
    assert len(prepared._modules) == 1


def test_freezing_can_be_forbidden() -> None:
    with pytest.raises(InputError, match=r"\(input 's'\) must be a constant"):
        backend.prepare(reshaped(), freeze=False)


def test_the_shape_of_an_input_is_known() -> None:
    model = net("s = Shape(a); y = Reshape(x, s);", inputs="float[2,6] x, float[3,4] a")
    assert backend.shape_inputs(model) == []
    (y,) = backend.run_model(model, [normal(2, 6), normal(3, 4)])
    assert y.shape == (3, 4)


def test_devices() -> None:
    assert backend.supports_device("CPU")
    assert backend.supports_device("CPU:0")
    assert not backend.supports_device("CUDA")
    with pytest.raises(InputError, match="device 'CUDA' is not supported"):
        backend.prepare(net("y = Relu(x);"), "CUDA")


def test_is_compatible() -> None:
    assert backend.is_compatible(net("y = Relu(x);"))
    assert backend.is_compatible(reshaped())
    assert not backend.is_compatible(net("y = Relu(x);"), "CUDA")
    assert not backend.is_compatible(net("y = Nonsense(x);"))


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ([], "takes 1 inputs, got 0"),
        ([normal(3, 2)], "shape"),
        ({"z": normal(2, 3)}, "z"),
    ],
)
def test_bad_inputs(inputs: object, message: str) -> None:
    prepared = backend.prepare(net("y = Relu(x);", x="2,3"))
    with pytest.raises(InputError, match=message):
        prepared.run(inputs)


def test_a_frozen_input_must_be_given() -> None:
    with pytest.raises(InputError, match="input 'n' is missing"):
        backend.prepare(reshaped()).run({"x": normal(2, 6)})


def test_what_is_no_tensor_is_refused() -> None:
    node = helper.make_node("Relu", ["x"], ["y"])
    for value in ([normal(2), normal(3)], "text", np.array(["text"])):
        with pytest.raises(InputError, match="is no tensor"):
            backend.run_node(node, [value])
