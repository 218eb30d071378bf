"""Reading LLVM's assembly: the loops of a function, its multiply-adds, its use of the stack."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from tvmconv.codegen import flow

#: How each architecture spells a multiply-add (or, without one, a multiplication) of floats, and
#: what an access to the stack has in it.
_FMAS = {
    "x86_64": r"v?fn?m(add|sub)\d+[ps]s|mulps",
    "aarch64": r"fml[as]|fn?m(add|sub)",
    "arm": r"v(f|fn|n)?m(a|s|la|ls)\.f32",
    "riscv64": r"vfn?m(acc|add|sac|sub)\.v[vf]|fn?m(add|sub)\.s",
}
_STACKS = {
    "x86_64": r"\(%rsp",
    "aarch64": r"\[sp\b",
    "arm": r"\[sp\b",
    "riscv64": r"\(sp\)",
}
#: Registers of vectors and floats.
_VECTORS = {
    "x86_64": r"%[xyz]mm\d",
    "aarch64": r"\b[vqds]\d",
    "arm": r"\b[qds]\d",
    "riscv64": r"\b(v\d|f[ast]\d)",
}
#: What nothing goes on after.
_ENDS = {
    "x86_64": r"jmp|ret|ud2",
    "aarch64": r"(b|br|ret|brk)\b(?!\.)",
    "arm": r"(b|bx|udf)\s|pop\b.*\bpc\b",
    "riscv64": r"(j|jr|ret|unimp)\b",
}
#: What comments begin with.
COMMENTS = {"x86_64": "#", "aarch64": "//", "arm": "@", "riscv64": "#"}
#: Trips of a loop, for the choice of the hot one: fewer than almost all make.
_TRIPS = 8
_LABEL = re.compile(r"([\w.$]+):")
_TARGET = re.compile(r"[\s,](\.LBB\w+)$")


@dataclass(frozen=True)
class Loop:
    """The instructions of a loop that are in no loop inside it.

    Attributes
    ----------
    instructions : tuple of str
    fmas : int
        Multiply-adds among them.
    spills : int
        Vectors that go to the stack, or come from it.
    depth : int
        Loops around it.
    """

    instructions: tuple[str, ...]
    fmas: int
    spills: int
    depth: int = 0


def loops(assembly: str, arch: str) -> list[Loop]:
    """Every loop of an assembly text, in the order of their first instructions.

    Parameters
    ----------
    assembly : str
        As LLVM writes it.
    arch : str
        ``Target.arch``.
    """
    lines, labels = _instructions(assembly, COMMENTS[arch])
    following = _following(lines, labels, re.compile(_ENDS[arch]))
    ends = dict(itertools.pairwise([*following, len(lines)]))
    bodies = flow.natural_loops(following)
    found = []
    for head, body in bodies.items():
        inner = set().union(*(bodies[other] for other in body & bodies.keys() if other != head))
        own = [line for start in sorted(body - inner) for line in lines[start : ends[start]]]
        found.append(_loop(own, flow.depth(head, bodies), arch))
    return found


def hot_loop(assembly: str, arch: str) -> Loop | None:
    """The loop that does the most multiply-adds itself; None if there are no multiply-adds.

    Trips are not known: each loop around it is taken for one of a few.
    """
    found = [loop for loop in loops(assembly, arch) if loop.fmas]
    return max(found, key=lambda loop: loop.fmas * _TRIPS**loop.depth, default=None)


def _instructions(assembly: str, comment: str) -> tuple[list[str], dict[str, int]]:
    """The instructions of an assembly text, and before which of them each label stands."""
    lines: list[str] = []
    labels: dict[str, int] = {}
    for line in assembly.splitlines():
        label = _LABEL.match(line)
        text = line.partition(comment)[0].strip()
        if label:
            labels[label[1]] = len(lines)
        elif text and line[:1].isspace() and not text.startswith("."):
            lines.append(text)
    return lines, labels


def _following(
    lines: Sequence[str], labels: dict[str, int], ends: re.Pattern[str]
) -> dict[int, list[int]]:
    """Where each block of instructions may go on: blocks are called by their first one's place."""
    jumps = {place: labels.get(jump[1]) for place, jump in _jumps(lines)}
    starts = {0, *labels.values(), *(place + 1 for place in jumps)}
    blocks = sorted(start for start in starts if start < len(lines))
    following: dict[int, list[int]] = {}
    for start, end in itertools.pairwise([*blocks, len(lines)]):
        target = jumps.get(end - 1)
        following[start] = [] if target is None or target >= len(lines) else [target]
        if end < len(lines) and not ends.match(lines[end - 1]):
            following[start].append(end)
    return following


def _jumps(lines: Sequence[str]) -> Iterator[tuple[int, re.Match[str]]]:
    for place, line in enumerate(lines):
        if found := _TARGET.search(line):
            yield place, found


def _loop(own: Sequence[str], depth: int, arch: str) -> Loop:
    """The loop of some instructions."""
    fma, stack, vector = (re.compile(table[arch]) for table in (_FMAS, _STACKS, _VECTORS))
    return Loop(
        tuple(own),
        fmas=sum(bool(fma.match(line)) for line in own),
        depth=depth,
        spills=sum(bool(stack.search(line) and vector.search(line)) for line in own),
    )
