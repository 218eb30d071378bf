"""Weights that a kernel asks for before it reads them."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from tests.kernels import host, problem_kernel, problem_spec, run, trials
from tvmconv.autoschedule.space import space_for
from tvmconv.codegen.kernels import build, prim_func, scheduled
from tvmconv.problem import Problem
from tvmconv.target import Target, load_target

#: A sum over channels, one over phases, and one on transformed tiles.
STREAMS = [
    "conv2d:1x64x5x5:48x3x3:padding=1:bias=true",
    "conv2d_transpose:1x32x4x4:32x4x4:stride=2:padding=1",
    "conv2d:1x32x7x7:32x3x3:padding=1:algorithm=winograd2",
    "dense:1x64:64",
]


def asking(cycles: float) -> Target:
    """A target whose kernels ask for weights so many cycles ahead."""
    target = load_target("x86-64-v4")
    return replace(target, caches=replace(target.caches, prefetch_cycles=cycles))


def assembly(text: str, target: Target) -> str:
    spec = problem_spec(Problem.parse(text))
    return str(build(scheduled(spec, "k0", target), "k0", target).inspect_source("asm"))


@pytest.mark.parametrize("text", STREAMS)
def test_kernels_ask_for_weights_if_the_target_says_so(text: str) -> None:
    assert "prefetch" not in assembly(text, asking(0))
    assert "prefetcht0" in assembly(text, asking(200))


def test_how_far_ahead_follows_from_the_cycles_of_a_step() -> None:
    """A tile of 5 pixels and 2 slots takes 5 cycles a step: 200 cycles are 40 rows of 64 bytes."""
    spec = problem_spec(Problem.parse(STREAMS[0]))
    target = asking(200)
    space = space_for(target)
    found = space.candidates(prim_func(spec, "k0"), target)
    wanted = {"size1": 2, "size2": 1, "size3": 5}
    tile = next(c for c in found if wanted.items() <= dict(c.knobs).items())
    text = scheduled(spec, "k0", target, tile).script()
    (asked,) = re.findall(r"T.prefetch\((.*)\)", text)
    assert "weight" in asked
    assert "+ 40, 0]" in asked, asked


def test_transforms_ask_for_the_lines_of_a_later_tile() -> None:
    """The 36 lines of a tile take 72 cycles at least: 200 cycles are 3 tiles."""
    spec = problem_spec(Problem.parse("conv2d:1x32x56x56:32x3x3:padding=1:algorithm=winograd4"))
    func = scheduled(spec, "k0", asking(200))
    asked = re.findall(r"T.prefetch\(T.address_of\(x\[(.*)\]\)", func.script())
    assert len(asked) == len(set(asked)) == 6  # rows, in a loop over the columns
    assert all("+ 3" in places for places in asked)
    assert "T.address_of(x[" not in scheduled(spec, "k0", asking(0)).script()
    lines = assembly("conv2d:1x32x56x56:32x3x3:padding=1:algorithm=winograd4", asking(200))
    assert lines.count("prefetcht0") >= 36


def test_sums_stay_in_registers() -> None:
    """No step stores a sum: between the multiply-adds of the innermost loops there is no store."""
    lines = assembly(STREAMS[0], asking(200)).splitlines()
    asks = [k for k, line in enumerate(lines) if "prefetcht0" in line]
    assert asks
    for k in asks:
        end = next(j for j in range(k, len(lines)) if re.match(r"\s+j[a-z]+\s", lines[j]))
        loop = lines[k:end]
        assert any("vfmadd" in line for line in loop)
        assert not [line for line in loop if re.search(r"vmov[au]ps\s+%[xyz]mm\d+, .*\(", line)]


@pytest.mark.parametrize("text", STREAMS)
def test_results_stay_right(text: str) -> None:
    """The addresses that are asked for may lie behind the weights: nothing is read there."""
    problem = Problem.parse(text)
    target = replace(host(), caches=replace(host().caches, prefetch_cycles=1000.0))
    trial = trials(problem)[-1]
    kernel = problem_kernel(trial, problem_spec(problem))
    (got,) = run([kernel], target)
    assert trial.check(got).passed
