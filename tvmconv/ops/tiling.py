"""How the output of an algorithm on transformed tiles is divided, axis by axis.

An axis is divided into tiles of ``outputs`` elements that lie ``step`` apart, so that the filter of
a dilated convolution has neighbours in a tile. Along an axis that is not transformed a tile is one
element, and the filter's taps belong to the sum.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any


@dataclass(frozen=True)
class Axis:
    """One spatial axis of a convolution of stride 1.

    Attributes
    ----------
    outputs : int
        Elements of a tile; 1 if the axis is not transformed.
    step : int
        From one element of a tile to the next.
    taps : int
        Of the filter.
    dilation : int
    low : int
        Padding before the axis.
    extent : int
        Of the output.
    """

    outputs: int
    step: int
    taps: int
    dilation: int
    low: int
    extent: int

    @property
    def transformed(self) -> bool:
        """Whether tiles are transformed along the axis."""
        return self.outputs > 1

    @property
    def count(self) -> int:
        """Tiles of the output."""
        return self.step * -(-self.extent // (self.step * self.outputs))

    @property
    def data_count(self) -> int:
        """Tiles of the input: more than of the output where the sum has several taps."""
        return self.count if self.transformed else self.extent + (self.taps - 1) * self.dilation

    @property
    def reach(self) -> int:
        """Elements that all tiles of the input span."""
        if not self.transformed:
            return self.data_count
        per_phase = self.count // self.step
        return (per_phase * self.outputs + self.taps - 1) * self.step

    def origin(self, tile: Any) -> Any:
        """First output element of a tile."""
        return tile // self.step * (self.step * self.outputs) + tile % self.step


def transformed(axes: Sequence[Axis]) -> list[Axis]:
    """The axes along which tiles are transformed."""
    return [axis for axis in axes if axis.transformed]


def summed(axes: Sequence[Axis]) -> list[Axis]:
    """The axes of which the sum runs over the taps."""
    return [axis for axis in axes if not axis.transformed and axis.taps > 1]


def _numbering(axes: Sequence[Axis]) -> list[int]:
    """The axes along which tiles are numbered, the last one first.

    The neighbours along an axis whose taps are summed read almost the same tiles of the input:
    these axes come last, so that a group of tiles shares those.
    """
    return sorted(range(len(axes)), key=lambda k: axes[k] in summed(axes))


def _unravel(tile: Any, axes: Sequence[Axis], counts: Sequence[int]) -> tuple[Any, list[Any]]:
    """Batch of a tile, and its place along each axis."""
    places = [None] * len(axes)
    for k in reversed(_numbering(axes)):
        places[k] = tile % counts[k]
        tile = tile // counts[k]
    return tile, places


def output_place(axes: Sequence[Axis], tile: Any) -> tuple[Any, list[Any]]:
    """Batch, and place along each axis, of a tile of the output."""
    return _unravel(tile, axes, [axis.count for axis in axes])


def data_place(axes: Sequence[Axis], tile: Any) -> tuple[Any, list[Any]]:
    """Batch, and place along each axis, of a tile of the input."""
    return _unravel(tile, axes, [axis.data_count for axis in axes])


def data_tile(axes: Sequence[Axis], tile: Any, taps: Sequence[Any]) -> Any:
    """Number of the input's tile that a tile of the output reads at a tap of each summed axis."""
    if not taps:
        return tile
    number, places = output_place(axes, tile)
    tap = iter(taps)
    for k in _numbering(axes):
        offset = next(tap) * axes[k].dilation if axes[k] in summed(axes) else 0
        number = number * axes[k].data_count + places[k] + offset
    return number


def data_tiles(batch: int, axes: Sequence[Axis]) -> int:
    """Tiles of the input."""
    return batch * prod(axis.data_count for axis in axes)


def form(axes: Sequence[Axis]) -> list[int]:
    """The attribute ``TILES`` of an output computed tile by tile."""
    order = [(k, axes[k]) for k in _numbering(axes)]
    return [n for k, axis in order for n in (k, axis.outputs, axis.step, axis.extent)]
