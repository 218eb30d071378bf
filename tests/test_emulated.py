"""Kernels and models for ARM and RISC-V, run by QEMU, and their loops read as assembly."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from tests.emulated import EmulatedKernels, emulator, run_model
from tests.kernels import cpu_targets, problem_kernel, problem_spec, trials
from tvmconv.accuracy import is_exact, trial
from tvmconv.autoschedule.space import Candidate, space_for
from tvmconv.codegen.kernels import build, prim_func, scheduled
from tvmconv.codegen.loops import Loop, hot_loop
from tvmconv.compiler import compile_to_file
from tvmconv.kernel import KernelSpec
from tvmconv.problem import Problem
from tvmconv.target import Target, load_target

#: Out of order and in order, 32 and 16 registers, scalars and vectors of RISC-V.
NAMES = ("cortex-a72", "cortex-a53", "neoverse-n1", "cortex-a7", "riscv64", "riscv64-v")
BY_NAME = pytest.mark.parametrize("name", NAMES)

PROBLEMS = (
    "conv2d:1x16x10x9:24x3x3:padding=1:bias=true:activation=relu",
    "conv2d:1x24x7x7:40x1x1",
    "conv2d:1x3x17x17:12x7x7:stride=2:padding=3",
    "conv2d:2x17x9x7:33x3x3:padding=1:activation=silu",
    "conv2d:1x16x9x9:48x3x3:padding=1:groups=4",
    "conv2d:1x16x12x12:16x3x3:padding=1:algorithm=winograd2",
    "conv2d:1x16x12x12:16x3x3:padding=1:algorithm=winograd4",
    "conv1d:1x16x50:16x5:padding=4:dilation=2:activation=tanh",
    "conv2d_transpose:1x16x7x7:12x4x4:stride=2:padding=1",
    "depthwise_conv2d:1x20x14x14:20x3x3:padding=1:bias=true:activation=relu6",
    "depthwise_conv2d:1x20x14x14:20x5x5:stride=2:padding=2:activation=hardswish",
    "max_pool2d:1x20x14x14:3x3:stride=2:padding=1",
    "avg_pool2d:1x20x14x14:3x3:stride=2:padding=1",
    "global_avg_pool2d:1x20x7x7",
    "dense:1x100:33:bias=true:activation=elu",
)
#: The same kinds on planes.
PLANES = (
    "conv2d:1x3x20x20:8x3x3:padding=1",
    "conv2d_transpose:1x8x9x9:4x4x4:stride=2:padding=1",
    "depthwise_conv2d:1x5x14x14:5x3x3:padding=1",
    "max_pool2d:1x5x14x14:2x2:stride=2",
)


def target_of(name: str) -> Target:
    return replace(load_target(name), cores=2)


@BY_NAME
def test_kernels_are_right(name: str, tmp_path: Path) -> None:
    target = target_of(name)
    blocked = [problem_spec(Problem.parse(t), target.layout.channel_block) for t in PROBLEMS]
    plain = [problem_spec(Problem.parse(t), 1) for t in PLANES]
    compiled = EmulatedKernels([*blocked, *plain], target, tmp_path)
    for number, text in enumerate((*PROBLEMS, *PLANES)):
        spec = (*blocked, *plain)[number]
        for case in trials(Problem.parse(text), number):
            report = case.check(compiled.run(number, problem_kernel(case, spec)))
            assert report.passed, f"{text}: {report.message}"


def check_candidates(
    pairs: Sequence[tuple[str, KernelSpec, Candidate]], target: Target, folder: Path
) -> None:
    """Run schedules of problems, all in one program, against the reference."""
    specs, choices = [spec for _, spec, _ in pairs], [choice for *_, choice in pairs]
    compiled = EmulatedKernels(specs, target, folder, choices)
    for number, (text, spec, choice) in enumerate(pairs):
        problem = Problem.parse(text)
        case = trial(problem, number, exact=is_exact(problem))
        report = case.check(compiled.run(number, problem_kernel(case, spec)))
        assert report.passed, f"{text} as {choice}: {report.message}"


@BY_NAME
def test_a_sample_of_every_space_is_right(name: str, tmp_path: Path) -> None:
    """Of each problem the last candidate and one in between, another for each target."""
    target = target_of(name)
    pairs: list[tuple[str, KernelSpec, Candidate]] = []
    plain = [(text, 1) for text in PLANES]
    for text, block in [*((text, target.layout.channel_block) for text in PROBLEMS), *plain]:
        spec = problem_spec(Problem.parse(text), block)
        found = space_for(target).candidates(prim_func(spec, "k"), target)
        between = random.Random(f"{name} {text}").choice(found)
        pairs += [(text, spec, choice) for choice in dict.fromkeys((between, found[-1]))]
    check_candidates(pairs, target, tmp_path)


#: Tiles, and tiles within tiles, that divide their axes and that do not.
STEPPED = (
    "conv2d:1x8x5x7:16x3x3:padding=1",
    "conv2d:2x16x3x5:8x1x1",
    "conv1d:1x8x11:16x3:padding=1",
    "conv2d_transpose:1x8x3x5:8x4x4:stride=2:padding=1",
    "conv2d:1x16x12x12:16x3x3:padding=1:algorithm=winograd2",
    "conv2d:1x16x10x10:16x3x3:padding=1:algorithm=winograd4",
)


@pytest.mark.parametrize("text", STEPPED)
def test_every_schedule_with_unrolled_steps_is_right(text: str, tmp_path: Path) -> None:
    target = target_of("neoverse-n1")
    spec = problem_spec(Problem.parse(text), target.layout.channel_block)
    found = space_for(target).candidates(prim_func(spec, "k"), target)
    stepped = [choice for choice in found if "steps" in dict(choice.knobs)]
    assert len(stepped) > 20
    check_candidates([(text, spec, choice) for choice in stepped], target, tmp_path)


def test_a_cpu_without_lanes_of_registers_unrolls_no_steps() -> None:
    target = target_of("riscv64-v")
    spec = problem_spec(Problem.parse(STEPPED[0]), target.layout.channel_block)
    found = space_for(target).candidates(prim_func(spec, "k"), target)
    assert not any("steps" in dict(choice.knobs) for choice in found)


@pytest.mark.parametrize("name", ["aarch64", "cortex-a7", "riscv64"])
def test_a_model_runs(name: str, tmp_path: Path) -> None:
    """The C runtime, its threads too, for each architecture."""
    target = target_of(name)
    emulator(target)
    problem = Problem.parse("conv2d:1x32x30x30:32x3x3:padding=1:bias=true:activation=relu")
    archive = tmp_path / "model.a"
    machine = target.with_libc("musl")
    compile_to_file(problem.text, archive, target=machine, threads=2, format="static")
    case = trial(problem, 1)
    got = run_model(archive, target, tmp_path, case.arrays, problem.output_shape)
    report = case.check(got)
    assert report.passed, report.message


@pytest.mark.parametrize("name", [t.name for t in cpu_targets() if t.arch != "x86_64"])
@pytest.mark.parametrize("libc", ["gnu", "musl"])
def test_a_library_links(name: str, libc: str, tmp_path: Path) -> None:
    """For the old glibc of the target and for musl; nothing but the C library is needed."""
    machine = load_target(name).with_libc(libc)
    output = tmp_path / "pool.so"
    compile_to_file("max_pool2d:1x8x6x6:2x2:stride=2", output, target=machine)
    needed = set(re.findall(rb"lib[a-z]+\.so[.0-9]*", output.read_bytes()))
    assert needed <= {b"libc.so", b"libc.so.6", b"libm.so.6", b"libpthread.so.0"}


def loop_of(text: str, target: Target) -> Loop:
    spec = problem_spec(Problem.parse(text), target.layout.channel_block)
    func = scheduled(spec, "k", target)
    found = hot_loop(str(build(func, "k", target).inspect_source("asm")), target.arch)
    assert found is not None
    return found


@pytest.mark.parametrize("name", ["cortex-a72", "cortex-a76", "neoverse-n1", "neoverse-v1"])
@pytest.mark.parametrize(
    "text",
    [
        "conv2d:1x64x56x56:64x3x3:padding=1:bias=true:activation=relu",
        "conv2d:1x64x56x56:256x1x1",
        "conv2d:1x512x7x7:512x3x3:padding=1",
    ],
)
def test_sums_stay_in_registers(text: str, name: str) -> None:
    """No vector goes to the stack; every multiply-add is by a lane, but for a few broadcasts."""
    found = loop_of(text, load_target(name))
    assert found.fmas >= 14
    assert found.spills == 0
    by_lane = sum(bool(re.search(r"\.s\[\d\]$", line)) for line in found.instructions)
    assert by_lane >= 0.8 * found.fmas


def test_elements_come_by_vector_loads() -> None:
    """One load for four elements of a pixel, where the front end is what limits a core."""
    found = loop_of("conv2d:1x128x28x28:128x3x3:padding=1", load_target("neoverse-n1"))
    lanes = {int(m[1]) for m in (re.search(r"\.s\[(\d)\]$", i) for i in found.instructions) if m}
    assert lanes == {0, 1, 2, 3}
    assert not [line for line in found.instructions if line.startswith(("ld1r", "ldr\ts"))]


@pytest.mark.parametrize("name", [t.name for t in cpu_targets()])
def test_no_space_needs_more_registers(name: str) -> None:
    """Unrolled steps leave room for the sums, the weights and the elements of all steps."""
    target = load_target(name)
    problem = Problem.parse("conv2d:1x64x28x28:64x3x3:padding=1")
    spec = problem_spec(problem, target.layout.channel_block)
    lanes, vectors = target.vector.f32_lanes, target.layout.channel_block // target.vector.f32_lanes
    for candidate in space_for(target).candidates(prim_func(spec, "k"), target):
        knobs = dict(candidate.knobs)
        steps = knobs.get("steps", 1)
        assert steps == 1 or target.vector.lane_operand
        pixels, weights = knobs["size2"] * knobs["size3"], knobs["size1"] * vectors
        operands = pixels * steps // lanes if steps > 1 else 1
        free = target.vector.registers - pixels * weights - weights - operands
        assert free >= 0 or (target.vector.embedded_broadcast and free >= -1)
