"""Kernels on planes: pools, whole planes and depthwise convolutions, and every schedule of them."""

from __future__ import annotations

import contextlib
import ctypes
import mmap
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from tvmconv.schedules import costs, rows
from tvmconv.schedules.primitives import find_blocks

from tests.kernels import (
    compile_specs,
    cpu_targets,
    host,
    problem_kernel,
    problem_spec,
    runnable_targets,
    sliced,
    trials,
)
from tests.strategies import random_problem
from tvmconv import ops
from tvmconv.autoschedule.space import Candidate, space_for
from tvmconv.codegen.kernels import prim_func, schedule
from tvmconv.kernel import KernelSpec
from tvmconv.layout import Layout
from tvmconv.ops import Array
from tvmconv.problem import Problem
from tvmconv.target import Target

NAMES = ("max_pool", "avg_pool", "global_avg_pool", "global_max_pool", "depthwise_conv")
PROBLEMS = [Problem.parse(case.problem) for name in NAMES for case in ops.get(name).cases]

#: Rows of every length about a vector's, planes shorter than one, every kind of tail.
SMALL = [
    "max_pool2d:1x6x13x17:3x3:padding=1",
    "max_pool2d:1x4x11x35:3x3:stride=2:padding=1",
    "max_pool2d:2x3x9x8:2x3:stride=1,2:padding=1,0,0,1:ceil_mode=true",
    "max_pool2d:1x2x8x19:3x2:padding=2:dilation=2",
    "max_pool2d:1x2x8x1:3x1:padding=1,0",
    "max_pool1d:1x3x40:5:stride=3:padding=2",
    "max_pool3d:1x2x5x6x18:3x2x3:stride=2,1,2:padding=1,0,1",
    "avg_pool2d:1x5x12x21:3x3:padding=1",
    "avg_pool2d:1x4x10x33:2x2:stride=2",
    "avg_pool2d:1x3x7x6:7x7:padding=0,0,1,1",
    "avg_pool2d:1x2x5x9:1x4:stride=4:padding=0,2:count_include_pad=true",
    "avg_pool3d:2x2x4x5x16:2x3x3:padding=0,1,1",
    "global_avg_pool2d:1x5x9x15",
    "global_max_pool2d:2x3x3x5",
    "depthwise_conv2d:1x5x12x17:5x3x3:padding=1:bias=true:activation=relu",
    "depthwise_conv2d:1x3x16x35:3x5x5:stride=2:padding=1,1,2,2:bias=true",
    "depthwise_conv2d:2x3x8x9:6x3x3:stride=1,3:padding=1",
    "depthwise_conv2d:1x2x7x20:2x3x3",
    "depthwise_conv2d:1x2x9x30:2x3x3:padding=3:dilation=3",
    "depthwise_conv2d:1x3x9x9:3x1x1:stride=2",
    "depthwise_conv1d:1x4x37:4x7:padding=6,0:activation=silu",
    "depthwise_conv3d:1x2x4x6x18:2x3x3x3:stride=1,2,2:padding=1",
]
#: Schedules that are compiled together.
BATCH = 40


def on_planes(problem: Problem) -> KernelSpec:
    return problem_spec(problem, block=1)


def candidates_of(spec: KernelSpec, target: Target) -> list[Candidate]:
    return space_for(target).candidates(prim_func(spec, "main"), target)


def failures(compiled: Any, specs: list[KernelSpec], problems: list[Problem]) -> list[str]:
    return [
        f"{problem}: {report.message}"
        for k, (spec, problem) in enumerate(zip(specs, problems, strict=True))
        for trial in trials(problem, k)
        for report in [trial.check(compiled.run(k, problem_kernel(trial, spec)))]
        if not report.passed
    ]


@pytest.mark.parametrize("problem", PROBLEMS, ids=str)
def test_problem(problem: Problem) -> None:
    """Exact on integers, within the formula's bound on random numbers."""
    spec = on_planes(problem)
    assert not failures(compile_specs([spec]), [spec], [problem])


