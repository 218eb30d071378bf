"""The options that a problem's text can have: how each is read, checked and written.

A value is read from the text (a string) or from Python (numbers, sequences, booleans); what it
becomes is canonical, so that two texts of one problem give equal problems.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import ml_dtypes  # noqa: F401 - from here on NumPy knows bfloat16
import numpy as np

from tvmconv.ops import activation, windows

if TYPE_CHECKING:
    from tvmconv.problem import Problem

Value = int | bool | str | float | tuple[int, ...]
#: The largest size, stride, dilation or padded size: what an int32 index reaches.
LIMIT = 2**31 - 1
#: How a convolution can be computed: as what is fastest, directly, or on transformed tiles with so
#: many outputs along an axis. The weights are transformed at compile time, or ``online``: the
#: kernel reads them as they are, which are fewer bytes, and transforms those that it uses next.
ALGORITHMS = ("auto", "direct", "winograd2", "winograd4", "winograd6", "winograd4_online")
_AUTO_PADDING = ("same_upper", "same_lower", "valid")


@dataclass(frozen=True)
class DType:
    """An element type.

    Attributes
    ----------
    itemsize : int
        Bytes an element.
    roundoff, acc_roundoff : float
        Unit roundoff u of the type and of the accumulator it is summed in; 0 for integers.
    smallest_subnormal : float
    """

    itemsize: int
    roundoff: float
    acc_roundoff: float
    smallest_subnormal: float


DTYPES = {
    "float32": DType(4, 2.0**-24, 2.0**-24, 2.0**-149),
    "float16": DType(2, 2.0**-11, 2.0**-24, 2.0**-24),
    "bfloat16": DType(2, 2.0**-8, 2.0**-24, 2.0**-133),
    **dict.fromkeys(("uint8", "int8"), DType(1, 0.0, 0.0, 0.0)),
    "int16": DType(2, 0.0, 0.0, 0.0),
    "int32": DType(4, 0.0, 0.0, 0.0),
}
#: Those that problems may have today.
SUPPORTED_DTYPES = ("float32", "float16", "bfloat16")
#: Those of quantised problems.
BYTE_DTYPES = ("uint8", "int8")


@dataclass(frozen=True)
class Option:
    """One option of a family.

    Attributes
    ----------
    name : str
    default : callable
        ``default(rank)``; the canonical text leaves it out.
    read : callable
        ``read(problem, value)`` gives the canonical value, or raises InputError by
        ``problem.fail``.
    write : callable
        ``write(value)`` gives the text of a canonical value.
    values : str
        What it takes, for help.
    resolve : callable or None
        ``resolve(problem)`` is called when all options have been read, and gives those that
        it changes.
    """

    name: str
    default: Callable[[int], Value]
    read: Callable[[Problem, object], Value]
    write: Callable[[Value], str]
    values: str
    resolve: Callable[[Problem], Mapping[str, Value]] | None = None


def whole_number(value: object) -> int | None:
    """The integer that a digit string or an integer object stands for, or None."""
    if isinstance(value, str):
        return int(value) if re.fullmatch(r"-?[0-9]{1,4000}", value) else None
    if isinstance(value, (int, np.integer)) and not isinstance(value, bool):
        return int(value)
    return None


def _shown(value: object) -> str:
    text = value if isinstance(value, str) else str(value)
    return text if len(text) <= 40 else text[:37] + "..."


def _integers(problem: Problem, name: str, value: object, counts: tuple[int, ...],
              smallest: int) -> tuple[int, ...]:  # fmt: skip
    """Read one integer or a list of as many as ``counts`` allows."""
    items: Sequence[object] = [value]
    if isinstance(value, str):
        items = value.split(",")
    elif isinstance(value, (Sequence, np.ndarray)):
        items = list(value)
    numbers = [whole_number(item) for item in items]
    for item, number in zip(items, numbers, strict=True):
        if number is None:
            problem.fail(name, f"must be an integer or a comma list of them, got {_shown(value)!r}")
        if number < smallest:
            problem.fail(name, f"must be at least {smallest}, got {_shown(item)}")
        if number > LIMIT:
            problem.fail(name, f"must be at most {LIMIT}, got {_shown(item)}")
    if len(numbers) not in (1, *counts):
        wanted = " or ".join(str(n) for n in sorted({1, *counts}))
        problem.fail(name, f"must have {wanted} values, got {len(numbers)}")
    return tuple(number for number in numbers if number is not None)


def per_axis(name: str, default: int = 1, smallest: int = 1) -> Option:
    """An option that is one integer an axis, or one for all."""

    def read(problem: Problem, value: object) -> Value:
        numbers = _integers(problem, name, value, (problem.rank,), smallest)
        return numbers * problem.rank if len(numbers) == 1 else numbers

    def write(value: Value) -> str:
        assert isinstance(value, tuple)
        return ",".join(str(v) for v in (value[:1] if len(set(value)) == 1 else value))

    values = f"one integer, or one an axis, each at least {smallest}"
    return Option(name, lambda rank: (default,) * rank, read, write, values)


def _read_padding(problem: Problem, value: object) -> Value:
    if isinstance(value, str) and value in _AUTO_PADDING:
        return value
    if isinstance(value, str) and re.search(r"[a-zA-Z]", value):
        problem.fail(
            "padding", f"must be integers, {', '.join(_AUTO_PADDING)}, got {_shown(value)!r}"
        )
    rank = problem.rank
    numbers = _integers(problem, "padding", value, (rank, 2 * rank), 0)
    if len(numbers) == 1:
        return numbers * (2 * rank)
    return numbers * 2 if len(numbers) == rank else numbers


def _write_padding(value: Value) -> str:
    if isinstance(value, str):
        return value
    assert isinstance(value, tuple)
    half = len(value) // 2
    shown = value if value[:half] != value[half:] else value[:half]
    return ",".join(str(v) for v in (shown[:1] if len(set(value)) == 1 else shown))


def _resolve_padding(problem: Problem) -> Mapping[str, Value]:
    """Turn automatic padding into numbers, which take ceil mode's place.

    Two cases are refused, because ONNX's text, its evaluator and ONNX Runtime read them in
    different ways: VALID in ceil mode (the text gives as many outputs as in floor mode, the others
    round up), and SAME whose total is negative by 2 or more (padding 0, or a crop of the input).
    """
    auto = problem.option("padding")
    if not isinstance(auto, str):
        return {}
    axes = tuple(zip(problem.in_spatial, problem.kernel_extent, problem.stride, strict=True))
    if auto == "valid":
        pads = [(0, 0)] * problem.rank
        for size, span, stride in axes:
            if problem.ceil_mode and windows.outputs(
                size, span, stride, (0, 0), True
            ) != windows.outputs(size, span, stride, (0, 0)):
                problem.fail("ceil_mode", "is ambiguous in ONNX with padding=valid here; give"
                             " padding=0, or leave ceil_mode out")  # fmt: skip
    else:
        for size, span, stride in axes:
            if windows.same_total(size, span, stride) < -1:
                problem.fail(
                    "padding",
                    f"{auto} is ambiguous in ONNX with stride {stride} for a window of {span}; give"
                    " numbers",
                )
        pads = [windows.same_padding(*axis, upper=auto == "same_upper") for axis in axes]
    lows, highs = zip(*pads, strict=True)
    return {"padding": (*lows, *highs), **({"ceil_mode": False} if problem.ceil_mode else {})}


def _resolve_padding_mode(problem: Problem) -> Mapping[str, Value]:
    """Without padding there is no mode."""
    return {} if any(problem.option("padding")) else {"padding_mode": "zeros"}


def _read_groups(problem: Problem, value: object) -> Value:
    numbers = _integers(problem, "groups", value, (1,), 1)
    return numbers[0]


def whole(name: str, default: int) -> Option:
    """An option that is one integer, at least 1."""

    def read(problem: Problem, value: object) -> Value:
        return _integers(problem, name, value, (1,), 1)[0]

    return Option(name, lambda rank: default, read, str, "an integer")


def flag(name: str) -> Option:
    """An option that is ``true`` or ``false`` (the default)."""

    def read(problem: Problem, value: object) -> Value:
        if value in (True, "true", "1") and value is not None:
            return True
        if value in (False, "false", "0"):
            return False
        problem.fail(name, f"must be true or false, got {_shown(value)!r}")

    return Option(name, lambda rank: False, read, lambda value: str(value).lower(), "true or false")


def choice(name: str, values: Sequence[str]) -> Option:
    """An option that is one of some words; the first is the default."""

    def read(problem: Problem, value: object) -> Value:
        if value not in values:
            problem.fail(name, f"must be one of {', '.join(values)}, got {_shown(value)!r}")
        return str(value)

    return Option(name, lambda rank: values[0], read, str, f"one of {', '.join(values)}")


def number(name: str, default: float) -> Option:
    """An option that is a finite number; its value is the text of it."""

    def read(problem: Problem, value: object) -> Value:
        found = _numbers(value)
        if found is None or len(found) != 1:
            problem.fail(name, f"must be a finite number, got {_shown(value)!r}")
        return _text(found)

    return Option(name, lambda rank: _text([default]), read, str, "a number")


def number_list(name: str) -> Option:
    """An option that is a list of finite numbers, empty by default; see :func:`floats`."""

    def read(problem: Problem, value: object) -> Value:
        found = _numbers(value)
        if found is None:
            problem.fail(name, f"must be numbers, got {_shown(value)!r}")
        return _text(found)

    return Option(name, lambda rank: "", read, str, "a comma list of numbers")


def floats(text: str) -> tuple[float, ...]:
    """The numbers of a :func:`number_list`."""
    return tuple(map(float, text.split(",")))


def _numbers(value: object) -> list[float] | None:
    """The finite numbers of a text, a number or a sequence; None if there is something else."""
    items: Sequence[object] = value.split(",") if isinstance(value, str) else [value]
    if isinstance(value, (tuple, list, np.ndarray)):
        items = list(value)
    try:
        found = [float(str(item)) for item in items]
    except ValueError:
        return None
    return found if found and all(map(math.isfinite, found)) else None


def _text(numbers: Sequence[float]) -> str:
    return ",".join(str(int(v)) if v == int(v) else repr(v) for v in numbers)


def activation_of(name: str) -> Option:
    """An option that is an activation's canonical text, empty by default."""

    def read(problem: Problem, value: object) -> Value:
        if value in ("", "none", "linear", None):
            return ""
        if not isinstance(value, str):
            problem.fail(name, f"must be a name, got {_shown(value)!r}")
        try:
            return activation.canonical(value)
        except ValueError as error:
            problem.fail(name, str(error))

    values = f"one of {', '.join(activation.ACTIVATIONS)}, with parameters after commas"
    return Option(name, lambda rank: "", read, str, values)


