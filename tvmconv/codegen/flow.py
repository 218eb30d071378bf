"""Loops in a graph of blocks of instructions, whatever language these are in."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import TypeVar

Block = TypeVar("Block", bound=Hashable)


def natural_loops(following: Mapping[Block, Sequence[Block]]) -> dict[Block, set[Block]]:
    """The blocks of each loop, by the block at which it begins.

    Parameters
    ----------
    following : mapping
        Where each block may go on, in the order of the text: a function begins at a block that no
        other leads to.

    Returns
    -------
    dict
        A loop before those inside it, and all of these before what is run after it.
    """
    before: dict[Block, list[Block]] = {block: [] for block in following}
    for block, others in following.items():
        for other in others:
            before[other].append(block)
    latches, order = _walk(following)
    bodies: dict[Block, set[Block]] = {}
    for latch, head in latches:
        body = bodies.setdefault(head, {head})
        waiting = [latch]
        while waiting:
            block = waiting.pop()
            if block not in body:
                body.add(block)
                waiting += before[block]

    def place(head: Block) -> list[int]:
        return [order[other] for other in sorted(_around(head, bodies), key=order.__getitem__)]

    return {head: bodies[head] for head in sorted(bodies, key=place)}


def depth(head: Block, bodies: Mapping[Block, set[Block]]) -> int:
    """How many loops are around the one that begins at a block."""
    return len(_around(head, bodies)) - 1


def _around(head: Block, bodies: Mapping[Block, set[Block]]) -> list[Block]:
    """Where the loops begin that hold a block, which is the first one of a loop itself."""
    return [other for other, body in bodies.items() if head in body]


def _walk(
    following: Mapping[Block, Sequence[Block]],
) -> tuple[list[tuple[Block, Block]], dict[Block, int]]:
    """Jumps back to a block that is on the way to them, and each block's place in a run."""
    back: list[tuple[Block, Block]] = []
    functions: list[list[Block]] = []
    seen: set[Block] = set()
    for first in following:
        path = {} if first in seen else {first: iter(following[first])}
        seen.add(first)
        left: list[Block] = []
        while path:
            block = next(reversed(path))
            to = next(path[block], None)
            if to is None:
                del path[block]
                left.append(block)  # after all that may follow it
            elif to in path:
                back.append((block, to))
            elif to not in seen:
                seen.add(to)
                path[to] = iter(following[to])
        functions.append(left[::-1])
    blocks = [block for function in functions for block in function]
    return back, {block: place for place, block in enumerate(blocks)}
