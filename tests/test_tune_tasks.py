"""What is found to tune in models and problems."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from tests.onnx_models import net, normal
from tests.tune_fakes import TARGET
from tvmconv.autoschedule.tasks import cold_bytes, describe, extract
from tvmconv.autoschedule.tuner import Tools
from tvmconv.autoschedule.workload import canonical
from tvmconv.errors import InputError
from tvmconv.frontend import load
from tvmconv.layers import Layer
from tvmconv.problem import Problem

PROBLEM = "conv2d:1x32x7x7:32x3x3:padding=1"


def model() -> onnx.ModelProto:
    """Two equal convolutions, one other, a residual sum."""
    body = (
        "a = Conv<pads=[1,1,1,1]>(x, w); b = Relu(a); c = Conv<pads=[1,1,1,1]>(b, v); d = Relu(c);"
        "e = Conv(d, u); y = Add(e, d);"
    )
    weights = {"w": normal(32, 32, 3, 3), "v": normal(32, 32, 3, 3, seed=1)}
    return net(body, x="1,32,7,7", u=normal(32, 32, 1, 1), **weights)


def test_a_network_of_kernels(tmp_path: Path) -> None:
    path = tmp_path / "mine.onnx"
    onnx.save(model(), path)
    tasks, networks = extract([path], TARGET)
    assert networks == ["mine"]
    counts = {task.name: task.count for task in tasks}
    assert counts == {
        f"{PROBLEM}+relu": 2,
        "conv2d:1x32x7x7:32x1x1+add": 1,
    }
    assert {task.cache for task in tasks} == {"cold"}
    three = tasks[0]
    assert [describe(spec) for spec in three.specs[1:]] == [
        f"conv2d:1x32x7x7:32x3x3:padding=1:algorithm={name}+relu"
        for name in ("winograd2", "winograd4", "winograd4_online")  # winograd6 is too coarse
    ]
    assert three.macs == 7 * 7 * 32 * 32 * 9


def test_equal_workloads_of_several_sources_are_one_task() -> None:
    layer = Layer("resnet:b*2", f"{PROBLEM}:activation=relu")
    tasks, networks = extract([PROBLEM, PROBLEM, layer, model()], TARGET)
    assert networks[:3] == [PROBLEM, f"{PROBLEM}#2", "resnet:b*2"]
    first = tasks[0]
    assert first.networks == {PROBLEM: 1, f"{PROBLEM}#2": 1}
    assert (first.cache, first.cold_bytes) == ("warm", 0)
    assert len({task.specs[0].text for task in tasks}) == len(tasks)


def test_a_model_that_cannot_be_compiled_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "bad.onnx"
    path.write_bytes(b"no model")
    with pytest.raises(InputError, match=r"bad\.onnx"):
        extract([path], TARGET)


def test_cold_bytes_come_in_few_sizes() -> None:
    last = TARGET.caches.l3_bytes
    sizes = [cold_bytes(weights, TARGET) for weights in (0, 1, last // 2, last + 1, 100 * last)]
    assert sizes == [0, last // 4, last, 2 * last, 2 * last]


@pytest.mark.parametrize(
    ("problem", "arms"),  # direct, on planes, and Winograd: the online one where weights are many
    [(PROBLEM, 6), ("conv2d:1x256x56x56:256x3x3:padding=1", 5)],
)
def test_spaces_begin_with_what_is_compiled_untuned(problem: str, arms: int) -> None:
    from tvmconv.compiler import lower_graph

    tools = Tools(TARGET, jobs=1)
    tasks, _ = tools.extract([problem, problem], None)
    state = tools.state(tasks[0], patience=10)
    shapes = Problem.parse(problem).inputs
    weights = {"weight": np.ones(shapes["weight"], np.float32)}
    (kernel,) = lower_graph(load(problem, params=weights), TARGET).kernels.values()
    assert state.untuned.arm.spec == canonical(kernel)
    assert state.untuned.row == 0
    cycles = [candidate.cycles for candidate in state.untuned.arm.space.candidates]
    assert cycles == sorted(cycles)
    assert len(state.arms) == arms
    assert state.predicted_us > 0
    assert not state.fixed
    assert tools.space(tasks[0].specs[0]) is tools.space(tasks[0].specs[0])
