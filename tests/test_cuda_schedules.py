"""The design space for CUDA: every kind of kernel is right at its schedules, and fits devices."""

from __future__ import annotations

import itertools
import math
import random
from dataclasses import replace

import numpy as np
import pytest

from tests.cuda_kernels import Emulated, space
from tests.kernels import case_kernels, problem_kernel, problem_spec, reference, trials
from tests.test_kernels import ROUNDING, inputs_of
from tvmconv import accuracy, ops
from tvmconv.autoschedule.space import Candidate
from tvmconv.codegen.cuda.build import compiled_images
from tvmconv.codegen.cuda.device import cuda_source
from tvmconv.codegen.cuda.nvrtc import compiler
from tvmconv.codegen.kernels import device_kernel
from tvmconv.errors import EnvironmentError_
from tvmconv.kernel import KernelSpec, canonical_json
from tvmconv.problem import Problem
from tvmconv.target import Target, load_target, targets

#: One of each kind of kernel, small enough for the emulator.
PROBLEMS = (
    "conv2d:1x20x7x7:24x3x3:padding=1:bias=true:activation=relu",  # rows and terms are padded
    "conv2d:2x32x9x11:48x3x3:padding=1:stride=2",
    "conv2d:1x64x6x6:64x1x1:bias=true",
    "conv2d:1x3x19x17:16x5x5:padding=2:bias=true",  # read from planes
    "conv2d:1x32x5x5:32x3x3:padding=2:dilation=2",
    "conv2d:1x48x8x8:96x3x3:padding=1:groups=3",  # a matrix for each group
    "conv2d:1x136x6x6:136x1x1:groups=4",  # several groups in a block
    "conv2d:1x320x5x4:32x3x3:padding=1:activation=silu",  # partial sums
    "conv2d:1x1x1x1:1x1x1",
    "conv1d:2x16x40:24x5:padding=2",
    "conv3d:1x8x5x6x7:16x3x3x3:padding=1",
    "dense:3x300:70:bias=true",
    "dense:1x2048:100:bias=true",
    "conv2d_transpose:1x20x5x5:24x3x3:stride=2:padding=1",  # phases of 1 and of 2 taps
    "conv2d_transpose:1x1040x3x3:16x2x2:stride=2",  # partial sums
    "conv2d_transpose:1x16x4x4:16x4x4:stride=2:padding=1:groups=16",
    "conv2d_transpose:1x26x2x2:8x3x3:stride=4,1:padding=2:dilation=1,2:groups=2",  # no tile fits
    "depthwise_conv2d:1x40x9x12:40x3x3:padding=1:bias=true:activation=relu6",
    "depthwise_conv2d:1x8x9x9:24x3x3:padding=1",
    "max_pool2d:1x32x14x14:3x3:stride=2:padding=1",
    "avg_pool2d:1x24x10x10:3x3:stride=1:padding=1:count_include_pad=false",
    "global_avg_pool2d:1x64x13x13",
    "global_max_pool2d:1x24x7x7",
    "resize2d:1x21x6x6:12x12:mode=linear:coordinates=align_corners",
    "resize2d:1x3x6x7:12x14:mode=cubic",
    "gated_conv2d:2x17x6x6:20x3x3:padding=1:bias=true:activation=tanh",  # twice as many sums
    "separable_conv2d:1x20x7x7:24x3x3:padding=1:inner_bias=true:inner_activation=relu6",
    "locally_connected2d:1x20x5x5:24x3x3:bias=true",
    "locally_connected1d:1x2304x2:16x1",  # as many threads a sum as a block may have
)
#: Contractions of halves: on tensor cores, but for what is read from planes.
HALVES = (
    "conv2d:1x20x7x7:24x3x3:padding=1:bias=true:activation=relu",
    "conv2d:1x64x9x7:64x3x3:padding=1:bias=true:activation=relu",
    "conv2d:1x256x7x7:64x1x1:bias=true",
    "conv2d:1x320x5x4:32x3x3:padding=1:activation=relu",
    "conv2d:1x48x8x8:96x3x3:padding=1:groups=3",  # two blocks of channels a group
    "conv2d:1x3x19x17:16x5x5:padding=2:bias=true",
    "dense:3x304:70:bias=true",
    "conv2d_transpose:1x32x5x5:24x3x3:stride=2:padding=1:bias=true",  # phases of 1 and of 2 taps
)
#: Those of which there are partial sums in several groups, ragged phases, and phases of no taps.
OTHER_HALVES = (
    "conv2d:1x1280x4x4:64x3x3:padding=1:groups=2:bias=true",
    "conv2d_transpose:2x32x5x7:64x3x2:stride=2,3:padding=1,0,0,1:groups=2",
    "conv2d_transpose:2x16x4x3:16x2x2:stride=3:bias=true",
)
#: Operators whose kernels have other stages.
CASES = (
    "arg_max", "deform_im2col", "elementwise", "lrn", "max_pool_indices", "max_unpool", "pad",
    "reduce_max", "reduce_mean", "softmax", "transpose",
)  # fmt: skip
SAMPLES = 3


