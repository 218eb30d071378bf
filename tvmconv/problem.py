"""One operator instance: its shapes and options, their textual form, and its arithmetic.

The text is ``op:input:filter:option=value:…``, for example
``conv2d:1x64x56x56:64x3x3:stride=2:padding=1``: the command line's argument, a test's id and the
log's key. :meth:`Problem.parse` and :attr:`Problem.text` round-trip. Semantics are ONNX's.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from math import prod
from typing import Any, NoReturn

import numpy as np

from tvmconv import ops
from tvmconv.errors import InputError
from tvmconv.ops import Array, Family, Float64, Shape, activation, canonical, windows
from tvmconv.ops.options import BYTE_DTYPES, DTYPES, DType

FLOP_PER_MAC = 2


@dataclass(frozen=True)
class Problem:
    """One instance of an operator of the convolution family; immutable, hashable and valid.

    Parameters
    ----------
    op : str
        Name in the operator registry, without the rank: ``"conv"``.
    input_shape : tuple of int
        N, CI and the spatial sizes; N, K for ``dense``.
    filter_shape : tuple of int
        As in the text: CO and the kernel for convolutions, the kernel for pools, nothing for
        global pools, M for ``dense``.
    options : mapping or pairs
        Values as in the text, or as Python objects: ``{"stride": 2, "padding": "same_upper"}``.
        Kept as pairs in canonical order, resolved (automatic padding becomes numbers), without
        those that have their default.

    Raises
    ------
    InputError
        If there is no such problem; the message is ``TEXT: ATTRIBUTE why``.
    """

    op: str
    input_shape: Shape
    filter_shape: Shape = ()
    options: Any = ()

    def __post_init__(self) -> None:
        pairs = self.options.items() if isinstance(self.options, Mapping) else self.options
        self._set("options", tuple((str(key), value) for key, value in pairs))
        self._set("_label", canonical.given_text(self))
        for attribute, sizes in canonical.sizes(self).items():
            self._set(attribute, sizes)
        for options in canonical.options(self):
            self._set("options", options)
        canonical.check(self)

    @classmethod
    def make(cls, op: str, input_shape: Iterable[int], filter_shape: Iterable[int] = (),
             **options: object) -> Problem:  # fmt: skip
        """Make a problem with its options as keywords."""
        return cls(op, tuple(input_shape), tuple(filter_shape), options)

    @classmethod
    def parse(cls, text: str) -> Problem:
        """Read a problem's text; InputError if it is malformed or there is no such problem."""
        return _parse(text)

    def replace(self, **options: object) -> Problem:
        """Return the same problem with some options changed."""
        merged = {**dict(self.options), **options}
        return Problem(self.op, self.input_shape, self.filter_shape, merged)

    def _set(self, name: str, value: object) -> None:
        object.__setattr__(self, name, value)

    def fail(self, attribute: str, why: str) -> NoReturn:
        """Refuse the problem by an InputError, ``TEXT: ATTRIBUTE WHY``."""
        raise InputError(f"{self.__dict__['_label']}: {attribute} {why}")

    def reference(self, arrays: Mapping[str, Array]) -> Float64:
        """Compute the output, activation included, in float64 by another algorithm than kernels'.

        Parameters
        ----------
        arrays : mapping
            ``x``, ``weight``, ``bias`` as in :attr:`inputs`.

        Raises
        ------
        InputError
            If an array is missing, is not known, or has another shape than the problem's.
        """
        shapes = {name: array.shape for name, array in arrays.items()}
        if shapes != self.inputs:
            raise InputError(f"{self}: inputs must have shapes {self.inputs}, got {shapes}")
        y = self.family.reference(self, arrays)
        return y if self.family.gated else activation.apply(self.activation, y)

    def magnitude(self, arrays: Mapping[str, Array]) -> Float64:
        """S = conv(|x|, |w|) + |b| of the accuracy formula; 0 where nothing is rounded."""
        if self.family.arithmetic == "maximum" or self.dtype in BYTE_DTYPES:
            return np.zeros(self.output_shape)
        if self.family.magnitude is not None:
            return self.family.magnitude(self, arrays)
        return self.family.reference(self, {name: np.abs(a) for name, a in arrays.items()})

    # --- what it is

    @property
    def family(self) -> Family:
        """The rules of its operator."""
        family = ops.get(self.op).family
        if family is None:
            raise InputError(f"{self.op}: operator exists only in graphs, not as a problem")
        return family

    @property
    def name(self) -> str:
        """The operator with its rank, as the text begins: ``"conv2d"``."""
        return canonical.text_name(self.op, self.rank)

    @cached_property
    def text(self) -> str:
        """The canonical text; equal problems have equal texts."""
        writers = {option.name: option.write for option in self.family.options}
        fields = [self.name, *canonical.written(self)]
        fields += [f"{key}={writers[key](value)}" for key, value in self.options]
        return ":".join(fields)

    def __str__(self) -> str:
        return self.text

    def option(self, name: str) -> Any:
        """The value of an option; its default, or None if the operator does not take it."""
        for key, value in self.options:
            if key == name:
                return value
        for option in self.family.options:
            if option.name == name:
                return option.default(self.rank)
        return None

    @property
    def rank(self) -> int:
        """Number of spatial axes; 0 for ``dense``."""
        return len(self.input_shape) - 2

    @property
    def batch(self) -> int:
        """N."""
        return self.input_shape[0]

    @property
    def ci(self) -> int:
        """Input channels."""
        return self.input_shape[1]

    @property
    def in_spatial(self) -> Shape:
        """Input sizes along the spatial axes."""
        return self.input_shape[2:]

    @property
    def co(self) -> int:
        """Output channels."""
        form = self.family.filter_form
        return self.filter_shape[form.index("CO")] if "CO" in form else self.ci

    @property
    def kernel(self) -> Shape:
        """Taps along each spatial axis; the whole input for global pools."""
        form = self.family.filter_form
        if "K" not in form:
            return self.in_spatial
        start = form.index("K")
        return self.filter_shape[start : start + self.rank]

    @property
    def stride(self) -> Shape:
        """Step of the window along each spatial axis."""
        return self.option("stride") or (1,) * self.rank

    @property
    def dilation(self) -> Shape:
        """Distance of taps along each spatial axis."""
        return self.option("dilation") or (1,) * self.rank

    @property
    def pads_low(self) -> Shape:
        """Padding before each spatial axis."""
        return (self.option("padding") or (0,) * self.rank)[: self.rank]

    @property
    def pads_high(self) -> Shape:
        """Padding after each spatial axis; ceil mode may read beyond it."""
        return (self.option("padding") or (0,) * self.rank)[-self.rank :] if self.rank else ()

    @property
    def kernel_extent(self) -> Shape:
        """Inputs from the first tap to the last along each spatial axis: d·(K-1) + 1."""
        return tuple(map(windows.extent, self.kernel, self.dilation))

    @property
    def groups(self) -> int:
        """Groups of channels that are convolved apart; CI for depthwise operators."""
        return self.ci if self.family.depthwise else int(self.option("groups") or 1)

    @property
    def flipped(self) -> bool:
        """Whether windows read the taps in the opposite order: convolution proper."""
        return bool(self.option("flipped"))

    @property
    def bias(self) -> bool:
        """Whether a bias of CO elements is added."""
        return bool(self.option("bias"))

    @property
    def activation(self) -> str:
        """Canonical text of the activation (:mod:`tvmconv.ops.activation`), or empty."""
        return self.option("activation") or ""

    @property
    def ceil_mode(self) -> bool:
        """Whether a pool's last window may overhang the padded input."""
        return bool(self.option("ceil_mode"))

    @property
    def count_include_pad(self) -> bool:
        """Whether an average divides by the padding's elements too."""
        return bool(self.option("count_include_pad"))

    @property
    def dtype(self) -> str:
        """Element type of inputs and output."""
        return str(self.option("dtype") or "float32")

    @property
    def dtypes(self) -> dict[str, str]:
        """Element types of the inputs by name, and of the ``output``."""
        rule = self.family.dtypes
        if rule is not None:
            return rule(self)
        return dict.fromkeys((*self.inputs, "output"), self.dtype)

    @property
    def element(self) -> DType:
        """Size and roundoff of the element type."""
        return DTYPES[self.dtype]

    @property
    def parts(self) -> tuple[Problem, ...]:
        """The problems that compute the same one after the other; empty if it is one itself."""
        return self.family.parts(self) if self.family.parts else ()

    # --- shapes and cost

    @property
    def inputs(self) -> dict[str, Shape]:
        """Shapes of the run-time inputs by name: ``x``, ``weight``, ``bias``."""
        return self.family.inputs(self)

    @property
    def out_spatial(self) -> Shape:
        """Output sizes along the spatial axes."""
        return self.family.out_spatial(self)

    @property
    def output_shape(self) -> Shape:
        """N, CO and the output's spatial sizes."""
        return (self.batch, self.co, *self.out_spatial)

    @property
    def taps(self) -> int:
        """Terms in the sum (or maximum) of one output element, padding included."""
        return self.family.taps(self)

    @property
    def parameters(self) -> int:
        """Elements of the weight and the bias."""
        return sum(prod(shape) for name, shape in self.inputs.items() if name != "x")

    @property
    def macs(self) -> int:
        """Multiply-accumulates, those with padding included; 0 for pools."""
        if self.parts:
            return sum(part.macs for part in self.parts)
        if self.family.transposed:
            return prod(self.input_shape) * prod(self.kernel) * (self.co // self.groups)
        multiplies = self.family.arithmetic == "multiply-add"
        sums = prod(self.output_shape) * (1 + self.family.gated)
        return sums * self.taps if multiplies else 0

    @property
    def flops(self) -> int:
        """Floating-point operations: 2 a MAC; one a tap for pools. Bias and activation are free."""
        return FLOP_PER_MAC * self.macs or prod(self.output_shape) * self.taps

    @property
    def bytes_read(self) -> int:
        """Bytes of the inputs, each element once."""
        return sum(self._bytes(name, shape) for name, shape in self.inputs.items())

    @property
    def bytes_written(self) -> int:
        """Bytes of the output."""
        return self._bytes("output", self.output_shape)

    @property
    def bytes_moved(self) -> int:
        """Compulsory traffic in bytes: each input and output element once."""
        return self.bytes_read + self.bytes_written

    def _bytes(self, name: str, shape: Shape) -> int:
        return prod(shape) * DTYPES[self.dtypes[name]].itemsize

    @property
    def intensity(self) -> float:
        """Arithmetic intensity in FLOP a byte of compulsory traffic."""
        return self.flops / self.bytes_moved


@lru_cache(maxsize=4096)
def _parse(text: str) -> Problem:
    op, input_shape, filter_shape, options = canonical.split(text)
    return Problem(op, input_shape, filter_shape, options)
