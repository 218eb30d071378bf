"""Two convolutions in one kernel on CPUs: windows lane by lane, then a contraction of their sums.

What lies between is made for a strip of rows of the output, all channels of it, and stays in a
cache while the contraction's tiles read it; the threads share the strips. A tile of either is what
it would be in a kernel of its own: a strip divides the rows, and a tile's rows divide the strip.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from tvmconv._tvm import TVMObject
from tvmconv.autoschedule.space import Candidate
from tvmconv.kernel import KIND
from tvmconv.target import Target

from . import contraction, costs, windows
from .primitives import Blocks, Extents, Tile, balance, extents, reductions, sum_at, unroll_tile

#: The kinds of the stages before the contraction.
_KINDS = ["inner_window", "between"]
#: Taps of a window up to which its loops are unrolled.
_UNROLLED_TAPS = 49
#: Share of the second cache level that a strip may take.
_CACHE_SHARE = 0.5
#: How many strips' worth of bytes are in use while one is: its input, and what it makes, as well.
_NEAR = 3


@dataclass(frozen=True)
class Strips:
    """One schedule.

    Attributes
    ----------
    sizes : tuple of int
        Elements of each output axis (batch, slots, spatial axes) of a tile of the contraction.
    window : tuple of int
        The same of a tile of the windows.
    strip : int
        Extent of a strip along its axis.
    slots_outside : bool
        Whether the loop over tiles of slots stands outside those over space.
    shared : bool
        Whether the threads share the strips.
    """

    sizes: tuple[int, ...]
    window: tuple[int, ...]
    strip: int
    slots_outside: bool
    shared: bool

    def knobs(self) -> tuple[tuple[str, int], ...]:
        """The schedule as a point of a design space; :meth:`of` makes it again."""
        sizes = [(f"size{axis}", size) for axis, size in enumerate(self.sizes)]
        window = [(f"window{axis}", size) for axis, size in enumerate(self.window)]
        rest = [("strip", self.strip), ("slots_outside", int(self.slots_outside))]
        return (*sizes, *window, *rest, ("shared", int(self.shared)))

    @classmethod
    def of(cls, knobs: Sequence[tuple[str, int]]) -> Strips:
        """The schedule with these knobs."""
        *both, strip, outside, shared = (value for _, value in knobs)
        rank = len(both) // 2
        return cls(tuple(both[:rank]), tuple(both[rank:]), strip, bool(outside), bool(shared))


def fits(sch: TVMObject, blocks: Blocks) -> bool:
    """Whether a kernel is of this kind."""
    return [str(sch.get(b).annotations.get(KIND, "")) for b in blocks.stages] == _KINDS


@dataclass(frozen=True)
class Sizes:
    """Extents of a kernel.

    Attributes
    ----------
    contraction : Extents
        Over the whole output.
    windows : Extents
        Over all that lies between.
    """

    contraction: Extents
    windows: Extents

    @property
    def axis(self) -> int:
        """The output axis along which strips lie: the last but one, or the last if there is one."""
        return max(len(self.contraction.outer) - 2, 2)

    def of_strip(self, strip: int) -> tuple[Extents, Extents]:
        """The extents of one strip."""
        return self._cut(self.windows, strip), self._cut(self.contraction, strip)

    def _cut(self, dims: Extents, strip: int) -> Extents:
        outer = list(dims.outer)
        for axis in (0, *range(2, self.axis)):
            outer[axis] = 1
        outer[self.axis] = strip
        return replace(dims, outer=tuple(outer), window=())

    def count(self, strip: int) -> int:
        """Strips."""
        outer = self.contraction.outer
        return outer[0] * math.prod(outer[2 : self.axis]) * (outer[self.axis] // strip)

    def strip_bytes(self, strip: int) -> int:
        """Bytes of what lies between, of one strip."""
        dims = self._cut(self.windows, strip)
        return math.prod(dims.outer) * dims.lanes * costs.BYTES


def sizes(sch: TVMObject, blocks: Blocks) -> Sizes:
    """Read the extents off a kernel that has not been scheduled."""
    inner, between = blocks.stages
    *outer, lanes = (int(sch.get(loop).extent) for loop in sch.get_loops(between))
    taps = tuple(reductions(sch, inner))
    return Sizes(extents(sch, blocks), Extents(tuple(outer), lanes, taps, False))


def candidates(sch: TVMObject, blocks: Blocks, target: Target) -> list[Candidate]:
    """For every strip that a cache holds: its best tiles of windows, all tiles of the rest."""
    size = sizes(sch, blocks)
    rows = size.contraction.outer[size.axis]
    found: list[Candidate] = []
    for strip in range(1, rows + 1):
        small = size.strip_bytes(strip) <= _CACHE_SHARE * target.caches.l2_bytes
        if rows % strip == 0 and (small or strip == 1):
            found += _of_strip(size, strip, target)
    return found


def _of_strip(size: Sizes, strip: int, target: Target) -> Iterator[Candidate]:
    """The schedules with strips of one extent."""
    inner, outer = size.of_strip(strip)
    alone = replace(target, cores=1)
    window, own = _best_window(inner, size.axis, alone)
    # The input comes from where all of it lies; what lies between, from where a strip of it does.
    nbytes, caches = size.strip_bytes(strip), target.caches
    whole = math.prod(size.windows.outer) * size.windows.lanes * costs.BYTES
    own = costs.overlapped(own, nbytes / caches.bytes_per_cycle(whole))
    between = nbytes / caches.bytes_per_cycle(_NEAR * nbytes)
    tiles: dict[tuple[tuple[int, ...], bool], float] = {}
    for candidate in contraction.candidates(outer, alone):
        tile = Tile.of(candidate.knobs)
        if strip % tile.sizes[size.axis] == 0 and not tile.swept:
            key = (tile.sizes, tile.order[0] == 1)
            tiles[key] = min(candidate.cycles, tiles.get(key, math.inf))
    for (sizes_, outside), cycles in tiles.items():
        serial = (own + between + cycles) * size.count(strip)
        shared = _shared(serial, size.count(strip), target)
        chosen = Strips(sizes_, window, strip, outside, shared < serial)
        yield Candidate(chosen.knobs(), min(shared, serial))


def _shared(cycles: float, count: int, target: Target) -> float:
    """Time of work that so many strips share among the threads."""
    threads = max(1, target.cores)
    launch = costs.LAUNCH_CYCLES if threads > 1 else 0
    return cycles / threads * balance(count, threads) + launch


def _best_window(dims: Extents, axis: int, target: Target) -> tuple[tuple[int, ...], float]:
    """Sizes of the tile of windows that is fastest for a strip, and its time."""
    found = sorted(windows.candidates(dims, target), key=lambda candidate: candidate.cycles)
    tiles = ((Tile.of(candidate.knobs).sizes, candidate.cycles) for candidate in found)
    return next(pair for pair in tiles if dims.outer[axis] % pair[0][axis] == 0)


def schedule(sch: TVMObject, blocks: Blocks, candidate: Candidate) -> None:
    """Schedule a kernel as one of its :func:`candidates` says."""
    chosen, axis = Strips.of(candidate.knobs), sizes(sch, blocks).axis
    loops = list(sch.get_loops(blocks.output))
    lane = loops.pop()
    strips, loops[axis] = sch.split(loops[axis], [None, chosen.strip])
    sch.reorder(loops[0], *loops[2:axis], strips, loops[1], *loops[axis:], lane)
    place = sch.fuse(loops[0], *loops[2:axis], strips)
    if chosen.shared:
        sch.parallel(place)
    slots, *space = (
        sch.split(loops[k], [None, chosen.sizes[k]]) for k in (1, *range(axis, len(loops)))
    )
    outer = [pair[0] for pair in space]
    outer = [slots[0], *outer] if chosen.slots_outside else [*outer, slots[0]]
    inner = [*(pair[1] for pair in space), slots[1]]
    sch.reorder(*outer, *inner, lane)
    order = [0, *range(2, len(loops)), 1, len(loops)]
    sum_at(sch, blocks.work, blocks.total, outer[-1], order)
    unroll_tile(sch, [*inner, lane])
    _windows_at(sch, blocks, place, chosen.window)


def _windows_at(sch: TVMObject, blocks: Blocks, place: TVMObject, tile: Sequence[int]) -> None:
    """Make what lies between for a strip, tile by tile in registers."""
    inner, between = blocks.stages
    unrolled = math.prod(reductions(sch, inner)) <= _UNROLLED_TAPS
    sch.compute_at(between, place, preserve_unit_loops=True)
    *axes, lane = sch.get_loops(between)[-len(tile) - 1 :]
    pairs = [sch.split(axis, [None, size]) for axis, size in zip(axes, tile, strict=True)]
    outer, own = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    sch.reorder(*outer, *own, lane)
    order = list(range(len(axes) + 1))
    sum_at(sch, inner, None, outer[-1], order, unrolled)
    unroll_tile(sch, [*own, lane])
