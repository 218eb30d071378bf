"""Tensors of float16 and bfloat16: stored in 16 bits, computed with in float32.

A kernel is described and scheduled as if all of its floats were float32; :func:`stored` then gives
the parameters that are stored in halves their type, widens what is read from them, and rounds what
is written, to the nearest, the even one of two. Nothing between is rounded. Where the target has
instructions for float16 they convert; elsewhere, and for bfloat16, bits are moved, so that no
library has to be there. To a CPU's kernel a half is a uint16.
"""

from __future__ import annotations

from tvmconv._tvm import TVMObject, tirx, tvm, tvm_ffi
from tvmconv.kernel import TENSOR_CORE_OPS, KernelSpec, canonical_json
from tvmconv.layout import HALVES
from tvmconv.problem import Problem
from tvmconv.target import Target

#: Attribute of a function: the element types of its parameters, those in float32 empty.
STORAGE = "tvmconv.storage"

#: Bits of float32: all but the sign, infinity, 0.5.
_MAGNITUDE, _INFINITY, _ONE_HALF = 0x7FFFFFFF, 0x7F800000, 0x3F000000
#: What float32 adds to the exponent of float16, and how many more bits its mantissa has.
_REBIAS, _SHIFT = 112 << 23, 13
#: The smallest normal number of float16 as float32 has it.
_SMALLEST = 113 << 23


def in_float32(spec: KernelSpec, is_gpu: bool) -> KernelSpec:
    """The kernel as it is described and scheduled: with float32 in place of halves.

    Not so on a GPU whose tensor cores take halves themselves.
    """
    on_blocks = spec.output.block > 1
    if is_gpu and on_blocks and spec.op in TENSOR_CORE_OPS and spec.inputs[0].dtype in HALVES:
        return spec
    if not any(layout.dtype in HALVES for layout in (*spec.inputs, spec.output)):
        return spec
    attrs = spec.attrs
    if attrs.get("problem"):
        attrs["problem"] = Problem.parse(attrs["problem"]).replace(dtype="float32").text
    inputs = tuple(layout.in_float32 for layout in spec.inputs)
    return KernelSpec(spec.op, canonical_json(attrs), inputs, spec.output.in_float32)


def marked(func: TVMObject, spec: KernelSpec) -> TVMObject:
    """The function of a kernel with the halves in which parameters are stored as an attribute."""
    inputs = [layout.dtype for layout in spec.inputs]
    packed = ""
    if spec.attrs.get("problem") and spec.op != "pack_weight":
        problem = Problem.parse(spec.attrs["problem"])
        if problem.dtype != inputs[0] and {problem.dtype, inputs[0]} & {*HALVES}:
            raise ValueError(f"{problem}: x is {inputs[0]}")
        packed = problem.dtype if "weight" in problem.inputs else ""
    between = [packed] * (len(func.params) - len(inputs) - 1)
    dtypes = [inputs[0], *between, *inputs[1:], spec.output.dtype]
    if not any(dtype in HALVES for dtype in dtypes):
        return func
    pairs = zip(func.params, dtypes, strict=True)
    found = [d if d in HALVES and str(p.ty.dtype) == "float32" else "" for p, d in pairs]
    return func.with_attr(STORAGE, found)


def stored(func: TVMObject, target: Target) -> TVMObject:
    """Give the parameters of a scheduled function the types in which they are stored."""
    if STORAGE not in func.attrs:
        return func
    types: dict[TVMObject, str] = {}
    buffers: dict[TVMObject, TVMObject] = {}
    for old, mark in zip(func.params, func.attrs[STORAGE], strict=True):
        if dtype := str(mark):
            native = dtype == "float16" and target.converts_float16
            types[old] = "native" if native else dtype
            words = "float16" if native and target.is_gpu else "uint16"
            buffers[old] = tirx.decl_buffer(
                list(old.ty.shape), words, name=old.name, data_alignment=old.ty.data_alignment
            )

    def load(node: TVMObject) -> TVMObject:
        if node.source not in buffers:
            return node
        if node.source.same_as(func.params[-1]):
            raise ValueError("a sum in the output itself would be rounded at each step")
        element = tirx.BufferLoad(buffers[node.source], node.indices)
        return _WIDENED[types[node.source]](element)

    def store(node: TVMObject) -> TVMObject:
        if node.buffer not in buffers:
            return node
        buffer = buffers[node.buffer]
        value = _ROUNDED[types[node.buffer]](node.value)
        if str(buffer.ty.dtype) == "uint16" and str(value.ty.dtype) == "float16":
            value = tirx.reinterpret("uint16", value)
        return tirx.BufferStore(buffer, value, node.indices)

    body = tvm_ffi.structural_map(func.body, [(tvm.ir.TensorLoad, load), (tirx.BufferStore, store)])
    body = tvm_ffi.structural_map(body, (tirx.Var, lambda v: buffers.get(v, v)))
    params = [buffers.get(param, param) for param in func.params]
    return tirx.PrimFunc(params, body, func.ret_type, func.attrs)


