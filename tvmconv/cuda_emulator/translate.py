"""Rewrite CUDA C++ so that a C++ compiler takes it for the emulator.

What CUDA adds to C++ is in ``include/tvmconv_emulator.h`` as far as macros and functions can give
it. Two things need the text changed: shared arrays, which become members of a region of the
emulator's, and inline PTX, which becomes calls. A table of the kernels follows at the end.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from tvmconv.cuda_emulator import ptx
from tvmconv.errors import InputError

_ATTRIBUTE = r"(?:(?:__launch_bounds__|__maxnreg__|__cluster_dims__)\s*\([^()]*\)\s*)*"
_KERNEL = re.compile(
    r'(?:extern\s+"C"\s+)?(?:static\s+)?__global__\s+'
    rf"(?P<before>{_ATTRIBUTE})void\s+(?P<after>{_ATTRIBUTE})(?P<name>\w+)\s*\("
)
_BOUNDS = re.compile(r"__launch_bounds__\s*\(\s*(\d+)")
_ALIGNMENT = r"(?:(?:alignas|__align__)\s*\(\s*\d+\s*\)\s*)?"
_SHARED = re.compile(
    rf"(?P<first>{_ALIGNMENT})(?P<dynamic>extern\s+)?__shared__\s+(?P<align>{_ALIGNMENT})"
    r"(?P<type>[A-Za-z_][\w:<>, ]*?)\s*\b(?P<name>[A-Za-z_]\w*)\s*(?P<extents>(?:\[[^\]]*\]\s*)*);"
)
_ASM = re.compile(r"\b(?:asm|__asm__)\s*(?:volatile|__volatile__)?\s*\(")
#: Bytes between two shared arrays, which no thread may touch.
_GAP = 64


@dataclass(frozen=True)
class Kernel:
    """One ``__global__`` function.

    Attributes
    ----------
    name : str
    parameters : tuple of str
        Their names.
    max_threads : int
        Of ``__launch_bounds__``, or 0.
    members : tuple of str
        Static shared arrays, as members of the struct ``emu_shared_NAME``.
    """

    name: str
    parameters: tuple[str, ...]
    max_threads: int
    members: tuple[str, ...]


def translate(source: str, extents: Mapping[str, Sequence[int]] | None = None) -> str:
    """C++ of CUDA C++.

    Parameters
    ----------
    source : str
        A translation unit with kernels.
    extents : mapping, optional
        For a kernel, the bytes of the buffer of each parameter, in order; 0 if it is no pointer
        or not known: then an access is in bounds anywhere in the allocation that it points into.

    Raises
    ------
    InputError
        Something in it that the emulator does not have; no kernel.
    """
    source = _without_comments(source)
    source = "".join(_replace_asm(source))
    pieces, kernels, at = [], [], 0
    for match in _KERNEL.finditer(source):
        opening = match.end() - 1
        closing = _matching(source, opening, "()")
        body = re.compile(r"\s*(?:" + _ATTRIBUTE + r")\s*\{").match(source, closing + 1)
        if body is None:
            continue  # a declaration
        end = _matching(source, body.end() - 1, "{}") + 1
        names = tuple(_parameter_names(source[opening + 1 : closing]))
        bounds = _BOUNDS.search(match["before"] + match["after"])
        text, members, struct = _shared_arrays(match["name"], source[body.end() : end])
        kernels.append(Kernel(match["name"], names, int(bounds[1]) if bounds else 0, members))
        pieces += [source[at : match.start()], struct, source[match.start() : body.end()], text]
        at = end
    pieces.append(source[at:])
    if not kernels:
        raise InputError("the CUDA source has no kernel")
    rest = "".join(pieces)
    if re.search(r"\b__shared__\b", rest):
        where = rest[: re.search(r"\b__shared__\b", rest).start()].count("\n") + 1  # type: ignore[union-attr]
        raise InputError(f"line {where}: the emulator cannot read this shared variable")
    table = _table(kernels, extents or {})
    return f'#include "tvmconv_emulator.h"\n#line 1 "kernels.cu"\n{rest}\n{table}'


def _without_comments(source: str) -> str:
    """Comments become spaces; lines and texts in quotes stay."""
    pattern = re.compile(r'"(?:\\.|[^"\\\n])*"|//[^\n]*|/\*.*?\*/', re.DOTALL)

    def blank(match: re.Match[str]) -> str:
        text = match[0]
        return text if text.startswith('"') else " " + "\n" * text.count("\n")

    return pattern.sub(blank, source)


def _matching(source: str, start: int, pair: str) -> int:
    """Index of the bracket that closes the one at ``start``; texts in quotes do not count."""
    depth, at = 0, start
    while at < len(source):
        character = source[at]
        if character in "\"'":
            at += 1
            while at < len(source) and source[at] != character:
                at += 2 if source[at] == "\\" else 1
        elif character == pair[0]:
            depth += 1
        elif character == pair[1]:
            depth -= 1
            if depth == 0:
                return at
        at += 1
    line = source[:start].count("\n") + 1
    raise InputError(f"line {line}: {pair[0]!r} is not closed")


def _split(text: str, separator: str) -> list[str]:
    """Split outside of brackets and texts in quotes."""
    pieces, depth, at, begin = [], 0, 0, 0
    while at < len(text):
        character = text[at]
        if character == '"':
            at += 1
            while at < len(text) and text[at] != '"':
                at += 2 if text[at] == "\\" else 1
        elif character in "([{":
            depth += 1
        elif character in ")]}":
            depth -= 1
        elif depth == 0 and text.startswith(separator, at):
            pieces.append(text[begin:at])
            begin = at + len(separator)
        at += 1
    return [*pieces, text[begin:]]


def _parameter_names(text: str) -> Iterator[str]:
    for piece in _split(text, ","):
        names = re.findall(r"\w+", piece)
        if names and names != ["void"]:
            yield names[-1]


def _shared_arrays(kernel: str, body: str) -> tuple[str, tuple[str, ...], str]:
    """Replace a body's shared arrays by references; the members and their struct."""
    members: list[str] = []
    fields: list[str] = []

    def replace(match: re.Match[str]) -> str:
        kind, name, extents = match["type"].strip(), match["name"], match["extents"].strip()
        alignment = match["first"] or match["align"]
        if match["dynamic"]:
            return f"{kind} *const {name} = ({kind} *)emu_shared_dynamic();"
        member = f"m{len(members)}_{name}"
        members.append(member)
        fields.append(f"{alignment} {kind} {member}{extents}; char gap_{member}[{_GAP}];")
        return f"auto &{name} = ((struct emu_shared_{kernel} *)emu_shared_static())->{member};"

    text = _SHARED.sub(replace, body)
    if not members:
        return text, (), ""
    # Before the kernel, on its line: what its types need stands above.
    return text, tuple(members), f"struct emu_shared_{kernel} {{ {' '.join(fields)} }}; "


