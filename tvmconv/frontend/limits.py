"""Limits on what a model may ask for, checked before anything is allocated.

A file of a few bytes can demand any amount of memory (ConstantOfShape, Expand, a 2³¹-wide input),
so nothing is made because a file says so: sizes are computed in exact integers and compared first.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from tvmconv.errors import InputError
from tvmconv.ops._shapes import Shape, size, text

if TYPE_CHECKING:
    from tvmconv.ops import Operator

Array = npt.NDArray[Any]

#: Most elements of one tensor: kernels index with 32-bit integers.
MAX_ELEMENTS = 2**31 - 1
#: Most axes of one tensor: NumPy 1 has 32, and no network comes near.
MAX_RANK = 16
#: Most bytes of weights that a file, with its external data, may carry.
MAX_WEIGHT_BYTES = 4 * 2**30
#: Bytes of constants that may be made on top of twice what the file carries: a kilobyte of ONNX can
#: ask for weights by ConstantOfShape (vgg19 of the onnx package: 575 MB), but not for all memory.
MAX_MADE_BYTES = 3 * 2**28
#: Most elements of a constant that takes arithmetic in float64; only weights are larger, and they
#: are only reshaped, transposed, cut or scaled.
MAX_ARITHMETIC = 2**24
#: Most nodes of one graph.
MAX_NODES = 50_000
#: Operators whose reference works in the input's dtype and is therefore quick and small.
_LIGHT = frozenset(
    {"reshape", "transpose", "slice", "concat", "pad", "add", "sub", "mul", "div"}
    | {"maximum", "minimum", "channel_shuffle", "expand"}
)


def check_shape(shape: Shape, what: str, empty: bool = False) -> None:
    """Refuse a shape that no kernel could have.

    Parameters
    ----------
    shape : tuple of int
    what : str
        What has the shape, for the message.
    empty : bool
        Whether an extent of 0 is fine, as in the arithmetic of shapes.

    Raises
    ------
    InputError
        If an extent is negative, or 0 while not ``empty``; if there are more than ``MAX_RANK`` axes
        or ``MAX_ELEMENTS`` elements.
    """
    if len(shape) > MAX_RANK:
        raise InputError(f"{what} has {len(shape)} axes, more than {MAX_RANK}")
    if min(shape, default=1) < (0 if empty else 1):
        why = "a negative extent" if min(shape) < 0 else "size 0"
        raise InputError(f"{what} has {why}: shape {text(shape)}")
    if size(shape) > MAX_ELEMENTS:
        raise InputError(
            f"{what} of shape {text(shape)} has {size(shape)} elements, more than 2³¹ − 1"
        )


class ConstantBudget:
    """Counts the bytes of constants that are made while a model is read.

    Parameters
    ----------
    file : str
        The model's file, for messages.
    carried : int
        Bytes of weights in the file.
    """

    def __init__(self, file: str, carried: int = 0) -> None:
        self.file = file
        self.left = MAX_MADE_BYTES + 2 * carried
        self._roots: dict[int, Array] = {}  # keeps them alive, or another could get the same id

    def check(self, shape: Shape, dtype: np.dtype[Any]) -> None:
        """Refuse a tensor for which nothing is left, before it is made.

        Raises
        ------
        InputError
            If the shape is impossible or the budget is exhausted.
        """
        check_shape(shape, "constant", empty=True)
        self._check_bytes(shape, size(shape) * dtype.itemsize)

    def know(self, array: Array) -> None:
        """Note an array that the file carries; neither it nor views of it cost anything."""
        root = _root(array)
        self._roots[id(root)] = root

    def charge(self, array: Array) -> None:
        """Take an array's bytes, unless it is a view of one that is known.

        Raises
        ------
        InputError
            If the budget is exhausted.
        """
        root = _root(array)
        if id(root) not in self._roots:
            self._check_bytes(array.shape, root.nbytes)
            self._roots[id(root)] = root
            self.left -= root.nbytes

    def take(self, count: int) -> bool:
        """Take that many bytes if they are left; used by rewrites that may as well not happen."""
        if count > self.left:
            return False
        self.left -= count
        return True

    def _check_bytes(self, shape: Shape, count: int) -> None:
        if count > self.left:
            raise InputError(
                f"constant of shape {text(shape)} ({count} bytes) exceeds what a model may make of "
                "constants"
            )

    def fold(
        self, operator: Operator, arrays: Sequence[Any], attrs: Mapping[str, Any], shape: Shape
    ) -> Array:
        """Compute a node whose inputs are all constants, by the operator's reference.

        Raises
        ------
        InputError
            If the output is too large to be made here.
        """
        if operator.name not in _LIGHT:
            largest = max(size(shape), *(array.size for array in arrays))
            if largest > MAX_ARITHMETIC:
                raise InputError(f"constant expression of {largest} elements is too large to fold")
        if operator.name not in ("reshape", "transpose", "slice"):  # which make views
            self.check(shape, arrays[0].dtype)
        result: Array = operator.reference(arrays, attrs)
        return result


def _root(array: Array) -> Array:
    """Return the array that holds the memory of a view."""
    while isinstance(array.base, np.ndarray):
        array = array.base
    return array
