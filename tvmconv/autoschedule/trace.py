"""Traces of schedules: how a log keeps one, and how a kernel is scheduled by one again.

A trace is MetaSchedule's JSON form, ``[instructions, decisions]`` with an instruction
``[kind, inputs, attributes, outputs]``. It comes from files that anybody may have written, so
nothing of it reaches TVM but what the table below allows, one instruction at a time. The table has
what the design spaces use. What is added to it must not change what a kernel computes, as
``UnsafeSetDType`` and a split without predicates do, and ``ReverseComputeAt``, which can move a
block behind those that read it; it must bring no code or pragmas (``Tensorize``, ``Annotate``) and
make no buffers of any size (``RFactor``, ``CacheRead``).
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from tvmconv._tvm import TVMObject, s_tir, tirx

#: A trace as JSON has it.
Trace = list[Any]

MAX_INSTRUCTIONS = 512
_MAX_FACTORS, _MAX_NAMES, _MAX_FACTOR = 4, 64, 1 << 30
#: Loops around one block, lanes of one vector, and copies that unrolling makes of one block: above
#: these LLVM's time or stack, not the kernel, is what a schedule is about.
_MAX_DEPTH, _MAX_LANES, _MAX_COPIES = 64, 64, 4096
#: Extents are 32-bit integers.
_MAX_EXTENT = (1 << 31) - 1

_NAME = re.compile(r"[bl](0|[1-9][0-9]{0,4})")
_BIT, _BOOL = (0, 1), (False, True)
#: What TVM raises for a schedule that it refuses: its own errors are RuntimeErrors.
_REFUSALS = (RuntimeError, ValueError, TypeError, LookupError, AttributeError, AssertionError)


@dataclass(frozen=True)
class _Kind:
    """What one kind of instruction may look like.

    Attributes
    ----------
    method : str
        Of ``tvm.s_tir.Schedule``.
    inputs, outputs : str
        One letter each: ``b`` a block, ``l`` a loop, ``f`` a factor; ``+`` is one or more of the
        letter before it, ``*`` any number.
    attributes : tuple of tuple
        The values that each may have.
    """

    method: str
    inputs: str
    attributes: tuple[tuple[object, ...], ...]
    outputs: str


_KINDS = {
    "GetSBlock": _Kind("get_sblock", "", (("root",), ("main",)), "b"),
    "GetChildBlocks": _Kind("get_child_blocks", "b", (), "b*"),
    "GetLoops": _Kind("get_loops", "b", (), "l*"),
    "Split": _Kind("split", "lf+", (_BOOL, (False,)), "l+"),
    "Fuse": _Kind("fuse", "l+", (_BIT,), "l"),
    "Reorder": _Kind("reorder", "l+", (), ""),
    "Parallel": _Kind("parallel", "l", (), ""),
    "Vectorize": _Kind("vectorize", "l", (), ""),
    "Unroll": _Kind("unroll", "l", (), ""),
    "ComputeAt": _Kind("compute_at", "bl", (_BIT, (-1,)), ""),
    "SetScope": _Kind("set_scope", "b", (tuple(range(8)), ("local", "global")), ""),
    "DecomposeReduction": _Kind("decompose_reduction", "bl", (), "b"),
}


def to_json(schedule: TVMObject) -> Trace:
    """The trace of a schedule, without the look-ups that nothing used, as a log keeps it.

    Raises
    ------
    ValueError
        If the schedule uses an instruction that no trace may have.
    """
    trace = schedule.trace.simplified(remove_postproc=False).as_json()
    return validate(json.loads(json.dumps(trace, default=int)))


def validate(trace: object) -> Trace:
    """Check a trace by itself, without a kernel, and return it.

    Raises
    ------
    ValueError
        If it is not one that :func:`to_json` could have made; the message is one line.
    """
    parts = _items(trace, 2, "trace")
    _require(len(parts) == 2 and parts[1] == [], "trace: is not instructions and no decisions")
    names: set[str] = set()
    for number, instruction in enumerate(_items(parts[0], MAX_INSTRUCTIONS, "trace")):
        try:
            _check(instruction, names)
        except ValueError as error:
            raise ValueError(f"trace: instruction {number}: {error}") from None
    return parts


def replay(func: TVMObject, trace: object) -> TVMObject:
    """Schedule a kernel as a trace says.

    Parameters
    ----------
    func : PrimFunc
        The kernel that the trace was made of, or one with the same blocks and loops.
    trace : list
        From anywhere.

    Returns
    -------
    Schedule

    Raises
    ------
    ValueError
        If the trace is wrong, does not fit the kernel, or asks for a program that is no use to
        compile; the message is one line.
    """
    instructions, _ = validate(trace)
    sch = s_tir.Schedule(func, error_render_level="fast")
    values: dict[str, Any] = {"None": None}
    for number, instruction in enumerate(instructions):
        try:
            _apply(sch, instruction, values)
        except _REFUSALS as error:
            where = f"trace: instruction {number}: {instruction[0]}"
            raise ValueError(f"{where}: {_first_line(error)}") from error
    try:
        _check_program(sch)
    except _REFUSALS as error:
        raise ValueError(f"trace: {_first_line(error)}") from error
    return sch


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0][:200]


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)


def _items(value: object, most: int, what: str) -> list[Any]:
    """The value, if it is a list that is not too long."""
    if not isinstance(value, list):
        raise ValueError(f"{what}: not a list")
    _require(len(value) <= most, f"{what}: more than {most} items")
    return value


# --- one instruction by itself


def _check(instruction: object, names: set[str]) -> None:
    """Check an instruction after those that defined ``names``, and add what it defines."""
    parts = _items(instruction, 4, "instruction")
    name = parts[0] if len(parts) == 4 else None
    if not isinstance(name, str) or name not in _KINDS:
        raise ValueError("not of a kind that a trace may have")
    kind = _KINDS[name]
    most = _MAX_FACTORS + 1 if name == "Split" else _MAX_NAMES
    inputs, attributes, outputs = (_items(part, most, name) for part in parts[1:])
    for letter, value in _matched(kind.inputs, inputs, f"{name}: inputs"):
        if letter == "f":
            _require(_is_factor(value), f"{name}: a factor is no size")
        else:
            known = isinstance(value, str) and value in names and value[0] == letter
            _require(known, f"{name}: an input is not a known {_WORDS[letter]}")
    _require(len(attributes) == len(kind.attributes), f"{name}: wrong number of attributes")
    for value, allowed in zip(attributes, kind.attributes, strict=True):
        # True equals 1, but TVM tells them apart.
        same = (type(value) is type(choice) and value == choice for choice in allowed)
        _require(any(same), f"{name}: an attribute has a value that it may not have")
    for letter, value in _matched(kind.outputs, outputs, f"{name}: outputs"):
        fresh = isinstance(value, str) and _NAME.fullmatch(value) and value[0] == letter
        _require(bool(fresh) and value not in names, f"{name}: an output is no new name")
        names.add(value)


_WORDS = {"b": "block", "l": "loop"}


def _matched(pattern: str, values: Sequence[Any], where: str) -> Iterable[tuple[str, Any]]:
    """Pair values with the letters of a pattern."""
    letters = pattern.rstrip("+*")
    least = len(letters) - pattern.endswith("*")
    repeats = pattern.endswith(("+", "*"))
    fits = len(values) >= least if repeats else len(values) == least
    _require(fits, f"{where}: wrong number")
    if repeats:
        letters += letters[-1] * (len(values) - len(letters))
    return zip(letters, values, strict=False)


def _is_factor(value: object) -> bool:
    if isinstance(value, str):
        return value == "None"
    return type(value) is int and 1 <= value <= _MAX_FACTOR


# --- on a schedule


def _apply(sch: TVMObject, instruction: list[Any], values: dict[str, Any]) -> None:
    """Apply a valid instruction; ``values`` are the blocks and loops by name."""
    name, inputs, attributes, outputs = instruction
    kind = _KINDS[name]
    given = [values[item] if isinstance(item, str) else item for item in inputs]
    # What TVM writes as 0 or 1, its methods take as a truth value.
    options = [
        bool(value) if allowed is _BIT else value
        for value, allowed in zip(attributes, kind.attributes, strict=True)
    ]
    if name == "Split":
        _require(_split_fits(sch, *given), "the factors exceed the loop")
        given = [given[0], given[1:]]
    if name == "Fuse":
        extent = math.prod(int(sch.get(loop).extent) for loop in given)
        _require(extent <= _MAX_EXTENT, "the fused loop is too long")
        made = sch.fuse(*given, preserve_unit_iters=options[0])
    else:
        made = getattr(sch, kind.method)(*given, *options)
    if "+" in kind.outputs or "*" in kind.outputs:
        made = list(made)
    else:
        made = [made] if kind.outputs else []
    _require(len(made) == len(outputs), f"makes {len(made)} values, not {len(outputs)}")
    values.update(zip(outputs, made, strict=True))


def _split_fits(sch: TVMObject, loop: TVMObject, *factors: int | None) -> bool:
    """Whether the parts have fewer than twice the loop's trips: TVM's own product can overflow."""
    known = math.prod(factor for factor in factors if factor is not None)
    return known < 2 * int(sch.get(loop).extent)


def _check_program(sch: TVMObject) -> None:
    """Refuse what the code generator cannot take, or not in useful time."""
    kinds = tirx.ForKind
    for block in sch.get_child_blocks(sch.get_sblock("root")):
        loops = [sch.get(loop) for loop in sch.get_loops(block)]
        order = [int(loop.kind) for loop in loops]
        extents = [int(loop.extent) for loop in loops]
        _require(len(loops) <= _MAX_DEPTH, "loops too deep")
        _require(order.count(kinds.PARALLEL) <= 1, "parallel loops in each other")
        if kinds.VECTORIZED in order:
            _require(order.index(kinds.VECTORIZED) == len(order) - 1, "a loop in a vector")
            _require(extents[-1] <= _MAX_LANES, f"vectors of {extents[-1]} lanes")
        pairs = zip(extents, order, strict=True)
        copies = math.prod(extent for extent, kind in pairs if kind == kinds.UNROLLED)
        _require(copies <= _MAX_COPIES, f"unrolled {copies} times")
