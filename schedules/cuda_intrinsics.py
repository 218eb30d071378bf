"""Instructions of tensor cores for TVM's ``tensorize``: ldmatrix, mma, and the tiles around them.

TVM's own live in a module whose import takes half a minute, for its scripts are parsed; these are
made of statements. A tile of 16 by 16 elements lies in the registers of a warp (scope ``warp``) as
32 threads by 8 elements. TVM is told that thread ``4*(i%8) + j%8//2`` has element ``(i, j)`` as its
element ``4*(j//8) + 2*(i//8) + j%2``. So it is for sums; operands are loaded as the instruction
wants them, which the loads and the product alone know: the fragments of a product of 8 terms are
elements ``4*s`` on of the left operand and ``4*h + 2*s`` on of the right one, for terms ``8*s`` on
and columns ``8*h`` on, and those of 16 terms the same two together.

References
----------
PTX ISA, "Matrix fragments for mma.m16n8k16 with floating point type", those "for mma.m16n8k8",
"ldmatrix", "cvt".
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from tvmconv._tvm import TVMObject, s_tir, tirx, tvm_ffi
from tvmconv.layout import itemsize

from .cuda_statements import REDUCE, SPATIAL, TILE, WARP, by_threads, described, implemented

#: Elements of a tile that each thread has.
OWN = 8
#: Where slices lie: shared memory whose size the launch says, so that it may be large. And sums:
#: TVM would put them over the slices, and then not know the type of either.
SLICES, SUMS = "shared.dyn", "shared"
#: Under which TVM's code generator asks where the elements of a tile are.
_PLACES = "tirx.index_map.shared_16x16_to_ldmatrix_32x8_layout"
#: Bytes of the longest load of a thread.
_LOAD_BYTES = 16
#: Rounds to TF32: to nearest, ties away from zero.
_ROUND = """\
__device__ __forceinline__ float tvmconv_tf32(float x) {
  unsigned rounded;
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(rounded) : "f"(x));
  return __uint_as_float(rounded);
}
"""


@dataclass(frozen=True)
class Element:
    """What tensor cores multiply; sums are float32.

    Attributes
    ----------
    dtype : str
        What operands are stored in.
    name : str
        What TVM calls them as operands of ``mma``.
    terms : int
        Products that one instruction adds to a sum.
    """

    dtype: str
    name: str
    terms: int

    @property
    def bytes(self) -> int:
        """Of an element in memory."""
        return itemsize(self.dtype)

    @property
    def load(self) -> int:
        """Elements of one load."""
        return _LOAD_BYTES // self.bytes

    @property
    def is_rounded(self) -> bool:
        """Whether operands are stored with more bits than are multiplied."""
        return self.name == "tf32"


def fragment(i: Any, j: Any) -> tuple[Any, Any]:
    """Which thread has an element of a tile, and as which of its own."""
    return 4 * (i % 8) + j % 8 // 2, 4 * (j // 8) + i // 8 * 2 + j % 2


def _fragment_of(place: Sequence[Any]) -> list[Any]:
    """Tell TVM's code generator, which stores tiles of sums, where their elements are."""
    return list(fragment(*place))


@cache
def load_rows(element: Element) -> str:
    """Load a tile of the left operand from shared memory.

    The name under which the intrinsic is registered is returned, here and below.
    """

    def place(own: int, thread: TVMObject) -> tuple[TVMObject, TVMObject]:
        return own % 2 * 8 + thread // 4, own // 4 * 8 + own // 2 % 2 * 4 + thread % 4

    return _load("rows", element, place)


@cache
def load_columns(element: Element) -> str:
    """Load a tile of the right operand from shared memory, where its terms are rows."""

    def place(own: int, thread: TVMObject) -> tuple[TVMObject, TVMObject]:
        return own // 2 % 2 * 8 + own % 2 * 4 + thread % 4, own // 4 * 8 + thread // 4

    return _load("columns", element, place)


