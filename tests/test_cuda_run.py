"""Whole models for a GPU, run on the CPU with every access to memory checked."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from tests.graph_cases import CASES, build
from tests.graphs import feeds, random_graph
from tests.on_gpu import on_gpu as on_gpu
from tvmconv.accuracy import check, random_inputs
from tvmconv.frontend import load
from tvmconv.graph.evaluate import evaluate
from tvmconv.graph.ir import Graph
from tvmconv.graph.layout import place
from tvmconv.graph.lower import _Lowerer, lower
from tvmconv.ops import Array
from tvmconv.problem import Problem
from tvmconv.runtime.loader import Module
from tvmconv.verify import random_feeds

OnGpu = Callable[..., Module]

PROBLEMS = [
    "conv2d:1x33x8x8:20x3x3:padding=1:bias=true:activation=relu",
    "conv2d:2x17x9x7:33x3x3:padding=1:activation=silu",
    "conv2d:1x40x9x9:48x3x3:padding=1:groups=4",
    "conv1d:1x32x50:32x5:padding=4:dilation=2:activation=tanh",
    "conv3d:1x4x5x6x6:24x3x3x3:padding=1:activation=sigmoid",
    "depthwise_conv2d:1x40x14x14:40x5x5:stride=2:padding=2:activation=hardswish",
    "conv2d_transpose:1x24x9x9:20x4x4:stride=2:padding=1",
    "conv2d_transpose:1x24x9x9:20x3x3:stride=2:padding=1:output_padding=1",
    "max_pool2d:1x40x14x14:3x3:stride=2:padding=1",
    "avg_pool2d:1x40x14x14:3x3:stride=2:padding=1",
    "global_avg_pool2d:1x100x7x7",
    "dense:4x50:33",
]


@pytest.mark.parametrize("text", PROBLEMS)
def test_problems(on_gpu: OnGpu, text: str) -> None:
    problem = Problem.parse(text)
    with on_gpu(text) as module:
        for seed in (0, 1):
            arrays = random_inputs(problem, seed)
            (got,) = module(arrays)
            report = check(problem, got, problem.reference(arrays), problem.magnitude(arrays))
            assert report.passed, report.message


def compare(graph: Graph, results: list[Array], inputs: dict[str, Array]) -> None:
    for got, wanted in zip(results, evaluate(graph, inputs), strict=True):
        assert got.shape == wanted.shape
        np.testing.assert_allclose(got, wanted, 1e-3, 1e-4 * (1 + np.abs(wanted).max()))


def run(graph: Graph, on_gpu: OnGpu) -> None:
    with on_gpu(graph) as module:
        for seed in (0, 1):  # the arena is not what it was the first time, but the halos are
            inputs = feeds(graph, seed)
            compare(graph, module(inputs), inputs)


@pytest.mark.parametrize("name", CASES)
def test_graphs(on_gpu: OnGpu, name: str) -> None:
    run(build(name), on_gpu)


@pytest.mark.parametrize("seed", range(8))
def test_random_graphs(on_gpu: OnGpu, seed: int) -> None:
    run(random_graph(1000 + seed, 6), on_gpu)


def test_profile(on_gpu: OnGpu) -> None:
    text = PROBLEMS[0]
    arrays = random_inputs(Problem.parse(text), 0)
    with on_gpu(text) as module:
        times = module.profile(arrays)
        assert [name for name, _ in times] == [step["name"] for step in module.metadata["steps"]]
        assert min(seconds for _, seconds in times) >= 0


def test_threads_take_turns(on_gpu: OnGpu) -> None:
    text = PROBLEMS[0]
    problem = Problem.parse(text)
    with on_gpu(text) as module, ThreadPoolExecutor(4) as pool:
        sets = [random_inputs(problem, seed) for seed in range(4)]
        wanted = [module(arrays)[0].copy() for arrays in sets]
        for got, one in zip(pool.map(lambda a: module(a)[0].copy(), sets), wanted, strict=True):
            np.testing.assert_array_equal(got, one)


def test_arrays_may_lie_on_the_device(on_gpu: OnGpu) -> None:
    """As of a network that goes on there: the pointers of a run are taken as they are."""
    text = "max_pool2d:1x16x4x4:2x2:stride=2"
    x = np.arange(256, dtype=np.float32).reshape(1, 16, 4, 4)
    with on_gpu(text) as module:
        (wanted,) = module(x)
        cuda = ctypes.CDLL(os.environ["TVMCONV_CUDA_DRIVER"])
        source, target = ctypes.c_uint64(), ctypes.c_uint64()
        context = ctypes.c_void_p()
        cuda.cuDevicePrimaryCtxRetain(ctypes.byref(context), 0)
        cuda.cuCtxPushCurrent_v2(context)
        assert cuda.cuMemAlloc_v2(ctypes.byref(source), ctypes.c_size_t(x.nbytes)) == 0
        assert cuda.cuMemAlloc_v2(ctypes.byref(target), ctypes.c_size_t(wanted.nbytes)) == 0
        sizes = ctypes.c_size_t(x.nbytes), ctypes.c_size_t(wanted.nbytes)
        cuda.cuMemcpyAsync(source, ctypes.c_uint64(x.ctypes.data), sizes[0], None)
        pointers = [(ctypes.c_void_p * 1)(p.value) for p in (source, target)]
        assert module._library.run(module._model, *pointers) == 0
        got = np.empty_like(wanted)
        cuda.cuMemcpyAsync(ctypes.c_uint64(got.ctypes.data), target, sizes[1], None)
        np.testing.assert_array_equal(got, wanted)
        for address in (source, target):
            assert cuda.cuMemFree_v2(address) == 0
        cuda.cuCtxPopCurrent_v2(ctypes.byref(context))
        cuda.cuDevicePrimaryCtxRelease_v2(0)


@pytest.mark.slow
def test_a_network(on_gpu: OnGpu) -> None:
    graph = load("light_shufflenet.onnx")
    inputs = random_feeds(graph, 0)
    with on_gpu(graph) as module:
        compare(graph, module(inputs), inputs)


# --- halos that stay


@pytest.mark.parametrize("name", ["inception", "densenet", "from_a_halo_into_another", "residual"])
def test_a_halo_shares_memory_only_with_its_like(name: str) -> None:
    placed = place(build(name), 16)
    lowerer = _Lowerer(placed, True)
    places = {
        root: (offset, offset + placed.layouts[root].buffer_bytes)
        for root, offset in lowerer.offsets.items()
    }
    halos = [root for root in places if placed.layouts[root].has_halo]
    for one in halos:
        for other in places:
            apart = places[one][1] <= places[other][0] or places[other][1] <= places[one][0]
            assert apart or placed.layouts[one] == placed.layouts[other]
    assert max(end for _, end in places.values()) <= lowerer.arena_bytes


def test_only_resident_halos_need_no_steps() -> None:
    placed = place(build("inception"), 16)
    kinds = [type(step).__name__ for step in lower(placed).plan.steps]
    resident = [type(step).__name__ for step in lower(placed, resident_halos=True).plan.steps]
    assert "BorderStep" in kinds
    assert resident == [kind for kind in kinds if kind != "BorderStep"]
