"""PACK, UNPACK, BORDER and COPY against NumPy: exact for any shape, halo, block and alignment."""

from __future__ import annotations

import ctypes
import math
import mmap
import platform
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tvmconv.codegen.plan import (
    BlockedTensor,
    BorderStep,
    CopyStep,
    PackStep,
    Plan,
    Port,
    Step,
    TensorArgument,
    UnpackStep,
)
from tvmconv.errors import InputError
from tvmconv.layout import Layout
from tvmconv.runtime.loader import Module, load

Array = np.ndarray[Any, Any]

#: Every byte that a step should have written and did not has this value.
UNTOUCHED = 0xA5

CPU_FLAGS = ["", "-mcpu=x86_64_v3", "-mcpu=x86_64_v4"] if platform.machine() == "x86_64" else [""]


@dataclass(frozen=True)
class Case:
    """A tensor in some layout."""

    tensor: BlockedTensor

    @property
    def padded_shape(self) -> tuple[int, ...]:
        t = self.tensor
        return (t.shape[0], t.slots, *t.padded, t.block)

    def view(self, raw: Array) -> Array:
        """The blocked tensor with its halo, as a strided view of raw bytes."""
        t = self.tensor
        itemsize = np.dtype(t.dtype).itemsize
        pixel = (t.block,) if t.padded else ()
        strides = [s * itemsize for s in (*t.strides, *pixel, 1)]
        elements = raw[: len(raw) // itemsize * itemsize].view(t.dtype)
        return np.lib.stride_tricks.as_strided(elements, self.padded_shape, strides)

    def interior(self, padded: Array) -> Array:
        t = self.tensor
        spatial = zip(t.lows, t.shape[2:], strict=True)
        return padded[(slice(None), slice(None), *(slice(lo, lo + n) for lo, n in spatial))]

    def blocked(self, plain: Array) -> Array:
        """Reference: lanes past the last channel are zero."""
        t = self.tensor
        n, c, *spatial = t.shape
        wide = np.zeros((n, t.slots * t.block, *spatial), plain.dtype)
        wide[:, :c] = plain
        return np.moveaxis(wide.reshape(n, t.slots, t.block, *spatial), 2, -1)

    def packed(self, plain: Array, before: Array) -> Array:
        """What PACK makes of ``before``."""
        after = before.copy()
        view = self.view(after)
        view[...] = self.tensor.fill
        self.interior(view)[...] = self.blocked(plain)
        return after

    def bordered(self, before: Array) -> Array:
        after = before.copy()
        view = self.view(after)
        kept = self.interior(view).copy()
        view[...] = self.tensor.fill
        self.interior(view)[...] = kept
        return after

    def unpacked(self, raw: Array) -> Array:
        t = self.tensor
        inside = self.interior(self.view(raw))
        n, c, *spatial = t.shape
        return np.moveaxis(inside, -1, 2).reshape(n, t.slots * t.block, *spatial)[:, :c]


def _strided(tensor: BlockedTensor) -> BlockedTensor:
    """The same tensor with gaps between rows, planes, blocks and batches."""
    t, strides = tensor, [tensor.block]
    for size in reversed((t.slots, *t.padded)):
        strides.append(strides[-1] * size + 3 * t.block)
    outer = tuple(reversed(strides[1:] if t.padded else strides))
    return replace(t, strides=outer)


def _fixed_cases() -> list[BlockedTensor]:
    return [
        BlockedTensor((1, 64, 56, 56), block=16),  # a whole plane is one row
        BlockedTensor((1, 64, 30, 31), block=16, lows=(1, 1), highs=(1, 1)),
        BlockedTensor((2, 3, 33, 65), lows=(3, 3), highs=(2, 4)),  # plain in a halo
        BlockedTensor((2, 40, 9, 17), block=8, lows=(0, 2), highs=(1, 0)),
        BlockedTensor((1, 30, 1, 1), block=16),
        BlockedTensor((3, 100), block=8),
        BlockedTensor((1, 1000)),
        BlockedTensor((1, 17, 5), block=4, lows=(2,), highs=(1,)),
        BlockedTensor((1, 20, 3, 6, 7), block=16, lows=(1, 1, 1), highs=(1, 0, 2)),
        BlockedTensor((1, 20, 3, 6, 7), block=16, lows=(1, 0, 0), highs=(2, 0, 0)),
        BlockedTensor((1, 33, 4, 4), block=32, lows=(1, 1), highs=(1, 1)),
        BlockedTensor((1, 7, 6, 6), block=5, lows=(1, 1), highs=(1, 1)),
        BlockedTensor((2, 24, 130, 40), block=16, lows=(1, 1), highs=(1, 1)),
        # Bytes, with a halo of a zero point: words of few channels, tiles and short rows.
        BlockedTensor((1, 3, 21, 30), block=4, lows=(3, 3), highs=(2, 2), dtype="uint8", fill=114),
        BlockedTensor((2, 4, 5, 16), block=4, dtype="uint8"),
        BlockedTensor((1, 3, 97, 99), block=4, dtype="int8"),
        BlockedTensor((1, 4, 3, 9), block=4, lows=(1, 1), highs=(0, 1), dtype="int8", fill=-5),
        BlockedTensor((2, 40, 9, 19), block=16, lows=(1, 1), highs=(1, 1), dtype="int8", fill=-128),
        BlockedTensor((1, 33, 7, 7), block=32, lows=(1, 1), highs=(1, 1), dtype="uint8", fill=255),
        BlockedTensor((1, 64, 70, 70), block=16, dtype="uint8"),
    ]


def _random_case(rng: np.random.Generator) -> BlockedTensor:
    rank = int(rng.integers(0, 4))
    spatial = tuple(int(n) for n in rng.integers(1, 23, rank))
    halo = rng.integers(0, 3, (2, rank)) * rng.integers(0, 2)
    lows, highs = (tuple(int(n) for n in row) for row in halo)
    shape = (int(rng.integers(1, 4)), int(rng.integers(1, 40)), *spatial)
    dtype = str(rng.choice(["float32", "float32", "int8", "float16", "float64"]))
    block = int(rng.choice([1, 4, 8, 16, 16, 3]))
    fill = int(rng.integers(-128, 128)) if dtype == "int8" else 0
    tensor = BlockedTensor(shape, 0, block, lows, highs, dtype=dtype, fill=fill)
    return _strided(tensor) if rng.integers(0, 2) else tensor


def _cases() -> list[Case]:
    rng = np.random.default_rng(7)
    random = [_random_case(rng) for _ in range(60)]
    fixed = _fixed_cases()
    return [Case(t) for t in (*fixed, *map(_strided, fixed), *random)]


CASES = _cases()
_ARENA = max(case.tensor.nbytes for case in CASES) + 64


def _text(case: Case) -> str:
    t = case.tensor
    return f"{t.shape} c{t.block} lows {t.lows} highs {t.highs} strides {t.strides} {t.dtype}"


def _steps(kind: str, number: int, case: Case) -> tuple[list[Port], Port, list[Step]]:
    """Ports and steps that run one native step on an arena of known content."""
    t = case.tensor
    whole = (t.nbytes,)
    plain = Port(f"plain{number}", t.shape, t.dtype)
    raw_in, raw_out = Port(f"raw{number}", whole, "uint8"), Port(f"out{number}", whole, "uint8")
    arena = TensorArgument("arena", whole, "uint8")
    fill = CopyStep(TensorArgument("input", whole, "uint8", index=number), arena)
    save = CopyStep(arena, TensorArgument("output", whole, "uint8", index=number))
    if kind == "unpack":
        unpack = UnpackStep(t, TensorArgument("output", t.shape, t.dtype, index=number))
        return [raw_in], plain, [fill, unpack]
    if kind == "border":
        return [raw_in], raw_out, [fill, BorderStep(t), save]
    dirty = CopyStep(TensorArgument("weights", whole, "uint8"), arena)
    pack = PackStep(TensorArgument("input", t.shape, t.dtype, index=number), t)
    return [plain], raw_out, [dirty, pack, save]


@pytest.fixture(scope="module", params=CPU_FLAGS, ids=lambda flag: flag or "baseline")
def modules(
    request: pytest.FixtureRequest,
    build: Callable[..., Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, Path]:
    """One artifact for each kind of step, with all cases in it."""
    folder, paths = tmp_path_factory.mktemp("layout"), {}
    for kind in ("pack", "unpack", "border"):
        parts = [_steps(kind, number, case) for number, case in enumerate(CASES)]
        inputs = [port for part in parts for port in part[0]]
        steps = [step for part in parts for step in part[2]]
        plan = Plan(_ARENA, inputs, [part[1] for part in parts], steps)
        weights = np.full(_ARENA, UNTOUCHED, np.uint8)
        flags = [request.param] if request.param else []
        paths[kind] = build(folder / f"{kind}.so", plan, weights, cpu_flags=flags)
    return paths


def _load(path: Path, threads: int) -> Module:
    try:
        return load(path, threads)
    except InputError as error:
        if "which this CPU does not have" in str(error):
            pytest.skip(f"{error}")
        raise


def _unaligned(array: Array, shift: int) -> Array:
    """A copy whose first byte has an address of ``shift`` past a multiple of 64."""
    space = np.empty(array.nbytes + 128, np.uint8)
    start = -space.ctypes.data % 64 + shift
    copy = space[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
    copy[...] = array
    return copy


def _random(shape: tuple[int, ...], dtype: str, rng: np.random.Generator) -> Array:
    raw = rng.integers(0, 256, math.prod(shape) * np.dtype(dtype).itemsize, dtype=np.uint8)
    return raw.view(dtype).reshape(shape)


def _same(got: Array, expected: Array) -> bool:
    """Equal bit by bit: NaNs are kept as they are."""
    return got.tobytes() == np.ascontiguousarray(expected).tobytes()


@pytest.mark.parametrize(("threads", "shift"), [(1, 0), (1, 1), (2, 4), (3, 63)])
@pytest.mark.parametrize("kind", ["pack", "unpack", "border"])
def test_every_byte_is_as_numpy_has_it(
    modules: dict[str, Path], kind: str, threads: int, shift: int
) -> None:
    rng = np.random.default_rng(threads)
    expected, inputs = [], []
    for case in CASES:
        t = case.tensor
        raw = _random((t.nbytes,), "uint8", rng)
        if kind == "pack":
            inputs.append(_random(t.shape, t.dtype, rng))
            expected.append(case.packed(inputs[-1], np.full(t.nbytes, UNTOUCHED, np.uint8)))
        else:
            inputs.append(raw)
            expected.append(case.unpacked(raw) if kind == "unpack" else case.bordered(raw))
    with _load(modules[kind], threads) as module:
        outputs = module(*(_unaligned(array, shift) for array in inputs))
    for case, got, wanted in zip(CASES, outputs, expected, strict=True):
        assert _same(got, wanted), _text(case)


@pytest.mark.parametrize("nbytes", [1, 63, 64, 65, 65536, 200_001, 1 << 20])
def test_copy_writes_all_bytes_and_no_more(
    build: Callable[..., Path], tmp_path: Path, nbytes: int
) -> None:
    shape = (nbytes,)
    source, target = (TensorArgument(s, shape, "uint8") for s in ("input", "output"))
    ports = [Port("x", shape, "uint8")], [Port("y", shape, "uint8")]
    path = build(tmp_path / "copy.so", Plan(0, *ports, [CopyStep(source, target)]))
    x = _random(shape, "uint8", np.random.default_rng(0))
    for threads in (1, 2, 3):
        space = np.full(nbytes + 2, UNTOUCHED, np.uint8)
        with load(path, threads) as module:
            module(x, out=[space[1:-1]])
        assert space[0] == space[-1] == UNTOUCHED
        assert _same(space[1:-1], x)


def test_a_layout_of_the_compiler_is_placed_as_it_says() -> None:
    layout = Layout((2, 20, 5, 6), 16, (1, 2), (0, 1), slots=7, first=3)
    tensor = BlockedTensor.of(layout, 128)
    raw = np.zeros(layout.buffer_bytes, np.uint8)
    whole = raw.view(np.float32).reshape(layout.buffer_shape)
    view = Case(tensor).view(raw[tensor.offset - 128 :])
    view[...] = 1
    expected = np.zeros_like(whole)
    expected[:, 3:5] = 1
    assert (whole == expected).all()


class _Guarded:
    """Memory that ends, or starts, at a page that nobody may touch."""

    def __init__(self, nbytes: int, at_end: bool) -> None:
        page = mmap.PAGESIZE
        inner = -(-nbytes // page) * page
        self.memory = mmap.mmap(-1, inner + 2 * page)
        start = ctypes.addressof(ctypes.c_char.from_buffer(self.memory))
        protect = ctypes.CDLL(None, use_errno=True).mprotect
        protect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
        for guard in (start, start + page + inner):
            assert protect(guard, page, 0) == 0
        offset = page + (inner - nbytes if at_end else 0)
        self.bytes = np.frombuffer(self.memory, np.uint8, nbytes, offset)


@pytest.mark.parametrize("at_end", [True, False])
@pytest.mark.parametrize("kind", ["pack", "unpack"])
def test_nothing_beside_the_callers_arrays_is_touched(
    modules: dict[str, Path], kind: str, at_end: bool
) -> None:
    with _load(modules[kind], 2) as module:
        inputs, outputs = (
            [
                _Guarded(math.prod(p.shape) * p.numpy_dtype.itemsize, at_end)
                .bytes.view(p.numpy_dtype)
                .reshape(p.shape)
                for p in ports
            ]
            for ports in (module.inputs, module.outputs)
        )
        module(*inputs, out=outputs)  # a stray access ends the process
