"""Other libraries on single layers: the same numbers as ONNX's reference, or a clear refusal."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx.reference import ReferenceEvaluator

import tvmconv
from tvmconv.accuracy import random_inputs
from tvmconv.bench import ncnn_networks
from tvmconv.bench.harness import difference
from tvmconv.bench.layer import problem_to_onnx, read_problem
from tvmconv.bench.model import load_bench_model, make_weights_constant
from tvmconv.bench.peers import PEERS, PeerRefusal, find_peer, find_peers, load_library
from tvmconv.errors import EnvironmentError_, InputError
from tvmconv.problem import Problem

PROBLEMS = (
    "conv2d:1x16x9x11:24x3x3:padding=1:bias=true:activation=relu",
    "conv2d:1x8x9x11:6x3x2:stride=2,1:padding=0,1,2,1:activation=relu6",
    "conv2d:1x8x12x12:8x3x3:padding=2:dilation=2:bias=true:activation=clip,-0.5,1.5",
    "conv2d:1x16x9x9:32x3x3:groups=4:activation=hardswish",
    "depthwise_conv2d:1x8x9x9:16x3x3:stride=2:padding=1:bias=true:activation=silu",
    "conv2d:1x8x5x5:8x1x1:activation=leaky_relu,0.2",
    "conv2d:1x8x5x5:8x1x1:activation=elu",
    "conv2d:1x8x5x5:8x1x1:activation=sigmoid",
    "conv2d:1x8x5x5:8x1x1:activation=hard_sigmoid",
    "conv2d:1x8x5x5:8x1x1:bias=true:activation=tanh",
    "conv2d:2x8x5x5:8x1x1",
    "conv1d:1x8x40:8x5:dilation=3",
    "conv2d_transpose:1x8x5x6:6x3x3:stride=2:padding=1:output_padding=1:bias=true:activation=relu",
    "conv2d_transpose:1x8x5x5:16x4x4:stride=2:padding=1",
    "conv1d_transpose:1x8x9:4x5:stride=3",
    "max_pool2d:1x8x9x9:3x3:stride=2:padding=0,0,1,1",
    "avg_pool2d:1x8x9x9:3x3:stride=2:padding=1",
    "avg_pool2d:1x8x9x9:3x3:stride=2:padding=1:count_include_pad=true",
    "max_pool2d:1x8x9x9:2x2:stride=2:ceil_mode=true",
    "global_avg_pool2d:1x8x7x7",
    "global_max_pool2d:1x8x7x7",
    "dense:1x32:10:bias=true:activation=relu",
)
REFUSED = {
    "ncnn": {
        "conv2d:2x8x5x5:8x1x1": "batch 1",
        "conv1d:1x8x40:8x5:dilation=3": "2-D layers",
        "conv1d_transpose:1x8x9:4x5:stride=3": "2-D layers",
        "max_pool2d:1x8x9x9:2x2:stride=2:ceil_mode=true": "ceil_mode",
    },
    "torch": {"max_pool2d:1x8x9x9:2x2:stride=2:ceil_mode=true": "ceil_mode"},
}
REFUSED["torch-channels-last"] = {
    **REFUSED["torch"],
    "conv1d:1x8x40:8x5:dilation=3": "2-D layers",
    "conv1d_transpose:1x8x9:4x5:stride=3": "2-D layers",
    "dense:1x32:10:bias=true:activation=relu": "2-D layers",
}
INSTALLED = [name for name, peer in PEERS.items() if importlib.util.find_spec(peer.module)]


@pytest.mark.parametrize("text", PROBLEMS)
@pytest.mark.parametrize("name", INSTALLED)
def test_a_library_computes_the_layer(name: str, text: str) -> None:
    model, inputs = problem_to_onnx(Problem.parse(text), seed=3)
    expected = ReferenceEvaluator(model).run(None, inputs)
    refusal = REFUSED.get(name, {}).get(text)
    if refusal:
        with pytest.raises(PeerRefusal, match=f"^{name}: .*{refusal}"):
            PEERS[name].make(model, inputs, 1)
        return
    contender = PEERS[name].make(model, inputs, 1)
    assert difference([np.array(y) for y in contender.run()], expected) is None
    assert float(np.std(expected[0])) > 0.01
    assert contender.name == name
    assert contender.version[0].isdigit()
    contender.close()


@pytest.mark.parametrize("name", INSTALLED)
def test_a_library_computes_in_float32_where_it_could_choose_less(name: str) -> None:
    problem = Problem.parse("conv2d:1x128x14x14:64x3x3:padding=1")
    model, inputs = problem_to_onnx(problem)
    expected = problem.reference(random_inputs(problem, 0))
    contender = PEERS[name].make(model, inputs, 1)
    error = np.abs(contender.run()[0] - expected).max()
    assert error < 1e-4  # float16 gives 2e-3, bfloat16 1e-2


@pytest.mark.parametrize("name", [n for n in INSTALLED if n not in ("onnxruntime", "openvino")])
def test_single_layer_libraries_refuse_networks(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, inputs = problem_to_onnx(Problem.parse(PROBLEMS[0]))
    del model.metadata_props[:]
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(PeerRefusal, match=f"^{name}: .*networks"):
        PEERS[name].make(model, inputs, 1)


@pytest.mark.parametrize(
    ("source", "told"),
    [
        ("import sys; print('first'); sys.exit('no such layer')", "network: no such layer$"),
        ("pass", "network: exit code 0$"),
        ("import time; time.sleep(60)", "did not end within 1 s$"),
    ],
)
def test_what_the_converter_of_ncnn_does_not_convert_is_refused(
    source: str, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "pnnx"
    program.write_text(f"#!{sys.executable}\n{source}\n")
    program.chmod(0o755)
    monkeypatch.setattr(ncnn_networks, "_converter", lambda: program)
    monkeypatch.setattr(ncnn_networks, "_LIMIT_S", 1)
    model, _ = problem_to_onnx(Problem.parse(PROBLEMS[0]))
    with pytest.raises(PeerRefusal, match=f"^ncnn: pnnx .*{told}"):
        ncnn_networks.convert(model, tmp_path)


@pytest.mark.skipif(
    not all(map(importlib.util.find_spec, ("ncnn", "pnnx"))), reason="needs ncnn and pnnx"
)
def test_ncnn_runs_a_network() -> None:
    model, inputs = problem_to_onnx(Problem.parse(PROBLEMS[0]), seed=3)
    del model.metadata_props[:]
    contender = PEERS["ncnn"].make(model, inputs, 1)
    expected = ReferenceEvaluator(model).run(None, inputs)
    assert difference([np.array(y) for y in contender.run()], expected) is None


@pytest.mark.parametrize("name", [n for n in INSTALLED if n in ("onnxruntime", "openvino")])
def test_a_model_that_a_library_cannot_load_is_refused_in_one_line(name: str) -> None:
    model, inputs = problem_to_onnx(Problem.parse(PROBLEMS[0]))
    model.graph.node[0].op_type = "NoSuchOperator"
    with pytest.raises(PeerRefusal, match=f"^{name}: .+") as caught:
        PEERS[name].make(model, inputs, 1)
    assert "\n" not in str(caught.value)


def test_unknown_peer_names_the_nearest() -> None:
    with pytest.raises(InputError, match=r"unknown peer 'onnxrutime'.*onnxruntime"):
        find_peer("onnxrutime")


def test_missing_library_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(EnvironmentError_, match=r"openvino.*pip install 'tvmconv\[bench\]'"):
        find_peers(["openvino"])
    with pytest.raises(EnvironmentError_, match=r"torch.*pip install 'tvmconv\[torch\]'"):
        find_peers(["torch-channels-last"])
    with pytest.raises(EnvironmentError_, match=r"^no_such_library cannot be imported"):
        load_library("no_such_library.part")


def test_peers_are_taken_once_in_order() -> None:
    names = [peer.name for peer in find_peers([*INSTALLED, *INSTALLED])]
    assert names == INSTALLED


@pytest.mark.parametrize("text", PROBLEMS)
def test_a_problem_survives_the_way_through_onnx(text: str) -> None:
    problem = Problem.parse(text)
    model, inputs = problem_to_onnx(problem, seed=5)
    onnx.checker.check_model(model, full_check=True)
    found = read_problem(model)
    assert found is not None
    assert found[0] == problem
    arrays = random_inputs(problem, 5)
    for name, array in {**inputs, **found[1]}.items():
        np.testing.assert_array_equal(array, arrays.pop(name))
        assert array.dtype == np.float32
    assert not arrays


@pytest.mark.parametrize("name", INSTALLED)
def test_libraries_get_the_taps_of_a_true_convolution_in_their_order(name: str) -> None:
    problem = Problem.parse("conv2d:1x6x9x8:5x3x2:padding=1,0:flipped=true:bias=true")
    bench = load_bench_model(problem.text, seed=3)
    expected = problem.reference({**bench.weights, **bench.inputs})
    contender = PEERS[name].make(bench.proto, bench.inputs, 1)
    assert difference(contender.run(), [expected.astype(np.float32)]) is None
    (got,) = tvmconv.compile(problem.text, params=bench.weights)(bench.inputs)
    assert difference([got], [expected.astype(np.float32)]) is None


def test_reference_of_a_problem_agrees_with_its_model() -> None:
    problem = Problem.parse(PROBLEMS[4])
    model, inputs = problem_to_onnx(problem, seed=1)
    expected = problem.reference(random_inputs(problem, 1))
    assert difference(ReferenceEvaluator(model).run(None, inputs), [expected]) is None


def test_initialisers_listed_as_inputs_become_constants(tmp_path: Path) -> None:
    model, _ = problem_to_onnx(Problem.parse(PROBLEMS[0]))
    for tensor in model.graph.initializer:
        value = onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
        model.graph.input.append(value)
    model.ir_version = 3
    make_weights_constant(model)
    assert [value.name for value in model.graph.input] == ["x"]
    assert model.ir_version >= 4
    onnx.save(model, tmp_path / "layer.onnx")
    loaded = load_bench_model(tmp_path / "layer.onnx")
    assert loaded.name == "layer"
    assert loaded.inputs["x"].std() > 0.5


def test_symbolic_batch_needs_a_number() -> None:
    model, _ = problem_to_onnx(Problem.parse("conv2d:2x4x5x5:4x1x1"))
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "N"
    with pytest.raises(InputError, match="'x' has a symbolic shape; give --batch N"):
        load_bench_model(model)
    with pytest.raises(InputError, match="batch must be at least 1, got 0"):
        load_bench_model(model, batch=0)
    assert load_bench_model(model, batch=3).inputs["x"].shape == (3, 4, 5, 5)
    assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "N"


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("no/such.onnx", "no/such.onnx: no such file"),
        ("conv2d:1x3x8x8:4x3x3:stride=0", "stride"),
        ("nosuchop:1x3x8x8", "unknown operator"),
    ],
)
def test_bad_sources(source: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_bench_model(source)