def dtype_of(names: Sequence[str]) -> Option:
    """The option for the element type, one of these; the first is the default."""
    known = ", ".join(names)

    def read(problem: Problem, value: object) -> Value:
        if not isinstance(value, str) or value not in names:
            problem.fail("dtype", f"must be one of {known}, got {_shown(value)!r}")
        return value

    return Option("dtype", lambda rank: names[0], read, str, f"one of {known}")


def integer(name: str, default: int, low: int, high: int) -> Option:
    """An option that is an integer in a range."""

    def read(problem: Problem, value: object) -> Value:
        number = whole_number(value)
        if number is None or not low <= number <= high:
            problem.fail(name, f"must be {low} to {high}, got {_shown(value)!r}")
        return number

    return Option(name, lambda rank: default, read, str, f"an integer from {low} to {high}")


def _read_scale(problem: Problem, value: object) -> Value:
    try:
        number = float(np.float32(value))  # type: ignore[arg-type]
    except (TypeError, ValueError):
        number = math.nan
    if not (math.isfinite(number) and number >= 0):
        problem.fail("scale", f"must be a positive number, got {_shown(value)!r}")
    return number


def _write_scale(value: Value) -> str:
    """The shortest text of a float32."""
    assert isinstance(value, float)
    return str(np.float32(value))