@pytest.mark.parametrize("text", SMALL)
def test_every_schedule_is_right(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """On every instruction set that this machine has: on the host all, elsewhere a sample."""
    monkeypatch.setattr(costs, "LAUNCH_CYCLES", -1e9 if SMALL.index(text) % 2 else 1e9)
    problem = Problem.parse(text)
    spec = on_planes(problem)
    trial = trials(problem)[0]
    for target in runnable_targets():
        found = candidates_of(spec, target)
        chosen = found if target == host() else [found[0], *found[1 :: max(1, len(found) // 4)]]
        for first in range(0, len(chosen), BATCH):
            batch = chosen[first : first + BATCH]
            compiled = compile_specs([spec] * len(batch), target, batch)
            for k, candidate in enumerate(batch):
                report = trial.check(compiled.run(k, problem_kernel(trial, spec)))
                assert report.passed, f"{target.name} {candidate}: {report.message}"


@pytest.mark.parametrize("seed", range(4))
def test_random_problems(seed: int) -> None:
    """The best schedule of random problems, in slices of larger buffers."""
    rng = np.random.default_rng(seed)
    drawn = (random_problem(rng, 400_000) for _ in range(120))
    problems = [problem for problem in drawn if problem.op in NAMES][:25]
    plain = [on_planes(problem) for problem in problems]
    specs = [
        replace(spec, inputs=(sliced(spec.inputs[0]),), output=sliced(spec.output, 2, 1))
        for spec in plain
    ]
    for found in (plain, specs):
        assert not failures(compile_specs(found), found, problems)


@pytest.mark.parametrize(
    "text", ["max_pool2d:1x5x6x6:3x3:padding=1", "depthwise_conv2d:1x5x6x6:5x3x3:padding=1"]
)
def test_operands_of_a_program(text: str) -> None:
    problem = Problem.parse(text)
    steps = [{"op": "add", "operand": 0}, {"op": "mul", "operand": 1}]
    operands = (Layout(problem.output_shape), Layout((1, 5, 1, 1)))
    spec = problem_spec(problem, 1, program=steps, operands=operands)
    trial = trials(problem)[0]
    rng = np.random.default_rng(5)
    first, second = (rng.integers(-3, 4, v.shape).astype(np.float32) for v in operands)
    got = compile_specs([spec]).run(0, problem_kernel(trial, spec, (first, second)))
    np.testing.assert_array_equal(got, (trial.reference + first) * second)


@pytest.mark.parametrize("at_end", [False, True])
@pytest.mark.parametrize("text", [SMALL[0], SMALL[8], SMALL[12], SMALL[14], SMALL[15]])
def test_nothing_beyond_the_input_is_read(text: str, at_end: bool) -> None:
    """The pages before and after the input cannot be read."""
    from tvmconv._tvm import tvm

    problem = Problem.parse(text)
    spec = on_planes(problem)
    compiled, trial = compile_specs([spec]), trials(problem)[0]
    x, *others = problem_kernel(trial, spec).arguments()
    with guarded(x, at_end) as near:
        tensors = [tvm.runtime.tensor(np.ascontiguousarray(array)) for array in others]
        compiled.module["k0"](near, *tensors)
        report = trial.check(tensors[-1].numpy())
    assert report.passed, report.message


@contextlib.contextmanager
def guarded(array: Array, at_end: bool) -> Iterator[Any]:
    """A tensor of an array's elements that starts or ends where the readable memory does."""
    import tvm_ffi

    page = mmap.PAGESIZE
    size = -(-array.nbytes // page) * page
    memory = mmap.mmap(-1, size + 2 * page)
    start = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    libc = ctypes.CDLL(None, use_errno=True)
    for guard in (start, start + page + size):
        assert libc.mprotect(ctypes.c_void_p(guard), page, 0) == 0
    offset = page + (size - array.nbytes if at_end else 0)
    view = np.frombuffer(memory, array.dtype, array.size, offset).reshape(array.shape)
    view[...] = array
    yield tvm_ffi.from_dlpack(view, require_alignment=4)


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("depthwise_conv2d:1x64x7x7:64x3x3", "rows"),
        ("max_pool2d:1x64x7x7:3x3:stride=2", "rows"),
        ("avg_pool1d:1x64x7:3", "rows"),
        ("global_avg_pool2d:1x64x7x7", "lanes"),
        ("global_max_pool2d:1x64x7x7", "lanes"),
    ],
)
def test_kinds(text: str, kind: str) -> None:
    from tvmconv._tvm import s_tir

    sch = s_tir.Schedule(prim_func(on_planes(Problem.parse(text)), "main"))
    assert rows.kind_of(sch, find_blocks(sch)) == kind


@pytest.mark.parametrize("text", SMALL)
def test_points_differ_and_the_best_comes_first(text: str) -> None:
    for target in cpu_targets():
        found = candidates_of(on_planes(Problem.parse(text)), target)
        assert len({candidate.knobs for candidate in found}) == len(found)
        assert [c.cycles for c in found] == sorted(c.cycles for c in found)


@pytest.mark.parametrize("text", SMALL[::3])
def test_a_trace_gives_the_same_kernel(text: str) -> None:
    """As a log keeps it."""
    from tvmconv.autoschedule import trace

    spec = on_planes(Problem.parse(text))
    made = schedule(spec, "main", host())
    again = schedule(spec, "main", host(), trace.to_json(made))
    assert str(again.mod) == str(made.mod)