def _bits(value: TVMObject) -> TVMObject:
    return tirx.reinterpret("uint32", value)


def _float(bits: TVMObject) -> TVMObject:
    return tirx.reinterpret("float32", bits)


def _word(number: int) -> TVMObject:
    return tirx.const(number, "uint32")


def _converted_float16(x: TVMObject) -> TVMObject:
    """What the target's instruction makes of a float16, or of its bits."""
    half = x if str(x.ty.dtype) == "float16" else tirx.reinterpret("float16", x)
    return half.astype("float32")


def _widened_bfloat16(x: TVMObject) -> TVMObject:
    """The upper half of a float32."""
    return _float(x.astype("uint32") << _word(16))


def _widened_float16(x: TVMObject) -> TVMObject:
    """The bits in their places, with the exponent of float32.

    Numbers below the normal ones, m·2^-24, are those of 0.5 + m·2^-24, less 0.5.
    """
    half = tirx.Var("half", "uint32")
    magnitude = half & _word(0x7FFF)
    normal = (magnitude << _word(_SHIFT)) + _word(_REBIAS)
    normal = tirx.Select(magnitude >= _word(0x7C00), normal + _word(_REBIAS), normal)
    small = _bits(_float(magnitude + _word(_ONE_HALF)) - tirx.const(0.5, "float32"))
    found = tirx.Select(magnitude < _word(0x400), small, normal)
    whole = _float(found | ((half & _word(0x8000)) << _word(16)))
    return tirx.Let(half, x.astype("uint32"), whole)


def _rounded_bits(bits: TVMObject, dropped: int) -> TVMObject:
    """A float's bits without the last ones, rounded; beyond the largest number is infinity."""
    odd = (bits >> _word(dropped)) & _word(1)
    return (bits + odd + _word((1 << (dropped - 1)) - 1)) >> _word(dropped)


def _rounded_bfloat16(value: TVMObject) -> TVMObject:
    """The upper half, rounded; of what is no number a quiet NaN."""
    bits = tirx.Var("bits", "uint32")
    number = (bits & _word(_MAGNITUDE)) <= _word(_INFINITY)
    nan = (bits >> _word(16)) | _word(0x40)
    found = tirx.Select(number, _rounded_bits(bits, 16), nan)
    return tirx.Let(bits, _bits(value), found).astype("uint16")


def _rounded_float16(value: TVMObject) -> TVMObject:
    """The bits with the exponent of float16, rounded; of what is no number a quiet NaN.

    Adding 0.5 rounds what is below the normal numbers to a multiple of the smallest, 2^-24.
    """
    bits = tirx.Var("bits", "uint32")
    magnitude = bits & _word(_MAGNITUDE)
    small = _bits(_float(magnitude) + tirx.const(0.5, "float32")) - _word(_ONE_HALF)
    normal = tirx.min(_rounded_bits(magnitude - _word(_REBIAS), _SHIFT), _word(0x7C00))
    found = tirx.Select(magnitude < _word(_SMALLEST), small, normal)
    found = tirx.Select(magnitude > _word(_INFINITY), _word(0x7E00), found)
    whole = found | ((bits >> _word(16)) & _word(0x8000))
    return tirx.Let(bits, _bits(value), whole).astype("uint16")


_WIDENED = {
    "native": _converted_float16,
    "float16": _widened_float16,
    "bfloat16": _widened_bfloat16,
}
_ROUNDED = {
    "native": lambda value: value.astype("float16"),
    "float16": _rounded_float16,
    "bfloat16": _rounded_bfloat16,
}
