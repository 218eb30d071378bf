"""How a tensor lies in memory: plain or in channel blocks, inside a halo, in a slice of a buffer.

A logical tensor ``(N, C, *spatial)`` is stored as ``(N, CB, *padded, block)`` with
``CB = ceil(C / block)`` blocks of ``block`` channels, or, with ``block == 1``, plainly as
``(N, C, *padded)``. ``padded`` has room for a halo around every spatial axis, of zeros or of
another number that stands for zero, so that a convolution reads its padding without a test.
Several tensors may be channel slices of one buffer: that is how a concatenation costs nothing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

#: Types in which numbers are stored, but not computed with.
HALVES = ("float16", "bfloat16")


@dataclass(frozen=True)
class Layout:
    """The memory form of one tensor.

    Attributes
    ----------
    shape : tuple of int
        Logical shape, ``(N, C, *spatial)``; of any rank if plain and without a halo.
    block : int
        Channels in a block; 1 is plain.
    lows, highs : tuple of int
        Width of the halo before and after each spatial axis, in elements.
    slots : int
        Channel slots of the whole buffer (blocks, or channels if plain), if this tensor is a
        slice of a larger one; 0 if it has the buffer to itself.
    first : int
        First channel slot of the slice.
    dtype : str
    fill : int
        What the halo holds: 0, or the zero point of quantised numbers.
    """

    shape: tuple[int, ...]
    block: int = 1
    lows: tuple[int, ...] = ()
    highs: tuple[int, ...] = ()
    slots: int = 0
    first: int = 0
    dtype: str = "float32"
    fill: int = 0

    def __post_init__(self) -> None:
        """Give the halo one entry for each spatial axis."""
        rank = max(len(self.shape) - 2, 0)
        if not self.lows:
            object.__setattr__(self, "lows", (0,) * rank)
        if not self.highs:
            object.__setattr__(self, "highs", (0,) * rank)

    @property
    def own_slots(self) -> int:
        """Channel slots of this tensor itself."""
        return -(-self.shape[1] // self.block)

    @property
    def has_halo(self) -> bool:
        """Whether there is a halo on any side."""
        return any(self.lows) or any(self.highs)

    @property
    def is_compact(self) -> bool:
        """Whether the tensor has a buffer without a halo to itself."""
        return not self.has_halo and not self.slots

    @property
    def is_plain(self) -> bool:
        """Whether the elements lie as in a caller's tensor."""
        return self.block == 1 and self.is_compact

    @property
    def buffer_shape(self) -> tuple[int, ...]:
        """Shape of the whole buffer in memory."""
        if len(self.shape) < 2:
            return self.shape
        padded = tuple(
            low + size + high
            for low, size, high in zip(self.lows, self.shape[2:], self.highs, strict=True)
        )
        body = (self.shape[0], self.slots or self.own_slots, *padded)
        return (*body, self.block) if self.block > 1 else body

    @property
    def offsets(self) -> tuple[int, ...]:
        """Index in the buffer of logical element zero."""
        if len(self.shape) < 2:
            return (0,) * len(self.shape)
        start = (0, self.first, *self.lows)
        return (*start, 0) if self.block > 1 else start

    @property
    def buffer_bytes(self) -> int:
        """Size of the whole buffer in bytes."""
        return math.prod(self.buffer_shape) * itemsize(self.dtype)

    @property
    def iteration_shape(self) -> tuple[int, ...]:
        """Shape over which a kernel computes: ``(N, CB, *spatial, block)``, or the logical one."""
        if self.block == 1:
            return self.shape
        return (self.shape[0], self.own_slots, *self.shape[2:], self.block)

    @property
    def words(self) -> Layout:
        """The same buffer of bytes as 32-bit words of four channels each.

        Raises
        ------
        ValueError
            If four channels do not stand together.
        """
        if self.block % 4 or itemsize(self.dtype) != 1:
            raise ValueError(f"{self} has no words of four channels")
        shape = (self.shape[0], self.own_slots * (self.block // 4), *self.shape[2:])
        return replace(self, shape=shape, block=self.block // 4, dtype="int32", fill=0)

    @property
    def in_float32(self) -> Layout:
        """The same tensor with float32 in place of a half."""
        return replace(self, dtype="float32") if self.dtype in HALVES else self

    def with_halo(self, lows: Sequence[int], highs: Sequence[int], fill: int = 0) -> Layout:
        """The same tensor with a halo at least that wide, which holds ``fill``."""
        return replace(
            self,
            lows=tuple(max(a, b) for a, b in zip(self.lows, lows, strict=True)),
            highs=tuple(max(a, b) for a, b in zip(self.highs, highs, strict=True)),
            fill=fill,
        )

    def at(self, tensor: Any, n: Any, channel: Any, position: Sequence[Any]) -> Any:
        """Index a buffer of this layout by logical batch, channel and spatial position.

        The position may reach into the halo.
        """
        if self.block == 1:
            return self.at_slot(tensor, n, channel, position, ())
        return self.at_slot(tensor, n, channel // self.block, position, (channel % self.block,))

    def at_slot(
        self, tensor: Any, n: Any, slot: Any, position: Sequence[Any], lane: Sequence[Any]
    ) -> Any:
        """Index a buffer by channel slot and, if blocked, the lane in it (a tuple of one)."""
        place = [p + low for p, low in zip(position, self.lows, strict=True)]
        return tensor[(n, slot + self.first, *place, *lane)]


_ITEMSIZE = {"float32": 4, "float16": 2, "bfloat16": 2, "float64": 8, "int8": 1, "uint8": 1}
_ITEMSIZE |= {"int16": 2, "int32": 4, "int64": 8, "bool": 1}


def itemsize(dtype: str) -> int:
    """Bytes of one element."""
    return _ITEMSIZE[dtype]
