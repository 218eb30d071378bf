"""Tensors of float16 and bfloat16: stored so, summed in float32."""

from __future__ import annotations

from dataclasses import replace
from zlib import crc32

import ml_dtypes  # noqa: F401 - NumPy then has bfloat16
import numpy as np
import pytest

from tests.kernels import (
    BLOCK,
    Kernel,
    case_kernels,
    compile_specs,
    host,
    inputs_of,
    problem_kernel,
    problem_spec,
    reference,
    runnable_targets,
    runs_here,
    trials,
)
from tvmconv import ops
from tvmconv.autoschedule.space import space_for
from tvmconv.codegen.kernels import prim_func
from tvmconv.kernel import KernelSpec
from tvmconv.layout import HALVES
from tvmconv.ops import Case, Operator
from tvmconv.ops.options import DTYPES
from tvmconv.problem import Problem
from tvmconv.target import targets

#: One of each kind of kernel.
SAMPLE = (
    "conv2d:1x24x9x9:40x3x3:padding=1:bias=true:activation=relu",
    "conv2d:1x3x17x17:16x3x3:stride=2:padding=1",
    "conv2d:1x40x7x7:40x1x1:groups=4",
    "conv1d:1x17x40:19x5:dilation=2:padding=4:activation=silu",
    "depthwise_conv2d:1x24x9x9:24x3x3:padding=1:bias=true",
    "dense:2x40:20:bias=true",
    "conv2d_transpose:1x24x7x7:20x4x4:stride=2:padding=1:bias=true",
    "max_pool2d:1x24x9x9:3x3:stride=2:padding=1",
    "avg_pool2d:1x24x9x9:3x3:stride=2:padding=1",
    "global_avg_pool2d:1x24x7x7",
    "lp_pool2d:1x24x9x9:3x3",
)
#: Work of a registry's case that is small enough to be checked here.
_SMALL = 3_000_000
CASES = sorted(
    {
        case.problem
        for op in ops.operators().values()
        if op.family is not None and any("float16" in o.values for o in op.family.options)
        for case in op.cases
        if "winograd" not in case.problem
        and Problem.parse(case.problem).dtype == "float32"
        and Problem.parse(case.problem).flops < _SMALL
    }
)
OTHERS = [
    pytest.param(op, case, id=f"{op.name}: {case.source}")
    for op in [*ops.operators().values(), ops.get("elementwise")]
    if op.family is None and op.compute is not None and not op.internal | (op.name == "cast")
    for case in op.cases
    if set(case.dtypes) <= {"float32"} and op.output_dtype is None
]


def in_half(text: str, dtype: str) -> Problem:
    return Problem.parse(text).replace(dtype=dtype)


def specs_of(problem: Problem) -> list[KernelSpec]:
    """A problem's kernels on blocks and on planes."""
    operator = ops.get(problem.op)
    specs = [problem_spec(problem, BLOCK)]
    if operator.planes and problem.rank and problem.op != "conv_transpose":
        specs.append(problem_spec(problem, 1))
    return specs


def check(problem: Problem, specs: list[KernelSpec], compiled: object) -> None:
    for trial in trials(problem):
        for k, spec in enumerate(specs):
            got = compiled.run(k, problem_kernel(trial, spec))  # type: ignore[attr-defined]
            report = trial.check(got)
            assert report.passed, f"{spec.inputs[0]}: {report.message}"


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("text", SAMPLE)
def test_schedules(text: str, dtype: str) -> None:
    """Some schedules of each space: exact on integers but for one rounding, else by the formula."""
    problem, rng = in_half(text, dtype), np.random.default_rng(crc32(text.encode()))
    specs, choices = [], []
    for spec in specs_of(problem):
        space = space_for(host()).candidates(prim_func(spec, "kernel"), host())
        places = {0, *rng.integers(0, len(space), 3).tolist()}
        specs += [spec] * len(places)
        choices += [space[k] for k in places]
    check(problem, specs, compile_specs(specs, host(), choices))


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("text", CASES)
def test_cases(text: str, dtype: str) -> None:
    problem = in_half(text, dtype)
    specs = specs_of(problem)
    check(problem, specs, compile_specs(specs))


