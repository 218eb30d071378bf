"""The steps that are no operator's kernel, as CUDA kernels: pack, unpack and copy.

Each is written for its shapes, so that the compiler turns divisions by extents into
multiplications. They move bits, whatever type these are of.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence

from tvmconv.codegen.cuda.device import Launch, Operand
from tvmconv.codegen.plan import (
    BlockedTensor,
    CopyStep,
    PackStep,
    TensorArgument,
    UnpackStep,
    element_bytes,
)

_THREADS = 256
_WORDS = {1: "unsigned char", 2: "unsigned short", 4: "unsigned int", 8: "unsigned long long"}
_WORDS |= {16: "uint4"}
_MAX_INT = 2**31 - 1


def step_kernel(step: PackStep | UnpackStep | CopyStep) -> tuple[str, Launch]:
    """The source of a step's kernel, and its launch on the step's source and destination."""
    if isinstance(step, CopyStep):
        word = math.gcd(step.source.nbytes, 16)
        count, body = step.source.nbytes // word, "  to[i] = from[i];\n"
    elif isinstance(step, PackStep):
        word = element_bytes(step.destination.dtype)
        count, body = _pack(step.source, step.destination)
    else:
        word = element_bytes(step.source.dtype)
        count, body = _unpack(step.source, step.destination)
    return _kernel(type(step).__name__.removesuffix("Step").lower(), word, count, body)


def _kernel(kind: str, word: int, count: int, body: str) -> tuple[str, Launch]:
    """A kernel with a thread for each of ``count`` words."""
    integer = "int" if count + _THREADS <= _MAX_INT else "long long"
    lines = (
        f"(const {_WORDS[word]}* __restrict__ from, {_WORDS[word]}* __restrict__ to) {{\n"
        f"  const {integer} i = ({integer})blockIdx.x * {_THREADS} + (int)threadIdx.x;\n"
        f"  if (i >= {count}) return;\n{body.replace('index_t', integer)}}}\n"
    )
    name = f"tvmconv_{kind}_{hashlib.sha256(lines.encode()).hexdigest()[:16]}"
    head = f'extern "C" __global__ void __launch_bounds__({_THREADS}) {name}'
    grid = (-(-count // _THREADS), 1, 1)
    return head + lines, Launch(name, grid, (_THREADS, 1, 1), 0, (Operand(0), Operand(1)))


def _digits(names: Sequence[str], extents: Sequence[int]) -> str:
    """Declarations of the coordinates of element ``i``, the last one fastest."""
    lines = ["  index_t rest = i;"]
    for name, extent in list(zip(names, extents, strict=True))[:0:-1]:
        lines.append(f"  const index_t {name} = rest % {extent}; rest /= {extent};")
    return "\n".join([*lines, f"  const index_t {names[0]} = rest;"]) + "\n"


def _sum(terms: Sequence[str], factors: Sequence[int]) -> str:
    """An index as a sum of products."""
    return " + ".join(f"{t} * {f}" for t, f in zip(terms, factors, strict=True) if f) or "0"


def _row_major(extents: Sequence[int]) -> list[int]:
    strides = [1]
    for extent in reversed(extents[1:]):
        strides.insert(0, strides[0] * extent)
    return strides


def _pack(plain: TensorArgument, blocked: BlockedTensor) -> tuple[int, str]:
    """A thread for each element of the blocked tensor, its halo included."""
    positions = [f"p{k}" for k in range(len(blocked.padded))]
    names = ["n", "slot", *positions, "lane"]
    extents = [blocked.shape[0], blocked.slots, *blocked.padded, blocked.block]
    inner = [f"({p} - {low})" for p, low in zip(positions, blocked.lows, strict=True)]
    inside = [f"c < {blocked.shape[1]}"]
    for place, low, high, size in zip(
        inner, blocked.lows, blocked.highs, blocked.shape[2:], strict=True
    ):
        inside += [f"{place} >= 0"] * bool(low) + [f"{place} < {size}"] * bool(high)
    source = _sum(["n", "c", *inner], _row_major(blocked.shape))
    target = _sum(["n", "slot", *positions, "lane"], [*_strides(blocked), 1])
    body = (
        f"{_digits(names, extents)}  const index_t c = slot * {blocked.block} + lane;\n"
        f"  to[{target}] = {' && '.join(inside)} ? from[{source}] : {blocked.fill % 256};\n"
    )
    return math.prod(extents), body


def _unpack(blocked: BlockedTensor, plain: TensorArgument) -> tuple[int, str]:
    """A thread for each element of the plain tensor."""
    positions = [f"p{k}" for k in range(len(blocked.padded))]
    inner = [f"({p} + {low})" for p, low in zip(positions, blocked.lows, strict=True)]
    places = ["n", f"(c / {blocked.block})", *inner, f"(c % {blocked.block})"]
    source = _sum(places, [*_strides(blocked), 1])
    body = f"{_digits(['n', 'c', *positions], blocked.shape)}  to[i] = from[{source}];\n"
    return math.prod(blocked.shape), body


def _strides(blocked: BlockedTensor) -> list[int]:
    """Strides of the batch, the slots and every spatial axis."""
    return [*blocked.strides, *([blocked.block] if blocked.padded else [])]
