"""One arena for all intermediate values: each buffer gets an offset for as long as it is needed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tvmconv.codegen.plan_check import ALIGNMENT_BYTES


@dataclass
class Lifetime:
    """A buffer and the steps, first and last, between which its contents matter."""

    size_bytes: int
    first: int
    last: int


def aligned(size_bytes: int) -> int:
    """The next multiple of the alignment."""
    return -(-size_bytes // ALIGNMENT_BYTES) * ALIGNMENT_BYTES


def assign_offsets(buffers: Sequence[Lifetime]) -> tuple[list[int], int]:
    """Place buffers so that none overlaps another one that is alive at the same step.

    Greedy by size: the largest first, each at the lowest offset at which it fits.

    Returns
    -------
    offsets : list of int
        In bytes, one for each buffer.
    arena_bytes : int
        Size of the arena.

    References
    ----------
    Pisarchyk, Lee, Efficient memory management for deep neural net inference, 2020, section 5.2.
    """
    offsets = [0] * len(buffers)
    done: list[int] = []
    for k in sorted(range(len(buffers)), key=lambda k: -buffers[k].size_bytes):
        own = buffers[k]
        size = aligned(own.size_bytes)
        offset = 0
        rivals = [j for j in done if buffers[j].first <= own.last and own.first <= buffers[j].last]
        for j in sorted(rivals, key=lambda j: offsets[j]):
            if offset + size <= offsets[j]:
                break
            offset = max(offset, offsets[j] + aligned(buffers[j].size_bytes))
        offsets[k] = offset
        done.append(k)
    ends = [offsets[k] + aligned(b.size_bytes) for k, b in enumerate(buffers)]
    return offsets, max(ends, default=0)
