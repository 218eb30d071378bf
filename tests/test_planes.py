"""Convolutions on planes: the schedules of odd problems are right, on every target."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from tvmconv.schedules import costs, planes
from tvmconv.schedules.planes import PlaneTile
from tvmconv.schedules.primitives import find_blocks

from tests.kernels import (
    Kernel,
    compile_specs,
    cpu_targets,
    host,
    problem_kernel,
    problem_spec,
    runnable_targets,
    sliced,
    trials,
)
from tvmconv import ops
from tvmconv.autoschedule.space import Candidate, space_for
from tvmconv.autoschedule.trace import replay, to_json
from tvmconv.codegen.kernels import finish, prim_func, schedule
from tvmconv.kernel import KernelSpec, canonical_json
from tvmconv.layout import Layout
from tvmconv.ops import conv
from tvmconv.problem import Problem
from tvmconv.target import Target

#: Odd in one way or another: tails of channels, rows and columns, phases, groups, ranks.
ODD = [
    "conv1d:1x8x33:9x1",
    "conv1d:2x16x47:35x1:bias=true:activation=relu",
    "conv1d:1x2100x20:5x1",
    "conv1d:1x6x40:10x5:stride=3:padding=2,1:groups=2",
    "conv1d:1x4x1:40x1",
    "conv1d:2x3x5:7x3:padding=1",
    "conv2d:1x136x3x11:136x1x1:groups=4",
    "conv2d:1x8x19x35:8x1x1:stride=2",
    "conv2d:1x3x22x37:18x7x7:stride=2:padding=3",
    "conv2d:1x5x14x21:7x3x3:padding=1:bias=true:activation=relu6",
    "conv2d:2x4x13x50:31x3x3",
    "conv2d:1x4x9x34:6x3x3:padding=0,2,1,0:dilation=2:stride=1,3",
    "conv2d:1x6x8x1:12x3x3:padding=1:groups=3",
    "conv2d:1x5x7x7:3x3x3:stride=5",
    "conv2d:2x3x20x20:5x4x4:padding=same_upper:stride=2:activation=silu",
    "conv2d:1x260x6x17:10x3x3:padding=1",
    "conv3d:1x3x5x8x18:9x3x3x3:padding=1:stride=1,2,2",
    "conv3d:2x2x3x4x17:5x1x2x3",
]
#: Schedules of one problem that are compiled and run.
SAMPLE = 20

BY_NAME = pytest.mark.parametrize("target", runnable_targets(), ids=lambda target: target.name)


def spec_of(text: str, **options: Any) -> KernelSpec:
    return problem_spec(Problem.parse(text), block=1, **options)


def candidates_of(spec: KernelSpec, target: Target) -> list[Candidate]:
    return space_for(target).candidates(prim_func(spec, "main"), target)


def sample(found: list[Candidate]) -> list[Candidate]:
    """The first, and others from all over the space."""
    return found[:: max(1, len(found) // SAMPLE)]


def wrong(spec: KernelSpec, found: list[Candidate], target: Target) -> list[str]:
    """What is wrong with the outputs of schedules."""
    problem = Problem.parse(spec.attrs["problem"])
    compiled = compile_specs([spec] * len(found), target, found)
    reports = [
        (candidate.knobs, trial.check(compiled.run(k, problem_kernel(trial, spec))))
        for trial in trials(problem)
        for k, candidate in enumerate(found)
    ]
    return [f"{knobs}: {report.message}" for knobs, report in reports if not report.passed]


@pytest.mark.parametrize("text", ODD)
def test_schedules_are_right(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every other problem with loops shared among threads, which the model finds too small."""
    if ODD.index(text) % 2:
        monkeypatch.setattr(costs, "LAUNCH_CYCLES", -1e9)
    spec = spec_of(text)
    assert not wrong(spec, sample(candidates_of(spec, host())), host())