@pytest.mark.parametrize("target", runnable_targets(), ids=lambda target: target.name)
@pytest.mark.parametrize("dtype", HALVES)
def test_targets(dtype: str, target: object) -> None:
    problems = [in_half(text, dtype) for text in SAMPLE[:2]]
    specs = [spec for problem in problems for spec in specs_of(problem)]
    compiled = compile_specs(specs, target)  # type: ignore[arg-type]
    for problem in problems:
        own = [k for k, spec in enumerate(specs) if spec.attrs["problem"] == problem.text]
        for trial in trials(problem):
            for k in own:
                report = trial.check(compiled.run(k, problem_kernel(trial, specs[k])))
                assert report.passed, report.message


@pytest.mark.parametrize(("op", "case"), OTHERS)
def test_other_operators(op: Operator, case: Case) -> None:
    """Computed in float32: one rounding more than there."""
    for dtype in HALVES:
        arrays = [a.astype(dtype) for a in inputs_of(op, case)]
        kernels = case_kernels(op.name, case, arrays)
        compiled = compile_specs([kernel.spec for kernel in kernels])
        for k, kernel in enumerate(kernels):
            got, wanted = compiled.run(k, kernel).astype(np.float64), reference(kernel)
            unit = DTYPES[dtype].roundoff * (1 + 1e-3)
            size = float(np.abs(wanted).max())
            np.testing.assert_allclose(got, wanted, rtol=unit, atol=max(2e-6 * size, 2.0**-24))


@pytest.mark.parametrize("name", ["host", "x86-64-v2"])
def test_conversions_to_the_last_bit(name: str) -> None:
    """Every float16, every bfloat16, and floats at and beside the middle of two halves."""
    target = host() if name == "host" else replace(targets()[name], cores=2)
    if name != "host" and not runs_here(target):
        pytest.skip(f"needs {name}")
    halves = {d: np.arange(2**16, dtype=np.uint16).view(d).reshape(1, -1) for d in HALVES}
    between = [halves["float16"].astype(np.float32), halves["bfloat16"].astype(np.float32)]
    bits = np.concatenate(between, axis=1).view(np.uint32)
    steps = [bits + np.uint32(step) for step in (0, 1, 0xFFF, 0x1000, 0x1001, 0x7FFF, 0x8000)]
    floats = np.concatenate(steps, axis=1).view(np.float32)
    for given, array in [*halves.items(), ("float32", floats)]:
        for to in ("float32", *HALVES):
            if to == given:
                continue
            case = Case("", shapes=(array.shape,), attrs={"to": to}, dtypes=(given,))
            kernel = case_kernels("cast", case, [array])[0]
            got = compile_specs([kernel.spec], target).run(0, kernel)
            with np.errstate(all="ignore"):
                wanted = array.astype(to)
            numbers = ~np.isnan(wanted.astype(np.float32))
            words = np.uint32 if to == "float32" else np.uint16
            assert np.array_equal(got.view(words)[numbers], wanted.view(words)[numbers]), to
            assert np.isnan(got.astype(np.float32)[~numbers]).all()


def test_no_library_converts() -> None:
    """On x86 with F16C by its instructions, elsewhere and for bfloat16 by moving bits."""
    problems = [in_half(text, dtype) for text in SAMPLE[:6] for dtype in HALVES]
    for name in ("x86-64-v2", "x86-64-v3", "aarch64", "cortex-a7", "riscv64"):
        target = targets()[name]
        asm = compile_specs(
            [problem_spec(p, target.layout.channel_block) for p in problems], target
        ).asm
        calls = [line for line in asm.splitlines() if "hf" in line and "call" in line]
        calls += [line for line in asm.splitlines() if line.split()[:1] in (["bl"], ["b"])
                  and "hf" in line]  # fmt: skip
        assert not calls, (name, calls)
        assert ("vcvtph2ps" in asm) == (name == "x86-64-v3")


def test_half_the_bytes() -> None:
    wide, half = (problem_spec(in_half(SAMPLE[0], d)).output for d in ("float32", "float16"))
    assert wide.buffer_bytes == 2 * half.buffer_bytes
    assert Kernel(problem_spec(in_half(SAMPLE[0], "float16")), ()).spec.output.dtype == "float16"
