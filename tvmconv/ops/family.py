"""What the operators of the convolution family share: their record, and windows over all axes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from tvmconv.errors import InputError
from tvmconv.ops import (
    Array,
    Attrs,
    BadCase,
    Case,
    Family,
    Float64,
    Importer,
    Operator,
    PackedWeight,
    Shape,
    get,
    pad,
    register,
    windows,
)
from tvmconv.problem import Problem

if TYPE_CHECKING:
    from tvmconv.kernel import KernelSpec


def register_family(
    name: str,
    summary: str,
    family: Family,
    *,
    ranks: tuple[int, ...],
    onnx: dict[str, Importer],
    cases: tuple[tuple[str, str], ...],
    bad_cases: tuple[tuple[str, str], ...],
    compute: Callable[[KernelSpec], list[Any]] | None = None,
    pack: Callable[[KernelSpec, Sequence[Array]], list[Array]] | None = None,
    packed_weight: PackedWeight | None = None,
    layout: Literal["blocked", "any"] = "blocked",
    planes: bool = False,
    words: bool = False,
) -> Operator:
    """Register an operator whose only node attribute is its problem's text.

    ``cases`` are pairs of a problem and its source, ``bad_cases`` of a problem and its message.
    """
    return register(
        Operator(
            name=name,
            summary=summary,
            output_shape=output_shape,
            reference=reference,
            ranks=ranks,
            onnx=onnx,
            cases=tuple(Case(source, problem) for problem, source in cases),
            bad_cases=tuple(BadCase(message, problem) for problem, message in bad_cases),
            family=family,
            compute=compute,
            pack=pack,
            packed_weight=packed_weight,
            layout=layout,
            planes=planes,
            takes_program=True,
            words=words,
            output_dtype=output_dtype if family.dtypes is not None else None,
        )
    )


def output_shape(shapes: Sequence[Shape], attrs: Attrs) -> Shape:
    """Output shape of a node of the family.

    Raises
    ------
    InputError
        If the problem is none, or the inputs' shapes are not the problem's.
    """
    problem = Problem.parse(attrs["problem"])
    for (name, wanted), got in zip(problem.inputs.items(), shapes, strict=False):
        if wanted != tuple(got):
            raise InputError(f"{problem}: {name} must have shape {wanted}, has {tuple(got)}")
    if len(problem.inputs) != len(shapes):
        wanted_names = ", ".join(problem.inputs)
        raise InputError(f"{problem}: needs inputs {wanted_names}, got {len(shapes)}")
    return problem.output_shape


def reference(arrays: Sequence[Array], attrs: Attrs) -> Array:
    """Output of a node of the family, activation included, in the dtype of the first input."""
    problem = Problem.parse(attrs["problem"])
    output_shape([array.shape for array in arrays], attrs)
    if attrs.get("shuffled"):
        shuffle = get("channel_shuffle").reference
        arrays = [shuffle(arrays[:1], {"groups": attrs["shuffled"]}), *arrays[1:]]
    y = problem.reference(dict(zip(problem.inputs, arrays, strict=True)))
    return y.astype(arrays[0].dtype if problem.family.dtypes is None else problem.dtypes["output"])


def output_dtype(dtypes: Sequence[str], attrs: Attrs) -> str:
    """Element type of the output of a node of the family; the inputs must have the problem's.

    Raises
    ------
    InputError
        If they have others.
    """
    problem = Problem.parse(attrs["problem"])
    for (name, wanted), got in zip(problem.dtypes.items(), dtypes, strict=False):
        if name in problem.inputs and wanted != got:
            raise InputError(f"{problem}: {name} must be {wanted}, is {got}")
    return problem.dtypes["output"]


def out_spatial(problem: Problem) -> Shape:
    """Output sizes of a window that slides along every spatial axis."""
    axes = zip(
        problem.in_spatial,
        problem.kernel_extent,
        problem.stride,
        zip(problem.pads_low, problem.pads_high, strict=True),
        strict=True,
    )
    return tuple(windows.outputs(*axis, problem.ceil_mode) for axis in axes)


def padding_mode(problem: Problem) -> str:
    """The mode of a problem's padding as :mod:`tvmconv.ops.pad` calls it."""
    mode = problem.option("padding_mode")
    return "constant" if mode in (None, "zeros") else str(mode)