@BY_NAME
def test_targets(target: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(costs, "LAUNCH_CYCLES", -1e9)
    for text in ODD[2::3]:
        spec = spec_of(text)
        found = sample(candidates_of(spec, target))
        assert not wrong(spec, found[:1] + found[1::6], target), text


@pytest.mark.parametrize(
    "text", [case.problem for case in ops.get("conv").cases if "winograd" not in case.problem]
)
def test_cases(text: str) -> None:
    spec = spec_of(text)
    assert not wrong(spec, candidates_of(spec, host())[:1], host())


def test_operands_slices_and_halos() -> None:
    """A sum with a map and one scaled by channels, read and written inside larger buffers."""
    problem = Problem.parse("conv2d:1x5x12x21:7x3x3:padding=1:bias=true")
    program = [{"op": "add", "operand": 0}, {"op": "mul", "operand": 1}, {"op": "relu"}]
    shape = problem.output_shape
    layouts = (Layout(shape).with_halo((1, 2), (0, 1)), Layout((1, shape[1], 1, 1)))
    plain = spec_of(str(problem), program=program, operands=layouts)
    x = sliced(Layout(problem.input_shape).with_halo((2, 1), (1, 3)))
    output = sliced(Layout(shape).with_halo((0, 1), (2, 0)), 2, 1)
    spec = replace(plain, inputs=(x, *layouts), output=output)
    exact = trials(problem)[0]
    rng = np.random.default_rng(0)
    operands = [rng.integers(-4, 5, v.shape).astype(np.float32) for v in layouts]
    expected = np.maximum((problem.reference(exact.arrays) + operands[0]) * operands[1], 0)
    found = sample(candidates_of(spec, host()))
    compiled = compile_specs([spec] * len(found), choices=found)
    for k, candidate in enumerate(found):
        got = compiled.run(k, problem_kernel(exact, spec, operands))
        np.testing.assert_array_equal(got, expected, err_msg=str(candidate))


def test_a_shuffled_input() -> None:
    problem = Problem.parse("conv2d:1x12x5x18:8x1x1:groups=2")
    plain = spec_of(str(problem))
    spec = replace(plain, attrs_json=canonical_json({**plain.attrs, "shuffled": 3}))
    exact = trials(problem)[0]
    x = exact.arrays["x"]
    mixed = x.reshape(1, 3, 4, 5, 18).swapaxes(1, 2).reshape(x.shape)
    kernel = Kernel(spec, (x,), (exact.arrays["weight"],))
    got = compile_specs([spec]).run(0, kernel)
    np.testing.assert_array_equal(got, problem.reference({**exact.arrays, "x": mixed}))


@pytest.mark.parametrize("text", ["conv2d:1x5x7x7:3x3x3", "conv1d:1x300x9:4x3:groups=2"])
def test_a_weight_known_at_run_time(text: str) -> None:
    """It is packed by a kernel as NumPy packs it."""
    problem = Problem.parse(text)
    attrs = {"problem": text, "host": "conv", "role": "weight", "in_block": 1, "block": 1}
    weight = trials(problem)[0].arrays["weight"]
    shape = ops.get("pack_weight").output_shape([weight.shape], attrs)
    spec = KernelSpec("pack_weight", canonical_json(attrs), (Layout(weight.shape),), Layout(shape))
    got = compile_specs([spec]).run(0, Kernel(spec, (weight,)))
    (expected,) = conv.pack(spec_of(text), [weight])
    np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("text", ODD[::4])
def test_traces_make_the_same_kernel(text: str) -> None:
    spec = spec_of(text)
    func = prim_func(spec, "main")
    for candidate in sample(candidates_of(spec, host())):
        made = schedule(spec, "main", host(), candidate)
        again = replay(func, to_json(made))
        assert finish(again, host()).script() == finish(made, host()).script()


@pytest.mark.parametrize("text", ODD)
def test_tiles_fit_the_registers(text: str) -> None:
    from tvmconv._tvm import s_tir

    sch = s_tir.Schedule(prim_func(spec_of(text), "main"))
    size = planes.sizes(sch, find_blocks(sch))
    for target in cpu_targets():
        found = [PlaneTile.of(c.knobs) for c in planes.candidates(size, target)]
        assert found
        assert len(set(found)) == len(found)
        for tile in found:
            used = tile.channels * tile.pixels + tile.pixels + 1
            assert used <= target.vector.registers
            assert tile.lanes <= target.vector.f32_lanes
            assert tile.width <= size.space[-1]
            assert tile.channels <= size.group


@pytest.mark.parametrize(
    "text", ["conv1d:1x64x3136:64x1", "conv2d:1x8x32x64:16x3x3:padding=1", "conv1d:1x30x800:17x1"]
)
@BY_NAME
def test_sums_stay_in_registers(text: str, target: Target) -> None:
    """No vector goes to the stack and comes back between the multiplications."""
    asm = compile_specs([spec_of(text)], target).asm
    blocks = re.split(r"^\.LBB\w+:", asm, flags=re.MULTILINE)
    loop = max(blocks, key=lambda block: len(re.findall(r"v?f?n?m(?:add|ul)\w*ps", block)))
    lines = [line for line in loop.splitlines() if re.match(r"\t[a-z]", line)]
    assert not [line for line in lines if re.search(r"mm\d", line) and "(%rsp)" in line]