def _load(
    name: str, element: Element, place: Callable[[int, TVMObject], tuple[TVMObject, TVMObject]]
) -> str:
    """Register a load of an operand's tile.

    Floats are loaded one by one, for they are rounded and ``ldmatrix`` transposes pairs of bytes.
    ``place(own, thread)`` is the row and the column in shared memory of a thread's element.
    """

    def by_matrices(warp: TVMObject, shared: TVMObject, thread: TVMObject) -> list[TVMObject]:
        # Thread t gives the address of row t % 16 of the left or right half.
        offset = shared.strides[0] * (thread % TILE) + 8 * (thread // TILE)
        return [
            _call(
                "tirx.ptx_legacy.ldmatrix", element.dtype, name == "columns", 4, ".b16", warp.data,
                warp.elem_offset + OWN * thread, shared.access_ptr("r"), offset,
            )
        ]  # fmt: skip

    def one_by_one(warp: TVMObject, shared: TVMObject, thread: TVMObject) -> list[TVMObject]:
        values = [_tf32(shared[place(own, thread)]) for own in range(OWN)]
        return [
            tirx.BufferStore(warp, value, [thread, tirx.const(own, "int32")])
            for own, value in enumerate(values)
        ]

    implementation = one_by_one if element.is_rounded else by_matrices
    symbol = f"tvmconv.load_{name}_{element.name}"
    return _copy(symbol, SLICES, "warp", element.dtype, implementation)


def _tf32(value: TVMObject) -> TVMObject:
    return tirx.call_intrin("float32", "tirx.cuda.func_call", "tvmconv_tf32", value, _ROUND)


@cache
def store() -> str:
    """Store a tile of sums in shared memory."""
    # Not before it is needed: TVM's own module registers the same, and only once.
    tvm_ffi.register_global_func(_PLACES, _fragment_of, override=True)

    def implementation(shared: TVMObject, warp: TVMObject, thread: TVMObject) -> list[TVMObject]:
        return [
            _call(
                "tirx.mma_store_legacy", "float32", TILE, TILE, shared.access_ptr("w"), warp.data,
                warp.elem_offset, shared.strides[0],
            )
        ]  # fmt: skip

    return _copy("tvmconv.store_sums", "warp", SUMS, "float32", implementation)


def _copy(
    name: str, source: str, target: str, dtype: str,
    implementation: Callable[[TVMObject, TVMObject, TVMObject], list[TVMObject]],
) -> str:  # fmt: skip
    """Register a copy of a tile between shared memory and a warp's registers."""

    def buffers(strided: bool) -> tuple[TVMObject, ...]:
        return tuple(
            _warp(dtype) if scope == "warp" else _shared(dtype, scope, strided)
            for scope in (source, target)
        )

    read, written = buffers(False)

    def at(scope: str) -> Callable[..., list[Any]]:
        return lambda i, j: list(fragment(i, j)) if scope == "warp" else [i, j]

    description = described(
        [written, read] if target == "warp" else [read, written],
        (SPATIAL, SPATIAL),
        lambda i, j: tirx.BufferStore(written, read[tuple(at(source)(i, j))], at(target)(i, j)),
        [(read, at(source))],
        [(written, at(target))],
    )
    read, written = buffers(True)
    body = by_threads(lambda thread: implementation(written, read, thread))
    parameters = [written, read] if target == "warp" else [read, written]
    return _registered(name, description, implemented(parameters, body, [read], [written]))


@cache
def fill() -> str:
    """Set a tile of sums to zero."""
    sums = _warp("float32")
    description = described(
        [sums],
        (SPATIAL, SPATIAL),
        lambda i, j: tirx.BufferStore(sums, tirx.const(0.0, "float32"), list(fragment(i, j))),
        [],
        [(sums, lambda i, j: list(fragment(i, j)))],
    )
    sums = _warp("float32")
    body = by_threads(
        lambda thread: [
            tirx.BufferStore(sums, tirx.const(0.0, "float32"), [thread, tirx.const(own, "int32")])
            for own in range(OWN)
        ]
    )
    return _registered("tvmconv.fill", description, implemented([sums], body, [], [sums]))


@cache
def multiply(element: Element) -> str:
    """Add the product of two tiles to one of float32."""

    def at(row: str, column: str) -> Callable[..., list[Any]]:
        return lambda i, j, k: list(
            fragment(*({"i": i, "j": j, "k": k}[name] for name in (row, column)))
        )

    def widened(value: TVMObject) -> TVMObject:
        return value if element.dtype == "float32" else value.astype("float32")

    def body(i: Any, j: Any, k: Any) -> TVMObject:
        place = at("i", "j")(i, j, k)
        left = widened(x[tuple(at("i", "k")(i, j, k))])
        right = widened(w[tuple(at("k", "j")(i, j, k))])
        return tirx.BufferStore(sums, sums[tuple(place)] + left * right, place)

    x, w, sums = _warp(element.dtype), _warp(element.dtype), _warp("float32")
    description = described(
        [x, w, sums],
        (SPATIAL, SPATIAL, REDUCE),
        body,
        [(sums, at("i", "j")), (x, at("i", "k")), (w, at("k", "j"))],
        [(sums, at("i", "j"))],
    )
    x, w, sums = _warp(element.dtype), _warp(element.dtype), _warp("float32")

    def instructions(thread: TVMObject) -> list[TVMObject]:
        """Each for 8 columns and some of the terms."""
        shape = f"m16n8k{element.terms}"
        types = (element.name, element.name, "fp32")
        return [
            _call(
                "tirx.ptx_legacy.mma", "float32", shape, "row", "col", *types,
                x.data, x.elem_offset + OWN * thread + 4 * step,
                w.data, w.elem_offset + OWN * thread + 4 * half + 2 * step,
                sums.data, sums.elem_offset + OWN * thread + 4 * half, False,
            )
            for step in range(TILE // element.terms)
            for half in (0, 1)
        ]  # fmt: skip

    implementation = implemented([x, w, sums], by_threads(instructions), [sums, x, w], [sums])
    name = f"tvmconv.multiply_{element.name}_{element.terms}"
    return _registered(name, description, implementation)


def _warp(dtype: str) -> TVMObject:
    """A tile in the registers of a warp."""
    return tirx.decl_buffer(
        (WARP, OWN), dtype, name="warp", scope="warp", offset_factor=TILE, data_alignment=64
    )


def _shared(dtype: str, scope: str, strided: bool) -> TVMObject:
    """A tile in shared memory."""
    strides = [tirx.Var(name, "int32") for name in ("s0", "s1")] if strided else None
    return tirx.decl_buffer(
        (TILE, TILE), dtype, name="shared", scope=scope, offset_factor=TILE,
        strides=strides, data_alignment=64,
    )  # fmt: skip


def _call(name: str, dtype: str, *arguments: Any) -> TVMObject:
    return tirx.Evaluate(tirx.call_intrin(dtype, name, *arguments))


def _registered(name: str, description: TVMObject, implementation: TVMObject) -> str:
    s_tir.TensorIntrin.register(name, description, implementation, override=True)
    return name
