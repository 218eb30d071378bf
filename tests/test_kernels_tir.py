"""The rewrites of TensorIR: writing into part of a buffer, tails that overlap, skipped padding."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tvmconv._tvm import s_tir, te, tvm
from tvmconv.codegen.tir import overlap_tails, retarget_output, skip_padding
from tvmconv.kernel import REACH, WINDOW
from tvmconv.ops import Array


def plus_one(*shape: int) -> Any:
    """The function y = x + 1."""
    x = te.placeholder(shape, name="x")
    y = te.compute(shape, lambda *i: x(*i) + 1.0, name="y")
    return te.create_prim_func([x, y])


def call(func: Any, *arrays: Array) -> Array:
    """Run a function whose last argument is filled with NaN."""
    shape = [int(extent) for extent in func.params[-1].ty.shape]
    tensors = [tvm.runtime.tensor(a) for a in (*arrays, np.full(shape, np.nan, np.float32))]
    tvm.compile(tvm.IRModule({"main": func}), "llvm")(*tensors)
    return np.asarray(tensors[-1].numpy())


def ramp(*shape: int) -> Array:
    return np.arange(np.prod(shape), dtype=np.float32).reshape(shape)


# --- retarget_output


def test_output_in_a_larger_buffer() -> None:
    func = retarget_output(plus_one(2, 3, 4), (4, 5, 9), (1, 2, 3))
    got = call(func, ramp(2, 3, 4))
    expected = np.full((4, 5, 9), np.nan, np.float32)
    expected[1:3, 2:5, 3:7] = ramp(2, 3, 4) + 1
    np.testing.assert_array_equal(got, expected)


def test_output_of_the_same_shape_stays() -> None:
    func = plus_one(2, 3)
    assert retarget_output(func, (2, 3), (0, 0)) is func


def test_stages_before_the_output_stay() -> None:
    x = te.placeholder((6,), name="x")
    double = te.compute((6,), lambda i: x[i] * 2.0, name="double")
    y = te.compute((6,), lambda i: double[i] + 1.0, name="y")
    got = call(retarget_output(te.create_prim_func([x, y]), (8,), (1,)), ramp(6))
    np.testing.assert_array_equal(got[1:7], 2 * ramp(6) + 1)
    assert np.isnan(got[[0, 7]]).all()


def test_another_number_of_axes_is_refused() -> None:
    with pytest.raises(ValueError, match="zip"):
        retarget_output(plus_one(2, 3), (4, 4, 4), (0, 0, 0))


# --- overlap_tails


def tiled(func: Any, *sizes: int) -> Any:
    """A schedule with the loops of the output split and reordered, tiles innermost."""
    schedule = s_tir.Schedule(func)
    loops = schedule.get_loops(schedule.get_sblock("y"))
    pairs = [schedule.split(loop, [None, size]) for loop, size in zip(loops, sizes, strict=True)]
    schedule.reorder(*(pair[0] for pair in pairs), *(pair[1] for pair in pairs))
    return schedule


def guarded(func: Any) -> bool:
    return "T.where" in func.script()


@pytest.mark.parametrize("extent", [1, 2, 3, 7, 12, 13, 31])
def test_every_tile_of_every_extent(extent: int) -> None:
    for size in range(1, extent + 1):
        func = tiled(plus_one(extent), size).mod["main"]
        assert guarded(func) == (extent % size != 0)
        overlapped = overlap_tails(func)
        assert not guarded(overlapped)
        np.testing.assert_array_equal(call(overlapped, ramp(extent)), ramp(extent) + 1)


@pytest.mark.parametrize("sizes", [(1, 1, 1), (2, 3, 4), (3, 5, 7), (2, 2, 5), (4, 6, 8)])
def test_several_axes(sizes: tuple[int, int, int]) -> None:
    func = tiled(plus_one(4, 7, 9), *sizes).mod["main"]
    got = call(overlap_tails(func), ramp(4, 7, 9))
    np.testing.assert_array_equal(got, ramp(4, 7, 9) + 1)


def row_sums(size: int) -> Any:
    """Sums of 8 terms for each of 11 rows, doubled; the sums computed at the tile of the rows."""
    x = te.placeholder((11, 8), name="x")
    k = te.reduce_axis((0, 8), "k")
    total = te.compute((11,), lambda i: te.sum(x[i, k], axis=k), name="total")
    y = te.compute((11,), lambda i: total[i] * 2.0, name="y")
    schedule = tiled(te.create_prim_func([x, y]), size)
    place = schedule.get_loops(schedule.get_sblock("y"))[0]
    block = schedule.get_sblock("total")
    schedule.compute_at(block, place, preserve_unit_loops=True)
    schedule.set_scope(block, 0, "local")
    schedule.decompose_reduction(block, schedule.get_loops(block)[1])
    return schedule


@pytest.mark.parametrize("size", [1, 3, 4, 6, 11])
def test_a_stage_at_the_tile(size: int) -> None:
    """The stage, its initial value and the output overlap alike."""
    overlapped = overlap_tails(row_sums(size).mod["main"])
    assert not guarded(overlapped)
    np.testing.assert_array_equal(call(overlapped, ramp(11, 8)), 2 * ramp(11, 8).sum(axis=1))


@pytest.mark.parametrize("sizes", [(8, 3), (2, 4), (5, 2), (12, 1), (20, 2)])
def test_tiles_within_tiles(sizes: tuple[int, int]) -> None:
    """A stage whose place is written as a multiple of a sum overlaps as its readers do."""
    x = te.placeholder((36, 8), name="x")
    k = te.reduce_axis((0, 8), "k")
    total = te.compute((36,), lambda i: te.sum(x[i, k], axis=k), name="total")
    y = te.compute((36,), lambda i: total[i] * 2.0, name="y")
    sch = s_tir.Schedule(te.create_prim_func([x, y]))
    block = sch.get_sblock("total")
    _, place, _ = sch.split(sch.get_loops(sch.get_sblock("y"))[0], [None, *sizes])
    sch.compute_at(block, place, preserve_unit_loops=True)
    sch.set_scope(block, 0, "local")
    sch.split(sch.get_loops(block)[-1], [None, 4])  # writes (q*8 + k)*3 + r for q*24 + k*3 + r
    sch.decompose_reduction(block, sch.get_loops(block)[2])
    got = call(overlap_tails(sch.mod["main"]), ramp(36, 8))
    np.testing.assert_array_equal(got, 2 * ramp(36, 8).sum(axis=1))


def test_a_stage_that_stays_where_its_reader_moves_is_refused() -> None:
    """The stage has 12 elements, its reader 11: the reader's last tile of 4 begins at 7."""
    x = te.placeholder((12,), name="x")
    more = te.compute((12,), lambda i: x[i] + 1.0, name="more")
    y = te.compute((11,), lambda i: more[i] * 2.0, name="y")
    sch = tiled(te.create_prim_func([x, y]), 4)
    block = sch.get_sblock("more")
    sch.compute_at(block, sch.get_loops(sch.get_sblock("y"))[0], preserve_unit_loops=True)
    with pytest.raises(ValueError, match="which its tile has not"):
        overlap_tails(sch.mod["main"])


