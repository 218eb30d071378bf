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
from .cuda_intrinsics import Element
from .cuda_mma import COLUMN_PAD, WarpTile
from .cuda_statements import TILE, WARP
from .cuda_tiles import Product, product_cycles, split_counts

_WARP_ROWS, _WARP_COLUMNS = (16, 32, 64), (16, 32, 64)
_WARPS = (1, 2, 4)
_MOST_WARPS = 8
_DEPTHS = (16, 32, 64)
_SLICES = (2, 3, 4)


def candidates(product: Product, element: Element, target: Target) -> list[Candidate]:
    """Every tile that fits the device."""
    return [
        Candidate(tile.knobs(), cycles(product, element, tile, target.gpu))
        for tile in _tiles(product, target.gpu)
        if blocks_per_sm(element, tile, target.gpu)
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
                        shape = (rows, columns, depth, splits, slices)
                        yield WarpTile(*shape, warp_rows, warp_columns)


def registers(element: Element, tile: WarpTile) -> int:
    """Registers of a thread: sums, fragments of both operands, addresses."""
    sums = tile.warp_rows * tile.warp_columns // WARP
    fragments = (tile.warp_rows + tile.warp_columns) * TILE // WARP * element.bytes // costs.BYTES
    return sums + fragments + costs.ADDRESS_REGISTERS + sums // 4


def slice_bytes(element: Element, tile: WarpTile) -> int:
    """Shared memory of the slices of both operands, with what pads their rows."""
    width = tile.depth + (element.load - tile.depth) % (2 * element.load)
    columns = tile.columns + (COLUMN_PAD - tile.columns) % TILE
    return tile.slices * element.bytes * (tile.rows * width + tile.depth * columns)


def sum_bytes(tile: WarpTile) -> int:
    """Shared memory of the sums of a block."""
    return tile.rows * tile.columns * costs.BYTES


def blocks_per_sm(element: Element, tile: WarpTile, device: Device) -> int:
    """Blocks that a multiprocessor holds at a time."""
    if sum_bytes(tile) > costs.STATIC_SHARED_BYTES:
        return 0
    shared = slice_bytes(element, tile) + sum_bytes(tile)
    return costs.occupancy(device, tile.warps * WARP, registers(element, tile), shared)


def cycles(product: Product, element: Element, tile: WarpTile, device: Device) -> float:
    """Predicted time of a contraction, in cycles of the device."""
    held = blocks_per_sm(element, tile, device)

    def wave(blocks: int, trips: int) -> float:
        return _wave_cycles(element, tile, blocks, trips, device)

    return product_cycles(product, tile, held, wave, device)


def _tflops(element: Element, device: Device) -> float:
    """The tensor cores' peak."""
    rates = {"fp16": device.f16_tflops, "bf16": device.bf16_tflops, "tf32": device.tf32_tflops}
    return rates[element.name]


def _wave_cycles(element: Element, tile: WarpTile, held: int, trips: int, device: Device) -> float:
    """Time of a multiprocessor that works on some blocks at once."""
    flops = _tflops(element, device) * 1e3 / device.clock_ghz / device.multiprocessors
    multiplied = tile.rows * tile.columns * tile.depth * FLOP_PER_FMA / flops
    read = tile.warps * (tile.warp_rows + tile.warp_columns) * tile.depth * element.bytes
    brought = (tile.rows + tile.columns) * tile.depth * element.bytes
    work = costs.overlapped(
        multiplied, read / device.shared_bytes_per_cycle, brought / device.l2_bytes_per_cycle
    )
    # Each quarter of a multiprocessor has a tensor core, which needs two warps to stay busy.
    busy = min(1.0, held * tile.warps * device.warp_threads / device.f32_lanes / 4)
    alone = multiplied / min(1.0, tile.warps * device.warp_threads / device.f32_lanes / 4)
    waiting = costs.LATENCY_CYCLES / max(1, tile.slices - 1)
    turn = max(held * work / busy, alone + costs.BARRIER_CYCLES, waiting)
    return math.fsum((trips * turn, costs.BLOCK_CYCLES))
