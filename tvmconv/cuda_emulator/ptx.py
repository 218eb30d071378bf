"""Inline PTX, translated to calls of the emulator's functions."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from tvmconv.errors import InputError


@dataclass(frozen=True)
class Instruction:
    """A known instruction: a pattern of its name, and what makes a C++ call of its operands."""

    name: re.Pattern[str]
    call: Callable[[re.Match[str], Sequence[str], int], str]


def _function(name: str, first: str = "") -> Callable[[re.Match[str], Sequence[str], int], str]:
    """A call of ``emu::ptx::NAME(line, FIRST, operands…)``; both may use groups of the name."""

    def call(match: re.Match[str], operands: Sequence[str], line: int) -> str:
        given = match.expand(first)
        arguments = [str(line), *([given] if given else []), *operands]
        return f"emu::ptx::{match.expand(name)}({', '.join(arguments)})"

    return call


def _mma(function: str, kind: str) -> Callable[[re.Match[str], Sequence[str], int], str]:
    return _function(function, f"EMU_MMA_{kind}")


def _assign(template: str) -> Callable[[re.Match[str], Sequence[str], int], str]:
    """A plain statement; ``{0}`` and so on stand for its operands."""

    def call(match: re.Match[str], operands: Sequence[str], line: int) -> str:
        return template.format(*operands, **match.groupdict())

    return call


def _copy_async(match: re.Match[str], operands: Sequence[str], line: int) -> str:
    to, source, *sizes = operands
    return f"emu::ptx::cp_async({line}, {to}, emu::ptx::pointer({source}), {', '.join(sizes)})"


_COMPARISONS = {"ne": "!=", "eq": "==", "lt": "<", "le": "<=", "gt": ">", "ge": ">="}


def _set_predicate(match: re.Match[str], operands: Sequence[str], line: int) -> str:
    result, a, b = operands
    return f"{result} = ({a}) {_COMPARISONS[match['op']]} ({b})"


def _barrier(match: re.Match[str], operands: Sequence[str], line: int) -> str:
    if list(operands) != ["0"]:
        raise InputError(f"line {line}: the emulator has only barrier 0, of all threads")
    return f"emu_barrier({line})"


_C_TYPES = {"f32": "float", "b32": "uint32_t", "u32": "uint32_t", "s32": "int32_t"}


def _load(match: re.Match[str], operands: Sequence[str], line: int) -> str:
    to, source = operands
    return f"{to} = emu::ptx::loaded<{_C_TYPES[match['type']]}>(emu::ptx::pointer({source}))"


_MMA = r"mma\.sync\.aligned\.{}\.row\.col\.{}"
_KNOWN = (
    (r"ldmatrix\.sync\.aligned\.m8n8\.x(?P<n>[124])\.shared(?:::cta)?\.b16",
     _function(r"ldmatrix_\g<n>", "0")),
    (r"ldmatrix\.sync\.aligned\.m8n8\.x(?P<n>[124])\.trans\.shared(?:::cta)?\.b16",
     _function(r"ldmatrix_\g<n>", "1")),
    (_MMA.format("m16n8k16", r"f32\.f16\.f16\.f32"), _mma("mma_4_4_2", "M16N8K16_F16_F32")),
    (_MMA.format("m16n8k16", r"f32\.bf16\.bf16\.f32"), _mma("mma_4_4_2", "M16N8K16_BF16_F32")),
    (_MMA.format("m16n8k16", r"f16\.f16\.f16\.f16"), _mma("mma_2_4_2", "M16N8K16_F16_F16")),
    (_MMA.format("m16n8k8", r"f32\.f16\.f16\.f32"), _mma("mma_4_2_1", "M16N8K8_F16_F32")),
    (_MMA.format("m16n8k8", r"f32\.bf16\.bf16\.f32"), _mma("mma_4_2_1", "M16N8K8_BF16_F32")),
    (_MMA.format("m16n8k8", r"f32\.tf32\.tf32\.f32"), _mma("mma_4_4_2", "M16N8K8_TF32_F32")),
    (_MMA.format("m16n8k4", r"f32\.tf32\.tf32\.f32"), _mma("mma_4_2_1", "M16N8K4_TF32_F32")),
    (_MMA.format("m16n8k16", r"(?:satfinite\.)?s32\.s8\.s8\.s32"),
     _mma("mma_4_2_1", "M16N8K16_S8_S32")),
    (_MMA.format("m16n8k32", r"s32\.s8\.s8\.s32"), _mma("mma_4_4_2", "M16N8K32_S8_S32")),
    (r"cp\.async\.c[ag]\.shared(?:::cta)?\.global(?:\.L2::\d+B)?", _copy_async),
    (r"cp\.async\.commit_group", _assign("emu_copy_commit()")),
    (r"cp\.async\.wait_group", _assign("emu_copy_wait({0})")),
    (r"cp\.async\.wait_all", _assign("emu_copy_wait_all()")),
    (r"cvt\.rna\.tf32\.f32", _assign("emu::ptx::cvt_rna_tf32({0}, {1})")),
    (r"cvta\.to\.shared\.u64", _assign("{0} = emu_shared_address((const void *)({1}))")),
    (r"cvta\.to\.global\.u64", _assign("{0} = (uint64_t)({1})")),
    (r"cvt\.u32\.u64", _assign("{0} = (uint32_t)({1})")),
    (r"mov\.[bu](?:32|64)|mov\.s32", _assign("{0} = ({1})")),
    (r"setp\.(?P<op>ne|eq|lt|le|gt|ge)\.[bsu]32", _set_predicate),
    (r"ld\.global(?:\.nc)?(?:\.L2::\d+B)?\.(?P<type>f32|b32|u32|s32)", _load),
    (r"st\.shared(?:\.v[24])?\.[bus]32",
     lambda match, operands, line: f"emu::ptx::st_shared({', '.join(operands)})"),
    (r"dp4a\.[su]32\.[su]32", _assign("{0} = __dp4a({1}, {2}, {3})")),
    (r"prefetch\.global\.L[12]", _assign("(void)({0})")),
    (r"bar\.sync|barrier\.sync(?:\.aligned)?", _barrier),
)  # fmt: skip

INSTRUCTIONS = tuple(Instruction(re.compile(name), call) for name, call in _KNOWN)

_REGISTER_TYPES = {
    "pred": "bool", "b32": "uint32_t", "u32": "uint32_t", "s32": "int32_t",
    "b64": "uint64_t", "u64": "uint64_t", "f32": "float",
}  # fmt: skip
_REGISTER = re.compile(r"\.reg\s+\.(\w+)\s+(.+)")
_PREDICATE = re.compile(r"@(!?)(\w+)\s+(.*)", re.DOTALL)


def translate(text: str, operands: Sequence[str], line: int) -> str:
    """C++ statements for the text of one ``asm``.

    Parameters
    ----------
    text : str
        PTX, with operands ``%0`` ….
    operands : sequence of str
        The C++ expressions that they stand for: outputs, then inputs.
    line : int
        Of the source, for messages.

    Raises
    ------
    InputError
        An instruction that the emulator does not have.
    """
    return "{ " + " ".join(_statements(text, operands, line)) + " }"


def _statements(text: str, operands: Sequence[str], line: int) -> Iterator[str]:
    """The C++ of each statement and scope; braces inside a statement are lists of operands."""
    rest = text.strip()
    while rest:
        if rest[0] in "{};":
            yield rest[0].replace(";", "")
            rest = rest[1:].strip()
            continue
        statement, _, rest = (part.strip() for part in rest.partition(";"))
        yield _statement(" ".join(statement.split()), operands, line) + ";"


def _statement(statement: str, operands: Sequence[str], line: int) -> str:
    register = _REGISTER.fullmatch(statement)
    if register and register[1] in _REGISTER_TYPES:
        return f"{_REGISTER_TYPES[register[1]]} {register[2]}"
    predicate = _PREDICATE.fullmatch(statement)
    if predicate:
        return f"if ({predicate[1]}{predicate[2]}) {_statement(predicate[3], operands, line)}"
    name, _, rest = statement.partition(" ")
    glued = re.match(r"([\w.:]+)(\{.*)", statement, re.DOTALL)
    if glued:  # as in mma…f32{%0, …
        name, rest = glued[1], glued[2]
    for known in INSTRUCTIONS:
        match = known.name.fullmatch(name)
        if match:
            return known.call(match, _operands(rest, operands, line), line)
    raise InputError(f"line {line}: the emulator does not know the PTX instruction {name!r}")


def _operands(text: str, values: Sequence[str], line: int) -> list[str]:
    """The C++ expressions of an instruction's operands, without the brackets around them."""
    found = []
    for piece in re.sub(r"[{}\[\]]", " ", text).split(","):
        name = piece.strip()
        if not name:
            continue
        if re.fullmatch(r"%\d+", name):
            if int(name[1:]) >= len(values):
                raise InputError(f"line {line}: asm has no operand {name}")
            found.append(f"({values[int(name[1:])]})")
        elif re.fullmatch(r"\w+|-\d+", name):
            found.append(name)
        else:
            raise InputError(f"line {line}: the emulator cannot read the PTX operand {name!r}")
    return found
