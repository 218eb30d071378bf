"""Kernels that are wrong in one way are caught: each mutant is compiled and run like a right one.

A mutant changes what the tensor expression, a pass or the schedule is made from; inputs, packed
weights and reference stay those of the right kernel. It gives None where nothing can be changed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from tests.kernels import Compiled, host, problem_kernel, problem_spec, trials
from tvmconv.codegen import kernels, tir
from tvmconv.errors import InputError
from tvmconv.kernel import KernelSpec, canonical_json
from tvmconv.ops import channels, expressions, phases
from tvmconv.problem import Problem

Mutant = Callable[[KernelSpec, pytest.MonkeyPatch], Any]

#: Halo beyond the padding, so that mutants read zeros and not other memory.
MARGIN = 12
PROBLEMS = [
    "conv2d:2x8x9x7:16x3x3:stride=2,1:padding=1:bias=true",
    "conv2d:1x17x6x6:33x3x3:padding=1:bias=true:activation=relu",
    "conv2d:1x24x6x6:24x3x3:padding=1:groups=4:bias=true:activation=relu6",
    "conv1d:1x8x40:8x5:padding=4:dilation=2:activation=silu",
    "conv3d:1x4x5x6x6:6x3x3x3:stride=1,2,2:padding=1",
    "conv2d:1x256x3x3:16x3x3:padding=1",
    "depthwise_conv2d:2x12x9x8:24x3x3:stride=1,2:padding=1:bias=true:activation=hardswish",
    "conv2d_transpose:1x24x4x4:24x4x3:stride=2:padding=1:groups=4:bias=true:activation=relu",
    "max_pool2d:2x6x9x8:3x3:stride=2,1:padding=1",
    "avg_pool2d:2x6x9x8:3x3:stride=2,1:padding=1",
    "global_avg_pool2d:2x17x5x5",
    "global_max_pool2d:2x17x5x5",
    "dense:3x100:21:bias=true:activation=sigmoid",
]


def scheduled(spec: KernelSpec) -> Any:
    return kernels.scheduled(spec, "k0", host())


def other_problem(spec: KernelSpec, **options: object) -> Any:
    """The kernel of the problem with other options, over the same buffers."""
    problem = Problem.parse(spec.attrs["problem"])
    try:
        changed = problem.replace(**options)
    except InputError:
        return None
    if changed == problem:
        return None
    attrs = {**spec.attrs, "problem": changed.text}
    return scheduled(replace(spec, attrs_json=canonical_json(attrs)))


def padding_moved(spec: KernelSpec, by: int) -> Any:
    problem = Problem.parse(spec.attrs["problem"])
    if problem.option("padding") is None:
        return None
    lows = [low + by for low in problem.pads_low]
    highs = [max(high - by, 0) for high in problem.pads_high]
    return other_problem(spec, padding=[*lows, *highs])


def padding_plus_1(spec: KernelSpec, patch: pytest.MonkeyPatch) -> Any:
    return padding_moved(spec, 1)


def padding_minus_1(spec: KernelSpec, patch: pytest.MonkeyPatch) -> Any:
    return padding_moved(spec, -1)


def swapped_strides(spec: KernelSpec, patch: pytest.MonkeyPatch) -> Any:
    problem = Problem.parse(spec.attrs["problem"])
    if len(set(problem.stride)) < 2 or problem.op == "avg_pool":  # whose table has another shape
        return None
    return other_problem(spec, stride=problem.stride[::-1])


def wrong_dilation(spec: KernelSpec, patch: pytest.MonkeyPatch) -> Any:
    problem = Problem.parse(spec.attrs["problem"])
    # Taps of other phases make a weight of another shape.
    if problem.option("dilation") is None or problem.op in ("avg_pool", "conv_transpose"):
        return None
    pads = [low + 3 for low in problem.pads_low + problem.pads_high]
    attrs = {"dilation": [d + 1 for d in problem.dilation]}
    return other_problem(spec, padding=pads, **attrs)


def dropped_tap(spec: KernelSpec, patch: pytest.MonkeyPatch) -> Any:
    """The last tap of the last axis is left out of the sum (or maximum)."""
    from tvmconv._tvm import te

    problem = Problem.parse(spec.attrs["problem"])
    if not problem.kernel:
        return None
    extents = [*problem.kernel]
    if problem.family.transposed:
        extents = [axis.most for axis in phases.axes(problem)]
    extents[-1] -= 1
    axes = [te.reduce_axis((0, extent), f"rk{i}") for i, extent in enumerate(extents)]
    patch.setattr(expressions, "tap_axes", lambda problem: axes)
    patch.setattr(phases, "tap_axes", lambda problem: axes)
    return scheduled(spec)


def wrong_group(spec: KernelSpec, patch: pytest.MonkeyPatch) -> Any:
    """Every block of output channels reads the first group."""
    from tvmconv._tvm import tirx

    problem = Problem.parse(spec.attrs["problem"])
    if problem.groups == 1 or problem.family.depthwise:
        return None
    patch.setattr(channels, "channel_start", lambda *arguments: tirx.const(0, "int32"))
    return scheduled(spec)


def shared_filter(spec: KernelSpec, patch: pytest.MonkeyPatch) -> Any:
    """Every channel of a depthwise convolution reads the channel after its own."""
    problem = Problem.parse(spec.attrs["problem"])
    if not problem.family.depthwise:
        return None
    x = spec.inputs[0]
    return scheduled(replace(spec, inputs=(replace(x, slots=x.slots, first=x.first + 1),)))


def one_chain(spec: KernelSpec, patch: pytest.MonkeyPatch) -> Any:
    """Only the first part of a sum of parts is summed."""
    from tvmconv._tvm import te
    from tvmconv.ops import summing

    problem = Problem.parse(spec.attrs["problem"])
    plan = channels.channel_plan(problem, spec.inputs[0].block, spec.output.block)
    together = summing.together(plan.trips, plan.step * 9)
    if problem.op != "conv" or together == plan.trips:
        return None
    reduce_axis = te.reduce_axis

    def one(domain: tuple[int, int], name: str) -> Any:
        return reduce_axis((0, 1) if name == "ro" else domain, name)

    patch.setattr(te, "reduce_axis", one)
    return scheduled(spec)


def forgotten_bias(spec: KernelSpec, patch: pytest.MonkeyPatch) -> Any:
    if not Problem.parse(spec.attrs["problem"]).bias:
        return None
    finish = expressions.finish
    patch.setattr(
        expressions, "finish", lambda spec, result, bias, **rest: finish(spec, result, **rest)
    )
    return scheduled(spec)


def forgotten_activation(spec: KernelSpec, patch: pytest.MonkeyPatch) -> Any:
    return other_problem(spec, activation="")


def halo_of_a_maximum(spec: KernelSpec, patch: pytest.MonkeyPatch) -> Any:
    if "edges" not in spec.attrs:
        return None
    attrs = {key: value for key, value in spec.attrs.items() if key != "edges"}
    return scheduled(replace(spec, attrs_json=canonical_json(attrs)))


def shrunk_loop(func: Any) -> Any:
    """The function with its outermost loop one short."""
    from tvmconv._tvm import tirx

    def visit(stmt: Any) -> Any:
        if not isinstance(stmt, tirx.For):
            return None
        parts = (stmt.loop_var, stmt.min, stmt.extent - 1, stmt.kind, stmt.body)
        return tirx.For(*parts, stmt.thread_binding, stmt.annotations)

    return func.with_body(tir.rebuild(func.body, visit))


def unwritten_tail(spec: KernelSpec, patch: pytest.MonkeyPatch) -> Any:
    return shrunk_loop(scheduled(spec))


def misplaced_output(spec: KernelSpec, patch: pytest.MonkeyPatch) -> Any:
    """The result is written one place further along the last spatial axis, into the halo."""
    out = spec.output
    if len(out.shape) < 3:
        return None
    lows = (*out.lows[:-1], out.lows[-1] + 1)
    highs = (*out.highs[:-1], out.highs[-1] - 1)
    return scheduled(replace(spec, output=replace(out, lows=lows, highs=highs)))


def wrong_slot(spec: KernelSpec, patch: pytest.MonkeyPatch) -> Any:
    """The result goes to the slice before its own."""
    return scheduled(replace(spec, output=replace(spec.output, first=spec.output.first - 1)))


MUTANTS: list[Mutant] = [
    padding_plus_1,
    padding_minus_1,
    swapped_strides,
    wrong_dilation,
    dropped_tap,
    wrong_group,
    shared_filter,
    one_chain,
    forgotten_bias,
    forgotten_activation,
    halo_of_a_maximum,
    unwritten_tail,
    misplaced_output,
    wrong_slot,
]


def kernel_spec(text: str) -> KernelSpec:
    """A problem's kernel with room around its input, writing into a slice inside a halo."""
    problem = Problem.parse(text)
    spec = problem_spec(problem)
    rank = problem.rank
    x = spec.inputs[0]
    wide = [MARGIN] * rank
    x = replace(x.with_halo(wide, wide), slots=x.own_slots + 1)
    output = spec.output.with_halo([1] * rank, [1] * rank)
    output = replace(output, slots=output.own_slots + 2, first=1)
    return replace(spec, inputs=(x,), output=output)


def caught(spec: KernelSpec, func: Any) -> bool:
    """Whether any check fails."""
    compiled = Compiled({"k0": func}, host())
    for trial in trials(Problem.parse(spec.attrs["problem"])):
        try:
            got = compiled.run(0, problem_kernel(trial, spec))
        except AssertionError:
            return True
        if not trial.check(got).passed:
            return True
    return False


@pytest.mark.parametrize("text", PROBLEMS)
def test_right_kernels_pass(text: str) -> None:
    spec = kernel_spec(text)
    assert not caught(spec, scheduled(spec))


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.__name__)
def test_mutants_are_caught(mutant: Mutant) -> None:
    tried = 0
    for text in PROBLEMS:
        spec = kernel_spec(text)
        with pytest.MonkeyPatch.context() as patch:
            func = mutant(spec, patch)
        if func is not None:
            tried += 1
            assert caught(spec, func), text
    assert tried