def test_a_guard_on_a_reduction_is_refused() -> None:
    """To sum a term twice would be wrong."""
    x = te.placeholder((4, 10), name="x")
    k = te.reduce_axis((0, 10), "k")
    y = te.compute((4,), lambda i: te.sum(x[i, k], axis=k), name="y")
    schedule = s_tir.Schedule(te.create_prim_func([x, y]))
    schedule.split(schedule.get_loops(schedule.get_sblock("y"))[1], [None, 4])
    with pytest.raises(ValueError, match="cannot remove the guard"):
        overlap_tails(schedule.mod["main"])


def test_a_tile_of_fused_axes_is_refused() -> None:
    schedule = s_tir.Schedule(plus_one(3, 4))
    schedule.split(schedule.fuse(*schedule.get_loops(schedule.get_sblock("y"))), [None, 5])
    with pytest.raises(ValueError, match="cannot overlap the tail of"):
        overlap_tails(schedule.mod["main"])


def test_a_tile_beyond_the_axis_is_refused() -> None:
    schedule = s_tir.Schedule(plus_one(5))
    schedule.split(schedule.get_loops(schedule.get_sblock("y"))[0], [2, 8])
    with pytest.raises(ValueError, match="is no tile of 8 of an axis of 5"):
        overlap_tails(schedule.mod["main"])


