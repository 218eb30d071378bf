"""Random problems in random layouts with random fused programs, on random schedules.

The first half are as the compiler makes them: the schedule that the cost model puts first. The
others take any schedule of the space. Seeds are fixed: 20 batches of 25 kernels.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest

from tests.kernels import (
    compile_specs,
    host,
    problem_kernel,
    problem_spec,
    sliced,
    trials,
)
from tests.strategies import OTHER_MEANINGS, random_problem
from tvmconv import accuracy, ops
from tvmconv.autoschedule.space import Candidate, space_for
from tvmconv.codegen.kernels import prim_func
from tvmconv.kernel import KernelSpec
from tvmconv.layout import Layout
from tvmconv.ops import Array
from tvmconv.problem import Problem

BATCHES, BATCH = 20, 25
MAX_FLOPS = 400_000
#: Steps that keep small integers exact.
STEPS: list[dict[str, Any]] = [
    {"op": "relu"},
    {"op": "clip", "min": -20.0, "max": 30.0},
    {"op": "neg"},
    {"op": "abs"},
    {"op": "add", "scalar": 3.0},
    {"op": "sub", "scalar": 5.0, "reverse": True},
    {"op": "mul", "scalar": -2.0},
    {"op": "minimum", "scalar": 40.0},
]
BINARY = ("add", "sub", "mul", "maximum", "minimum", "prelu")


def somewhere(rng: np.random.Generator, layout: Layout) -> Layout:
    """The same tensor, perhaps with a wider halo, perhaps as a slice of a larger buffer."""
    rank = len(layout.shape) - 2
    if rng.integers(2):
        wider = rng.integers(0, 3, (2, rank)).tolist()
        lows = [a + b for a, b in zip(layout.lows, wider[0], strict=True)]
        highs = [a + b for a, b in zip(layout.highs, wider[1], strict=True)]
        layout = layout.with_halo(lows, highs)
    return sliced(layout, *rng.integers(0, 3, 2).tolist()) if rng.integers(2) else layout


def random_program(
    rng: np.random.Generator, shape: tuple[int, ...], block: int
) -> tuple[list[dict[str, Any]], list[Layout]]:
    """Up to four steps; operands of the output's shape, or broadcast along some axes."""
    steps: list[dict[str, Any]] = []
    operands: list[Layout] = []
    for _ in range(rng.integers(1, 5)):
        if rng.integers(2):
            steps.append(dict(rng.choice(np.array(STEPS, dtype=object))))
            continue
        step: dict[str, Any] = {"op": str(rng.choice(BINARY)), "operand": len(operands)}
        if step["op"] != "prelu" and rng.integers(2):
            step["reverse"] = True
        steps.append(step)
        keep = rng.integers(0, 2, len(shape)) if rng.integers(2) else np.ones(len(shape))
        broadcast = tuple(n if kept else 1 for n, kept in zip(shape, keep, strict=True))
        operands.append(somewhere(rng, Layout(broadcast, block)))
    return steps, operands


@dataclass
class Drawn:
    """A problem, the kernel that was drawn for it, and its schedule."""

    problem: Problem
    spec: KernelSpec
    choice: Candidate


def draw(rng: np.random.Generator, first: bool) -> Drawn:
    """Draw a problem, its layouts, a program where sums stay exact, and a schedule."""
    problem = random_problem(rng, MAX_FLOPS)
    block = int(rng.choice([16, 16, 8]))
    in_block = [None, 1, block][rng.integers(3)]
    steps: list[dict[str, Any]] = []
    operands: list[Layout] = []
    if accuracy.is_exact(problem) and rng.integers(2):
        steps, operands = random_program(rng, problem.output_shape, block)
    spec = problem_spec(problem, block, in_block, steps, operands)
    x = somewhere(rng, spec.inputs[0])
    output = somewhere(rng, spec.output)
    spec = replace(spec, inputs=(x, *spec.inputs[1:]), output=output)
    func = prim_func(spec, "main")
    found = space_for(host()).candidates(func, host())
    return Drawn(problem, spec, found[0 if first else int(rng.integers(len(found)))])


def wrong(drawn: Drawn, run: Any, seed: int) -> list[str]:
    """What is wrong with a compiled kernel, if anything."""
    operand_layouts = drawn.spec.inputs[1:]
    if not drawn.spec.attrs["program"]:
        checks = trials(drawn.problem, seed)
        reports = [t.check(run(problem_kernel(t, drawn.spec))) for t in checks]
        return [r.message for r in reports if not r.passed]
    rng = np.random.default_rng(seed)
    trial = accuracy.trial(drawn.problem, seed, exact=True)
    operands = [rng.integers(-3, 4, v.shape).astype(np.float32) for v in operand_layouts]
    got = run(problem_kernel(trial, drawn.spec, operands))
    expected = with_program(trial.reference, operands, drawn.spec)
    return [] if np.array_equal(got, expected) else ["with a program"]


def with_program(y: Array, operands: list[Array], spec: KernelSpec) -> Array:
    """The program of a kernel applied to the problem's result, in float64."""
    arrays = [y, *(operand.astype(np.float64) for operand in operands)]
    return np.asarray(ops.get("elementwise").reference(arrays, spec.attrs))


def kernel_texts(drawn: list[Drawn]) -> str:
    return "\n".join(f"{d.problem} {d.choice} {d.spec}" for d in drawn)


@pytest.mark.parametrize("seed", range(BATCHES))
def test_random_kernels(seed: int) -> None:
    rng = np.random.default_rng(1000 + seed)
    drawn = [draw(rng, first=seed < BATCHES // 2) for _ in range(BATCH)]
    compiled = compile_specs([d.spec for d in drawn], choices=[d.choice for d in drawn])

    def runner(number: int) -> Any:
        return lambda kernel: compiled.run(number, kernel)

    failed = [d for k, d in enumerate(drawn) if wrong(d, runner(k), seed * BATCH + k)]
    assert not failed, kernel_texts(failed)


def test_the_draws_vary() -> None:
    """Every operator, layout and kind of program occurs often enough to mean something."""
    rng = np.random.default_rng(7)
    drawn = [draw(rng, first=True) for _ in range(400)]
    specs = [d.spec for d in drawn]
    families = [op for op in ops.operators().values() if op.family is not None]
    floats = {op.name for op in families if op.family is not None and op.family.dtypes is None}
    assert {s.op for s in specs} == floats - {*OTHER_MEANINGS}
    assert sum(s.output.slots > 0 for s in specs) > 50
    assert sum(s.output.has_halo for s in specs) > 50
    assert sum(s.inputs[0].slots > 0 for s in specs) > 50
    assert sum(s.inputs[0].block == 1 for s in specs) > 50
    assert sum(s.output.block == 8 for s in specs) > 50
    assert sum(bool(s.attrs["program"]) for s in specs) > 50
    assert sum(len(s.inputs) > 1 for s in specs) > 30
    assert sum(s.output.shape[1] % s.output.block != 0 for s in specs) > 100
