"""The buffers in which a kernel's tensors lie, filled so that a wrong access is seen.

What a kernel must not read holds a poison that spreads into its results: channels that pad a block,
neighbours in a buffer of which a tensor is a slice, halos of what is read without padding.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from tvmconv import ops
from tvmconv.graph.halos import halo_fill
from tvmconv.kernel import KernelSpec
from tvmconv.layout import Layout

Array = npt.NDArray[Any]


def poison(op: str, dtype: str) -> float:
    """What spreads into the results of an operator that reads it; of integers a large one."""
    if dtype == "bool":
        return True
    if np.dtype(dtype).kind not in "fV":  # V: bfloat16
        return int(np.iinfo(dtype).max) - 2
    return np.inf if "max" in op else np.nan  # maxima do not see NaN


def own_region(buffer: Array, layout: Layout) -> Array:
    """The part of a buffer that belongs to a tensor, as the buffer has it; a view."""
    if len(layout.shape) < 2:
        return buffer
    slots = slice(layout.first, layout.first + layout.own_slots)
    inside = (
        slice(low, low + size) for low, size in zip(layout.lows, layout.shape[2:], strict=True)
    )
    return buffer[(slice(None), slots, *inside)]


def in_blocks(array: Array, layout: Layout, padding: float) -> Array:
    """A tensor as its :func:`own_region` has it, with ``padding`` after its last channel."""
    if len(layout.shape) < 2 or layout.block == 1:
        return array
    n, channels, *spatial = layout.shape
    wide = np.full((n, layout.own_slots * layout.block, *spatial), padding, array.dtype)
    wide[:, :channels] = array
    split = wide.reshape(n, layout.own_slots, layout.block, *spatial)
    return np.ascontiguousarray(np.moveaxis(split, 2, -1))


def pack(array: Array, layout: Layout, halo: float, poison: float) -> Array:
    """A whole buffer: the tensor in its place, the halo around it, poison everywhere else."""
    buffer = np.full(layout.buffer_shape, poison, layout.dtype)
    if len(layout.shape) >= 2:
        buffer[:, layout.first : layout.first + layout.own_slots] = halo
    own_region(buffer, layout)[...] = in_blocks(array, layout, poison)
    return buffer


def unpack(buffer: Array, layout: Layout) -> Array:
    """The tensor in a buffer."""
    own = own_region(buffer, layout)
    if len(layout.shape) < 2 or layout.block == 1:
        return own
    n, channels, *spatial = layout.shape
    joined = np.moveaxis(own, -1, 2).reshape(n, layout.own_slots * layout.block, *spatial)
    return joined[:, :channels]


def arguments(spec: KernelSpec, data: Sequence[Array], constants: Sequence[Array]) -> list[Array]:
    """The buffers that a kernel reads, in the order of its arguments; the output would come last.

    Parameters
    ----------
    spec : KernelSpec
    data : sequence of ndarray
        The tensors of ``spec.inputs``. What constants are packed to comes after the first.
    constants : sequence of ndarray
        Weight and bias, as ONNX has them.
    """
    poisons = [poison(spec.op, layout.dtype) for layout in spec.inputs]
    halos = list(poisons)
    if "problem" in spec.attrs and spec.attrs.get("edges") != "test":
        halos[0] = halo_fill(spec.attrs)
    first, *rest = map(pack, data, spec.inputs, halos, poisons)
    if ops.get(spec.op).words:
        first = first.view(np.int32).reshape(spec.inputs[0].words.buffer_shape)
    pack_constants = ops.get(spec.op).pack
    return [first, *(pack_constants(spec, constants) if pack_constants else []), *rest]
