"""`tvmconv verify --emulate`: models for GPUs on the CPU, and mistakes planted in their kernels."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import tvmconv
from tests.conftest import Result
from tests.quantised_models import qdq_block
from tvmconv.codegen.cuda.build import Image
from tvmconv.cuda_emulator import emulation
from tvmconv.errors import InputError, VerificationError
from tvmconv.frontend import load
from tvmconv.target import Target, load_target
from tvmconv.verify import _tf32_products

PROBLEM = "conv2d:1x20x9x9:24x3x3:padding=1:bias=true:activation=relu"
#: A sum over threads of a block, in whatever way it is scheduled.
ROWS = "global_avg_pool2d:1x40x13x13"


def small_network() -> onnx.ModelProto:
    """Two convolutions, a pool and a head, of 12 x 12 pixels."""
    nodes = [
        helper.make_node("Conv", ["x", "w0"], ["a"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("MaxPool", ["b"], ["c"], kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Conv", ["c", "w1"], ["d"]),
        helper.make_node("GlobalAveragePool", ["d"], ["y"]),
    ]
    tensors = [("w0", (20, 3, 3, 3)), ("w1", (7, 20, 1, 1))]
    weights = [
        helper.make_tensor(name, TensorProto.FLOAT, shape, [0.1 * (i % 7 - 3) for i in range(size)])
        for name, shape in tensors
        if (size := shape[0] * shape[1] * shape[2] * shape[3])
    ]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, (1, 3, 12, 12))
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, (1, 7, 1, 1))
    graph = helper.make_graph(nodes, "small", [x], [y], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)


@pytest.mark.parametrize("target", ["cuda-sm75", "cuda-sm80", "jetson-orin", "h100"])
def test_problem(target: str) -> None:
    """On this machine, whatever host the device has."""
    assert tvmconv.verify(PROBLEM, target=target, emulate=True).ok


@pytest.mark.parametrize(
    "problem",
    [
        "qconv2d:1x16x8x8:16x3x3:padding=1:zero_point=7",
        "qconv2d:1x16x8x8:16x3x3:padding=1:dtype=int8:scale=0.0004:out_zero_point=-3",
        "qconv1d:1x16x2:8x9:stride=2:padding=4,14:dilation=2:groups=2",  # few and long sums
        "depthwise_qconv2d:1x24x9x9:24x3x3:padding=1:scale=0.01:zero_point=3",
    ],
)
def test_bytes(problem: str) -> None:
    """Halos hold the zero point, and products are those of bytes."""
    assert tvmconv.verify(problem, target="cuda-sm80", emulate=True).ok


def test_a_quantised_network() -> None:
    model = qdq_block(np.random.default_rng(3))
    assert tvmconv.verify(model, target="cuda-sm80", emulate=True).ok


def test_network() -> None:
    report = tvmconv.verify(small_network(), target="cuda-sm80", emulate=True)
    assert report.ok
    assert [check.shape for check in report.outputs] == [(1, 7, 1, 1)]


def test_network_of_tf32() -> None:
    """Only the second convolution is on blocks; the first reads the plain image."""
    report = tvmconv.verify(small_network(), target="cuda-sm80", emulate=True, allow_tf32=True)
    assert report.ok
    assert report.arithmetic == "factors may be rounded to TF32, by 2^-11 of each"
    target, images = emulation.on_this_host(load_target("cuda-sm80")), emulation.emulated_images
    with emulation.emulation(target):
        module = tvmconv.compile(small_network(), target=target, allow_tf32=True, images=images)
    assert [s["algorithm"] for s in module.metadata["steps"] if "algorithm" in s] == ["tf32"]


def test_networks_without_tf32_are_held_to_the_usual_rule() -> None:
    """Whatever is allowed: of small images there are no such kernels, and bytes are no floats."""
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, (1, 3, 6, 6))
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, (1, 16, 6, 6))
    w = helper.make_tensor(
        "w", TensorProto.FLOAT, (16, 3, 1, 1), [0.1 * (i % 7) for i in range(48)]
    )
    graph = helper.make_graph([helper.make_node("Conv", ["x", "w"], ["y"])], "one", [x], [y], [w])
    opset = [helper.make_opsetid("", 13)]
    one = helper.make_model(graph, opset_imports=opset, ir_version=8)
    for model in (one, qdq_block(np.random.default_rng(3))):
        report = tvmconv.verify(model, target="cuda-sm80", emulate=True, allow_tf32=True)
        assert (report.ok, report.arithmetic) == (True, "")


def test_only_products_of_tf32_are_rounded() -> None:
    graph = load(small_network())
    for names, count in ((["", ""], 0), (["tf32", ""], 2), (["tf32"] * 2, 4), (["tf32"] * 9, 4)):
        assert _tf32_products(graph, [{"algorithm": name} for name in names]) == count


def test_wrong_products_are_not_taken_for_rounding(monkeypatch: pytest.MonkeyPatch) -> None:
    """Factors with 7 bits after the point, as of bfloat16, where TF32 has 10."""
    plant(
        monkeypatch,
        lambda source: source.replace(
            "return __uint_as_float(rounded)", "return __uint_as_float(rounded & 0xffff0000)"
        ),
    )
    problem = "conv2d:1x32x9x9:32x3x3:padding=1"
    assert not tvmconv.verify(problem, target="cuda-sm80", emulate=True, allow_tf32=True).ok


def test_command(tvmconv: Callable[..., Result]) -> None:
    result = tvmconv("verify", PROBLEM, "--target", "cuda-sm80", "--emulate", "--json")
    assert (result.code, result.err) == (0, "")
    assert json.loads(result.out)["ok"]


def test_only_gpus_are_emulated(tvmconv: Callable[..., Result]) -> None:
    result = tvmconv("verify", PROBLEM, "--target", "x86-64-v3", "--emulate")
    assert result.code == 2
    assert result.err == "tvmconv: x86-64-v3: only kernels for GPUs are emulated\n"


def plant(monkeypatch: pytest.MonkeyPatch, change: Callable[[str], str]) -> None:
    """Change the CUDA source of what is compiled."""
    right = emulation.emulated_images

    def wrong(source: str, target: Target, extents: Mapping[str, Sequence[int]]) -> list[Image]:
        changed = change(source)
        assert changed != source
        return right(changed, target, extents)

    monkeypatch.setattr(emulation, "emulated_images", wrong)


def test_planted_overrun(monkeypatch: pytest.MonkeyPatch, tvmconv: Callable[..., Result]) -> None:
    """All threads read their index a million elements further on."""
    plant(monkeypatch, lambda s: s.replace("(int)blockIdx.x", "(1000000 + (int)blockIdx.x)"))
    result = tvmconv("verify", PROBLEM, "--target", "cuda-sm80", "--emulate")
    assert result.code == 1
    assert re.fullmatch(
        r"tvmconv: .*CUDA_ERROR_ILLEGAL_ADDRESS: kernel \w+, block \(\d+, \d+, \d+\), "
        r"thread \(\d+, \d+, \d+\): out of bounds: .*\n",
        result.err,
    )


def test_planted_wrong_index(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pack kernel that mirrors its rows stays in bounds, and its values are wrong."""
    plant(monkeypatch, lambda s: s.replace("(p1 - 1)", "(9 - p1)"))
    assert not tvmconv.verify(PROBLEM, target="cuda-sm80", emulate=True).ok


def test_planted_race(monkeypatch: pytest.MonkeyPatch) -> None:
    """All blocks write what one should."""
    plant(monkeypatch, lambda s: s.replace("(int)blockIdx.x", "((int)blockIdx.x / 2)"))
    with pytest.raises(VerificationError, match=r"race: write of \d+ bytes at byte \d+ of "):
        tvmconv.verify(ROWS, target="cuda-sm80", emulate=True)


def test_another_driver_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TVMCONV_CUDA_DRIVER", "/other/libcuda.so.1")
    with emulation.emulation(load_target("cuda-sm80")):
        pass
    assert os.environ["TVMCONV_CUDA_DRIVER"] == "/other/libcuda.so.1"


def test_emulation_of_a_cpu_is_refused() -> None:
    with (
        pytest.raises(InputError, match="only kernels for GPUs"),
        emulation.emulation(load_target("x86-64-v3")),
    ):
        pass
