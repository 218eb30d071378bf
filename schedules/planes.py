"""Contractions on planes on CPUs: neighbouring pixels are the lanes, one weight feeds them all.

A tile keeps ``channels x rows x vectors`` vectors of sums in registers. A step of the reduction
loads ``rows x vectors`` vectors of the input and broadcasts one weight a channel. The vectors
begin at any pixel, so that most of them cross a cache line and count as two loads.

Of a transposed convolution the sums of one phase after the other are made, and those of the phases
of the last axis wait for each other: their vectors then go to the output interleaved.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from tvmconv._tvm import TVMObject
from tvmconv.autoschedule.space import Candidate
from tvmconv.kernel import GROUP, PHASES
from tvmconv.ops.phases import windows
from tvmconv.target import Target

from . import costs
from .primitives import Blocks, balance, reductions, unroll_tile

_REDUCE = 2
#: Rows of a tile, vectors along its rows, and rows that are swept together, at most.
_MAX_ROWS, _MAX_VECTORS, _MAX_STRIP = 4, 8, 32
#: Taps of a window up to which its loops are unrolled, the last axis first.
_UNROLLED_TAPS = 12
#: Phases, and runs of a row, up to which the copy of a row is unrolled.
_UNROLLED_PHASES, _MAX_RUNS = 4, 32
#: Cycles in which a vector of results waits for those of other phases and is interleaved.
_INTERLEAVE_CYCLES = 8.0

#: Bytes of a run of output that memory takes at half its speed, and how many times its time a
#: short one takes at most.
_SHORT_RUN, _SHORT_RUN_COST = 4096, 2.5
#: Cycles in which an element of the input is copied to where it is padded.
_COPY_CYCLES = 0.3
#: Cycles in which an element comes from the cache of the core that copied it.
_FOREIGN_CYCLES = 6.0
#: Bytes of a page, and rows that one set of the first cache level holds beside the inputs.
_PAGE, _ALIASED_ROWS = 4096, 8

#: Cycles for each register of sums of a tile, and more the more there are: the ends of large tiles
#: overlap less with their neighbours.
_SUM_CYCLES, _DRAIN_CYCLES = 1.0, 0.1
#: Cycles of loop control for one channel of the input.
_TRIP_CYCLES = 1.0
#: Share of the shorter of arithmetic and memory that adds to the longer.
_EXPOSED = 0.25

#: Orders of the tiles: channels innermost; outermost; between strips of rows and their tiles.
PIXELS, CHANNELS, STRIPS = range(3)


@dataclass(frozen=True)
class Sizes:
    """Extents of a kernel on planes.

    Attributes
    ----------
    batch, channels : int
        Of the output.
    group : int
        Output channels that read the same input.
    space : tuple of int
        Spatial axes of the output.
    inputs : int
        Terms of a sum that are channels.
    kernel : tuple of int
        Those that are taps, by axis.
    parts : int
        Chains of additions of one sum.
    plane : tuple of int
        Of the stage that pads the input: channels, rows, phases, columns; empty without one.
    phases, interleaved : int
        Phases of all axes but the last of a transposed convolution, and of the last; 0 of another.
    share : float
        Of the terms, those that a phase has.
    """

    batch: int
    channels: int
    group: int
    space: tuple[int, ...]
    inputs: int
    kernel: tuple[int, ...]
    parts: int
    plane: tuple[int, ...]
    phases: int = 0
    interleaved: int = 0
    share: float = 1.0

    @property
    def terms(self) -> float:
        """Terms of a sum, of a phase on average."""
        return self.inputs * math.prod(self.kernel) * self.share

    @property
    def vectors(self) -> int:
        """Vectors that a tile makes one after the other for each one that it has of sums."""
        return max(1, self.interleaved)

    @property
    def taps_along_rows(self) -> int:
        """Extent of the kernel along the axis before the last; 1 if there is none."""
        return self.kernel[-2] if len(self.kernel) > 1 else 1

    @property
    def density(self) -> float:
        """Elements of a plane of the padded input for each pixel of the output."""
        return math.prod(self.plane[1:]) / math.prod(self.space) if self.plane else 1.0

    @property
    def height(self) -> int:
        """Extent of the axis before the last; 1 if there is none."""
        return self.space[-2] if len(self.space) > 1 else 1


def sizes(sch: TVMObject, blocks: Blocks) -> Sizes:
    """Read the extents off a kernel that has not been scheduled."""
    batch, channels, *space = (int(sch.get(loop).extent) for loop in sch.get_loops(blocks.output))
    axes = list(windows(sch.get(blocks.work).annotations.get(PHASES, ())))
    phases = interleaved = 0
    if axes:
        phases, *space, interleaved = space
    reduce = reductions(sch, blocks.total, blocks.work)
    kernel, inputs = reduce[-len(space) :], reduce[: -len(space)]
    plane: list[int] = []
    if blocks.stages:
        _, *plane = (int(sch.get(loop).extent) for loop in sch.get_loops(blocks.stages[0]))
    shares = (
        sum(axis.counts) / len(axis.counts) / taps for axis, taps in zip(axes, kernel, strict=False)
    )
    return Sizes(
        batch=batch,
        channels=channels,
        group=int(sch.get(blocks.output).annotations[GROUP]),
        space=tuple(space),
        inputs=math.prod(inputs),
        kernel=tuple(kernel),
        parts=inputs[0] if blocks.total is not None else 1,
        plane=tuple(plane),
        phases=phases,
        interleaved=interleaved,
        share=math.prod(shares),
    )


@dataclass(frozen=True)
class PlaneTile:
    """One schedule.

    Attributes
    ----------
    channels, rows, vectors, lanes : int
        What a tile keeps in registers: vectors of lanes along the last axis, rows of them,
        channels.
    strip : int
        Rows that are swept for one tile of channels before the next, in the order ``STRIPS``.
    order : int
    staged : bool
        Pad the input strip by strip, each thread its own; otherwise all of it before.
    shared : bool
        Share the tiles among the threads.
    """

    channels: int
    rows: int
    vectors: int
    lanes: int
    strip: int
    order: int
    staged: bool
    shared: bool

    def knobs(self) -> tuple[tuple[str, int], ...]:
        """The schedule as a point of a design space; :meth:`of` makes it again."""
        return tuple((name, int(value)) for name, value in vars(self).items())

    @classmethod
    def of(cls, knobs: Sequence[tuple[str, int]]) -> PlaneTile:
        """The schedule with these knobs."""
        channels, rows, vectors, lanes, strip, order, staged, shared = (v for _, v in knobs)
        return cls(channels, rows, vectors, lanes, strip, order, bool(staged), bool(shared))

    @property
    def pixels(self) -> int:
        """Vectors of pixels."""
        return self.rows * self.vectors

    @property
    def width(self) -> int:
        """Pixels along the last axis."""
        return self.vectors * self.lanes


# --- the schedule


def schedule_planes(sch: TVMObject, blocks: Blocks, tile: PlaneTile) -> None:
    """Schedule a kernel on planes."""
    batch, channel, *space = sch.get_loops(blocks.output)
    phased = PHASES in sch.get(blocks.work).annotations
    phases = [space.pop(0)] if phased else []
    interleaved = [space.pop()] if phased else []
    width = space.pop()
    bands, channels = sch.split(channel, [None, tile.channels])
    runs, vectors, lanes = sch.split(width, [None, tile.vectors, tile.lanes])
    strips, groups, rows = [], [], []
    if space:
        parts = sch.split(space.pop(), [None, tile.strip // tile.rows, tile.rows])
        strips, groups, rows = ([part] for part in parts)
    outer, pixels = [batch, *space, *strips], [*phases, *groups, runs]
    if tile.order == CHANNELS:
        loops = [batch, bands, *space, *strips, *pixels]
    elif tile.order == PIXELS:
        loops = [*outer, *pixels, bands]
    else:
        loops = [*outer, bands, *pixels]
    count = len(outer) if tile.staged else len(loops)
    sch.reorder(*loops, channels, *rows, vectors, lanes)
    if phased:
        lanes = sch.fuse(lanes, *interleaved)
    place, inner = sch.fuse(*loops[:count]), loops[count:]
    if tile.shared:
        sch.parallel(place)
    _sum_at(sch, blocks, [place, *inner][-1], tile)
    unroll_tile(sch, [channels, *rows, vectors, lanes])
    for stage in blocks.stages:
        _stage_at(sch, stage, place if tile.staged else None, tile)


def _stage_at(sch: TVMObject, stage: TVMObject, place: TVMObject | None, tile: PlaneTile) -> None:
    """Pad the input where its strip is needed, or all of it before.

    Rows are copied in runs: only the first and the last have to ask where the input begins and
    ends, the others are whole vectors.
    """
    if place is not None:
        sch.compute_at(stage, place, preserve_unit_loops=True)
    *outer, phase, column = sch.get_loops(stage)
    extent = int(sch.get(column).extent)
    run = tile.lanes * -(-extent // (tile.lanes * _MAX_RUNS))
    if run < extent:
        runs, _ = sch.split(column, [None, run])
        if int(sch.get(phase).extent) <= _UNROLLED_PHASES:
            sch.unroll(phase)
            sch.unroll(runs)
    if place is None and tile.shared:
        sch.parallel(sch.fuse(*outer))


def _sum_at(sch: TVMObject, blocks: Blocks, place: TVMObject, tile: PlaneTile) -> None:
    """Compute the sums of a tile in registers."""
    for block in (blocks.total, blocks.work):
        if block is not None:
            place = _reduce_at(sch, block, place, tile)


def _reduce_at(sch: TVMObject, block: TVMObject, place: TVMObject, tile: PlaneTile) -> TVMObject:
    """Compute a reduction at a loop; returns its own outermost loop."""
    sch.compute_at(block, place, preserve_unit_loops=True)
    sch.set_scope(block, 0, "local")
    kinds = [v.iter_type for v in sch.get(block).iter_vars]
    count = sum(kind == _REDUCE for kind in kinds)
    *axes, width = sch.get_loops(block)[-len(kinds) : -count]
    reduce = sch.get_loops(block)[-count:]
    lanes = sch.split(width, [tile.vectors, tile.lanes])
    annotations = sch.get(block).annotations
    phases = len(list(windows(annotations.get(PHASES, ()))))
    outside = [axes.pop(-phases)] if phases else []
    sch.reorder(*outside, *reduce, *axes, *lanes)
    for loop in outside:
        sch.unroll(loop)
    taps = 1
    for loop in reversed(reduce[1:]):
        taps *= int(sch.get(loop).extent)
        if taps > _UNROLLED_TAPS:
            break
        sch.unroll(loop)
    unroll_tile(sch, [*axes, *lanes])
    init = sch.decompose_reduction(block, reduce[0])
    unroll_tile(sch, sch.get_loops(init)[-len(axes) - 2 :])
    return reduce[0]


# --- the space and its model


def candidates(size: Sizes, target: Target) -> list[Candidate]:
    """Every tile that fits the registers, in every order."""
    found = []
    for tile in _tiles(size, target):
        serial = replace(tile, shared=False)
        both = [Candidate(t.knobs(), cycles(size, t, target)) for t in (serial, tile)]
        found.append(min(both, key=lambda candidate: candidate.cycles))
    return found


def _tiles(size: Sizes, target: Target) -> Iterator[PlaneTile]:
    """Tiles in every order."""
    width = size.space[-1]
    lanes = min(target.vector.f32_lanes, 1 << width.bit_length() - 1)
    for vectors in range(1, min(_MAX_VECTORS, width // lanes) + 1):
        for rows in range(1, min(_MAX_ROWS, size.height) + 1):
            for channels in _channels(size, rows, vectors, target):
                tile = PlaneTile(channels, rows, vectors, lanes, rows, PIXELS, False, True)
                yield from _orders(size, tile)


def _channels(size: Sizes, rows: int, vectors: int, target: Target) -> list[int]:
    """Channels of the tiles with so many vectors of pixels: of one group each.

    Beside the sums and the pixels, registers hold a weight and, unless the weight can stay in
    memory, a product. Of a tile of several rows, the taps' loops being unrolled, every row that
    several taps read stays in registers too.
    """
    inputs = rows * vectors
    if rows > 1 and size.taps_along_rows > 1:
        inputs = (rows + size.taps_along_rows - 1) * vectors + 1
    free = target.vector.registers - inputs - 1 - (not target.vector.embedded_broadcast)
    most = min(size.group, free // (rows * vectors))
    if size.group == size.channels:
        return list(range(1, most + 1))
    return [count for count in range(1, most + 1) if size.group % count == 0]


def _orders(size: Sizes, tile: PlaneTile) -> Iterator[PlaneTile]:
    """A tile in every order; strips are all of the same height."""
    yield tile
    yield replace(tile, order=CHANNELS)
    most = min(_MAX_STRIP, size.height)
    for strip in range(tile.rows, most + 1, tile.rows):
        if len(size.space) > 1 and size.height % strip == 0:
            yield replace(tile, strip=strip, order=STRIPS, staged=bool(size.plane))


def cycles(size: Sizes, tile: PlaneTile, target: Target) -> float:
    """Predicted time of a kernel on planes, in cycles of one core."""
    counts = _counts(size, tile)
    sums = tile.channels * tile.pixels
    step = costs.step_cycles(sums, _loads(size, tile, target), target)
    ends = sums * size.parts * (_SUM_CYCLES + sums * _DRAIN_CYCLES)
    compute = size.terms * step + ends + size.inputs * _TRIP_CYCLES
    if size.interleaved > 1:
        compute += sums * _INTERLEAVE_CYCLES
    compute *= size.vectors
    memory = _memory_cycles(size, tile, counts, target)
    total = (max(compute, memory) + _EXPOSED * min(compute, memory)) * math.prod(counts)
    stage, launches = _stage_cycles(size, tile, target)
    if not tile.shared:
        return total + stage
    units = math.prod(counts)
    if tile.staged:
        units = size.batch * math.prod(size.space[:-2]) * -(-size.height // tile.strip)
    threads = max(1, target.cores)
    launch = launches * costs.LAUNCH_CYCLES if threads > 1 else 0
    return (total + stage) / threads * balance(units, threads) + launch


def _counts(size: Sizes, tile: PlaneTile) -> tuple[int, int, int, int]:
    """Tiles along the batch with the outer axes, channels, rows, columns."""
    rows = -(-size.height // tile.strip) * (tile.strip // tile.rows)
    columns = -(-size.space[-1] // tile.width)
    outer = size.batch * math.prod(size.space[:-2]) * max(1, size.phases)
    return (outer, -(-size.channels // tile.channels), rows, columns)


def _loads(size: Sizes, tile: PlaneTile, target: Target) -> float:
    """Loads of one step: vectors that cross a line count twice."""
    crossing = tile.lanes * costs.BYTES / target.caches.line_bytes
    return tile.pixels * (1 + crossing) + tile.channels


def _memory_cycles(
    size: Sizes, tile: PlaneTile, counts: tuple[int, int, int, int], target: Target
) -> float:
    """Cycles in which one tile's weights and inputs come, and its outputs go."""
    caches = target.caches
    _, bands, rows, columns = counts
    weights = size.terms * tile.channels * size.vectors * costs.BYTES
    inputs = size.inputs * tile.pixels * tile.lanes * costs.BYTES * size.density
    all_weights = size.terms * size.group * size.vectors * max(1, size.phases) * costs.BYTES
    all_inputs = inputs * rows * columns
    store = _store_cycles(size, tile, target)
    if tile.order == PIXELS:
        sweeps, swept = bands, inputs
        read_weights = weights / caches.bytes_per_cycle(all_weights + inputs)
        near = caches.bytes_per_cycle(inputs + weights)
    else:
        sweeps = bands
        strip = tile.strip // tile.rows if tile.order == STRIPS else rows
        swept = inputs * columns * strip
        near = caches.bytes_per_cycle(swept + weights)
        reuse = strip * columns
        far = caches.bytes_per_cycle(all_weights + swept)
        close = caches.bytes_per_cycle(weights + inputs)
        read_weights = weights * ((reuse - 1) / close + 1 / far) / reuse
    first = caches.bytes_per_cycle(all_inputs)
    read_inputs = inputs * ((sweeps - 1) / near + 1 / first) / sweeps
    return read_weights + read_inputs + store


