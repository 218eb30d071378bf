"""Deformable convolution: what each tap reads lies at a place that another tensor says.

ONNX ``DeformConv`` is two nodes here: this operator samples the input once for each tap, and a
pointwise convolution of the samples, which all schedules of convolutions are for, sums them.

References
----------
Dai et al., Deformable Convolutional Networks, ICCV 2017, equations 2 to 4. Zhu et al., Deformable
ConvNets v2, CVPR 2019, equation 1: the mask. ONNX operator specification, DeformConv-22.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from tvmconv import te_math
from tvmconv.errors import InputError
from tvmconv.kernel import KernelSpec
from tvmconv.layout import Layout
from tvmconv.ops import BadCase, Case, Operator, expressions, importing, register, windows
from tvmconv.ops._shapes import Shape, integer, integers, text

if TYPE_CHECKING:
    from tvmconv.frontend.node import Builder, OnnxNode
    from tvmconv.graph.ir import Value

Array = npt.NDArray[Any]
Attrs = Mapping[str, Any]

_RANK = 2
#: Offsets beyond this many elements read no input, whatever its size.
_FAR = 2.0**30


@dataclass(frozen=True)
class _Window:
    """The attributes of a node.

    Attributes
    ----------
    kernel, stride, dilation : tuple of int
        One for each spatial axis.
    padding : tuple of int
        Lows, then highs.
    groups : int
        Of the convolution that follows: its channels stand together.
    offset_group : int
        Parts of the channels that share their offsets.
    """

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    padding: tuple[int, ...]
    groups: int
    offset_group: int

    @classmethod
    def of(cls, attrs: Attrs) -> _Window:
        """Read and check them."""
        lists: dict[str, tuple[int, ...]] = {}
        for key, count, least in (
            ("kernel", _RANK, 1),
            ("stride", _RANK, 1),
            ("dilation", _RANK, 1),
            ("padding", 2 * _RANK, 0),
        ):
            values = integers(attrs, key)
            if len(values) != count or min(values) < least:
                raise InputError(
                    f"attribute '{key}' must be {count} integers of at least {least}, is {values}"
                )
            lists[key] = tuple(values)
        for key in ("groups", "offset_group"):
            if integer(attrs, key) < 1:
                raise InputError(f"attribute '{key}' must be at least 1, is {attrs[key]}")
        return cls(**lists, groups=attrs["groups"], offset_group=attrs["offset_group"])

    @property
    def taps(self) -> int:
        """Places that one output reads."""
        return prod(self.kernel)

    def out_spatial(self, sizes: Sequence[int]) -> Shape:
        """Output sizes for an input of these sizes."""
        pads = zip(self.padding[:_RANK], self.padding[_RANK:], strict=True)
        spans = map(windows.extent, self.kernel, self.dilation)
        return tuple(map(windows.outputs, sizes, spans, self.stride, pads))

    def start(self, axis: int, tap: Any, o: Any) -> Any:
        """Where a tap would read without an offset; ``tap`` counts the taps of all axes."""
        k = tap // self.kernel[1] if axis == 0 else tap % self.kernel[1]
        return o * self.stride[axis] - self.padding[axis] + k * self.dilation[axis]


def output_shape(shapes: Sequence[Shape], attrs: Attrs) -> Shape:
    """Return (N, C·taps, *output sizes) of inputs ``x``, ``offset`` and maybe ``mask``."""
    if len(shapes) not in (2, 3):
        raise InputError(f"takes 2 or 3 inputs, has {len(shapes)}")
    window, x = _Window.of(attrs), shapes[0]
    if len(x) != _RANK + 2:
        raise InputError(f"input must have {_RANK + 2} axes, has shape {text(x)}")
    for key, count in (("groups", window.groups), ("offset_group", window.offset_group)):
        if x[1] % count:
            raise InputError(f"attribute '{key}' {count} does not divide the {x[1]} channels")
    out = window.out_spatial(x[2:])
    if min(out) < 1:
        raise InputError(f"the output would have size {min(out)}")
    places = window.offset_group * window.taps
    for name, shape, channels in zip(
        ("offset", "mask"), shapes[1:], (_RANK * places, places), strict=False
    ):
        wanted = (x[0], channels, *out)
        if shape != wanted:
            raise InputError(f"{name} must have shape {text(wanted)}, has {text(shape)}")
    return (x[0], x[1] * window.taps, *out)


def reference(arrays: Sequence[Array], attrs: Attrs) -> Array:
    """Return x at ``o·stride − low + k·dilation + offset``, bilinear, 0 outside, times the mask.

    Channel ``(g·taps + k)·C/groups + c`` is what tap k reads of channel c of group g.
    """
    window = _Window.of(attrs)
    batch, channels, *sizes = arrays[0].shape
    shape = output_shape([a.shape for a in arrays], attrs)
    parts, out = window.offset_group, shape[2:]
    x = arrays[0].astype(np.float64).reshape(batch, parts, channels // parts, prod(sizes))
    offset = arrays[1].astype(np.float64).reshape(batch, parts, window.taps, _RANK, *out)
    mask = arrays[2] if len(arrays) > 2 else np.ones((batch, parts * window.taps, *out))
    mask = mask.astype(np.float64).reshape(batch, parts, window.taps, *out)
    grid = np.meshgrid(*map(np.arange, out), indexing="ij")
    y = np.empty((batch, parts, channels // parts, window.taps, *out))
    for n, part, tap in itertools.product(range(batch), range(parts), range(window.taps)):
        at = [window.start(k, tap, grid[k]) + offset[n, part, tap, k] for k in range(_RANK)]
        y[n, part, :, tap] = _bilinear(x[n, part], sizes, at) * mask[n, part, tap]
    grouped = y.reshape(batch, window.groups, channels // window.groups, window.taps, *out)
    return np.swapaxes(grouped, 2, 3).reshape(shape).astype(arrays[0].dtype)


def _bilinear(planes: Array, sizes: Sequence[int], at: Sequence[Array]) -> Array:
    """Sample planes (C, H·W) at places; what is outside, or no number, is 0."""
    lows = [np.floor(np.where(np.abs(place) < _FAR, place, -_FAR)) for place in at]
    total = np.zeros((planes.shape[0], *at[0].shape))
    for corner in itertools.product((0, 1), repeat=_RANK):
        cells = [(low + step).astype(np.int64) for low, step in zip(lows, corner, strict=True)]
        inside = np.logical_and.reduce(
            [(cell >= 0) & (cell < size) for cell, size in zip(cells, sizes, strict=True)]
        )
        weight = np.ones(at[0].shape)
        for place, low, step in zip(at, lows, corner, strict=True):
            weight = weight * (place - low if step else 1 - (place - low))
        flat = np.where(inside, cells[0] * sizes[1] + cells[1], 0)
        total += np.where(inside, weight * planes[:, flat], 0.0)
    return total


def compute(spec: KernelSpec) -> list[Any]:
    """Places of every tap as stages; then four elements of the input for each sample."""
    from tvmconv._tvm import te, tirx

    window, x_layout, out = _Window.of(spec.attrs), spec.inputs[0], spec.output
    tensors = [
        expressions.placeholder(layout, name)
        for layout, name in zip(spec.inputs, ("x", "offset", "mask"), strict=False)
    ]
    stages = [_places(window, spec, tensors[1], axis) for axis in range(_RANK)]
    sizes, per_part = x_layout.shape[2:], x_layout.shape[1] // window.offset_group

    def body(*index: Any) -> Any:
        n, position = index[0], index[2 : 2 + _RANK]
        tap, channel, read = _source(window, x_layout, out, tensors[0], index)
        place = channel // per_part * window.taps + tap
        total = te_math.number(0.0)
        for corner in itertools.product((0, 1), repeat=_RANK):
            weight, cells, inside = None, [], []
            for step, size, (first, share) in zip(corner, sizes, stages, strict=True):
                cell, part = first[(n, place, *position)] + step, share[(n, place, *position)]
                part = part if step else te_math.number(1.0) - part
                weight = part if weight is None else weight * part
                cells.append(te.max(te.min(cell, size - 1), 0))
                inside += [cell >= 0, cell < size]
            # An element outside may be infinite: choose, never multiply by 0.
            term = tirx.Select(tirx.all(*inside), weight * read(cells), te_math.number(0.0))
            total = total + term
        if len(tensors) == 3:
            total = total * spec.inputs[2].at(tensors[2], n, place, position)
        return total

    return [*tensors, expressions.elements(out.iteration_shape, body)]


def _source(
    window: _Window, x_layout: Layout, out: Layout, x: Any, index: tuple[Any, ...]
) -> tuple[Any, Any, Any]:
    """Tap and channel that an output channel stands for, and how to read that channel."""
    from tvmconv._tvm import te

    n, slot, *_ = index
    width, block = x_layout.shape[1] // window.groups, out.block
    lane = index[-1] if block > 1 else 0
    whole = width % block == 0
    # Where no block has channels of two taps, all its lanes read at one place.
    first = slot * block if whole else te.min(slot * block + lane, out.shape[1] - 1)
    tap = first // width % window.taps
    channel = first // (width * window.taps) * width + first % width

    def read(place: Sequence[Any]) -> Any:
        if whole and block > 1:
            return x_layout.at_slot(x, n, channel // block, place, (lane,))
        return x_layout.at(x, n, channel, place)

    return tap, channel, read


def _places(window: _Window, spec: KernelSpec, offset: Any, axis: int) -> tuple[Any, Any]:
    """Along one axis, for every tap and output: the element before the place, and how far after.

    The whole and the broken part of an offset are taken apart first, so that large coordinates
    lose no digits.
    """
    from tvmconv._tvm import te

    layout = spec.inputs[1]
    places = window.offset_group * window.taps
    shape = (layout.shape[0], places, *layout.shape[2:])

    def floor(n: Any, place: Any, *position: Any) -> Any:
        return te_math.floor(layout.at(offset, n, place * _RANK + axis, position))

    def first(n: Any, place: Any, *position: Any) -> Any:
        # What is no number compares with nothing: the second operand is taken, which is far away.
        near = te.max(floor(n, place, *position), te_math.number(-_FAR))
        near = te.min(near, te_math.number(_FAR)).astype("int32")
        return near + window.start(axis, place % window.taps, position[axis])

    def share(n: Any, place: Any, *position: Any) -> Any:
        value = layout.at(offset, n, place * _RANK + axis, position)
        return value - floor(n, place, *position)

    return (
        expressions.elements(shape, first, f"first{axis}", "stage"),
        expressions.elements(shape, share, f"share{axis}", "stage"),
    )


def _import(node: OnnxNode, builder: Builder) -> Value:
    """Import DeformConv: samples, and their pointwise convolution."""
    node.allow_attrs("dilations", "group", "kernel_shape", "offset_group", "pads", "strides")
    x, weight, offset = node.input(0), node.input(1), node.input(2)
    bias, mask = node.optional(3), node.optional(4)
    if importing.spatial_rank(node) != _RANK:
        node.fail(f"is supported for {_RANK} spatial axes, has {len(x.shape) - 2}")
    groups = node.int_attr("group", 1)
    if len(weight.shape) != _RANK + 2 or groups < 1 or weight.shape[1] * groups != x.shape[1]:
        node.fail(f"weight {text(weight.shape)} in {groups} groups does not fit the input's"
                  f" {x.shape[1]} channels")  # fmt: skip
    kernel = weight.shape[2:]
    if node.has("kernel_shape") and importing.kernel_shape(node, _RANK) != kernel:
        given = node.ints_attr("kernel_shape")
        node.fail(f"attribute 'kernel_shape' {given} disagrees with the weight's {[*kernel]}")
    attrs = {
        "kernel": [*kernel],
        "stride": [1] * _RANK,
        "dilation": [1] * _RANK,
        "padding": [0] * 2 * _RANK,
        **importing.window_options(node, _RANK),
        "groups": groups,
        "offset_group": node.int_attr("offset_group", 1),
    }
    inputs = [x, offset] if mask is None else [x, offset, mask]
    samples = builder.emit("deform_im2col", inputs, attrs)
    filters = builder.emit("transpose", [weight], {"perm": [0, 2, 3, 1]})
    flat = [weight.shape[0], prod(weight.shape[1:]), 1, 1]
    filters = builder.emit("reshape", [filters], {"shape": flat})
    operands = [samples, filters] if bias is None else [samples, filters, bias]
    shape = (weight.shape[0], 1, 1)
    return importing.emit(node, builder, "conv", operands, shape, {"groups": groups})


def _attrs(**changed: Any) -> dict[str, Any]:
    plain = {"kernel": [3, 3], "stride": [1, 1], "dilation": [1, 1], "padding": [1, 1, 1, 1]}
    return {**plain, "groups": 1, "offset_group": 1, **changed}


OPERATOR = register(
    Operator(
        name="deform_im2col",
        summary="what the taps of a deformable convolution read, bilinear, as channels",
        output_shape=output_shape,
        reference=reference,
        onnx={"DeformConv": _import},
        cases=(
            Case("DCN res5", shapes=((1, 32, 7, 7), (1, 18, 7, 7)), attrs=_attrs()),
            Case(
                "DCN v2: a mask, two offset groups, stride, dilation",
                shapes=((2, 32, 9, 8), (2, 36, 3, 3), (2, 18, 3, 3)),
                attrs=_attrs(offset_group=2, stride=[3, 2], dilation=[1, 2], padding=[0, 1, 1, 0]),
            ),
            Case(
                "channels and groups that no block divides",
                shapes=((1, 6, 5, 5), (1, 24, 4, 4)),
                attrs=_attrs(groups=2, offset_group=3, kernel=[2, 2], padding=[0, 0, 0, 0]),
            ),
        ),
        bad_cases=(
            BadCase("takes 2 or 3 inputs", shapes=((1, 4, 5, 5),), attrs=_attrs()),
            BadCase("must have 4 axes", shapes=((1, 4, 5), (1, 18, 5, 5)), attrs=_attrs()),
            BadCase(
                "offset must have shape 1x18x5x5, has 1x9x5x5",
                shapes=((1, 4, 5, 5), (1, 9, 5, 5)),
                attrs=_attrs(),
            ),
            BadCase(
                "'offset_group' 3 does not divide the 4 channels",
                shapes=((1, 4, 5, 5), (1, 54, 5, 5)),
                attrs=_attrs(offset_group=3),
            ),
            BadCase(
                "'stride' must be 2 integers of at least 1",
                shapes=((1, 4, 5, 5), (1, 18, 5, 5)),
                attrs=_attrs(stride=[0, 1]),
            ),
            BadCase(
                "the output would have size 0",
                shapes=((1, 4, 2, 5), (1, 18, 1, 3)),
                attrs=_attrs(padding=[0, 0, 0, 0]),
            ),
        ),
        compute=compute,
        layout="same",
    )
)