def _read_algorithm(problem: Problem, value: object) -> Value:
    if value not in ALGORITHMS:
        names = ", ".join(ALGORITHMS)
        problem.fail("algorithm", f"must be one of {names}, got {_shown(value)!r}")
    return str(value)


STRIDE = per_axis("stride")
DILATION = per_axis("dilation")
#: Sizes of a transposed convolution's output, which stand for a padding; () for none.
OUTPUT_SHAPE = replace(per_axis("output_shape"), default=lambda rank: ())


def padding(resolve: Callable[[Problem], Mapping[str, Value]]) -> Option:
    """The option ``padding``, with what turns automatic padding into numbers."""
    values = "one integer, one an axis, lows then highs, same_upper, same_lower, or valid"
    return Option(
        "padding", lambda rank: (0,) * (2 * rank), _read_padding, _write_padding, values, resolve
    )


PADDING = padding(_resolve_padding)
#: What is beyond the edges of a convolution's input: see :mod:`tvmconv.ops.pad`.
PADDING_MODE = replace(
    choice("padding_mode", ("zeros", "reflect", "edge", "wrap", "sphere")),
    resolve=_resolve_padding_mode,
)
GROUPS = Option("groups", lambda rank: 1, _read_groups, str, "a divisor of CI and CO")
CEIL_MODE = flag("ceil_mode")
COUNT_INCLUDE_PAD = flag("count_include_pad")
FLIPPED = flag("flipped")
BIAS = flag("bias")
ACTIVATION = activation_of("activation")
DTYPE = dtype_of(SUPPORTED_DTYPES)
BYTE_DTYPE = dtype_of(BYTE_DTYPES)
ZERO_POINT = integer("zero_point", 0, -128, 255)
OUT_ZERO_POINT = integer("out_zero_point", 0, -128, 255)
WEIGHT_TERMS = integer("weight_terms", 1, 1, 3)
SCALE = Option("scale", lambda rank: 0.0, _read_scale, _write_scale, "a positive number")
ALGORITHM = Option(
    "algorithm", lambda rank: "auto", _read_algorithm, str, f"one of {', '.join(ALGORITHMS)}"
)