def check_padding(problem: Problem) -> None:
    """Refuse padding that its mode does not have."""
    lows, highs = (0, 0, *problem.pads_low), (0, 0, *problem.pads_high)
    try:
        pad.check(problem.input_shape, lows, highs, padding_mode(problem))
    except InputError as error:
        problem.fail("padding_mode", f"cannot be: {error}")


def with_zeros(problem: Problem) -> Problem:
    """The problem of a kernel, of which the padding is zeros.

    Raises
    ------
    ValueError
        If it has another padding mode: a graph pass puts a border in its place.
    """
    if padding_mode(problem) != "constant":
        raise ValueError(f"{problem}: a kernel pads with zeros")
    return problem


def padded(problem: Problem, x: Array, value: float) -> Float64:
    """``x`` in float64 with its padding filled, cut or extended to just what the windows read."""
    mode = padding_mode(problem)
    if mode != "constant":
        lows, highs = (0, 0, *problem.pads_low), (0, 0, *problem.pads_high)
        return pad.padded(x.astype(np.float64), lows, highs, mode, value)
    pads, cuts = [(0, 0), (0, 0)], [slice(None), slice(None)]
    for axis, count in enumerate(problem.out_spatial):
        needed = (count - 1) * problem.stride[axis] + problem.kernel_extent[axis]
        low = problem.pads_low[axis]
        pads.append((low, max(0, needed - low - problem.in_spatial[axis])))
        cuts.append(slice(0, needed))
    return np.pad(x.astype(np.float64), pads, constant_values=value)[tuple(cuts)]


def tap_view(problem: Problem, x: Float64, tap: tuple[int, ...]) -> Float64:
    """What one tap reads for every output: a strided view of a :func:`padded` input."""
    cuts = [slice(None), slice(None)]
    for axis, count in enumerate(problem.out_spatial):
        start = tap[axis] * problem.dilation[axis]
        step = problem.stride[axis]
        cuts.append(slice(start, start + (count - 1) * step + 1, step))
    return x[tuple(cuts)]


def window_view(problem: Problem, x: Float64) -> Float64:
    """All windows of a :func:`padded` input: a view of N, C, out_spatial, kernel."""
    axes = tuple(range(2, 2 + problem.rank))
    view = np.lib.stride_tricks.sliding_window_view(x, problem.kernel_extent, axes)
    steps = [slice(None), slice(None), *(slice(None, None, s) for s in problem.stride)]
    return view[tuple(steps + [slice(None, None, d) for d in problem.dilation])]


def as_read(problem: Problem, weight: Array) -> Array:
    """A weight with its taps in the order in which windows read them.

    That is their own, or the opposite for a true convolution (``flipped=true``).
    """
    if not problem.flipped:
        return weight
    return np.flip(weight, axis=tuple(range(weight.ndim - problem.rank, weight.ndim)))


class AsRead:
    """A weight that is known only at run time, indexed as :func:`as_read` has it.

    Parameters
    ----------
    problem : Problem
    source : te.Tensor
        Its last axes are the taps.
    """

    def __init__(self, problem: Problem, source: Any) -> None:
        self._problem, self._source = problem, source

    def __getitem__(self, index: tuple[Any, ...]) -> Any:
        """The expression of an element."""
        if not self._problem.flipped:
            return self._source[index]
        rank = self._problem.rank
        taps = zip(self._problem.kernel, index[-rank:], strict=True)
        return self._source[(*index[:-rank], *(count - 1 - tap for count, tap in taps))]


def add_bias(problem: Problem, y: Float64, arrays: Mapping[str, Array]) -> Float64:
    """``y``, with the bias added along the channels where the problem has one."""
    if not problem.bias:
        return y
    bias = np.asarray(arrays["bias"], np.float64)
    return np.asarray(y + bias.reshape((-1,) + (1,) * problem.rank))
