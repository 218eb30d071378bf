"""The design spaces: every schedule of 30 small problems is right; the tiles fit the registers."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from tvmconv.schedules import contraction, costs
from tvmconv.schedules.primitives import Tile, extents, find_blocks

import tvmconv
from tests.kernels import (
    BLOCK,
    compile_specs,
    cpu_targets,
    host,
    problem_kernel,
    problem_spec,
    trials,
)
from tvmconv import ops
from tvmconv.accuracy import Trial
from tvmconv.autoschedule.space import Candidate, space_for
from tvmconv.codegen.kernels import prim_func
from tvmconv.errors import InputError
from tvmconv.kernel import KIND, KernelSpec, canonical_json
from tvmconv.layout import Layout
from tvmconv.problem import Problem
from tvmconv.target import Target, targets

#: Each has every kind of tail, of one axis or another, in some schedule.
SMALL = [
    "conv2d:1x8x4x3:16x3x3:padding=1",
    "conv2d:1x5x4x3:33x2x2",
    "conv2d:2x3x4x4:17x3x3:stride=2:padding=1",
    "conv2d:1x16x1x5:48x1x1:bias=true:activation=relu",
    "conv2d:1x4x2x4:40x1x1:activation=relu6",
    "conv2d:1x3x9x9:16x5x5:stride=3:padding=2",
    "conv2d:1x20x2x4:20x3x3:padding=2:dilation=2:bias=true",
    "conv2d:1x24x3x2:24x3x3:padding=1:groups=4",
    "conv2d:1x32x3x3:32x1x1:groups=2:bias=true",
    "conv2d:1x18x2x3:36x2x2:groups=3",
    "conv2d:1x16x1x1:80x1x1",
    "conv2d:3x7x1x1:33x1x1:bias=true",
    "conv2d:1x2304x1x2:16x1x1",
    "conv2d:3x260x2x2:17x3x3:padding=1",
    "conv2d:2x8x2x2:16x2x2:padding=0,1:activation=silu",
    "conv1d:1x8x11:16x3:padding=1",
    "conv1d:2x4x9:16x3:stride=2",
    "conv1d:1x16x9:32x1:bias=true",
    "conv1d:1x6x8:18x2:padding=1,0:groups=3",
    "conv1d:1x1x7:1x7",
    "conv3d:1x3x2x3x3:8x2x2x2:padding=1,0,0",
    "conv3d:2x2x1x2x2:20x1x1x1",
    "dense:1x50:33:bias=true",
    "dense:3x17:13",
    "dense:5x20:40:activation=relu",
    "depthwise_conv2d:1x20x7x7:20x3x3:padding=1:bias=true",
    "depthwise_conv1d:2x4x9:12x3",
    "max_pool2d:1x20x7x7:3x3:stride=2:padding=1",
    "avg_pool2d:1x20x7x7:3x3:stride=2:padding=1",
    "global_avg_pool2d:1x20x7x7",
]
#: Schedules that are compiled together.
BATCH = 40

LAYERS = [
    "conv2d:1x64x56x56:64x3x3:padding=1",
    "conv2d:1x1024x14x14:256x1x1",
    "conv2d:1x3x224x224:64x7x7:stride=2:padding=3",
    "conv2d:8x512x7x7:512x3x3:padding=1",
    "conv1d:1x64x1000:64x9:padding=16:dilation=4",
    "dense:1x2048:1000",
]
ATROUS = "conv2d:1x2048x28x28:256x3x3:padding=12:dilation=12"


def candidates_of(spec: KernelSpec, target: Target) -> list[Candidate]:
    return space_for(target).candidates(prim_func(spec, "main"), target)


def wrong_schedules(
    spec: KernelSpec, checks: list[Trial], algorithm: str = "direct", every: int = 1
) -> list[Any]:
    """Compile and run the schedules of a kernel, and return those whose output is wrong."""
    found = candidates_of(spec, host())[::every]
    wrong = []
    for start in range(0, len(found), BATCH):
        part = found[start : start + BATCH]
        compiled = compile_specs([spec] * len(part), choices=part)
        for k, candidate in enumerate(part):
            for trial in checks:
                got = compiled.run(k, problem_kernel(trial, spec))
                wrong += [] if trial.check(got, algorithm).passed else [candidate]
    return wrong


def test_there_are_30_small_problems() -> None:
    problems = [Problem.parse(text) for text in SMALL]
    assert len(set(problems)) == 30
    counts = [len(candidates_of(problem_spec(problem), host())) for problem in problems]
    assert sum(count > 10 for count in counts) >= 15


@pytest.mark.parametrize("text", SMALL)
def test_every_schedule_is_right(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every other problem with loops shared among threads, which the model finds too small."""
    if SMALL.index(text) % 2:
        monkeypatch.setattr(costs, "LAUNCH_CYCLES", -1e9)
    problem = Problem.parse(text)
    assert not wrong_schedules(problem_spec(problem), trials(problem)[:1])


