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
_START = re.compile(r"\[ (-?\d+), %")
_NEXT = re.compile(r"\[ (%[\w.$-]+), %")
_ADD = re.compile(r"(%[\w.$-]+) = add (?:nuw |nsw )*i\d+ (%[\w.$-]+), (-?\d+)")
_COMPARE = re.compile(r"(%[\w.$-]+) = icmp (?:samesign )?(\w+) i\d+ (%[\w.$-]+), (-?\d+)")
_BRANCH = re.compile(r"br i1 (%[\w.$-]+), ")
#: The end of a thread's share of a parallel loop: no further than the loop's.
_SHARE = re.compile(r"@llvm\.smin\.i32\(i32 %[\w.$-]+, i32 (\d+)\)")
_OPPOSITES = {"eq": "ne", "ne": "eq", "lt": "ge", "ge": "lt", "le": "gt", "gt": "le"}
#: How far from its bound a comparison is true at first.
_BEYOND = {"eq": 0, "ge": 0, "gt": 1, "le": 0, "lt": -1}


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


@dataclass(frozen=True)
class _Counter:
    """A variable that begins with a constant and grows by one; None for what is no constant."""

    start: int | None
    step: int | None


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
    lines = [line for name in body for line in blocks[name]]
    sums = {add[1]: (add[2], int(add[3])) for add in filter(None, map(_ADD.match, lines))}
    counters: dict[str, _Counter] = {}
    for phi in filter(None, map(_PHI.match, head)):
        start, step = _START.search(phi[2]), None
        for value in _NEXT.findall(phi[2]):
            of, by = _sum(value, sums)
            step = by if of == phi[1] else step
        counters[phi[1]] = _Counter(int(start[1]) if start else None, step)
    ends = {end[1]: end for end in filter(None, map(_COMPARE.match, lines))}
    for name in body:
        branch = _BRANCH.match(blocks[name][-1])
        if branch is None or all(to in body for to in following[name]):
            continue
        if branch[1] in counters:  # a truth value that the second trip begins with
            return 2
        if branch[1] in ends:
            predicate, value, bound = ends[branch[1]].group(2, 3, 4)
            of, by = _sum(value, sums)
            stays = following[name][0] in body
            count = _until(counters.get(of), by, _leaving(predicate, stays), int(bound))
            if count is not None:
                return count
    return None


def _sum(value: str, sums: Mapping[str, tuple[str, int]]) -> tuple[str, int]:
    """A value as another one plus a constant, as far back as additions go."""
    total = 0
    while value in sums:
        value, by = sums[value]
        total += by
    return value, total


def _leaving(predicate: str, stays: bool) -> str:
    """The comparison by which a loop is left, without its sign."""
    name = predicate[-2:]
    return _OPPOSITES[name] if stays else name


def _until(counter: _Counter | None, ahead: int, leaving: str, bound: int) -> int | None:
    """Trips until a counter, so far ahead, compares with a bound."""
    if counter is None or counter.start is None or not counter.step or leaving not in _BEYOND:
        return None
    way = bound + _BEYOND[leaving] - ahead - counter.start
    return max(0, -(-way // counter.step)) + 1
