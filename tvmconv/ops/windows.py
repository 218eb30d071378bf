"""Arithmetic of sliding windows along one axis, shared by convolutions and pools.

With input size ``I``, ``K`` taps a window, stride ``s``, dilation ``d`` and padding ``low`` and
``high``, output ``o`` reads the inputs ``o*s - low + k*d`` for ``k = 0 .. K-1``; those outside
``0 .. I-1`` are padding. Plain integers throughout, so nothing overflows.

References
----------
ONNX operator specification, Conv-22, MaxPool-22 and AveragePool-22.
"""

from __future__ import annotations

from math import gcd

import numpy as np
import numpy.typing as npt


def extent(taps: int, dilation: int) -> int:
    """Number of inputs from a window's first tap to its last: ``d*(K-1) + 1``."""
    return dilation * (taps - 1) + 1


def same_total(size: int, span: int, stride: int) -> int:
    """Padding that makes ``ceil(I/s)`` windows just fit: ``(ceil(I/s) - 1)*s + span - I``.

    It is negative where the last window ends before the input does.
    """
    return (-(-size // stride) - 1) * stride + span - size


def same_padding(size: int, span: int, stride: int, upper: bool) -> tuple[int, int]:
    """Padding of ONNX's ``SAME_UPPER`` and ``SAME_LOWER``: as many outputs as ``ceil(I/s)``.

    The total is :func:`same_total`, or 0 where that is negative, as in ONNX's shape inference; the
    output has the same size. An odd total has the extra element at the end for ``upper`` and at
    the beginning otherwise.

    Parameters
    ----------
    size, span, stride : int
        Input size, :func:`extent` of the window, stride.
    upper : bool
        Whether an odd total has its extra element at the end.

    Returns
    -------
    (low, high)
    """
    total = max(0, same_total(size, span, stride))
    small, large = total // 2, total - total // 2
    return (small, large) if upper else (large, small)


def outputs(size: int, span: int, stride: int, pads: tuple[int, int], ceil: bool = False) -> int:
    """Number of windows: ``floor((I + low + high - span)/s) + 1``, or with ``ceil`` in its place.

    In ceil mode a last window that would start in the padding after the input is dropped. The
    result is not positive where the window does not fit.
    """
    low, high = pads
    slack = size + low + high - span
    if not ceil:
        return slack // stride + 1
    count = -(-slack // stride) + 1
    return count - 1 if (count - 1) * stride >= size + low else count


def has_empty_window(size: int, stride: int, dilation: int, low: int, count: int) -> bool:
    """Whether one of ``count`` windows has every tap in the padding.

    Assumes that both paddings are shorter than the window's extent. Then every window starts
    before the input's end and ends after its start, so only one that starts in the low padding can
    be empty, by straddling an input that is shorter than the dilation.
    """
    if size >= dilation or low == 0:
        return False
    period = dilation // gcd(stride, dilation)  # of the first tap's place behind the padding
    starts = min(count, -(-low // stride), period)
    return any((o * stride - low) % dilation >= size for o in range(starts))


def tap_counts(
    count: int, taps: int, stride: int, dilation: int, low: int, limits: tuple[int, int]
) -> npt.NDArray[np.int64]:
    """For each of ``count`` windows, the number of taps in ``limits[0] <= i < limits[1]``."""
    starts = np.arange(count, dtype=np.int64) * stride - low
    counts = np.zeros(count, dtype=np.int64)
    for tap in range(taps):
        position = starts + tap * dilation
        counts += (position >= limits[0]) & (position < limits[1])
    return counts
