"""Shape checks that several operators share; each raises InputError with one line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tvmconv.errors import InputError

Shape = tuple[int, ...]


def expect_inputs(shapes: Sequence[Shape], count: int) -> None:
    """Refuse another number of inputs than ``count``."""
    if len(shapes) != count:
        raise InputError(f"takes {count} input{'s' if count > 1 else ''}, has {len(shapes)}")


def integer(attrs: Mapping[str, Any], key: str) -> int:
    """Return an integer attribute that must be there."""
    value = attrs.get(key)
    if isinstance(value, bool) or not isinstance(value, int):
        raise InputError(f"attribute '{key}' must be an integer, is {value!r}")
    return value


def number(attrs: Mapping[str, Any], key: str) -> float:
    """Return a number that must be there and must not be NaN."""
    value = attrs.get(key)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or value != value:
        raise InputError(f"attribute '{key}' must be a number, is {value!r}")
    return float(value)


def integers(attrs: Mapping[str, Any], key: str) -> list[int]:
    """Return a list of integers that must be there."""
    value = attrs.get(key)
    if not isinstance(value, (list, tuple)) or not all(type(v) is int for v in value):
        raise InputError(f"attribute '{key}' must be a list of integers, is {value!r}")
    return list(value)


def axis_in(axis: int, rank: int, key: str = "axis") -> int:
    """Return ``axis`` counted from the front, for a tensor of that rank; refuse what is outside."""
    if not -rank <= axis < rank:
        raise InputError(f"attribute '{key}': axis {axis} is outside a tensor of rank {rank}")
    return axis % rank


def axes_in(axes: Sequence[int], rank: int, key: str = "axes") -> list[int]:
    """Return axes counted from the front; refuse those outside or named twice."""
    resolved = [axis_in(axis, rank, key) for axis in axes]
    if len(set(resolved)) != len(resolved):
        raise InputError(f"attribute '{key}' names an axis twice: {list(axes)}")
    return resolved


def size(shape: Sequence[int]) -> int:
    """Return the number of elements of a shape, exactly (1 for a scalar)."""
    count = 1
    for extent in shape:
        count *= extent
    return count


def broadcast(a: Shape, b: Shape) -> Shape:
    """Return NumPy's broadcast of two shapes.

    Raises
    ------
    InputError
        If an axis has two different extents, neither of which is 1.
    """
    rank = max(len(a), len(b))
    wide_a = (1,) * (rank - len(a)) + a
    wide_b = (1,) * (rank - len(b)) + b
    if any(m != n and 1 not in (m, n) for m, n in zip(wide_a, wide_b, strict=True)):
        raise InputError(f"shapes {text(a)} and {text(b)} cannot be broadcast")
    return tuple(n if m == 1 else m for m, n in zip(wide_a, wide_b, strict=True))


def text(shape: Sequence[int]) -> str:
    """Show a shape as problems do: ``1x64x7x7``, or ``scalar``."""
    return "x".join(str(extent) for extent in shape) or "scalar"
