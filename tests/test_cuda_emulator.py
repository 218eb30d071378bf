"""CUDA kernels on the CPU: what is right gives the right values, what is wrong is caught."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from tests import cuda_sources as cuda
from tvmconv.cuda_emulator import Launch, configure, host_image, run, run_both_ways
from tvmconv.cuda_emulator import build as emulator_build
from tvmconv.cuda_emulator.translate import translate
from tvmconv.errors import EnvironmentError_, InputError, VerificationError

Array = npt.NDArray[Any]
RNG = np.random.default_rng(7)


def floats(*shape: int) -> Array:
    return RNG.standard_normal(shape).astype(np.float32)


def zeros(*shape: int) -> Array:
    return np.full(shape, np.nan, np.float32)


@pytest.fixture(params=[True, False], ids=["checked", "unchecked"])
def checked(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


@pytest.fixture
def sm_90() -> Iterator[None]:
    configure(sm=90)
    yield
    configure()


def test_vector_add(checked: bool) -> None:
    a, b, c = floats(1000), floats(1000), zeros(1000)
    image = host_image(cuda.VECTOR_ADD, checked=checked)
    run_both_ways(image, [Launch("add", (8,), (128,), (c, a, b, np.int32(1000)))])
    np.testing.assert_array_equal(c, a + b)


def test_neighbours_are_no_vector() -> None:
    """Two pairs of floats side by side, aligned to 8 bytes, are not one access of 16."""
    source = """
    extern "C" __global__ void pairs(float2* __restrict__ y, const float2* __restrict__ x) {
      y[1].x = 2 * x[1].x;
      y[1].y = 2 * x[1].y;
      y[2].x = 2 * x[2].x;
      y[2].y = 2 * x[2].y;
    }
    """
    x, y = floats(6), zeros(6)
    run_both_ways(host_image(source), [Launch("pairs", (1,), (1,), (y, x))])
    np.testing.assert_array_equal(y[2:], 2 * x[2:])


def test_two_launches_on_one_buffer() -> None:
    a, c = floats(256), zeros(256)
    launch = Launch("add", (2,), (128,), (c, a, a, np.int32(256)))
    again = Launch("add", (2,), (128,), (c, c, a, np.int32(256)))
    run_both_ways(host_image(cuda.VECTOR_ADD), [launch, again])
    np.testing.assert_array_equal(c, a + a + a)


def test_reduction_in_shared_memory(checked: bool) -> None:
    x, y = RNG.integers(-9, 9, (5, 256)).astype(np.float32), zeros(5)
    image = host_image(cuda.REDUCE_SHARED, checked=checked)
    run_both_ways(image, [Launch("reduce", (5,), (256,), (y, x))])
    np.testing.assert_array_equal(y, x.sum(axis=1))


@pytest.mark.parametrize("threads", [32, 128, 1024])
def test_reduction_by_shuffles(threads: int) -> None:
    x, y = RNG.integers(-9, 9, (3, threads)).astype(np.float32), zeros(3)
    launch = Launch("reduce", (3,), (threads,), (y, x), shared_bytes=threads // 8)
    run_both_ways(host_image(cuda.REDUCE_SHUFFLE), [launch])
    np.testing.assert_array_equal(y, x.sum(axis=1))


def test_warp_exchange() -> None:
    """Threads of a warp see what others wrote before ``__syncwarp``."""
    x, y = np.arange(32, dtype=np.int32) * 3, np.zeros(32, np.int32)
    run_both_ways(host_image(cuda.WARP_EXCHANGE), [Launch("reverse", (1,), (32,), (y, x))])
    np.testing.assert_array_equal(y, x[::-1] + (np.arange(32) ^ 1) + 5)


def bfloats(x: Array) -> Array:
    """The 16 bits of float32 values rounded to bfloat16, by steps, not as the emulator does it."""
    exponent = np.floor(np.log2(np.abs(x.astype(np.float64))))
    step = 2.0 ** (exponent - 7)
    rounded = (np.rint(x / step) * step).astype(np.float32)
    return (rounded.view(np.uint32) >> 16).astype(np.uint16)


@pytest.mark.parametrize(("element", "k"), [("f16", 16), ("f16", 8), ("bf16", 16)])
def test_tensor_core_product(element: str, k: int, checked: bool) -> None:
    a, b, c = floats(16, 32), floats(32, 16), zeros(16, 16)
    if element == "f16":
        stored = [a.astype(np.float16), b.astype(np.float16)]
        a, b = (x.astype(np.float32) for x in stored)
    else:
        stored = [bfloats(a), bfloats(b)]
        a, b = ((x.astype(np.uint32) << 16).view(np.float32) for x in stored)
    image = host_image(cuda.gemm(element, k), checked=checked)
    run_both_ways(image, [Launch("gemm", (1,), (32,), (c, *stored))])
    np.testing.assert_allclose(c, a.astype(np.float64) @ b, atol=1e-5)


def test_tensor_core_product_of_tf32() -> None:
    """Inputs are rounded to 10 bits, ties away from zero; the products are not."""
    a, b, c = floats(16, 8), floats(8, 8), zeros(16, 8)
    a[0, 0], b[0] = 1 + 2.0**-11, [1, 2, 4, 8, 16, 32, 64, 128]

    def tf32(x: Array) -> Array:
        step = 2.0 ** (np.floor(np.log2(np.abs(x.astype(np.float64)))) - 10)
        return np.copysign(np.floor(np.abs(x) / step + 0.5) * step, x)

    run_both_ways(host_image(cuda.GEMM_TF32), [Launch("gemm", (1,), (32,), (c, a, b))])
    np.testing.assert_allclose(c, tf32(a) @ tf32(b), rtol=1e-5, atol=1e-5)


def test_tensor_core_product_of_bytes() -> None:
    a, b = (RNG.integers(-128, 128, s).astype(np.int8) for s in ((16, 32), (8, 32)))
    c = np.zeros((16, 8), np.int32)
    run_both_ways(host_image(cuda.GEMM_INT8), [Launch("gemm", (1,), (32,), (c, a, b))])
    np.testing.assert_array_equal(c, a.astype(np.int32) @ b.T.astype(np.int32) + 7)


def test_pipeline_of_asynchronous_copies(checked: bool) -> None:
    x, y = floats(8, 128), zeros(128)
    launch = Launch("sum", (1,), (32,), (y, x), shared_bytes=1024)
    run_both_ways(host_image(cuda.PIPELINE, checked=checked), [launch])
    np.testing.assert_allclose(y, x.sum(axis=0), atol=1e-5)


REUSE = """
extern "C" __global__ void first(float4* out, const float* in) {
  __shared__ alignas(16) float s[32];
  if (threadIdx.x == 0) {
    s[0] = in[blockIdx.x];
    out[blockIdx.x] = ((float4*)s)[threadIdx.y];  // with three that the last block wrote
  }
  __syncthreads();
  s[threadIdx.x] = threadIdx.x;
}
"""


def test_what_a_block_left_in_shared_memory_is_no_race() -> None:
    x, y = floats(3), zeros(3, 4)
    run_both_ways(host_image(REUSE), [Launch("first", (3,), (32,), (y, x))])
    np.testing.assert_array_equal(y[:, 0], x)
    assert np.isnan(y[:, 1:]).all()


HALVES = """
#include <cuda_fp16.h>
#include <cuda_bf16.h>
extern "C" __global__ void convert(half* h, nv_bfloat16* b, const float* x) {
  h[threadIdx.x] = __float2half_rn(x[threadIdx.x]);
  b[threadIdx.x] = __float2bfloat16(x[threadIdx.x]);
}
"""


def test_rounding_to_halves() -> None:
    """To nearest even, with subnormals, infinities and NaN."""
    ties = [1 + 2.0**-11, 1 + 3 * 2.0**-11, 1 + 2.0**-8, 1 + 3 * 2.0**-8, 65519, 65520, 2.0**-25]
    values = [*ties, -0.0, 0.1, 3e38, np.inf, -np.inf, np.nan, 1e-8, 2.0**-24 * 1.5, 1 / 3]
    x = np.array(values, np.float32)
    h, b = np.zeros(16, np.float16), np.zeros(16, np.uint16)
    run_both_ways(host_image(HALVES), [Launch("convert", (1,), (16,), (h, b, x))])
    with np.errstate(over="ignore"):
        np.testing.assert_array_equal(h, x.astype(np.float16))
    got = (b.astype(np.uint32) << 16).view(np.float32)
    np.testing.assert_array_equal(got[:4], [1, 1, 1, 1.015625])
    finite = np.isfinite(x) & (x != 0) & (np.abs(x) < 3e38)
    np.testing.assert_array_equal(b[finite], bfloats(x[finite]))
    np.testing.assert_array_equal(np.isnan(got), np.isnan(x))


# What is wrong is caught: each case is a right kernel with one mistake.

REDUCE = [Launch("reduce", (2,), (256,), (zeros(2), floats(2, 256)))]
SUM = [Launch("sum", (1,), (32,), (zeros(128), floats(8, 128)), shared_bytes=1024)]
ADD = [Launch("add", (8,), (128,), (zeros(1000), floats(1000), floats(1000), np.int32(1000)))]
EXCHANGE = [Launch("reverse", (1,), (32,), (np.zeros(32, np.int32), np.arange(32, dtype=np.int32)))]
WAIT = "a wait or a barrier is missing"
FAULTS = {
    "missing barrier": (
        cuda.REDUCE_SHARED, "__syncthreads();  // loaded", "", REDUCE,
        "race: read of 4 bytes of shared memory"),
    "missing barrier before reuse": (
        cuda.PIPELINE, "__syncthreads();  // consumed", "", SUM,
        "cp.async still writes: a wait or a barrier is missing"),
    "missing __syncwarp": (
        cuda.WARP_EXCHANGE, "__syncwarp();", "", EXCHANGE, "race: read of 4 bytes of shared"),
    "missing wait": (
        cuda.PIPELINE, 'asm volatile("cp.async.wait_group 1;");', "", SUM, WAIT),
    "wait for too few": (
        cuda.PIPELINE, "wait_group 1", "wait_group 2", SUM, WAIT),
    "missing commit": (
        cuda.PIPELINE, 'asm volatile("cp.async.commit_group;");\n  for', "for", SUM,
        WAIT),
    "read after the end": (
        cuda.VECTOR_ADD, "a[i] + b[i]", "a[i] + b[i + 1]", ADD,
        r"\(7, 0, 0\), thread \(103, 0, 0\): out of bounds: read of 4 bytes at byte 4000 of b"),
    "read before the start": (
        cuda.VECTOR_ADD, "a[i] + b[i]", "a[i] + b[i - 1]", ADD,
        "out of bounds: read of 4 bytes at byte -4 of b"),
    "write after the end": (
        cuda.VECTOR_ADD, "i < n", "i <= n", ADD, "out of bounds: .* at byte 4000 of"),
    "write far away": (
        cuda.VECTOR_ADD, "c[i] =", "c[i + 1000000000000ll] =", ADD, "out of bounds: write"),
    "shared array overrun": (
        cuda.REDUCE_SHARED, "partial[t] = ", "partial[t + 1] = ", REDUCE,
        "out of bounds: write of 4 bytes at byte 1024 of static shared memory"),
    "dynamic shared memory overrun": (
        cuda.PIPELINE, "stage[r % 2 * 128", "stage[256", SUM,
        r"out of bounds: read of 4 bytes at byte 1[01]\d+ of dynamic shared memory"),
    "some threads at a barrier": (
        cuda.REDUCE_SHARED, "__syncthreads();  // loaded",
        "if (t < 100) __syncthreads();\nelse __syncthreads();", REDUCE,
        r"divergent __syncthreads at line 6: .*\(100, 0, 0\) waits at __syncthreads of line 7"),
    "a barrier after some have ended": (
        cuda.REDUCE_SHARED, "__syncthreads();  // loaded", "if (t > 99) return; __syncthreads();",
        REDUCE, r"divergent __syncthreads at line 6: thread \(100, 0, 0\) has ended"),
    "a shuffle without some": (
        cuda.WARP_EXCHANGE, "out[t] =", "if (t == 3) __syncthreads(); out[t] =", EXCHANGE,
        r"divergent __shfl_sync at line 7: thread \(3, 0, 0\) waits at __syncthreads"),
    "a product of half a warp": (
        cuda.gemm("f16", 16), "for (int n", "if (threadIdx.x < 16) for (int n",
        [Launch("gemm", (1,), (32,), (zeros(16, 16), *np.ones((2, 512), np.float16)))],
        "divergent ldmatrix .* has ended"),
    "misaligned row of a matrix": (
        cuda.gemm("f16", 16), "threadIdx.x / 16 * 8)", "threadIdx.x / 16 * 4)",
        [Launch("gemm", (1,), (32,), (zeros(16, 16), *np.ones((2, 512), np.float16)))],
        "CUDA_ERROR_MISALIGNED_ADDRESS.*ldmatrix: its address is not a multiple of 16"),
    "misaligned vector": (
        cuda.VECTOR_ADD, "c[i] = a[i] + b[i]", "c[i] = a[i] + ((const float2*)(b + 1))[i / 2].x + "
        "*(const long long*)(a + 1)", ADD, "CUDA_ERROR_MISALIGNED_ADDRESS"),
    "race between blocks": (
        cuda.VECTOR_ADD, "c[i] = a[i]", "c[0] = c[i] + a[i]", ADD, "race: .* in this launch"),
    "division by zero": (
        cuda.VECTOR_ADD, "i < n", "i < n / (n - 1000)", ADD, "integer division by zero"),
    "trap": (
        cuda.VECTOR_ADD, "if (i < n)", "if (i == 77) __trap(); if (i < n)", ADD,
        r"thread \(77, 0, 0\): __trap at line 5"),
    "deep recursion": (
        "__device__ float deep(float* x, int n) { float y[999]; y[n] = n; return n > 9999 ? x[0] : "
        "deep(y, n + 1) + y[n]; }" + cuda.VECTOR_ADD, "a[i] + b[i]", "deep(c, 0)", ADD,
        "illegal address|out of bounds"),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_fault_is_caught(fault: str) -> None:
    source, right, wrong, launches, message = FAULTS[fault]
    run_both_ways(host_image(source), launches)  # passes without the fault
    assert source.count(right) >= 1
    with pytest.raises(VerificationError, match=message):
        run_both_ways(host_image(source.replace(right, wrong, 1)), launches)
    run_both_ways(host_image(source), launches)  # and leaves nothing behind


def test_wrong_index_gives_wrong_values() -> None:
    x, y = RNG.integers(-9, 9, (2, 256)).astype(np.float32), zeros(2)
    wrong = cuda.REDUCE_SHARED.replace("partial[t + s]", "partial[t + s - 1]")
    run(host_image(wrong, checked=False), [Launch("reduce", (2,), (256,), (y, x))])
    assert not np.array_equal(y, x.sum(axis=1))


@pytest.mark.parametrize("fault", ["missing barrier", "missing __syncwarp"])
def test_races_change_values_without_checks(fault: str) -> None:
    source, right, wrong, launches, _ = FAULTS[fault]
    image = host_image(source.replace(right, wrong, 1), checked=False)
    with pytest.raises(VerificationError, match="depend on the order of threads"):
        run_both_ways(image, launches)


@pytest.mark.parametrize("order", [0, 1])
def test_guard_pages_without_checks(order: int) -> None:
    """What leaves an allocation faults: behind it forwards, before it backwards."""
    at = "i - 4096" if order else "i + 24"
    source = cuda.VECTOR_ADD.replace("b[i]", f"b[{at}]")
    arrays = floats(1024), floats(1024), floats(1024)
    configure(order=order)
    try:
        with pytest.raises(VerificationError, match=r"_ILLEGAL_ADDRESS: .*: illegal address"):
            run(
                host_image(source, checked=False),
                [Launch("add", (8,), (128,), (*arrays, np.int32(1024)))],
            )
    finally:
        configure()


def test_reads_outside_of_a_buffer_in_one_allocation() -> None:
    """With the sizes of buffers told, their neighbours in the same allocation are out of bounds."""
    c, ab = zeros(1000), floats(2000)
    source = cuda.VECTOR_ADD.replace("a[i] + b[i]", "a[i] + b[i + 1000]")
    launch = Launch("add", (8,), (128,), (c, ab, ab, np.int32(1000)))
    run_both_ways(host_image(source), [launch])
    extents = {"add": (4000, 4000, 4000, 0)}
    with pytest.raises(
        VerificationError, match=r"read of 4 bytes at byte \d+ of [ab], which has 4000"
    ):
        run_both_ways(host_image(source, extents=extents), [launch])


REFUSED = {
    "threads": ((1,), (1025,), 0, "a block of 1025 x 1 x 1 threads, over 1024"),
    "launch bounds": ((1,), (256,), 0, r"256 threads, over its __launch_bounds__\(128\)"),
    "blocks": ((1, 65536), (1,), 0, "a grid of 1 x 65536 x 1 blocks"),
    "no block": ((0,), (1,), 0, "a grid of 0 x 1 x 1 blocks"),
    "shared memory": (
        (1,),
        (1,),
        163 * 1024 + 1,
        "166913 bytes of shared memory, sm_80 has 166912",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_launch_over_the_limits(case: str) -> None:
    grid, block, shared, message = REFUSED[case]
    launch = Launch("add", grid, block, ADD[0].arguments, shared)
    with pytest.raises(VerificationError, match=f"CUDA_ERROR_INVALID_VALUE: .*{message}"):
        run(host_image(cuda.VECTOR_ADD), [launch])


@pytest.mark.usefixtures("sm_90")
def test_limits_are_those_of_the_device() -> None:
    run(host_image(cuda.PIPELINE), [Launch("sum", (1,), (32,), SUM[0].arguments, 227 * 1024)])


def test_too_much_static_shared_memory() -> None:
    source = cuda.REDUCE_SHARED.replace("partial[256]", "partial[12289]")
    with pytest.raises(VerificationError, match="49156 bytes of static shared memory, over 49152"):
        run(host_image(source), REDUCE)


def test_unknown_kernel() -> None:
    with pytest.raises(VerificationError, match="CUDA_ERROR_NOT_FOUND: no kernel sub"):
        run(host_image(cuda.VECTOR_ADD), [Launch("sub", (1,), (1,), ())])


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (b".version 8.0\0" + bytes(64), "CUDA_ERROR_INVALID_IMAGE: .*no PTX"),
        (
            b"\x7fELF\2\1\1" + bytes(11) + b"\xbe" + bytes(64),
            "CUDA_ERROR_NO_BINARY_FOR_GPU: .*no cubin",
        ),
    ],
    ids=["PTX", "cubin"],
)
def test_images_for_a_gpu_are_refused(image: bytes, message: str) -> None:
    with pytest.raises(VerificationError, match=message):
        run(image, ADD)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("int x;", "no kernel"),
        ('__global__ void f() {\n asm("tcgen05.mma %0;" :: "r"(1)); }', "line 2: .*'tcgen05.mma'"),
        ('__global__ void f() {\n asm("bar.sync 1;"); }', "line 2: .*only barrier 0"),
        ('__global__ void f() { asm("mov.u32 %0, %1;" : "=r"(x)); }', "no operand %1"),
        ("__global__ void f() {", "line 1: '{' is not closed"),
        (
            "__device__ void g() { __shared__ int x[2]; }\n__global__ void f() { g(); }",
            "line 1: .*shared",
        ),
    ],
)
def test_source_that_cannot_be_emulated(source: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        translate(source)


def test_source_that_does_not_compile() -> None:
    with pytest.raises(EnvironmentError_, match=r"kernels.cu:3:\d+: error: .*'missing'"):
        host_image('extern "C"\n__global__ void f(int* x) {\n x[0] = missing; }')


def test_lines_of_messages_are_those_of_the_source() -> None:
    source = cuda.PIPELINE.replace(
        "float* stage", "/* a\n comment */ __shared__ int one; one = 0;\n float* stage"
    )
    assert [n for n, line in enumerate(translate(source).split("\n"), -1) if "// " in line] == []
    with pytest.raises(VerificationError, match="race: write of 4 bytes of shared"):
        run_both_ways(host_image(source), SUM)


def test_a_cache_is_not_shared_by_different_processors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is in it is compiled for the processor at hand."""
    for name in ("_build_core", "_build_driver"):
        monkeypatch.setattr(emulator_build, name, lambda folder: None)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    texts = ("flags : sse avx\n", "flags : avx sse\n", "flags : sse\n", "Features : asimd\n")
    folders = []
    for text in texts:
        (tmp_path / "cpuinfo").write_text(text)
        monkeypatch.setattr(emulator_build, "CPUINFO", tmp_path / "cpuinfo")
        folders.append(emulator_build._build_folder.__wrapped__())
    assert [folders.index(folder) for folder in folders] == [0, 0, 2, 3]
