"""Dot products of four bytes as one operation on 32-bit words: what 8-bit contractions are made of.

``dot(x, weight)`` of two words is the sum of four products of their bytes, those of ``x`` unsigned
and those of ``weight`` signed, exact in 32 bits. It works on each lane of a vector alone, so that a
contraction of bytes is scheduled like one of floats, with four channels in the place of one.

TVM sees an operator of ours, which it vectorises; :func:`selected` puts the one in its place that
becomes an instruction of the target (``byte_dot`` in its file). An instruction set is one more
entry of :data:`LOWERINGS`, such as NEON's ``usdot`` would be.

References
----------
Intel 64 and IA-32 Architectures Software Developer's Manual, volume 2, VPDPBUSD and PMADDWD.
PMADDUBSW, which sums two products in 16 bits and saturates, is of no use: 255·127·2 overflows.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

from tvmconv.target import Target

#: An expression of TVM's.
Expr = Any

_PREFIX = "tirx.tvmconv_"
_ABSTRACT = "dot"
#: Effect kind of a function without side effects, in ``tvm::tirx::CallEffectKind``.
_PURE = 1


def dot(x: Expr, weight: Expr) -> Expr:
    """The sum of the products of four unsigned bytes of ``x`` and four signed ones of ``weight``.

    Parameters
    ----------
    x, weight : expression
        Of dtype int32, each byte a number.
    """
    return _call(_ABSTRACT, "int32", 0, x, weight)


def selected(func: Any, target: Target) -> Any:
    """Let the dot products of a scheduled function be those of a target's instruction.

    A product that is added to a sum becomes one operation with it.
    """
    from tvmconv._tvm import tirx, tvm_ffi

    abstract = _operator(_ABSTRACT)

    def replace(expression: Any) -> Any:
        if not isinstance(expression, tirx.Add):
            return expression
        product = expression.b
        if not (hasattr(product, "op") and product.op.same_as(abstract)):
            return expression
        _, x, weight = product.args
        return _call(target.byte_dot, "int32", expression.a, x, weight)

    return tvm_ffi.structural_map(func, (tirx.Add, replace))


def _call(name: str, dtype: str, *arguments: Any) -> Expr:
    from tvmconv._tvm import tirx

    total, *factors = arguments
    total = tirx.const(total, dtype) if isinstance(total, int) else total
    return tirx.call_intrin(dtype, _operator(name), total, *factors)


@cache
def _operator(name: str) -> Any:
    """The operator of that name, registered when it is first needed."""
    from tvmconv._tvm import tirx, tvm

    full = _PREFIX + name
    tvm.ir.op._ffi_api.RegisterOp(full, "a dot product of four bytes, added to a word")
    tvm.ir.register_op_attr(full, "TVectorizable", True)
    tvm.ir.register_op_attr(full, "TScriptPrinterName", full.removeprefix("tirx."))
    tvm.ir.register_op_attr(full, "TCallEffectKind", _PURE)
    if name in LOWERINGS:
        for kind in ("llvm", "cuda"):
            tirx.register_intrin_lowering(full, target=kind, f=_lowering(*LOWERINGS[name]))
    return tvm.ir.Op.get(full)


def _lowering(widest: int, rule: Callable[..., Expr]) -> Callable[[Any], Expr]:
    """How a call becomes instructions: vectors in halves until they are no wider than these."""

    def lowered(call: Any) -> Expr:
        return _halved(rule, widest, *call.args)

    return lowered


def _lanes(value: Expr) -> int:
    """Lanes of a vector expression."""
    _, _, lanes = str(value.ty.dtype).partition("x")
    return int(lanes or 1)


def _vector(dtype: str, lanes: int) -> str:
    return dtype if lanes == 1 else f"{dtype}x{lanes}"


def _halved(rule: Callable[..., Expr], widest: int, *operands: Expr) -> Expr:
    """Apply a rule to each half of vectors that are wider than an instruction takes."""
    from tvmconv._tvm import tirx

    lanes = _lanes(operands[0])
    if lanes <= widest:
        return rule(lanes, *operands)
    half = _vector("int32", lanes // 2)
    parts = []
    for which in ("tirx.vectorlow", "tirx.vectorhigh"):
        taken = [tirx.call_intrin(half, which, operand) for operand in operands]
        parts.append(_halved(rule, widest, *taken))
    return tirx.call_intrin(_vector("int32", lanes), "tirx.vectorcombine", *parts)


def _vpdpbusd(lanes: int, total: Expr, x: Expr, weight: Expr) -> Expr:
    """One VPDPBUSD, of AVX-512 VNNI or AVX-VNNI."""
    from tvmconv._tvm import tirx

    if lanes < 4:
        return _portable(lanes, total, x, weight)
    dtype, quads = _vector("int32", lanes), f"int8x{4 * lanes}"
    name = f"llvm.x86.avx512.vpdpbusd.{32 * lanes}"
    x, weight = (tirx.reinterpret(quads, operand) for operand in (x, weight))
    return tirx.call_llvm_pure_intrin(dtype, name, total, x, weight)


_MADD = {4: "sse2.pmadd.wd", 8: "avx2.pmadd.wd", 16: "avx512.pmaddw.d.512"}


def _pmaddwd(lanes: int, total: Expr, x: Expr, weight: Expr) -> Expr:
    """Two PMADDWD: bytes 0 and 2, then bytes 1 and 3 of each word, extended to 16 bits."""
    from tvmconv._tvm import tirx

    if lanes not in _MADD:
        return _portable(lanes, total, x, weight)
    pairs, dtype = f"int16x{2 * lanes}", _vector("int32", lanes)

    def signed(word: Expr, shift: int) -> Expr:
        """The upper byte of each half word, after a shift to the left, extended by its sign."""
        halves = tirx.reinterpret(pairs, word)
        eight = tirx.const(8, pairs)
        return (halves << eight if shift else halves) >> eight

    mask = tirx.const(0x00FF00FF, dtype)
    for shift in (8, 0):
        unsigned = tirx.reinterpret(pairs, (x if shift else x >> 8) & mask)
        name = f"llvm.x86.{_MADD[lanes]}"
        total = total + tirx.call_llvm_pure_intrin(dtype, name, unsigned, signed(weight, shift))
    return total


def _portable(lanes: int, total: Expr, x: Expr, weight: Expr) -> Expr:
    """Shifts and four products, for any processor and any number of lanes."""
    for byte in range(4):
        total = total + ((x >> (8 * byte)) & 255) * ((weight << (24 - 8 * byte)) >> 24)
    return total


#: By the name that a target gives: the most lanes of 32 bits in an instruction, and the rule.
LOWERINGS: dict[str, tuple[int, Callable[..., Expr]]] = {
    "vpdpbusd.512": (16, _vpdpbusd),
    "vpdpbusd.256": (8, _vpdpbusd),
    "pmaddwd.512": (16, _pmaddwd),
    "pmaddwd.256": (8, _pmaddwd),
    "pmaddwd.128": (4, _pmaddwd),
    "portable": (1 << 10, _portable),
}