@pytest.mark.parametrize(("inside", "right"), [(True, False), (False, True)])
def test_a_sum_that_would_count_terms_twice_is_refused(inside: bool, right: bool) -> None:
    """Tiles of the lanes: around the sum's loops they are right, inside they add twice."""
    x = te.placeholder((5, 16), name="x")
    k = te.reduce_axis((0, 5), "k")
    y = te.compute((2, 16), lambda i, lane: te.sum(x[k, lane] * (i + 1.0), axis=k), name="y")
    sch = s_tir.Schedule(te.create_prim_func([x, y]))
    block = sch.get_sblock("y")
    _, lane, reduce = sch.get_loops(block)
    tile, inner = sch.split(lane, [None, 3])
    order = [reduce, tile, inner] if inside else [tile, reduce, inner]
    sch.reorder(*order)
    sch.decompose_reduction(block, reduce)
    if not right:
        with pytest.raises(ValueError, match="cannot overlap the tails of the sum y"):
            overlap_tails(sch.mod["main"])
        return
    data = ramp(5, 16)
    got = call(overlap_tails(sch.mod["main"]), data)
    np.testing.assert_array_equal(got, np.outer([1, 2], data.sum(0)))


def test_a_sum_that_starts_outside_its_tiles_is_refused() -> None:
    x = te.placeholder((5, 16), name="x")
    k = te.reduce_axis((0, 5), "k")
    y = te.compute((2, 16), lambda i, lane: te.sum(x[k, lane] * (i + 1.0), axis=k), name="y")
    sch = s_tir.Schedule(te.create_prim_func([x, y]))
    block = sch.get_sblock("y")
    rows, *_ = sch.get_loops(block)
    sch.decompose_reduction(block, rows)
    _, lane, _ = sch.get_loops(block)
    sch.split(lane, [None, 3])
    with pytest.raises(ValueError, match="cannot overlap the tails of the sum y"):
        overlap_tails(sch.mod["main"])


# --- skip_padding

CHANNELS, LANES = 2, 4
#: Extent, taps, stride, dilation, padding before and after.
WINDOWS = [
    (9, 3, 1, 1, 1, 1),
    (7, 3, 1, 4, 4, 4),
    (10, 3, 2, 3, 3, 2),
    (6, 5, 1, 1, 0, 4),
    (3, 4, 1, 2, 6, 0),
    (1, 3, 1, 1, 1, 1),
    (4, 3, 3, 2, 7, 9),
]


def outputs(window: tuple[int, ...]) -> int:
    extent, taps, stride, dilation, low, high = window
    return (low + extent + high - (taps - 1) * dilation - 1) // stride + 1


def windowed(
    window: tuple[int, ...], size: int, startless: bool = False, reach: int | None = None
) -> Any:
    """Sums over windows and channels, a tile of ``size`` outputs inside the loops of the sum."""
    extent, taps, stride, dilation, low, high = window
    x = te.placeholder((low + extent + high, CHANNELS), name="x")
    weight = te.placeholder((taps, CHANNELS, LANES), name="weight")
    k, c = te.reduce_axis((0, taps), "k"), te.reduce_axis((0, CHANNELS), "c")
    y = te.compute(
        (outputs(window), LANES),
        lambda i, lane: te.sum(x[i * stride + k * dilation, c] * weight[k, c, lane], axis=[k, c]),
        name="y",
        attrs={WINDOW: [stride, dilation, low, extent]}
        | ({} if reach is None else {REACH: [reach]}),
    )
    sch = s_tir.Schedule(te.create_prim_func([x, weight, y]))
    block = sch.get_sblock("y")
    position, lane, tap, channel = sch.get_loops(block)
    tile, inner = sch.split(position, [None, size])
    sch.reorder(tile, tap, channel, inner, lane)
    if not startless:
        sch.decompose_reduction(block, tap)
    return overlap_tails(sch.mod["main"])


