"""What tiles of design spaces for CUDA share: they are points of a space, and cover a matrix."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

_Point = TypeVar("_Point", bound="Point")


class Point:
    """A dataclass of integers as a point of a design space."""

    def knobs(self) -> tuple[tuple[str, int], ...]:
        """Its fields; :meth:`of` makes it again."""
        return tuple(vars(self).items())

    @classmethod
    def of(cls: type[_Point], knobs: Sequence[tuple[str, int]]) -> _Point:
        """The point with these knobs."""
        return cls(**dict(knobs))


@dataclass(frozen=True)
class BlockTile(Point):
    """What a block of threads computes of a product of matrices, and how the sum is cut.

    Attributes
    ----------
    rows, columns, depth : int
        Of the tile of one block of threads: pixels, output channels, terms at a time.
    splits : int
        Parts into which the sum is cut, for blocks of threads of their own.
    slices : int
        Slices of the input and weight that shared memory holds.
    """

    rows: int
    columns: int
    depth: int
    splits: int
    slices: int
