"""Separable resampling: every output is a weighted sum (or a maximum) of a few inputs of each axis.

``y[n,c,o] = sum over k of w1[k1,o1] · w2[k2,o2] · … · x[n, c, i1[k1,o1], i2[k2,o2], …]``

What the inputs and the weights of an axis are is known when the kernel is compiled: tables that it
reads; see :mod:`tvmconv.ops.resampling_kernel`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from tvmconv.ops import Array, Float64

Integers = npt.NDArray[np.int64]
#: Up to this a difference of weights is rounding.
_SAME_WEIGHT = 1e-12


@dataclass(frozen=True, eq=False)
class Axis:
    """How the outputs of one axis come from its inputs.

    Attributes
    ----------
    size : int
        Inputs.
    places : ndarray of int, (taps, outputs)
        Which inputs an output is made of; those outside are the nearest one inside.
    weights : ndarray of float, (taps, outputs), optional
        Their weights; all 1 if left out.
    beyond : ndarray of bool, (outputs,), optional
        Which outputs have a given value instead.
    """

    size: int
    places: Integers
    weights: Float64 | None = None
    beyond: npt.NDArray[np.bool_] | None = None

    @property
    def taps(self) -> int:
        """Inputs of one output."""
        return len(self.places)

    @property
    def outputs(self) -> int:
        """Outputs."""
        return len(self.places[0])

    @property
    def indices(self) -> Integers:
        """The places, all of them inside."""
        return np.clip(self.places, 0, self.size - 1)

    @property
    def is_identity(self) -> bool:
        """Whether every output is the input of its number."""
        if self.taps > 1 or self.weights is not None or self.outputs != self.size:
            return False
        return self.beyond is None and bool((self.indices[0] == np.arange(self.size)).all())

    @cached_property
    def phases(self) -> int:
        """After how many outputs places move on by one input and weights repeat; 0 for never."""
        count, rest = divmod(self.outputs, self.size)
        if rest or count < 2:
            return 0
        start, turn = self.first_phases
        outputs = np.arange(self.outputs)
        moved = start + (outputs + count - turn) // count + np.arange(self.taps)[:, None]
        if (moved != self.places).any():
            return 0
        if self.weights is None:
            return count
        repeated = np.tile(self.weights[:, :count], self.size)
        return count if np.abs(repeated - self.weights).max() <= _SAME_WEIGHT else 0

    @property
    def first_phases(self) -> tuple[int, int]:
        """The first place of phase 0, and the phase from which on it is one further."""
        first = self.places[0, : max(1, self.outputs // self.size)]
        return int(first[0]), int((first == first[0]).sum())

    @property
    def reach(self) -> tuple[int, int]:
        """How many places lie before the first input, and after the last one."""
        return max(0, -int(self.places.min())), max(0, int(self.places.max()) - self.size + 1)


def identity(size: int) -> Axis:
    """The axis on which nothing happens."""
    return Axis(size, np.arange(size)[None])


def matrix(axis: Axis) -> Float64:
    """The linear map of an axis, (outputs, size)."""
    found = np.zeros((axis.outputs, axis.size))
    weights = np.ones(axis.places.shape) if axis.weights is None else axis.weights
    for indices, row in zip(axis.indices, weights, strict=True):
        np.add.at(found, (np.arange(axis.outputs), indices), row)
    return found


def apply(x: Array, maps: Sequence[Float64]) -> Float64:
    """Multiply each spatial axis of ``x`` by its matrix, in float64."""
    y = np.asarray(x, np.float64)
    for axis, factor in enumerate(maps, 2):
        y = np.moveaxis(np.tensordot(y, factor, (axis, 1)), -1, axis)
    return y


def beyond(axes: Sequence[Axis]) -> npt.NDArray[np.bool_]:
    """Which outputs have a given value instead, of the output's spatial shape."""
    found = np.zeros((), bool)
    for axis in axes:
        own = np.zeros(axis.outputs, bool) if axis.beyond is None else axis.beyond
        found = np.logical_or.outer(found, own)
    return found


def terms(axes: Sequence[Axis]) -> int:
    """Inputs that one output is made of."""
    return math.prod(axis.taps for axis in axes)


def tables(axes: Sequence[Axis], planes: bool) -> list[Array]:
    """What a kernel reads: of each axis the places, the weights and which outputs are beyond."""
    found: list[Array] = []
    for number, axis in enumerate(axes):
        phases = axis.phases if planes and number == len(axes) - 1 else 0
        if not (phases or axis.is_identity):
            found.append(axis.indices.astype(np.int32))
        if axis.weights is not None:
            weights = axis.weights[:, :phases] if phases else axis.weights
            found.append(weights.astype(np.float32))
        if axis.beyond is not None:
            found.append(axis.beyond.astype(np.int32))
    return found
