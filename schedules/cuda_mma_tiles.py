"""The tiles of a contraction on tensor cores that fit a multiprocessor, and what each costs.

As :mod:`schedules.cuda_tiles`, with the tensor cores' rate in place of the FMA units', and what
warps read by ``ldmatrix`` in place of what threads read.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator

from tvmconv.autoschedule.space import Candidate
from tvmconv.gpu import FLOP_PER_FMA, Device
from tvmconv.target import Target

from . import cuda_costs as costs
from .cuda_intrinsics import TILE, WARP
from .cuda_mma import LOAD_HALVES, WarpTile
from .cuda_tiles import Product, grid, split_counts

_WARP_ROWS, _WARP_COLUMNS = (16, 32, 64), (16, 32, 64)
_WARPS = (1, 2, 4)
_MOST_WARPS = 8
_DEPTHS = (16, 32, 64)
_SLICES = (2, 3, 4)
#: Bytes of an operand's element, and of a sum.
_HALF_BYTES, _SUM_BYTES = 2, 4


def candidates(product: Product, target: Target) -> list[Candidate]:
    """Every tile that fits the device."""
    return [
        Candidate(tile.knobs(), cycles(product, tile, target.gpu))
        for tile in _tiles(product, target.gpu)
        if blocks_per_sm(tile, target.gpu)
    ]


def _tiles(product: Product, device: Device) -> Iterator[WarpTile]:
    axes = (_WARP_ROWS, _WARPS, _WARP_COLUMNS, _WARPS)
    for warp_rows, warps_m, warp_columns, warps_n in itertools.product(*axes):
        rows, columns = warp_rows * warps_m, warp_columns * warps_n
        # A tile is no more than twice too large, and not smaller than an instruction's.
        large = rows >= 2 * max(product.rows, TILE) or columns >= 2 * max(product.columns, TILE)
        lanes = columns % product.lanes
        if warps_m * warps_n > _MOST_WARPS or large or lanes:
            continue
        blocks = product.batch * -(-product.rows // rows) * -(-product.columns // columns)
        for depth in _DEPTHS:
            for splits in split_counts(product, blocks, depth, device):
                trips = -(-product.terms // splits // depth)
                for slices in (1, *_SLICES):
                    if (slices > 1 or trips == 1) and slices <= trips:
                        yield WarpTile(
                            rows, columns, depth, warp_rows, warp_columns, splits, slices
                        )


def registers(tile: WarpTile) -> int:
    """Registers of a thread: sums, fragments of both operands, addresses."""
    sums = tile.warp_rows * tile.warp_columns // WARP
    fragments = (tile.warp_rows + tile.warp_columns) * TILE // WARP // 2
    return sums + fragments + costs.ADDRESS_REGISTERS + sums // 4


def slice_bytes(tile: WarpTile) -> int:
    """Shared memory of the slices of both operands, with what pads their rows."""
    width, columns = (_odd(size) for size in (tile.depth, tile.columns))
    return tile.slices * _HALF_BYTES * (tile.rows * width + tile.depth * columns)


def _odd(halves: int) -> int:
    """Length of a row that is an odd number of loads."""
    return halves + (LOAD_HALVES - halves) % TILE


def sum_bytes(tile: WarpTile) -> int:
    """Shared memory of the sums of a block."""
    return tile.rows * tile.columns * _SUM_BYTES


def blocks_per_sm(tile: WarpTile, device: Device) -> int:
    """Blocks that a multiprocessor holds at a time."""
    if sum_bytes(tile) > costs.STATIC_SHARED_BYTES:
        return 0
    shared = slice_bytes(tile) + sum_bytes(tile)
    return costs.occupancy(device, tile.warps * WARP, registers(tile), shared)


def cycles(product: Product, tile: WarpTile, device: Device) -> float:
    """Predicted time of a contraction, in cycles of the device."""
    trips = -(-(product.terms // tile.splits) // tile.depth)
    held = blocks_per_sm(tile, device)
    blocks = grid(product, tile)
    waves, rest = divmod(blocks, held * device.multiprocessors)
    time = waves * _wave_cycles(tile, held, trips, device)
    if rest:
        time += _wave_cycles(tile, -(-rest // device.multiprocessors), trips, device)
    time = costs.overlapped(time, costs.dram_cycles(device, product.data_bytes))
    if tile.splits > 1 or product.partial:
        time += costs.partial_cycles(
            device, product.batch * tile.splits, (product.rows, tile.rows),
            (product.columns, tile.columns),
        )  # fmt: skip
    return time + costs.LAUNCH_CYCLES


def _wave_cycles(tile: WarpTile, held: int, trips: int, device: Device) -> float:
    """Time of a multiprocessor that works on some blocks at once."""
    flops = device.f16_tflops * 1e3 / device.clock_ghz / device.multiprocessors
    multiplied = tile.rows * tile.columns * tile.depth * FLOP_PER_FMA / flops
    read = tile.warps * (tile.warp_rows + tile.warp_columns) * tile.depth * _HALF_BYTES
    brought = (tile.rows + tile.columns) * tile.depth * _HALF_BYTES
    work = costs.overlapped(
        multiplied, read / device.shared_bytes_per_cycle, brought / device.l2_bytes_per_cycle
    )
    # Each quarter of a multiprocessor has a tensor core, which needs two warps to stay busy.
    busy = min(1.0, held * tile.warps * device.warp_threads / device.f32_lanes / 4)
    alone = multiplied / min(1.0, tile.warps * device.warp_threads / device.f32_lanes / 4)
    waiting = costs.LATENCY_CYCLES / max(1, tile.slices - 1)
    turn = max(held * work / busy, alone + costs.BARRIER_CYCLES, waiting)
    return math.fsum((trips * turn, costs.BLOCK_CYCLES))
