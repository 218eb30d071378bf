"""Loops in a graph of blocks of instructions, whatever language these are in."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from typing import TypeVar

Block = TypeVar("Block", bound=Hashable)


def natural_loops(following: Mapping[Block, Sequence[Block]]) -> dict[Block, set[Block]]:
    """The blocks of each loop, by the block at which it begins.

    Parameters
    ----------
    following : mapping
        Where each block may go on, in the order of the text: a block that no other leads to is
        where a function begins.

    Returns
    -------
    dict
        In the order of the text.
    """
    before: dict[Block, list[Block]] = {block: [] for block in following}
    for block, others in following.items():
        for other in others:
            before[other].append(block)
    bodies: dict[Block, set[Block]] = {}
    for latch, head in _back_edges(following):
        body = bodies.setdefault(head, {head})
        waiting = [latch]
        while waiting:
            block = waiting.pop()
            if block not in body:
                body.add(block)
                waiting += before[block]
    return {block: bodies[block] for block in following if block in bodies}


def _back_edges(following: Mapping[Block, Sequence[Block]]) -> Iterator[tuple[Block, Block]]:
    """Jumps to a block that is on the way to where they are, depth first."""
    seen: set[Block] = set()
    for first in following:
        path = {} if first in seen else {first: iter(following[first])}
        seen.add(first)
        while path:
            block = next(reversed(path))
            to = next(path[block], None)
            if to is None:
                del path[block]
            elif to in path:
                yield block, to
            elif to not in seen:
                seen.add(to)
                path[to] = iter(following[to])


def depth(head: Block, bodies: Mapping[Block, set[Block]]) -> int:
    """How many loops are around the one that begins at a block."""
    return sum(head in body for other, body in bodies.items() if other != head)
