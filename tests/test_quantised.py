"""Kernels of bytes: every instruction, every schedule, every byte."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import tvmconv
from tests.kernels import (
    compile_specs,
    host,
    problem_kernel,
    problem_spec,
    runnable_targets,
    trials,
)
from tests.strategies import random_problem
from tvmconv.autoschedule.space import space_for
from tvmconv.codegen.kernels import prim_func
from tvmconv.errors import InputError
from tvmconv.ops import quads
from tvmconv.problem import Problem
from tvmconv.target import Target

Array = npt.NDArray[Any]

LAYER = "qconv2d:1x40x9x11:36x3x3:padding=1:bias=true:zero_point=7:scale=0.0004"
SIGNED = "qconv2d:2x24x8x7:20x3x2:padding=1,0,0,1:dtype=int8:zero_point=-9:weight_terms=3"


def with_dot(name: str) -> Target:
    """This machine, with another instruction for products of bytes."""
    return replace(host(), vector=replace(host().vector, byte_dot=name))


TARGETS = [*runnable_targets(), with_dot("pmaddwd"), with_dot("portable")]


@pytest.mark.parametrize("target", TARGETS, ids=lambda t: f"{t.name}-{t.byte_dot}")
@pytest.mark.parametrize("text", [LAYER, SIGNED])
def test_every_instruction_gives_the_same_sums(text: str, target: Target) -> None:
    problem = Problem.parse(text)
    spec = problem_spec(problem)
    compiled = compile_specs([spec], target)
    for trial in trials(problem):
        report = trial.check(compiled.run(0, problem_kernel(trial, spec)))
        assert report.passed, report.message


@pytest.mark.parametrize("text", [LAYER, SIGNED])
def test_every_schedule_gives_the_same_sums(text: str) -> None:
    problem = Problem.parse(text)
    spec = problem_spec(problem)
    found = space_for(host()).candidates(prim_func(spec, "k"), host())
    rng = np.random.default_rng(0)
    chosen = [found[k] for k in sorted(rng.choice(len(found), min(24, len(found)), replace=False))]
    compiled = compile_specs([spec] * len(chosen), host(), chosen)
    trial = trials(problem)[0]
    for k, candidate in enumerate(chosen):
        report = trial.check(compiled.run(k, problem_kernel(trial, spec)))
        assert report.passed, f"{candidate.knobs}: {report.message}"


@pytest.mark.parametrize("seed", range(4))
def test_random_problems(seed: int) -> None:
    """The schedule of the model for half of them, any one for the others."""
    rng = np.random.default_rng(seed)
    problems = [random_problem(rng, 400_000, quantised=True) for _ in range(25)]
    blocks = [int(rng.choice([16, 16, 8])) for _ in problems]
    specs = [problem_spec(problem, block) for problem, block in zip(problems, blocks, strict=True)]
    choices = []
    for k, spec in enumerate(specs):
        found = space_for(host()).candidates(prim_func(spec, "k"), host())
        choices.append(found[0 if k % 2 else int(rng.integers(len(found)))])
    compiled = compile_specs(specs, host(), choices)
    for k, (problem, spec) in enumerate(zip(problems, specs, strict=True)):
        trial = trials(problem, seed)[0]
        report = trial.check(compiled.run(k, problem_kernel(trial, spec)))
        assert report.status != "wrong", f"{problem} {choices[k].knobs}: {report.message}"


def test_the_sums_are_made_by_the_instruction_that_the_target_names() -> None:
    spec = problem_spec(Problem.parse("qconv2d:1x64x14x14:64x3x3:padding=1"))
    # LLVM makes one instruction of pmaddwd and the addition after it, where there is VNNI.
    for name, mnemonics in (("vpdpbusd", ["vpdpbusd"]), ("pmaddwd", ["vpmaddwd", "vpdpwssd"])):
        if host().vector.byte_dot != "vpdpbusd":
            pytest.skip("this machine has no VNNI")
        asm = compile_specs([spec], with_dot(name)).asm
        assert sum(asm.count(f"\t{mnemonic}\t") for mnemonic in mnemonics) > 10
        assert "vpmaddubsw" not in asm


@pytest.mark.parametrize("value", [0, 255])
def test_extreme_bytes_do_not_saturate(value: int) -> None:
    """255·127 four times is far beyond 16 bits."""
    problem = Problem.parse("qconv2d:1x256x3x3:16x3x3:padding=1:zero_point=0")
    x = np.full(problem.input_shape, value, np.uint8)
    for sign in (-128, 127):
        w = np.full(problem.inputs["weight"], sign, np.int8)
        module = tvmconv.compile(problem.text, params={"weight": w})
        (y,) = module(x)
        np.testing.assert_array_equal(y, problem.reference({"x": x, "weight": w}))


def test_a_switched_off_feature_takes_the_instruction_away() -> None:
    target = with_dot("vpdpbusd")
    name = "avx512vnni" if target.vector.bits == 512 else "avxvnni"
    off = replace(target, llvm=replace(target.llvm, features=(f"-{name}",)))
    assert off.byte_dot.startswith("pmaddwd")


def test_weights_as_sums_of_bytes() -> None:
    weight = np.arange(-255, 256)
    for terms, low, high in ((1, -128, 127), (2, -256, 254), (3, -255, 255)):
        part = weight[(weight >= low) & (weight <= high)]
        assert quads.terms_of(part) <= terms
        np.testing.assert_array_equal(
            sum(p.astype(int) for p in quads.split_terms(part, terms)), part
        )
    with pytest.raises(ValueError, match="2 bytes do not hold 255"):
        quads.split_terms(np.array([255]), 2)


def test_a_weight_at_run_time_is_refused() -> None:
    with pytest.raises(InputError, match=r"weight must be a constant; give --params"):
        tvmconv.compile("qconv2d:1x8x5x5:8x3x3")
