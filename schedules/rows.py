"""Windows and whole planes of plain tensors on CPUs: lanes are neighbouring pixels.

A kernel of the kind ``rows`` has some stages before its output: a buffer of rows (the rows of
the windows reduced, or a copy with padding; with a stride, copied once more by the phase of their
columns), then the reduction over what is left of the windows. Where the output's rows are shorter
than a vector, it may copy from wider ones. A tile of neighbouring outputs keeps its results in
registers; the buffer is filled for one plane, or for a strip of its rows. A kernel of the kind
``lanes`` reduces each plane, a run of memory, to some vectors, and these to one number.

Such kernels are bound by memory, or by the loads and stores of the buffer.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import astuple, dataclass, fields

from tvmconv._tvm import TVMObject
from tvmconv.autoschedule.space import Candidate
from tvmconv.kernel import KIND
from tvmconv.target import Target

from . import costs
from .primitives import Blocks, balance, reductions, unroll_tile

#: The kinds of a kernel's stages that are scheduled here.
KINDS = ("rows", "lanes")
#: Rows and vectors of a tile, at most.
_MAX_ROWS, _MAX_VECTORS = 8, 4
#: Terms of a reduction up to which its loops are unrolled.
_UNROLLED_TAPS = 49
#: Elements of a register tile times taps, up to which both are unrolled.
_UNROLLED_STEPS = 512
#: Loads of a row of the buffer up to which all of them are unrolled: where the padding is, is then
#: known beforehand.
_UNROLLED_LOADS = 32
#: Cycles of a tile besides its steps, of a row of the buffer, and of a plane.
_TILE_CYCLES, _ROW_CYCLES, _PLANE_CYCLES = 4.0, 4.0, 60.0
#: Tiles whose chains of sums the core works on at the same time.
_TILES_AT_ONCE = 1.5
#: Runs that each thread has of work that cannot be divided evenly, at least.
_PARTS = 8
#: Cycles to copy one vector of a row by the phases of its columns.
_SPLIT_CYCLES = 2.5


def kind_of(sch: TVMObject, blocks: Blocks) -> str:
    """The kind of a kernel on planes, or nothing if it is another."""
    kinds = {str(sch.get(block).annotations.get(KIND, "")) for block in blocks.stages}
    return next((kind for kind in KINDS if kind in kinds), "")


@dataclass(frozen=True)
class Rows:
    """A schedule of windows on planes.

    Attributes
    ----------
    lanes : int
        Neighbouring outputs of one vector.
    vectors, rows : int
        Vectors along the last axis, and places along the one before, of one tile.
    strip : int
        Rows of the output for which the buffer is filled at once: all, or a divisor of them.
    fused : int
        What is shared among the threads: nothing, planes, or strips of planes.
    """

    lanes: int
    vectors: int
    rows: int
    strip: int
    fused: int

    def knobs(self) -> tuple[tuple[str, int], ...]:
        """The tile as a point of a design space; :meth:`of` makes it again."""
        names = (field.name for field in fields(self))
        return tuple(zip(names, astuple(self), strict=True))

    @classmethod
    def of(cls, knobs: tuple[tuple[str, int], ...]) -> Rows:
        """The tile with these knobs."""
        return cls(**dict(knobs))


@dataclass(frozen=True)
class Sizes:
    """Extents of a kernel of the kind ``rows``.

    Attributes
    ----------
    outer : tuple of int
        Of the output: batch, channels, spatial axes but the last.
    width : int
        Of the output.
    taps : tuple of int
        Terms of the last reduction.
    buffer : tuple of int
        Extents of the buffer of rows; empty if there is none.
    buffer_taps : int
        Terms of the reduction that fills the buffer.
    phased : bool
        Whether its columns are copied by their phase.
    cropped : bool
        Whether the output is a copy of the results without their last columns.
    """

    outer: tuple[int, ...]
    width: int
    taps: tuple[int, ...]
    buffer: tuple[int, ...]
    buffer_taps: int
    phased: bool
    cropped: bool

    @property
    def height(self) -> int:
        """Rows of the output in a plane (of a volume: in one of its planes)."""
        return self.outer[-1] if len(self.outer) > 2 else 1


def sizes(sch: TVMObject, blocks: Blocks) -> Sizes:
    """Read the sizes off a kernel that has not been scheduled."""
    *before, work, main = _computed(sch, blocks)
    *outer, width = (int(sch.get(loop).extent) for loop in sch.get_loops(main))
    buffer: tuple[int, ...] = ()
    buffer_taps = 1
    if before:
        taps = reductions(sch, before[0])
        loops = [int(sch.get(loop).extent) for loop in sch.get_loops(before[0])]
        buffer, buffer_taps = tuple(loops[: len(loops) - len(taps)]), math.prod(taps)
    window = tuple(reductions(sch, work))
    phased, cropped = len(before) > 1, main != blocks.output
    return Sizes(tuple(outer), width, window, buffer, buffer_taps, phased, cropped)


def _computed(sch: TVMObject, blocks: Blocks) -> list[TVMObject]:
    """The stages of windows, and the block that finishes them: the last one is then a copy."""
    found = [*blocks.stages, blocks.output]
    if sch.get(blocks.stages[-1]).annotations[KIND] == "wide":
        found.pop()
    return found


def candidates(sch: TVMObject, blocks: Blocks, target: Target) -> list[Candidate]:
    """Every schedule of a kernel on planes."""
    if kind_of(sch, blocks) == "lanes":
        return _plane_candidates(sch, blocks, target)
    dims = sizes(sch, blocks)
    return [Candidate(tile.knobs(), cycles(dims, tile, target)) for tile in _tiles(dims, target)]


def _tiles(dims: Sizes, target: Target) -> Iterator[Rows]:
    """Tiles that fit the registers, in vectors that the width has room for."""
    room = max(1, target.vector.registers - 4)
    rows = range(1, min(_MAX_ROWS, dims.height) + 1)
    for lanes in _lane_counts(dims.width, target):
        vectors = range(1, min(_MAX_VECTORS, dims.width // lanes) + 1)
        for row, vector in itertools.product(rows, vectors):
            steps = row * vector * math.prod(dims.taps)
            if row * vector > room or (row * vector > 1 and steps > _UNROLLED_STEPS):
                continue
            for strip in _strips(dims, row, target):
                for fused in (0, 1, 2) if strip < dims.height else (0, 1):
                    yield Rows(lanes, vector, row, strip, fused)


def _lane_counts(width: int, target: Target) -> list[int]:
    """The longest vectors that fit a row, and those of half their length."""
    longest = _fitting(width, target)
    return [longest, longest // 2] if longest > 4 else [longest]


def _fitting(width: int, target: Target) -> int:
    """Lanes of the longest vector that fits a row."""
    return min(target.vector.f32_lanes, 1 << (width.bit_length() - 1))


def _strips(dims: Sizes, row: int, target: Target) -> list[int]:
    """All rows at once, or strips of whole tiles whose buffer fits the first cache level."""
    height = dims.height
    if not dims.buffer or dims.cropped or len(dims.outer) < 3:
        return [height]
    fitting = [
        strip
        for strip in range(row, height, row)
        if height % strip == 0
        and strip >= 4
        and _buffer_bytes(dims, strip) <= target.caches.l1_bytes / 2
    ]
    return [height, *fitting[-1:]]


def _buffer_bytes(dims: Sizes, strip: int) -> float:
    """Bytes of the buffer of a strip, and of its copy by phases if there is one."""
    plane = math.prod(dims.buffer[2:]) * costs.BYTES * (1 + dims.phased)
    rows = dims.buffer[len(dims.outer) - 1]
    return plane * _strip_rows(dims, strip) / rows


def _strip_rows(dims: Sizes, strip: int) -> int:
    """Rows of the buffer that a strip needs: as many, or with the windows' overlap."""
    rows = dims.buffer[len(dims.outer) - 1]
    step = max(1, (rows - dims.taps[-2]) // max(1, dims.height - 1)) if len(dims.taps) > 1 else 1
    return rows - (dims.height - strip) * step


def cycles(dims: Sizes, tile: Rows, target: Target) -> float:
    """Predicted time of a kernel of windows on planes, in cycles of one core."""
    strips = dims.height // tile.strip if dims.buffer else 1
    volume = math.prod(dims.outer[2:-1])
    depth = volume if strips > 1 else 1
    filled = _fill_cycles(dims, tile.strip, target) * strips * depth if dims.buffer else 0.0
    counts = -(-dims.height // tile.rows) * -(-dims.width // (tile.vectors * tile.lanes)) * volume
    sums = tile.vectors * tile.rows
    taps = math.prod(dims.taps)
    loads = float(sums * taps)
    if len(dims.taps) > 1:
        # Windows below each other share rows, which are loaded once, and each tap has a weight.
        shared = (dims.taps[-2] + tile.rows - 1) / (dims.taps[-2] * tile.rows)
        loads = loads * shared + taps
    step = max(
        sums * taps / target.vector.fma_per_cycle,
        loads / target.vector.loads_per_cycle,
        taps * target.vector.fma_latency / _TILES_AT_ONCE,
    )
    work = counts * (
        step + _spilled(dims, tile, target) + sums * costs.SUM_CYCLES / 2 + _TILE_CYCLES
    )
    planes = dims.outer[0] * dims.outer[1]
    data = (dims.width * math.prod(dims.outer[2:]) + _read(dims)) * costs.BYTES
    memory = data / target.caches.bytes_per_cycle(data * planes)
    if dims.buffer:
        # What is written to a buffer and read again, from the cache level that holds it.
        near = _buffer_bytes(dims, tile.strip)
        far = 2 * near > target.caches.l1_bytes
        memory += 2 * near * strips * depth / target.caches.bytes_per_cycle(2 * near) * far
    total: float = (costs.overlapped(work + filled, memory) + _PLANE_CYCLES) * planes
    if not tile.fused:
        return total
    units = planes * (strips * depth if tile.fused == 2 else 1)
    return _shared(total, units, target)


def _spilled(dims: Sizes, tile: Rows, target: Target) -> int:
    """Stores and loads of a tile's inputs that registers do not hold until their last use.

    LLVM loads once what several rows of windows read. On processors whose multiply-adds take no
    operand from memory, it keeps that in registers, beside the sums, from one row to the next.
    """
    if not target.vector.lane_operand or len(dims.taps) < 2 or dims.taps[-2] == 1:
        return 0
    kept = (tile.rows - 1) * tile.vectors * dims.taps[-1]
    return 2 * max(0, tile.rows * tile.vectors + kept + 4 - target.vector.registers)


def _read(dims: Sizes) -> int:
    """Elements of the input for one plane of the output, about."""
    if not dims.buffer:
        return dims.width * math.prod(dims.outer[2:])
    return math.prod(dims.buffer[2:]) * dims.buffer_taps // (1 + (dims.buffer_taps > 1))


def _fill_cycles(dims: Sizes, strip: int, target: Target) -> float:
    """Cycles to fill the buffer of one strip."""
    if len(dims.outer) < 3:
        rows = 1
    else:
        rows = math.prod(dims.buffer[2 : len(dims.outer) - 1]) * _strip_rows(dims, strip)
    lanes = _fitting(dims.buffer[-1], target)
    vectors = -(-dims.buffer[-1] // lanes)
    each = dims.buffer_taps / target.vector.loads_per_cycle + 1
    each += _SPLIT_CYCLES if dims.phased else 0.0
    return rows * (vectors * each + _ROW_CYCLES)


def _shared(total: float, units: int, target: Target) -> float:
    """Time of work that so many equal units share among the threads."""
    threads = max(1, target.cores)
    launch = costs.LAUNCH_CYCLES if threads > 1 else 0
    return total / threads * balance(_parts(units, target), threads) + launch


def schedule(sch: TVMObject, blocks: Blocks, target: Target, candidate: Candidate) -> None:
    """Schedule a kernel on planes as one of its :func:`candidates` says."""
    if kind_of(sch, blocks) == "lanes":
        _schedule_planes(sch, blocks, target, dict(candidate.knobs)["fused"])
    else:
        _schedule_rows(sch, blocks, Rows.of(candidate.knobs), target)


def _schedule_rows(sch: TVMObject, blocks: Blocks, tile: Rows, target: Target) -> None:
    """Tile the output, reduce a tile in registers, and fill the buffer for a plane or a strip."""
    dims = sizes(sch, blocks)
    *buffer, work, main = _computed(sch, blocks)
    n, c, *outer = sch.get_loops(blocks.output)
    planes = sch.fuse(n, c)
    if tile.fused == 1:
        planes = _share(sch, planes, target)
    if main != blocks.output:
        _, lane = sch.split(outer[-1], [None, _fitting(int(sch.get(outer[-1]).extent), target)])
        sch.vectorize(lane)
        sch.compute_at(main, planes, preserve_unit_loops=True)
        outer = sch.get_loops(main)[-len(outer) :]
    strips, tiles, inner = _tile(sch, outer, tile, dims)
    sch.reorder(*strips, *tiles, *inner)
    if tile.fused == 2:
        planes = _share(sch, sch.fuse(planes, *strips), target)
    _reduce_at(sch, work, tiles[-1], tile.lanes)
    unroll_tile(sch, inner)
    place = strips[-1] if strips and tile.fused < 2 else planes
    for block in reversed(buffer):
        if sch.get(block).annotations[KIND] == "phases":
            _split_at(sch, block, place)
        else:
            _fill_at(sch, block, place, target)


def _tile(
    sch: TVMObject, loops: list[TVMObject], tile: Rows, dims: Sizes
) -> tuple[list[TVMObject], list[TVMObject], list[TVMObject]]:
    """Split the loops over a plane: those over strips, over tiles, and in a tile."""
    *outer, width = loops
    columns, *inner = sch.split(width, [None, tile.vectors, tile.lanes])
    if not outer:
        return [], [columns], inner
    *outer, height = outer
    if tile.strip == dims.height:
        rows, row = sch.split(height, [None, tile.rows])
        return [], [*outer, rows, columns], [row, *inner]
    strip, rows, row = sch.split(height, [None, tile.strip // tile.rows, tile.rows])
    return [*outer, strip], [rows, columns], [row, *inner]


def _share(sch: TVMObject, loop: TVMObject, target: Target) -> TVMObject:
    """Share a loop among the threads in equal runs, and return the loop over a run.

    Each run takes its buffers from the workspace once.
    """
    parts, rest = sch.split(loop, [_parts(int(sch.get(loop).extent), target), None])
    sch.parallel(parts)
    return rest


def _parts(units: int, target: Target) -> int:
    """How many equal runs of the units are shared: few, but such that the threads are balanced."""
    threads = max(1, target.cores)
    divisors = [d for d in range(1, units + 1) if units % d == 0]
    even = [d for d in divisors if d % threads == 0]
    many = [d for d in divisors if d >= _PARTS * threads]
    return min([*even[:1], *many[:1]], default=units)


def _reduce_at(sch: TVMObject, block: TVMObject, place: TVMObject, lanes: int) -> None:
    """Reduce a tile in registers, the window's loops outside and the tile's, unrolled, inside."""
    taps = reductions(sch, block)
    sch.compute_at(block, place, preserve_unit_loops=True)
    own = sch.get_loops(block)[-len(sch.get(block).iter_vars) :]
    *tile, width = own[: len(own) - len(taps)]
    reduce = own[len(own) - len(taps) :]
    vectors, lane = sch.split(width, [None, lanes])
    sch.reorder(*reduce, *tile, vectors, lane)
    if math.prod(taps) <= _UNROLLED_TAPS:
        for loop in reduce:
            sch.unroll(loop)
    unroll_tile(sch, [*tile, vectors, lane])
    init = sch.decompose_reduction(block, reduce[0])
    unroll_tile(sch, sch.get_loops(init)[-len(tile) - 2 :])


def _fill_at(sch: TVMObject, block: TVMObject, place: TVMObject, target: Target) -> None:
    """Fill the buffer of rows at a loop, a vector of columns at a time."""
    taps = reductions(sch, block)
    spatial = len(sch.get_loops(block)) - len(taps)
    sch.compute_at(block, place, preserve_unit_loops=True)
    loops = sch.get_loops(block)[-spatial - len(taps) :]
    *rows, column = loops[:spatial]
    extent = int(sch.get(column).extent)
    lanes = _fitting(extent, target)
    if extent < int(sch.get(block).iter_vars[spatial - 1].dom.extent):
        # Windows that skip the last columns: only whole rows can have a tail that overlaps.
        lanes = math.gcd(extent, lanes)
    columns, lane = sch.split(column, [None, lanes])
    reduce = loops[spatial:]
    sch.reorder(*rows, columns, *reduce, lane)
    sch.vectorize(lane)
    if int(sch.get(columns).extent) * math.prod(taps) <= _UNROLLED_LOADS:
        sch.unroll(columns)
    if not taps:
        return
    if math.prod(taps) <= _UNROLLED_TAPS:
        for loop in reduce:
            sch.unroll(loop)
    init = sch.decompose_reduction(block, reduce[0])
    sch.vectorize(sch.get_loops(init)[-1])


def _split_at(sch: TVMObject, block: TVMObject, place: TVMObject) -> None:
    """Copy rows by the phases of their columns: one loop over all of them, for LLVM to vectorise.

    TVM's vectors would be gathered element by element.
    """
    spatial = len(sch.get_loops(block))
    sch.compute_at(block, place, preserve_unit_loops=True)
    _, _, phase, *rows = sch.get_loops(block)[-spatial:]
    sch.reorder(*rows, phase)
    sch.unroll(phase)
    sch.fuse(*rows)


def _plane_candidates(sch: TVMObject, blocks: Blocks, target: Target) -> list[Candidate]:
    """Planes shared among the threads, or not."""
    batch, channels = (int(sch.get(loop).extent) for loop in sch.get_loops(blocks.output)[:2])
    first = blocks.stages[0]
    extents = [int(sch.get(loop).extent) for loop in sch.get_loops(first)]
    elements = math.prod(extents[2:])
    data = elements * costs.BYTES
    planes = batch * channels
    memory = data / target.caches.bytes_per_cycle(data * planes)
    loads = elements / target.vector.f32_lanes / target.vector.loads_per_cycle
    total = (costs.overlapped(loads, memory) + _PLANE_CYCLES) * planes
    serial = Candidate((("fused", 0),), total)
    return [serial, Candidate((("fused", 1),), _shared(total, planes, target))]


def _schedule_planes(sch: TVMObject, blocks: Blocks, target: Target, fused: int) -> None:
    """Reduce one plane after the other, in registers."""
    n, c, *_ = sch.get_loops(blocks.output)
    place = sch.fuse(n, c)
    if fused:
        place = _share(sch, place, target)
    for block in reversed(blocks.stages):
        taps = reductions(sch, block)
        sch.compute_at(block, place, preserve_unit_loops=True)
        loops = sch.get_loops(block)
        lanes = loops[-1 - len(taps)]
        count = _fitting(int(sch.get(lanes).extent), target)
        vectors, lane = sch.split(lanes, [None, count])
        sch.reorder(*loops[len(loops) - len(taps) :], vectors, lane)
        unroll_tile(sch, [vectors, lane])
        if taps:
            init = sch.decompose_reduction(block, loops[-1])
            unroll_tile(sch, sch.get_loops(init)[-2:])
