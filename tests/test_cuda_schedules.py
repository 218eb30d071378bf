"""The design space for CUDA: every kind of kernel is right at every schedule, and fits the device."""

from __future__ import annotations

import itertools
import math
import random

import numpy as np
import pytest

from tests.cuda_kernels import Emulated, space
from tests.kernels import case_kernels, problem_kernel, problem_spec, reference, trials
from tests.test_kernels import ROUNDING, inputs_of
from tvmconv import ops
from tvmconv.autoschedule.space import Candidate
from tvmconv.codegen.kernels import device_kernel
from tvmconv.kernel import KernelSpec
from tvmconv.problem import Problem
from tvmconv.target import Target, load_target

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
    "conv2d_transpose:1x16x4x4:16x4x4:stride=2:padding=1:groups=16",
    "depthwise_conv2d:1x40x9x12:40x3x3:padding=1:bias=true:activation=relu6",
    "depthwise_conv2d:1x8x9x9:24x3x3:padding=1",
    "max_pool2d:1x32x14x14:3x3:stride=2:padding=1",
    "avg_pool2d:1x24x10x10:3x3:stride=1:padding=1:count_include_pad=false",
    "global_avg_pool2d:1x64x13x13",
)
#: Operators whose kernels have other stages.
CASES = ("elementwise", "lrn", "reduce_mean", "resize", "softmax", "transpose")
SAMPLES = 3


def target(name: str = "cuda-sm80") -> Target:
    return load_target(name)


def sample(spec: KernelSpec, machine: Target) -> list[Candidate]:
    """The model's choice and some others."""
    first, *others = space(spec, machine)
    return [first, *random.Random(spec.text).sample(others, min(SAMPLES, len(others)))]


@pytest.mark.slow
@pytest.mark.parametrize("text", PROBLEMS)
@pytest.mark.parametrize("name", ["cuda-sm80", "cuda-sm75"])
def test_schedules_are_right(text: str, name: str) -> None:
    """Two capabilities: with asynchronous copies, and without."""
    machine = target(name)
    problem = Problem.parse(text)
    spec = problem_spec(problem, block=machine.layout.channel_block)
    choices = sample(spec, machine)
    compiled = Emulated([spec] * len(choices), machine, choices)
    for trial, k in itertools.product(trials(problem)[:1], range(len(choices))):
        report = trial.check(compiled.run(k, problem_kernel(trial, spec)))
        assert report.passed, f"{choices[k].knobs}: {report.message}"


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