@pytest.mark.parametrize(
    "text",
    [
        "conv2d:1x20x5x12:24x3x3:padding=9:dilation=9:bias=true",
        "conv2d:1x16x4x11:16x3x3:padding=2,12,3,10:dilation=3,12:stride=1,2",
        "conv1d:2x16x19:16x4:padding=30,9:dilation=11:activation=relu",
    ],
)
def test_padding_that_no_halo_holds_is_skipped(text: str) -> None:
    """What lies beside a narrow halo is other rows: a tap that is not skipped reads them."""
    problem = Problem.parse(text)
    spec = problem_spec(problem, skips_padding=True)
    whole = problem_spec(problem).inputs[0]
    assert spec.inputs[0].buffer_bytes < 0.8 * whole.buffer_bytes
    assert not wrong_schedules(spec, trials(problem)[:1], every=3)


@pytest.mark.parametrize(
    ("text", "algorithm"),
    [
        ("conv2d:1x16x3x5:32x3x3:padding=1:bias=true:activation=relu", "winograd2"),
        ("conv2d:1x20x3x5:20x3x3:padding=1", "winograd2"),
        ("conv2d:2x16x9x4:16x3x3:padding=0,1,2,1", "winograd4"),
        ("conv2d:1x256x4x5:32x3x3:padding=1", "winograd4"),
        ("conv2d:1x16x2x13:24x3x3:padding=1:bias=true", "winograd6"),
        ("conv1d:2x16x13:48x3:padding=1:activation=relu6", "winograd4"),
        ("conv1d:1x24x11:16x3", "winograd2"),
        ("conv2d:1x16x7x5:16x3x3:padding=2:dilation=2", "winograd2"),
        ("conv2d:1x16x3x9:32x1x3:padding=0,1", "winograd4"),
        ("conv3d:1x32x2x5x4:32x3x3x3:padding=1", "winograd2"),
        ("conv2d:1x20x3x5:20x3x3:padding=1", "winograd4_online"),
        ("conv2d:2x256x5x4:24x3x3:padding=0,1,2,1:activation=relu", "winograd4_online"),
        ("conv1d:2x160x13:48x3:padding=1:bias=true", "winograd4_online"),
        ("conv2d:1x16x7x5:32x3x3:padding=2:dilation=2", "winograd4_online"),
        ("conv3d:1x64x2x5x4:32x3x3x3:padding=1", "winograd4_online"),
    ],
)
def test_every_schedule_on_transformed_tiles_is_right(text: str, algorithm: str) -> None:
    problem = Problem.parse(text).replace(algorithm=algorithm)
    spec = problem_spec(problem)
    assert len(candidates_of(spec, host())) >= 10
    assert not wrong_schedules(spec, trials(problem)[-1:], algorithm)


@pytest.mark.parametrize("text", [*SMALL[:3], *SMALL[-5:]])
def test_points_differ_and_the_best_comes_first(text: str) -> None:
    found = candidates_of(problem_spec(Problem.parse(text)), host())
    assert len({candidate.knobs for candidate in found}) == len(found)
    assert [c.cycles for c in found] == sorted(c.cycles for c in found)


def test_a_family_without_schedules_is_refused() -> None:
    other = replace(
        host(),
        arch="sparc64",
        llvm=replace(host().llvm, triple="sparc64-unknown-linux-gnu"),
        zig=replace(host().zig, triple="sparc64-linux-gnu"),
    )
    with pytest.raises(InputError, match=r"no schedules for arch 'sparc64'; there are .*x86_64"):
        space_for(other)
    with pytest.raises(InputError, match="no schedules for arch 'sparc64'"):
        tvmconv.compile("conv2d:1x8x6x6:16x3x3", target=other)
    unknown = replace(host(), llvm=replace(host().llvm, cpu="nosuch"))
    with pytest.raises(InputError, match="LLVM has no 'nosuch' for 'x86_64-"):
        tvmconv.compile("conv2d:1x8x6x6:16x3x3", target=unknown)


# --- the space and the model of x86


def dims_of(text: str, block: int = BLOCK) -> Any:
    from tvmconv._tvm import s_tir

    schedule = s_tir.Schedule(prim_func(problem_spec(Problem.parse(text), block), "main"))
    return extents(schedule, find_blocks(schedule))


