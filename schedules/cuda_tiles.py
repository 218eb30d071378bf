"""The tiles of a contraction on CUDA cores that fit a multiprocessor, and what each costs.

A block of threads multiplies ``rows x columns x depth`` a slice: so many multiply-adds, so many
floats from shared memory (``thread_rows + thread_columns`` a thread and term), and a slice of both
operands from the second cache level. What takes longest of the three is the slice's time, unless
too few warps are there to keep the units busy, or the next slice has not yet arrived. Blocks run in
waves of as many as registers, shared memory and threads allow.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from tvmconv.autoschedule.space import Candidate
from tvmconv.gpu import Device
from tvmconv.target import Target

from . import cuda_costs as costs
from .cuda_contraction import ASYNC_SM, COLUMN_PAD, SUM_PAD, Tile
from .cuda_threads import LOAD_LANES
from .cuda_tile import BlockTile

_THREAD_ROWS, _THREAD_COLUMNS = (1, 2, 4, 8), (4, 8)
_THREADS_M, _THREADS_N = (1, 2, 4, 8, 16, 32), (2, 4, 8, 16, 32)
_FEWEST_THREADS, _MOST_THREADS = 32, 256
_DEPTHS = (8, 16, 32)
_DEEPEST = 36
_SLICES = (1, 2, 3)
#: Trips through its slices that a part of the sum has, at least.
_FEWEST_TRIPS = 4


@dataclass(frozen=True)
class Product:
    """A contraction as matrices.

    Attributes
    ----------
    batch, rows, columns, terms : int
        Matrices, and their extents.
    trips : int
        Extent of the axis along which the sum can be cut into parts.
    side_by_side : int
        Terms of the input that lie side by side.
    partial : bool
        Whether the sums are parts of longer ones, which another launch adds up.
    data_bytes : int
        Of all operands and the result.
    lanes : int
        Columns that lie side by side.
    """

    batch: int
    rows: int
    columns: int
    terms: int
    trips: int
    side_by_side: int
    partial: bool
    data_bytes: int
    lanes: int

    @property
    def vectors(self) -> bool:
        """Whether floats of the input can be loaded four at a time."""
        return self.side_by_side % LOAD_LANES == 0


def candidates(product: Product, target: Target) -> list[Candidate]:
    """Every tile that fits the device."""
    return [
        Candidate(tile.knobs(), cycles(product, tile, target.gpu))
        for tile in _tiles(product, target.gpu)
        if shared_bytes(product, tile) <= costs.STATIC_SHARED_BYTES
        and blocks_per_sm(product, tile, target.gpu)
    ]


def _tiles(product: Product, device: Device) -> Iterator[Tile]:
    counts = [count for count in _SLICES if count < 3 or device.sm >= ASYNC_SM]
    for rows, columns, thread_rows, thread_columns in _shapes(product):
        blocks = product.batch * -(-product.rows // rows) * -(-product.columns // columns)
        for depth in _depths(product):
            for splits in split_counts(product, blocks, depth, device):
                trips = -(-product.terms // splits // depth)
                for slices in counts:
                    if slices <= trips:
                        shape = (rows, columns, depth, splits, slices)
                        yield Tile(*shape, thread_rows, thread_columns)


def _shapes(product: Product) -> Iterator[tuple[int, int, int, int]]:
    """Rows and columns of a block's tile, and of a thread's; none more than twice too large."""
    axes = (_THREAD_ROWS, _THREADS_M, _THREAD_COLUMNS, _THREADS_N)
    for thread_rows, threads_m, thread_columns, threads_n in itertools.product(*axes):
        rows, columns = thread_rows * threads_m, thread_columns * threads_n
        fitting = rows < 2 * product.rows and columns < 2 * product.columns
        if (
            _FEWEST_THREADS <= threads_m * threads_n <= _MOST_THREADS
            and fitting
            and columns % product.lanes == 0
        ):
            yield rows, columns, thread_rows, thread_columns


def _depths(product: Product) -> list[int]:
    """Terms of a slice: divisors of all, if there are any, so that nothing is padded."""
    unit = LOAD_LANES if product.vectors else 1
    exact = [d for d in range(8, _DEEPEST) if product.terms % d == 0 and d % unit == 0]
    usual = [d for d in exact if d in _DEPTHS]
    if product.terms < _DEPTHS[0]:
        return [costs.round_up(product.terms, unit)]
    return usual or exact[-2:] or [_DEPTHS[1]]


def split_counts(product: Product, blocks: int, depth: int, device: Device) -> list[int]:
    """Into how many parts the sum may be cut: while there is room for more blocks."""
    return [
        s
        for s in range(1, product.trips + 1)
        if product.trips % s == 0
        and (s == 1 or blocks * s <= 8 * device.multiprocessors)
        and (s == 1 or product.terms // s >= _FEWEST_TRIPS * depth)
    ]


def registers(product: Product, tile: Tile) -> int:
    """Registers of a thread: sums, their operands, addresses."""
    steps = LOAD_LANES if product.vectors else 1
    operands = tile.thread_rows * steps + tile.thread_columns
    return tile.thread_rows * tile.thread_columns + operands + costs.ADDRESS_REGISTERS


def shared_bytes(product: Product, tile: Tile) -> int:
    """Shared memory of a block: the slices of both operands."""
    pad = SUM_PAD if product.vectors else 0
    odd = 2 * COLUMN_PAD
    columns = tile.columns + (COLUMN_PAD - tile.columns) % odd
    width = tile.depth + (pad - tile.depth) % (2 * pad) if pad else tile.depth
    return tile.slices * costs.BYTES * (tile.rows * width + tile.depth * columns)


def blocks_per_sm(product: Product, tile: Tile, device: Device) -> int:
    """Blocks that a multiprocessor holds at a time."""
    return costs.occupancy(
        device, tile.threads, registers(product, tile), shared_bytes(product, tile)
    )


def cycles(product: Product, tile: Tile, device: Device) -> float:
    """Predicted time of a contraction, in cycles of the device."""
    held = blocks_per_sm(product, tile, device)

    def wave(blocks: int, trips: int) -> float:
        return _wave_cycles(tile, blocks, trips, device)

    return product_cycles(product, tile, held, wave, device)


def product_cycles(
    product: Product,
    tile: BlockTile,
    held: int,
    wave: Callable[[int, int], float],
    device: Device,
) -> float:
    """Predicted time of a contraction of tiles of any kind, in cycles of the device.

    Parameters
    ----------
    product : Product
    tile : BlockTile
    held : int
        Blocks that a multiprocessor holds at a time.
    wave : callable
        ``wave(blocks, trips)``: the time of a multiprocessor that works on some blocks at once,
        each of so many slices.
    device : Device
    """
    trips = -(-(product.terms // tile.splits) // tile.depth)
    matrices = product.batch * tile.splits
    blocks = matrices * -(-product.rows // tile.rows) * -(-product.columns // tile.columns)
    waves, rest = divmod(blocks, held * device.multiprocessors)
    time = waves * wave(held, trips)
    if rest:
        time += wave(-(-rest // device.multiprocessors), trips)
    time = costs.overlapped(time, costs.dram_cycles(device, product.data_bytes))
    if tile.splits > 1 or product.partial:
        time += costs.partial_cycles(
            device, matrices, (product.rows, tile.rows), (product.columns, tile.columns)
        )
    return time + costs.LAUNCH_CYCLES


def _wave_cycles(tile: Tile, held: int, trips: int, device: Device) -> float:
    """Time of a multiprocessor that works on some blocks at once."""
    warps = tile.threads / device.warp_threads
    multiplied = tile.rows * tile.columns * tile.depth
    floats = tile.threads * tile.depth * (tile.thread_rows + tile.thread_columns)
    brought = (tile.rows + tile.columns) * tile.depth * costs.BYTES
    work = costs.overlapped(
        multiplied / device.f32_lanes,
        floats * costs.BYTES / device.shared_bytes_per_cycle,
        brought / device.l2_bytes_per_cycle,
    )
    # One warp starts at most one instruction a cycle, and waits now and then.
    busy = min(1.0, held * warps * device.warp_threads / device.f32_lanes / 2)
    alone = multiplied / min(device.f32_lanes, warps * device.warp_threads / 2)
    if tile.slices == 1:
        turn = max(held * work / busy, alone + costs.LATENCY_CYCLES)
    else:
        waiting = costs.LATENCY_CYCLES / (tile.slices - 1)
        turn = max(held * work / busy, alone + costs.BARRIER_CYCLES, waiting)
    return math.fsum((trips * turn, costs.BLOCK_CYCLES))
