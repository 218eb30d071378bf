"""Reading LLVM's assembly: the loops of a function, its multiply-adds, its use of the stack."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

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
_COMMENTS = {"x86_64": "#", "aarch64": "//", "arm": "@", "riscv64": "#"}
#: Trips of a loop, for the choice of the hot one: fewer than almost all make.
_TRIPS = 8
_LABEL = re.compile(r"(\.L\w+):")
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
    """Every loop of an assembly text.

    A loop is what stands between a label and the last jump back to it.

    Parameters
    ----------
    assembly : str
        As LLVM writes it.
    arch : str
        ``Target.arch``.
    """
    lines, labels = _instructions(assembly, _COMMENTS[arch])
    ends: dict[int, int] = {}
    for place, line in enumerate(lines):
        target = _TARGET.search(line)
        start = labels.get(target[1], place + 1) if target else place + 1
        if start <= place:
            ends[start] = place
    spans = sorted(ends.items())
    return [_loop(lines, span, spans, arch) for span in spans]


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


def _loop(
    lines: Sequence[str], span: tuple[int, int], spans: Sequence[tuple[int, int]], arch: str
) -> Loop:
    """The loop from one place to another, without those inside it."""
    start, end = span
    inner = [s for s in spans if s != span and start <= s[0] and s[1] <= end]
    own = tuple(
        lines[place]
        for place in range(start, end + 1)
        if not any(low <= place <= high for low, high in inner)
    )
    fma, stack, vector = (re.compile(table[arch]) for table in (_FMAS, _STACKS, _VECTORS))
    return Loop(
        own,
        fmas=sum(bool(fma.match(line)) for line in own),
        depth=sum(s != span and s[0] <= start and end <= s[1] for s in spans),
        spills=sum(bool(stack.search(line) and vector.search(line)) for line in own),
    )
