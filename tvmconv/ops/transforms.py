"""Linear transforms with constant matrices, written out: few additions, no multiplication by one.

Rows of a transform come in pairs that differ in the signs of their odd terms. The sums of the even
terms and of the odd ones are written alike in both, so that the compiler computes them once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tvmconv.ops import Float64


def row(matrix: Float64, index: Any, element: Callable[[int], Any]) -> Any:
    """Row ``index`` of a transform, applied to elements; the loop over it is to be unrolled."""
    from tvmconv._tvm import tirx

    rows = [_combination(row, element) for row in matrix]
    value = rows[-1]
    for k in range(len(rows) - 2, -1, -1):
        value = tirx.Select(index == k, rows[k], value)
    return value


def _combination(row: Float64, element: Callable[[int], Any]) -> Any:
    """``sum of row[k]·element(k)``: the even terms and the odd ones, which rows of ±p share."""
    parts = [_scaled_sum(row, range(parity, len(row), 2), element) for parity in (0, 1)]
    (even, scale), (odd, odd_scale) = parts
    if even is None or odd is None:
        found, factor = (odd, odd_scale) if even is None else (even, scale)
        return found if factor == 1 else _times(found, factor)
    if scale == 1:
        return _plus(even, odd, odd_scale)
    return _plus(_times(even, scale), odd, odd_scale)


def _scaled_sum(
    row: Float64, places: range, element: Callable[[int], Any]
) -> tuple[Any | None, float]:
    """A sum of terms as (sum, factor) in which the last term has coefficient 1."""
    used = [k for k in places if row[k]]
    if not used:
        return None, 1.0
    factor = float(row[used[-1]])
    value = element(used[-1])
    for k in reversed(used[:-1]):
        value = _plus(value, element(k), float(row[k]) / factor)
    return value, factor


def _times(value: Any, factor: float) -> Any:
    from tvmconv._tvm import tirx

    return value * tirx.const(factor, "float32")


def _plus(value: Any, other: Any, factor: float) -> Any:
    """``value + factor·other``."""
    if abs(abs(factor) - 1) < 1e-12:
        return value + other if factor > 0 else value - other
    return value + _times(other, factor)