def _replace_asm(source: str) -> Iterator[str]:
    at = 0
    for match in _ASM.finditer(source):
        if (
            source[source.rfind("\n", 0, match.start()) + 1 : match.start()]
            .lstrip()
            .startswith("#")
        ):
            continue  # a macro's name
        end = _matching(source, match.end() - 1, "()")
        line = source[: match.start()].count("\n") + 1
        text, operands = _parse_asm(source[match.end() : end], line)
        yield source[at : match.start()]
        yield ptx.translate(text, operands, line)
        yield "\n" * source[match.start() : end].count("\n")
        semicolon = re.compile(r"\s*;").match(source, end + 1)
        at = semicolon.end() if semicolon else end + 1
    yield source[at:]


def _parse_asm(inside: str, line: int) -> tuple[str, list[str]]:
    """The text of an ``asm`` and the expressions of its operands."""
    text, *lists = _split(inside, ":")
    strings = re.findall(r'"((?:\\.|[^"\\])*)"', text)
    if re.sub(r'"(?:\\.|[^"\\])*"', "", text).strip():
        raise InputError(f"line {line}: the emulator cannot read this asm statement")
    operands = []
    for piece in [part for entry in lists[:2] for part in _split(entry, ",")]:
        found = re.fullmatch(r'\s*"[^"]*"\s*\((.*)\)\s*', piece, re.DOTALL)
        if found:
            operands.append(" ".join(found[1].split()))
        elif piece.strip():
            raise InputError(f"line {line}: the emulator cannot read the asm operand {piece!r}")
    return "".join(strings).replace("\\n", "\n").replace("\\t", " "), operands


def _table(kernels: Sequence[Kernel], extents: Mapping[str, Sequence[int]]) -> str:
    lines, entries = [], []
    for kernel in kernels:
        name, shared = kernel.name, f"emu_shared_{kernel.name}"
        entry, count = f"emu::entry<&{name}>", len(kernel.parameters)
        told = list(extents.get(name, ()))
        told += [0] * (count - len(told))
        parameters = ", ".join(
            f'{{"{parameter}", {entry}::bytes[{i}], {entry}::pointers[{i}], {told[i]}}}'
            for i, parameter in enumerate(kernel.parameters)
        )
        members = ", ".join(
            f"{{offsetof({shared}, {m}), sizeof((({shared} *)0)->{m})}}" for m in kernel.members
        )
        sizes = " + ".join(f"sizeof((({shared} *)0)->{m})" for m in kernel.members) or "0"
        region = f"sizeof({shared})" if kernel.members else "0"
        lines += [
            f'static_assert({entry}::parameter_count == {count}, "parameters of {name}");',
            f"static const emu_parameter emu_parameters_{name}[] = {{{parameters or '{}'}}};",
            f"static const emu_member emu_members_{name}[] = {{{members or '{}'}}};",
        ]
        entries.append(
            f'{{"{name}", {entry}::call, emu_parameters_{name}, {count}, emu_members_{name}, '
            f"{len(kernel.members)}, {sizes}, {region}, {kernel.max_threads}}},"
        )
    return "\n".join(
        [
            '#line 1 "kernel_table"',
            *lines,
            "const emu_kernel tvmconv_emulator_kernels[] = {",
            *entries,
            "};",
            f"const uint32_t tvmconv_emulator_kernel_count = {len(kernels)};",
            "",
        ]
    )
