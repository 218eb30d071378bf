"""The arena: no two buffers that are needed at the same time overlap, and room is used again."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from tvmconv.graph.memory import ALIGNMENT_BYTES, Lifetime, aligned, assign_offsets


def check(buffers: list[Lifetime]) -> int:
    """Size of the arena, if the offsets are right."""
    offsets, arena_bytes = assign_offsets(buffers)
    placed = list(zip(offsets, buffers, strict=True))
    for offset, buffer in placed:
        assert offset % ALIGNMENT_BYTES == 0
        assert 0 <= offset <= arena_bytes - buffer.size_bytes
    for (p, a), (q, b) in itertools.combinations(placed, 2):
        together = a.first <= b.last and b.first <= a.last
        assert not together or p + a.size_bytes <= q or q + b.size_bytes <= p
    return arena_bytes


def peak(buffers: list[Lifetime]) -> int:
    """Bytes alive at the worst step: no arena can be smaller."""
    steps = {b.first for b in buffers}
    return max(
        sum(aligned(b.size_bytes) for b in buffers if b.first <= step <= b.last) for step in steps
    )


def test_no_buffers() -> None:
    assert assign_offsets([]) == ([], 0)


def test_sizes_are_rounded_up() -> None:
    assert [aligned(n) for n in (0, 1, 64, 65)] == [0, 64, 64, 128]


def test_a_chain_needs_two_buffers() -> None:
    assert check([Lifetime(1000, k, k + 1) for k in range(20)]) == 2 * 1024


def test_a_buffer_that_dies_is_used_again() -> None:
    assert check([Lifetime(4096, 0, 1), Lifetime(4096, 2, 3), Lifetime(64, 0, 3)]) == 4096 + 64


def test_a_step_reads_while_it_writes() -> None:
    """What a step reads for the last time lies apart from what it writes."""
    assert check([Lifetime(64, 0, 1), Lifetime(64, 1, 2)]) == 128


def test_gaps_are_filled() -> None:
    buffers = [Lifetime(640, 0, 9), Lifetime(320, 0, 2), Lifetime(320, 3, 9), Lifetime(128, 0, 9)]
    assert check(buffers) == 640 + 320 + 128


@pytest.mark.parametrize("seed", range(50))
def test_random_buffers_never_overlap_and_waste_little(seed: int) -> None:
    rng = np.random.default_rng(seed)
    buffers = []
    for first in range(int(rng.integers(1, 60))):
        size = int(rng.choice([1, 64, 100, 4096, 50000]))
        buffers.append(Lifetime(size, first, first + int(rng.geometric(0.4))))
    assert peak(buffers) <= check(buffers) <= 1.5 * peak(buffers)
