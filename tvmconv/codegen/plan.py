"""What a compiled model does at run time, as data: tensors in memory and the steps over them.

A :class:`Plan` is checked when it is written (:mod:`tvmconv.codegen.plan_check`): every tensor lies
inside its memory, so the C runtime, which checks nothing again, stays in bounds.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from tvmconv.layout import Layout
from tvmconv.runtime.inspect import DTYPES

Space: TypeAlias = Literal["arena", "weights", "input", "output"]


def element_bytes(dtype: str) -> int:
    """Bytes of one element.

    Raises
    ------
    ValueError
        The element type is not in :data:`~tvmconv.runtime.inspect.DTYPES`.
    """
    if dtype not in DTYPES:
        raise ValueError(f"dtype {dtype!r} is not one of {', '.join(DTYPES)}")
    return DTYPES[dtype][1] // 8


@dataclass(frozen=True)
class TensorArgument:
    """A compact, row-major tensor.

    Attributes
    ----------
    space : "arena", "weights", "input" or "output"
    shape : tuple of int
    dtype : str
    offset : int
        Bytes from the start of the space; a multiple of 64 for a kernel's argument.
    index : int
        Which input or output; 0 otherwise.
    """

    space: Space
    shape: tuple[int, ...]
    dtype: str = "float32"
    offset: int = 0
    index: int = 0

    @property
    def nbytes(self) -> int:
        """Size in bytes."""
        return math.prod(self.shape) * element_bytes(self.dtype)


@dataclass(frozen=True)
class BlockedTensor:
    """A tensor ``(N, C, *spatial)`` stored as ``[N][ceil(C/block)][*padded][block]`` in a halo.

    Attributes
    ----------
    shape : tuple of int
        Logical shape with up to three spatial axes, without the halo.
    offset : int
        Bytes from the start of the space to the first corner of the halo.
    block : int
        Channels in a block; 1 is a plain layout.
    lows, highs : tuple of int
        Width of the halo before and after each spatial axis; empty for none.
    strides : tuple of int
        In elements: of the batch, of a channel block, and of each spatial axis but the last (one
        pixel is always ``block`` elements after the other). Empty for compact.
    dtype : str
    space : "arena" or "weights"
    fill : int
        What the halo holds: 0 unless elements are bytes.
    """

    shape: tuple[int, ...]
    offset: int = 0
    block: int = 1
    lows: tuple[int, ...] = ()
    highs: tuple[int, ...] = ()
    strides: tuple[int, ...] = ()
    dtype: str = "float32"
    space: Space = "arena"
    fill: int = 0

    def __post_init__(self) -> None:
        """Fill in the halo and the strides that were left out."""
        if not 2 <= len(self.shape) <= 5:
            raise ValueError(f"shape {self.shape} is not (N, C) and up to three spatial axes")
        if self.fill and element_bytes(self.dtype) != 1:
            raise ValueError(f"a halo of {self.fill} in {self.dtype}")
        rank = len(self.shape) - 2
        object.__setattr__(self, "lows", self.lows or (0,) * rank)
        object.__setattr__(self, "highs", self.highs or (0,) * rank)
        if not self.strides:
            object.__setattr__(self, "strides", self._compact())

    def _compact(self) -> tuple[int, ...]:
        strides = [self.block]
        for size in reversed((self.slots, *self.padded)):
            strides.append(strides[-1] * size)
        return tuple(reversed(strides[1:] if self.padded else strides))

    @classmethod
    def of(cls, layout: Layout, offset: int = 0, space: Space = "arena") -> BlockedTensor:
        """The tensor of a :class:`~tvmconv.layout.Layout` whose buffer starts at ``offset``."""
        shape = layout.shape if len(layout.shape) >= 2 else (1, math.prod(layout.shape))
        whole = cls(
            (shape[0], (layout.slots or -(-shape[1] // layout.block)) * layout.block, *shape[2:]),
            offset,
            layout.block,
            layout.lows,
            layout.highs,
        )
        start = offset + layout.first * whole.strides[1] * element_bytes(layout.dtype)
        return cls(
            shape,
            start,
            layout.block,
            layout.lows,
            layout.highs,
            whole.strides,
            layout.dtype,
            space,
            layout.fill,
        )

    @property
    def slots(self) -> int:
        """Channel blocks."""
        return -(-self.shape[1] // self.block)

    @property
    def padded(self) -> tuple[int, ...]:
        """Spatial extents with the halo."""
        spatial = zip(self.lows, self.shape[2:], self.highs, strict=True)
        return tuple(low + size + high for low, size, high in spatial)

    @property
    def nbytes(self) -> int:
        """Bytes from the first corner to the last element, that included."""
        outer = (self.shape[0], self.slots, *self.padded[:-1])
        last = sum((n - 1) * s for n, s in zip(outer, self.strides, strict=True))
        row = self.padded[-1] if self.padded else 1
        return (last + row * self.block) * element_bytes(self.dtype)


@dataclass(frozen=True)
class KernelStep:
    """A call of the function ``__tvm_ffi_<kernel>`` of one of the objects.

    Attributes
    ----------
    kernel : str
    arguments : tuple of TensorArgument
    name : str
        For people: the node it came from.
    kind : str
        For people: the operator.
    macs : int
        Multiply-accumulates of the direct algorithm, 0 if not counted.
    algorithm : str
        The algorithm, where there is a choice and it is not the direct one.
    problem : str
        The problem's text, of an operator of the convolution family.
    """

    kernel: str
    arguments: tuple[TensorArgument, ...]
    name: str = ""
    kind: str = "kernel"
    macs: int = 0
    algorithm: str = ""
    problem: str = ""


@dataclass(frozen=True)
class PackStep:
    """Plain to blocked; the lanes past the last channel become zero, the halo what it holds."""

    source: TensorArgument
    destination: BlockedTensor
    name: str = "pack"


@dataclass(frozen=True)
class UnpackStep:
    """The interior of a blocked tensor to plain."""

    source: BlockedTensor
    destination: TensorArgument
    name: str = "unpack"


@dataclass(frozen=True)
class BorderStep:
    """The halo of a blocked tensor becomes zero, or what it is to hold."""

    tensor: BlockedTensor
    name: str = "border"


@dataclass(frozen=True)
class CopyStep:
    """The bytes of ``source`` to ``destination``, of the same size."""

    source: TensorArgument
    destination: TensorArgument
    name: str = "copy"


Step: TypeAlias = KernelStep | PackStep | UnpackStep | BorderStep | CopyStep


@dataclass(frozen=True)
class Port:
    """One input or output of a model: its name, shape and element type."""

    name: str
    shape: tuple[int, ...]
    dtype: str = "float32"

    @property
    def nbytes(self) -> int:
        """Size in bytes."""
        return math.prod(self.shape) * element_bytes(self.dtype)


@dataclass(frozen=True)
class Fill:
    """A part of the arena whose bytes are not zero when a run first sees it."""

    offset: int
    nbytes: int
    value: int


@dataclass(frozen=True)
class Plan:
    """A whole model.

    Attributes
    ----------
    arena_bytes : int
        Scratch memory of an instance.
    inputs, outputs : sequence of Port
    steps : sequence of steps, in execution order
    metadata : mapping
        JSON-able; joins what :func:`tvmconv.codegen.artifact.describe` adds.
    threads : int
        Threads the kernels were planned for; 0 leaves the choice to the machine that runs them.
    fills : sequence of Fill
        For halos that no step writes; only of devices.
    """

    arena_bytes: int
    inputs: Sequence[Port]
    outputs: Sequence[Port]
    steps: Sequence[Step]
    metadata: Mapping[str, Any] = field(default_factory=dict)
    threads: int = 0
    fills: Sequence[Fill] = ()


def step_name(step: Step) -> str:
    """What people are shown as the step's name."""
    return step.name or (step.kernel if isinstance(step, KernelStep) else "")
