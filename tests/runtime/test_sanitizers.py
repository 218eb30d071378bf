"""The C runtime under AddressSanitizer, UndefinedBehaviorSanitizer and ThreadSanitizer.

``python -m tests.benchmarks.sanitized_networks`` is the long form, with whole networks.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.runtime import sanitized
from tests.runtime.sanitized import SANITIZERS, Model
from tvmconv.accuracy import random_inputs
from tvmconv.codegen.plan import BlockedTensor, PackStep, Plan, Port, TensorArgument, UnpackStep
from tvmconv.compiler import compile_parts
from tvmconv.problem import Problem
from tvmconv.target import load_target

#: Kernels that write what is not theirs.
WRONG = """
#include <unistd.h>
#include "tvm_abi.h"
extern int (*__TVMBackendParallelLaunch)(tvmconv_task, void *, int);
#define KERNEL(name) int __tvm_ffi_##name(void *self, const TVMFFIAny *a, int32_t n, TVMFFIAny *r)
static int task(int32_t i, TVMParallelGroupEnv *env, void *data) {
  usleep(1000); /* until the others are awake */
  ++*(float *)data;
  return 0;
}
static void *output(const TVMFFIAny *a) { return ((DLTensor *)a[1].value.pointer)->data; }
KERNEL(races) { return __TVMBackendParallelLaunch(task, output(a), 0); }
KERNEL(overruns) { return ((char *)output(a))[8192] = 1, 0; }
"""
PROBLEM = Problem.parse("conv2d:1x32x28x28:64x3x3:padding=1:bias=true")

Array = np.ndarray[Any, Any]


@pytest.fixture(scope="module")
def compiler(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A C compiler with which the sanitizers work."""
    found = sanitized.find_compiler(tmp_path_factory.mktemp("compiler"))
    if found is None:
        pytest.skip("neither gcc nor clang with the sanitizers' libraries is installed")
    return found


@pytest.fixture(scope="module")
def convolution() -> Model:
    """A model with a kernel that TVM has generated."""
    parts = compile_parts(PROBLEM.text, target=load_target("host"), threads=2, tuned=False)
    return Model("net", parts.plan, [*parts.kernels.values()], weights=bytes(parts.weights))


def _give(folder: Path, model: Model, arrays: Mapping[str, Array]) -> None:
    """Write the inputs of a model where the program looks for them."""
    for k, port in enumerate(model.plan.inputs):
        (folder / f"{model.prefix}_{k}.raw").write_bytes(arrays[port.name].tobytes())


def _run(program: Path, *numbers: int) -> None:
    try:
        sanitized.run(program, program.parent, *numbers)
    except sanitized.MemoryLayout as error:
        pytest.skip(str(error.__doc__))


def _round_trips() -> Plan:
    """A model that packs and unpacks tensors of many layouts, each at the very end of the arena."""
    rng = np.random.default_rng(11)
    tensors = [BlockedTensor((1, 40, 40, 61), block=16, lows=(1, 1), highs=(1, 1))]
    tensors.append(BlockedTensor((1, 33, 64, 31), block=16))
    for _ in range(80):
        rank = int(rng.integers(0, 4))
        spatial = tuple(int(n) for n in rng.integers(1, 20, rank))
        lows, highs = (tuple(int(n) for n in rng.integers(0, 3, rank)) for _ in range(2))
        dtype = str(rng.choice(["float32", "float32", "int8", "float16", "float64"]))
        shape = (int(rng.integers(1, 3)), int(rng.integers(1, 40)), *spatial)
        halo = (lows, highs) if rng.integers(0, 2) else ((), ())
        block = int(rng.choice([1, 4, 8, 16, 16, 5]))
        tensors.append(BlockedTensor(shape, 0, block, *halo, dtype=dtype))
    arena_bytes = max(tensor.nbytes for tensor in tensors)
    ports = [Port(f"x{k}", t.shape, t.dtype) for k, t in enumerate(tensors)]
    steps: list[PackStep | UnpackStep] = []
    for k, tensor in enumerate(tensors):
        tensor = replace(tensor, offset=arena_bytes - tensor.nbytes)
        plain = TensorArgument("input", tensor.shape, tensor.dtype, index=k)
        steps += [PackStep(plain, tensor), UnpackStep(tensor, replace(plain, space="output"))]
    return Plan(arena_bytes, ports, ports, steps)


VECTORS = ["", "-mavx2", "-march=native"] if platform.machine() == "x86_64" else [""]


@pytest.mark.parametrize("option", VECTORS, ids=lambda option: option or "baseline")
def test_native_steps_stay_inside_their_buffers(compiler: str, tmp_path: Path, option: str) -> None:
    model = Model("trips", _round_trips())
    rng = np.random.default_rng(12)
    arrays = {p.name: rng.integers(0, 256, p.nbytes, np.uint8) for p in model.plan.inputs}
    _give(tmp_path, model, arrays)
    options = [option] if option else []
    program = sanitized.build(compiler, tmp_path, [model], "address,undefined", options)
    for threads in (1, 3):
        _run(program, threads, 1, 2)
        for k, array in enumerate(arrays.values()):
            assert (tmp_path / f"trips_out_{k}.raw").read_bytes() == array.tobytes()


@pytest.mark.parametrize("sanitizer", SANITIZERS)
def test_models_under_load_share_nothing_unguarded(
    compiler: str,
    tmp_path: Path,
    make_chain: Callable[..., Plan],
    kernels_source: Path,
    convolution: Model,
    sanitizer: str,
) -> None:
    """Three in one program: a generated kernel, hand-written ones, and one that always fails."""
    chain = Model(
        "chain", make_chain(["twice", "scratch", "held_up"], 40_000), sources=[kernels_source]
    )
    fails = Model("bad", make_chain(["fails"]), sources=[kernels_source], fails="always fails")
    arrays = random_inputs(PROBLEM, 1)
    x = np.arange(40_000, dtype=np.float32)
    _give(tmp_path, convolution, arrays)
    _give(tmp_path, chain, {"x": x})
    _give(tmp_path, fails, {"x": x[:1000]})
    program = sanitized.build(compiler, tmp_path, [convolution, chain, fails], sanitizer)
    for threads, callers in ((1, 2), (3, 4)):
        _run(program, threads, callers, 40)
    y = np.fromfile(tmp_path / "net_out_0.raw", np.float32).reshape(PROBLEM.output_shape)
    np.testing.assert_allclose(y, PROBLEM.reference(arrays), rtol=1e-4, atol=1e-4)
    assert (np.fromfile(tmp_path / "chain_out_0.raw", np.float32) == 2 * x + 2).all()


@pytest.mark.parametrize("sanitizer", SANITIZERS)
def test_a_wrong_kernel_is_found(
    compiler: str, tmp_path: Path, make_chain: Callable[..., Plan], sanitizer: str
) -> None:
    """The load shows what it is for: a race, and a write behind a tensor."""
    (tmp_path / "wrong.c").write_text(WRONG)
    name, told = {"thread": ("races", "data race")}.get(
        sanitizer, ("overruns", "heap-buffer-overf")
    )
    model = Model("wrong", make_chain([name]), sources=[tmp_path / "wrong.c"])
    _give(tmp_path, model, {"x": np.zeros(1000, np.float32)})
    program = sanitized.build(compiler, tmp_path, [model], sanitizer)
    with pytest.raises(AssertionError, match=told):
        _run(program, 3, 1, 8)
