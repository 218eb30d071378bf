"""Reading LLVM's optimised IR: the loops of each function, and how often each is run through.

Assembly has the same loops in the same order (see :mod:`tvmconv.codegen.loops`), but tells their
trips only in the terms of one architecture.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from tvmconv.codegen import flow

_FUNCTION = re.compile(r"^define [^\n]*\{\n(.*?)^\}", re.M | re.S)
_BLOCK = re.compile(r"^([\w.$-]+):")
_LABEL = re.compile(r"label %([\w.$-]+)")
_PHI = re.compile(r"(%[\w.$-]+) = phi i\d+ (.*)")
_INCOMING = re.compile(r"\[ (-?\d+), %")
_ADD = re.compile(r"(%[\w.$-]+) = add (?:nuw |nsw )*i\d+ (%[\w.$-]+), (-?\d+)")
_COMPARE = re.compile(r"(%[\w.$-]+) = icmp (?:samesign )?(\w+) i\d+ (%[\w.$-]+), (-?\d+)")
_BRANCH = re.compile(r"br i1 (%[\w.$-]+), ")
#: The end of a thread's share of a parallel loop: no further than the loop's.
_SHARE = re.compile(r"@llvm\.smin\.i32\(i32 %[\w.$-]+, i32 (\d+)\)")
#: Trips of a comparison besides those to its bound.
_BEYOND = {"eq": 0, "ne": 0, "ult": 0, "slt": 0, "ule": 1, "sle": 1}


@dataclass(frozen=True)
class Trips:
    """A loop.

    Attributes
    ----------
    depth : int
        Loops around it.
    count : int or None
        How often it is run through each time; None if that is not a constant.
    """

    depth: int
    count: int | None


def trips(ir: str, threads: int) -> list[Trips]:
    """Every loop of a module, in the order of its first instructions.

    Parameters
    ----------
    ir : str
        After LLVM's optimisations.
    threads : int
        Who share the parallel loops: the count is that of the thread with the most.
    """
    return [loop for text in _FUNCTION.findall(ir) for loop in _loops(text, threads)]


def _loops(text: str, threads: int) -> Iterator[Trips]:
    """The loops of one function."""
    blocks = _blocks(text)
    following = {
        name: [to for to in _LABEL.findall(lines[-1]) if to in blocks]
        for name, lines in blocks.items()
    }
    bodies = flow.natural_loops(following)
    shared = _SHARE.search(text)
    for head, body in bodies.items():
        around = flow.depth(head, bodies)
        count = _count(body, blocks[head], blocks, following)
        if count is None and shared is not None and not around:
            count = -(-int(shared[1]) // threads)
        yield Trips(around, count)


def _blocks(text: str) -> dict[str, list[str]]:
    """The instructions of each block."""
    blocks: dict[str, list[str]] = {}
    name = ""
    for line in text.splitlines():
        label = _BLOCK.match(line)
        if label:
            name = label[1]
        elif line.strip():
            blocks.setdefault(name, []).append(line.strip())
    return blocks


def _count(
    body: set[str],
    head: Sequence[str],
    blocks: Mapping[str, Sequence[str]],
    following: Mapping[str, Sequence[str]],
) -> int | None:
    """The trips of a loop that counts from one constant to another."""
    starts: dict[str, int | None] = {}
    for phi in filter(None, map(_PHI.match, head)):
        first = _INCOMING.search(phi[2])
        starts[phi[1]] = int(first[1]) if first else None
    lines = [line for name in body for line in blocks[name]]
    steps = {add[1]: (add[2], int(add[3])) for add in filter(None, map(_ADD.match, lines))}
    ends = {end[1]: end for end in filter(None, map(_COMPARE.match, lines))}
    for name in body:
        branch = _BRANCH.match(blocks[name][-1])
        if branch is None or all(to in body for to in following[name]):
            continue
        if branch[1] in starts:  # a truth value that the second trip begins with
            return 2
        end = ends.get(branch[1])
        if end is None or end[2] not in _BEYOND:
            continue
        variable, ahead = steps.get(end[3], (end[3], 0))
        start = starts.get(variable)
        step = next((by for of, by in steps.values() if of == variable), 0)
        if start is not None and step:
            # What is compared before its step has one trip more to go.
            span = int(end[4]) - start + _BEYOND[end[2]] * step + (0 if ahead else step)
            return max(1, -(-span // step))
    return None