@pytest.mark.parametrize("text", [*LAYERS, *SMALL[:10]])
def test_tiles_fit_the_registers(text: str) -> None:
    """Sums, weights and a broadcast element, unless that is an operand in memory."""
    for target in cpu_targets():
        dims = dims_of(text, target.layout.channel_block)
        found = [Tile.of(c.knobs) for c in contraction.candidates(dims, target)]
        assert found
        for tile in found:
            batch, slots, *space = tile.sizes
            vectors = max(1, 32 * dims.lanes // target.vector.bits)
            pixels = batch
            for extent in space:
                pixels *= extent
            used = pixels * slots * vectors + slots * vectors
            used += not target.vector.embedded_broadcast
            assert used <= target.vector.registers
            assert all(s <= extent for s, extent in zip(tile.sizes, dims.outer, strict=True))


def test_the_model_counts_the_taps_in_the_padding() -> None:
    """Atrous convolution of a map of 28 with padding 12: of 3 taps two reach beyond an edge."""
    dims = dims_of(ATROUS)
    for width, share in ((28, 1.0), (14, 1.0), (7, 10 / 12), (4, 15 / 21), (1, 60 / 84)):
        tile = Tile((1, 1, 1, width), (1, 0, 2, 3), 3)
        assert contraction.useful_taps(dims, tile) == pytest.approx(60 / 84 * share)
    assert contraction.useful_taps(dims_of(LAYERS[1]), tile) == 1


@pytest.mark.parametrize("text", LAYERS)
def test_few_padded_taps_change_no_predicted_time_by_much(text: str) -> None:
    dims = dims_of(text)
    tile = best_tile(dims, host())
    without = replace(dims, window=())
    cycles = contraction.cycles(dims, tile, host()), contraction.cycles(without, tile, host())
    assert 0.75 * cycles[1] <= cycles[0] <= cycles[1]


def test_long_sums_sweep_over_the_output_with_a_part_of_the_weights() -> None:
    """The weights of one slot, 1.2 MB, fit no second cache level."""
    target = targets()["znver5"]
    dims = dims_of(ATROUS)
    assert dims.parts > 1
    assert best_tile(dims, target).swept == 2
    swept = [tile for tile in tiles_of(dims, target) if tile.swept]
    assert all(tile.order[-2:] == (2, 3) and not 28 % tile.sizes[3] for tile in swept)
    assert not [tile for tile in tiles_of(dims_of(LAYERS[1]), target) if tile.swept]


def tiles_of(dims: Any, target: Target) -> list[Tile]:
    return [Tile.of(candidate.knobs) for candidate in contraction.candidates(dims, target)]


def best_tile(dims: Any, target: Target) -> Tile:
    best = min(contraction.candidates(dims, target), key=lambda candidate: candidate.cycles)
    return Tile.of(best.knobs)


@pytest.mark.parametrize("text", [text for text in LAYERS if not text.startswith("dense")])
def test_the_best_tile_hides_the_latency(text: str) -> None:
    """Enough sums for every step to be bound by the multiply-adds, on every target with FMA."""
    for target in cpu_targets():
        dims = dims_of(text, target.layout.channel_block)
        best = best_tile(dims, target)
        sums = max(1, 32 * dims.lanes // target.vector.bits)
        for extent in best.sizes:
            sums *= extent
        assert sums >= target.vector.fma_per_cycle * target.vector.fma_latency


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("conv2d:1x64x7x7:64x3x3", "contraction"),
        ("dense:1x64:64", "contraction"),
        ("depthwise_conv2d:1x64x7x7:64x3x3", "window"),
        ("max_pool2d:1x64x7x7:3x3", "window"),
        ("avg_pool2d:1x64x7x7:3x3", "window"),
        ("global_avg_pool2d:1x64x7x7", "window"),
    ],
)
def test_kinds_of_blocks(text: str, kind: str) -> None:
    """A schedule recognises a kernel by an attribute of its tensor expression."""
    from tvmconv._tvm import s_tir

    schedule = s_tir.Schedule(prim_func(problem_spec(Problem.parse(text)), "main"))
    blocks = find_blocks(schedule)
    assert blocks.kind == kind
    assert blocks.total is None
    assert not blocks.stages


def test_kinds_of_long_sums_and_stages() -> None:
    from tvmconv._tvm import s_tir

    long = problem_spec(Problem.parse("conv2d:1x2304x2x2:16x1x1"))
    blocks = find_blocks(s_tir.Schedule(prim_func(long, "main")))
    assert blocks.kind == "contraction"
    assert blocks.total is not None
    vector = Layout((1, 100))
    softmax = KernelSpec("softmax", canonical_json({"axis": 1}), (vector,), vector)
    blocks = find_blocks(s_tir.Schedule(prim_func(softmax, "main")))
    assert blocks.kind == "map"
    assert len(blocks.stages) == 3


def test_every_tensor_of_a_kernel_says_its_kind() -> None:
    """So a new operator cannot be taken for a map by mistake."""
    known = {"contraction", "grouped", "window", "total", "nearby", "stage", "map"}
    for text in SMALL:
        spec = problem_spec(Problem.parse(text))
        compute = ops.get(spec.op).compute
        assert compute is not None
        output = compute(spec)[-1]
        assert str(output.op.attrs[KIND]) in known