def target(name: str = "cuda-sm80") -> Target:
    return load_target(name)


def sample(spec: KernelSpec, machine: Target, most: int = SAMPLES) -> list[Candidate]:
    """The model's choice and some others."""
    first, *others = space(spec, machine)
    return [first, *random.Random(spec.text).sample(others, min(most, len(others)))]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "text"),
    [("cuda-sm80", text) for text in PROBLEMS] + [("cuda-sm75", text) for text in PROBLEMS[:6]],
)
def test_schedules_are_right(name: str, text: str) -> None:
    """Two capabilities: with asynchronous copies, and, for contractions, without."""
    machine = target(name)
    problem = Problem.parse(text)
    spec = problem_spec(problem, block=machine.layout.channel_block)
    choices = sample(spec, machine)
    compiled = Emulated([spec] * len(choices), machine, choices)
    for trial, k in itertools.product(trials(problem)[:1], range(len(choices))):
        report = trial.check(compiled.run(k, problem_kernel(trial, spec)))
        assert report.passed, f"{choices[k].knobs}: {report.message}"


def both(text: str, machine: Target) -> list[KernelSpec]:
    """The kernel of a problem in float32 and in float16."""
    problems = [Problem.parse(text).replace(dtype=dtype) for dtype in ("float32", "float16")]
    return [problem_spec(p, block=machine.layout.channel_block) for p in problems]


@pytest.mark.slow
@pytest.mark.parametrize("half", [False, True])
def test_shuffled_channels_are_gathered(half: bool) -> None:
    """Terms that do not lie side by side: no vector of them can be copied."""
    problem, groups = Problem.parse("conv2d:1x64x5x6:32x1x1"), 4
    problem = problem.replace(dtype="float16") if half else problem
    spec = problem_spec(problem)
    spec = replace(spec, attrs_json=canonical_json({**spec.attrs, "shuffled": groups}))
    choices = sample(spec, target())
    compiled = Emulated([spec] * len(choices), target(), choices)
    trial = accuracy.trial(problem, 0, exact=True)
    x = trial.arrays["x"]
    shuffled = x.reshape(1, groups, -1, 5, 6).swapaxes(1, 2).reshape(x.shape)
    expected = problem.reference({**trial.arrays, "x": shuffled}).astype(x.dtype)
    for k in range(len(choices)):
        np.testing.assert_array_equal(compiled.run(k, problem_kernel(trial, spec)), expected)


#: By dtype and capability: instructions for 16 terms, for 8 terms, and none.
ON_TENSOR_CORES = [
    *((text, "float16", "cuda-sm80") for text in (*HALVES, *OTHER_HALVES)),
    *((text, "bfloat16", "cuda-sm80") for text in HALVES[1:5]),
    *((text, "float16", "cuda-sm75") for text in (*HALVES[:2], *HALVES[5:])),
    (HALVES[1], "bfloat16", "cuda-sm75"),
    *((text, "tf32", "cuda-sm80") for text in (*HALVES[:2], *HALVES[3:5], *OTHER_HALVES[:2])),
]


def product_spec(text: str, dtype: str, machine: Target) -> KernelSpec:
    """The kernel of a problem in a dtype, or in float32 with factors that may be rounded."""
    problem = Problem.parse(text).replace(dtype="float32" if dtype == "tf32" else dtype)
    spec = problem_spec(problem, block=machine.layout.channel_block)
    if dtype != "tf32":
        return spec
    return replace(spec, attrs_json=canonical_json({**spec.attrs, "tf32": True}))


@pytest.mark.slow
@pytest.mark.parametrize(("text", "dtype", "name"), ON_TENSOR_CORES)
def test_tensor_cores_are_right(text: str, dtype: str, name: str) -> None:
    """Exactly equal on integers but for one rounding: sums are in float32."""
    machine = target(name)
    spec = product_spec(text, dtype, machine)
    problem = Problem.parse(spec.attrs["problem"])
    choices = sample(spec, machine, 1)
    compiled = Emulated([spec] * len(choices), machine, choices)
    trial = accuracy.trial(problem, 0, exact=True)
    for k, choice in enumerate(choices):
        report = trial.check(compiled.run(k, problem_kernel(trial, spec)))
        assert report.passed, f"{choice.knobs}: {report.message}"


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("text", [*PROBLEMS[-6:-2], "conv2d:1x24x1x1:40x1x1:bias=true"])
def test_other_halves_are_right(text: str, dtype: str) -> None:
    """Not on tensor cores: stored in halves, computed in float32; one row as well."""
    machine, problem = target(), Problem.parse(text).replace(dtype=dtype)
    spec = problem_spec(problem, block=machine.layout.channel_block)
    trial = accuracy.trial(problem)
    report = trial.check(Emulated([spec], machine).run(0, problem_kernel(trial, spec)))
    assert report.passed, report.message


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_other_kernels_are_right(name: str) -> None:
    op = ops.get(name)
    kernels = [
        kernel
        for case in op.cases
        if sum(math.prod(shape) for shape in case.shapes) < 20_000
        for kernel in case_kernels(name, case, inputs_of(op, case))
    ]
    compiled = Emulated([kernel.spec for kernel in kernels], target())
    rtol, atol = ROUNDING.get(name, (1e-6, 1e-6))
    for k, kernel in enumerate(kernels):
        expected = reference(kernel)
        got = compiled.run(k, kernel).reshape(expected.shape)
        largest = np.abs(expected).max(initial=0.0)
        np.testing.assert_allclose(got, expected, rtol=max(rtol, 1e-6), atol=atol * largest)


