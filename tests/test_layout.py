"""Layouts: shapes and offsets by hand, and elements that arrive where a layout says."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest

from tests.kernels import Kernel, run, sliced
from tvmconv.autoschedule.measure.buffers import own_region, pack, unpack
from tvmconv.kernel import KernelSpec, canonical_json
from tvmconv.layout import Layout, itemsize
from tvmconv.ops import Array


def ramp(*shape: int) -> Array:
    return np.arange(1, np.prod(shape) + 1, dtype=np.float32).reshape(shape)


@pytest.mark.parametrize(
    ("layout", "buffer_shape", "offsets", "iteration_shape"),
    [
        (Layout((2, 3, 4, 5)), (2, 3, 4, 5), (0, 0, 0, 0), (2, 3, 4, 5)),
        (Layout((2, 16, 4, 5), 16), (2, 1, 4, 5, 16), (0, 0, 0, 0, 0), (2, 1, 4, 5, 16)),
        (Layout((1, 17, 4), 16), (1, 2, 4, 16), (0, 0, 0, 0), (1, 2, 4, 16)),
        (Layout((1, 33, 4), 8), (1, 5, 4, 8), (0, 0, 0, 0), (1, 5, 4, 8)),
        (Layout((1, 1, 2, 2), 16), (1, 1, 2, 2, 16), (0, 0, 0, 0, 0), (1, 1, 2, 2, 16)),
        (
            Layout((1, 16, 4, 5), 16, (1, 2), (3, 0)),
            (1, 1, 8, 7, 16),
            (0, 0, 1, 2, 0),
            (1, 1, 4, 5, 16),
        ),
        (
            Layout((1, 20, 4, 5), 16, slots=5, first=2),
            (1, 5, 4, 5, 16),
            (0, 2, 0, 0, 0),
            (1, 2, 4, 5, 16),
        ),
        (
            Layout((3, 2, 4), 1, (1,), (1,), slots=7, first=4),
            (3, 7, 6),
            (0, 4, 1),
            (3, 2, 4),
        ),
        (Layout((5, 10)), (5, 10), (0, 0), (5, 10)),
        (Layout((5, 10), 16), (5, 1, 16), (0, 0, 0), (5, 1, 16)),
        (Layout((7,)), (7,), (0,), (7,)),
        (Layout(()), (), (), ()),
    ],
)
def test_shapes(
    layout: Layout,
    buffer_shape: tuple[int, ...],
    offsets: tuple[int, ...],
    iteration_shape: tuple[int, ...],
) -> None:
    assert layout.buffer_shape == buffer_shape
    assert layout.offsets == offsets
    assert layout.iteration_shape == iteration_shape
    assert layout.buffer_bytes == 4 * np.prod(buffer_shape, dtype=int)


def test_halos_only_grow() -> None:
    layout = Layout((1, 16, 4, 5), 16, (1, 2), (3, 0))
    assert layout.has_halo
    assert not Layout((1, 16, 4, 5)).has_halo
    wider = layout.with_halo((2, 1), (0, 4))
    assert (wider.lows, wider.highs) == ((2, 2), (3, 4))
    assert wider.with_halo((0, 0), (0, 0)) == wider
    assert replace(wider, lows=layout.lows, highs=layout.highs) == layout


def test_sizes_of_elements() -> None:
    assert [itemsize(t) for t in ("float32", "float16", "int64", "bool")] == [4, 2, 8, 1]
    with pytest.raises(KeyError):
        itemsize("complex64")


SHAPES = [(1, 1, 3, 4), (2, 17, 3, 4), (3, 33, 2, 1), (2, 20, 5), (1, 18, 2, 3, 2)]
LAYOUTS = [
    changed
    for shape, block in itertools.product(SHAPES, (1, 8, 16))
    for plain in [Layout(shape, block)]
    for halo in [plain.with_halo([1] * (len(shape) - 2), [2] * (len(shape) - 2))]
    for changed in (plain, halo, sliced(plain), sliced(halo, 2, 0))
]


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_buffers_hold_the_tensor_and_poison(layout: Layout) -> None:
    """The helper of all kernel tests: pack and unpack are inverse, the rest is halo or poison."""
    x = ramp(*layout.shape)
    buffer = pack(x, layout, halo=0.0, poison=np.nan)
    assert buffer.shape == layout.buffer_shape
    np.testing.assert_array_equal(unpack(buffer, layout), x)
    own_region(buffer, layout)[...] = 7
    slots = slice(layout.first, layout.first + layout.own_slots)
    assert not np.isnan(buffer[:, slots]).any()
    assert np.isnan(np.delete(buffer, np.r_[slots], axis=1)).all()
    inside = np.count_nonzero(buffer[:, slots] == 7)
    assert inside == np.prod(layout.iteration_shape)
    assert np.count_nonzero(buffer[:, slots] == 0) == buffer[:, slots].size - inside


def test_elements_lie_in_the_order_of_the_layout() -> None:
    layout = Layout((1, 3, 2, 2), 2, (1, 0), (0, 0))
    buffer = pack(ramp(1, 3, 2, 2), layout, halo=0.0, poison=-1.0)
    assert buffer.tolist() == [
        [
            [[[0, 0], [0, 0]], [[1, 5], [2, 6]], [[3, 7], [4, 8]]],
            [[[0, 0], [0, 0]], [[9, -1], [10, -1]], [[11, -1], [12, -1]]],
        ]
    ]


def negated(source: Layout, result: Layout) -> Kernel:
    """A kernel that negates, from one layout to another of the same block."""
    steps = canonical_json({"program": [{"op": "neg"}]})
    return Kernel(KernelSpec("elementwise", steps, (source,), result), (ramp(*source.shape),))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_kernels_read_and_write_every_layout(shape: tuple[int, ...]) -> None:
    """Every pair of plain, halo, slice and slice in a halo, of every block."""
    layouts = [layout for layout in LAYOUTS if layout.shape == shape]
    kernels = [
        negated(source, result)
        for source, result in itertools.product(layouts, layouts)
        if source.block == result.block
    ]
    assert len(kernels) == 48
    for kernel, got in zip(kernels, run(kernels), strict=True):
        np.testing.assert_array_equal(got, -kernel.data[0])
