"""Kernels for every x86 target: run where this machine can, and read as assembly everywhere.

Other architectures are in ``test_emulated.py``.
"""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest

from tests.kernels import (
    compile_specs,
    cpu_targets,
    problem_kernel,
    problem_spec,
    runs_here,
    trials,
)
from tests.strategies import random_problem
from tvmconv.problem import Problem
from tvmconv.target import Target

TARGETS = [replace(t, cores=2) for t in cpu_targets() if t.arch == "x86_64"]
BY_NAME = pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)

PROBLEMS = [
    "conv2d:1x64x14x14:64x3x3:padding=1:bias=true:activation=relu",
    "conv2d:1x128x7x7:256x1x1:bias=true",
    "conv2d:1x3x32x32:40x7x7:stride=2:padding=3",
    "conv2d:2x17x9x7:33x3x3:padding=1:activation=silu",
    "conv2d:1x40x9x9:48x3x3:padding=1:groups=4",
    "conv2d:1x512x5x5:64x3x3:padding=1",
    "conv1d:1x32x50:32x5:padding=4:dilation=2:activation=tanh",
    "conv3d:1x4x5x6x6:24x3x3x3:padding=1:activation=sigmoid",
    "depthwise_conv2d:1x40x14x14:40x3x3:padding=1:bias=true:activation=relu6",
    "depthwise_conv2d:1x40x14x14:40x5x5:stride=2:padding=2:activation=hardswish",
    "max_pool2d:1x40x14x14:3x3:stride=2:padding=1",
    "avg_pool2d:1x40x14x14:3x3:stride=2:padding=1",
    "global_avg_pool2d:1x100x7x7",
    "global_max_pool2d:1x100x7x7",
    "dense:1x500:100:bias=true:activation=elu",
    "dense:4x50:33",
]
#: The inner loop of each of these is to keep its sums in registers.
CONVOLUTIONS = [
    "conv2d:1x64x56x56:64x3x3:padding=1:bias=true:activation=relu",
    "conv2d:1x512x7x7:512x3x3:padding=1",
    "conv2d:1x128x28x28:512x1x1",
]
_FMA = re.compile(r"\bvfn?m(?:add|sub)\d+[ps]s\b")
_MULTIPLY = re.compile(r"\bmulps\b")


@BY_NAME
def test_kernels_are_right(target: Target) -> None:
    """The problems above and random ones; only compiled where this machine lacks the ISA."""
    rng = np.random.default_rng(3)
    problems = [*map(Problem.parse, PROBLEMS), *(random_problem(rng, 400_000) for _ in range(20))]
    specs = [problem_spec(problem) for problem in problems]
    compiled = compile_specs(specs, target)
    if not runs_here(target):
        pytest.skip(f"compiled; this machine cannot run code for {target.name}")
    for k, problem in enumerate(problems):
        for trial in trials(problem, k):
            report = trial.check(compiled.run(k, problem_kernel(trial, specs[k])))
            assert report.passed, f"{problem}: {report.message}"


@BY_NAME
def test_instructions_are_those_of_the_target(target: Target) -> None:
    asm = compile_specs([problem_spec(Problem.parse(text)) for text in PROBLEMS], target).asm
    widths = {128: "xmm", 256: "ymm", 512: "zmm"}
    for bits, register in widths.items():
        if bits > target.vector.bits:
            assert register not in asm
    assert widths[target.vector.bits] in asm
    if target.name == "x86-64-v2":
        assert not _FMA.search(asm)
    else:
        fused = [line for line in asm.splitlines() if _FMA.search(line)]
        assert sum(widths[target.vector.bits] in line for line in fused) > 100


def inner_loop(asm: str) -> list[str]:
    """Instructions of the basic block with the most multiplications."""
    blocks = re.split(r"^\.LBB\w+:", asm, flags=re.MULTILINE)
    block = max(blocks, key=lambda text: len(_FMA.findall(text)) + len(_MULTIPLY.findall(text)))
    return [line for line in block.splitlines() if re.match(r"\t[a-z]", line)]


@pytest.mark.parametrize("text", CONVOLUTIONS)
@BY_NAME
def test_sums_stay_in_registers(text: str, target: Target) -> None:
    """No vector goes to the stack and comes back between the multiplications."""
    loop = inner_loop(compile_specs([problem_spec(Problem.parse(text))], target).asm)
    count = sum(bool(_FMA.search(line) or _MULTIPLY.search(line)) for line in loop)
    assert count >= 8
    spilled = [line for line in loop if re.search(r"mm\d", line) and "(%rsp)" in line]
    assert not spilled