def _store_cycles(size: Sizes, tile: PlaneTile, target: Target) -> float:
    """Cycles in which one tile's outputs go to memory: read, changed, written back.

    What does not stay in the caches wants long runs of one channel's rows, and no more channels at
    once than a set has ways where their planes lie a multiple of a page apart.
    """
    plane = math.prod(size.space) * size.vectors * max(1, size.phases) * costs.BYTES
    outputs = tile.channels * tile.pixels * tile.lanes * size.vectors * costs.BYTES
    whole = size.batch * size.channels * plane
    cycles = 2 * outputs / target.caches.bytes_per_cycle(whole)
    if plane % _PAGE == 0 and tile.channels * tile.rows > _ALIASED_ROWS:
        cycles *= 2
    if whole <= 0.8 * target.caches.l3_bytes:
        return cycles
    run = tile.width * size.vectors * costs.BYTES
    if tile.order != PIXELS:
        run = plane if tile.order == CHANNELS else tile.strip * size.space[-1] * costs.BYTES
    return cycles * (1 + min(_SHORT_RUN * tile.rows / run, _SHORT_RUN_COST))


def _stage_cycles(size: Sizes, tile: PlaneTile, target: Target) -> tuple[float, int]:
    """Cycles in which the input is padded, and how many loops are shared among the threads."""
    if not size.plane:
        return 0.0, 1
    elements: float = size.batch * math.prod(size.plane)
    level = target.caches.bytes_per_cycle(elements * costs.BYTES)
    if not tile.staged:
        others = max(1, target.cores) - 1
        share = others if tile.order == CHANNELS else others / (others + 1)
        copied = _COPY_CYCLES + 3 * costs.BYTES / level
        return elements * (copied + share * _FOREIGN_CYCLES), 2
    height = size.plane[-3]
    step = max(1, height // size.height)
    rows = (tile.strip - 1) * step + height - (size.height - 1) * step
    elements *= rows / height * (size.height / tile.strip)
    return elements * (_COPY_CYCLES + costs.BYTES / level), 1