def tiles_of(window: tuple[int, ...]) -> list[int]:
    return sorted({min(size, outputs(window)) for size in (1, 2, 3, 5, 100)})


@pytest.mark.parametrize("window", WINDOWS)
def test_exactly_the_taps_in_the_padding_are_skipped(window: tuple[int, ...]) -> None:
    """With 1 in the padding and 0 elsewhere, a sum counts the padding that was read for it."""
    extent, taps, stride, dilation, low, _ = window
    data = np.ones((sum(window[-2:]) + extent, CHANNELS), np.float32)
    data[low : low + extent] = 0
    ones = np.ones((taps, CHANNELS, LANES), np.float32)
    count = outputs(window)
    for size in tiles_of(window):
        got = call(skip_padding(windowed(window, size)), data, ones)
        expected = np.zeros(count)
        for start in range(0, count, size):
            first = min(start, count - size)
            for tap in range(taps):
                at = np.arange(first, first + size) * stride + tap * dilation - low
                skipped = at[-1] < 0 or at[0] >= extent
                read = np.where(skipped, 0, (at < 0) | (at >= extent))
                expected[first : first + size] = read + (tap > 0) * expected[first : first + size]
        np.testing.assert_array_equal(got, CHANNELS * expected[:, None].repeat(LANES, 1))


@pytest.mark.parametrize("window", WINDOWS)
def test_the_sums_stay_right(window: tuple[int, ...]) -> None:
    extent, taps, *_, low, _ = window
    data = np.zeros((sum(window[-2:]) + extent, CHANNELS), np.float32)
    data[low : low + extent] = ramp(extent, CHANNELS) + 1
    weight = ramp(taps, CHANNELS, LANES)
    for size in tiles_of(window):
        func = windowed(window, size)
        np.testing.assert_array_equal(
            call(skip_padding(func), data, weight), call(func, data, weight)
        )


@pytest.mark.parametrize(
    ("window", "size", "conditions"),
    [
        ((9, 3, 1, 1, 0, 0), 1, 0),
        ((9, 3, 1, 1, 1, 1), 3, 0),
        ((9, 3, 1, 1, 1, 0), 1, 1),
        ((9, 3, 1, 1, 1, 1), 1, 2),
    ],
)
def test_conditions_only_where_a_tile_can_skip(
    window: tuple[int, ...], size: int, conditions: int
) -> None:
    text = skip_padding(windowed(window, size)).script()
    assert text.count("if ") == (conditions > 0)
    assert text.count(">= 0") + text.count("0 <=") + text.count(" < 9") == conditions, text


@pytest.mark.parametrize(("reach", "fits"), [(-1, True), (3, True), (2, False), (0, False)])
def test_a_tile_may_not_read_beyond_the_halo(reach: int, fits: bool) -> None:
    func = windowed((7, 3, 1, 4, 4, 4), 4, reach=reach)
    if fits:
        skip_padding(func)
    else:
        with pytest.raises(ValueError, match=f"a tile of 4 reads farther than {reach} into a halo"):
            skip_padding(func)
    with pytest.raises(ValueError, match="starts its sums where it reads beyond the halo"):
        skip_padding(windowed((7, 3, 1, 4, 4, 4), 1, startless=True, reach=3))


def test_a_sum_that_starts_inside_its_taps_is_left_alone() -> None:
    func = windowed((7, 3, 1, 4, 4, 4), 1, startless=True)
    assert "if " not in skip_padding(func).script()