#: ResNet-50's kinds of layers.
LAYERS = (
    "conv2d:1x3x224x224:64x7x7:stride=2:padding=3:bias=true:activation=relu",
    "conv2d:1x64x56x56:64x3x3:padding=1:bias=true:activation=relu",
    "conv2d:8x1024x14x14:256x1x1:bias=true:activation=relu",
    "conv2d:1x512x7x7:512x3x3:padding=1:bias=true:activation=relu",
    "dense:1x2048:1000:bias=true",
)
GPUS = [pytest.param(t, id=t.name) for t in targets().values() if t.is_gpu]


@pytest.mark.parametrize("text", LAYERS)
@pytest.mark.parametrize("machine", GPUS)
def test_first_choices_fit_the_device(text: str, machine: Target) -> None:
    for kind in both(text, machine):
        for launch in device_kernel(kind, "kernel", machine).launches:
            device = machine.gpu
            assert launch.threads <= device.threads_per_block
            assert launch.dynamic_bytes <= device.shared_bytes_per_block
            assert launch.grid[0] < 2**31


@pytest.mark.slow
@pytest.mark.parametrize("name", ["cuda-sm75", "cuda-sm80", "cuda-sm90"])
def test_no_registers_are_spilled(name: str) -> None:
    """By the assembler's report on the model's choices."""
    try:
        nvrtc = compiler()
    except EnvironmentError_ as error:
        pytest.skip(str(error))
    machine = target(name)
    specs = [spec for text in LAYERS for spec in both(text, machine)]
    kernels = [device_kernel(spec, f"k{i}", machine) for i, spec in enumerate(specs)]
    (image,) = compiled_images(cuda_source(kernels), alone(machine), {}, using=nvrtc)
    launched = {launch.function for kernel in kernels for launch in kernel.launches}
    assert set(image.usage) == launched
    for function, used in image.usage.items():
        assert used.spill_bytes == 0, function
        assert used.registers <= 168, function


def alone(machine: Target) -> Target:
    """The target with code for its own capability alone."""
    return replace(machine, device=replace(machine.gpu, cubins=(machine.gpu.sm,), ptx=False))


@pytest.mark.slow
@pytest.mark.parametrize("text", [HALVES[1], "conv2d_transpose:1x32x5x5:24x4x4:stride=2:padding=1"])
def test_tf32_is_rounded_to_nearest(text: str) -> None:
    """Within the bound for random signs, of which the errors of bits cut off would be over half."""
    spec, trial = product_spec(text, "tf32", target()), accuracy.trial(Problem.parse(text))
    got = Emulated([spec], target()).run(0, problem_kernel(trial, spec))
    assert trial.check(got, accuracy.TF32).ratio < 0.5
    assert not trial.check(got).passed


@pytest.mark.parametrize(
    ("text", "dtype", "name", "instruction"),
    [
        (LAYERS[1], "float16", "cuda-sm80", "m16n8k16.row.col.f32.f16.f16.f32"),
        (LAYERS[1], "float16", "cuda-sm75", "m16n8k8.row.col.f32.f16.f16.f32"),
        (LAYERS[1], "bfloat16", "cuda-sm90", "m16n8k16.row.col.f32.bf16.bf16.f32"),
        (LAYERS[1], "tf32", "cuda-sm80", "m16n8k8.row.col.f32.tf32.tf32.f32"),
        (LAYERS[1], "float32", "cuda-sm80", ""),
        (LAYERS[1], "tf32", "cuda-sm75", ""),
        (HALVES[-1], "float16", "cuda-sm90", "m16n8k16.row.col.f32.f16.f16.f32"),
        (HALVES[4], "bfloat16", "cuda-sm100", "m16n8k16.row.col.f32.bf16.bf16.f32"),
    ],
)
def test_tensor_cores_multiply(text: str, dtype: str, name: str, instruction: str) -> None:
    spec = product_spec(text, dtype, target(name))
    source = cuda_source([device_kernel(spec, "kernel", target(name))])
    assert bool(instruction) == ("mma.sync.aligned" in source)
    assert f"mma.sync.aligned.{instruction}" in source or not instruction
    halves = dtype != "tf32" and bool(instruction)
    assert ("ldmatrix.sync.aligned.m8n8.x4.trans" in source) == halves
    assert ("cp.async" in source) == (name != "cuda-sm75")


def test_channels_of_a_group_are_one_matrix() -> None:
    """Two blocks of 16 output channels read the same input: a tile has 32 columns."""
    spec = product_spec(HALVES[4], "float16", target())
    assert max(dict(choice.knobs)["columns"] for choice in space(spec, target())) == 32
