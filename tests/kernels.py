"""Kernels on their own: described, compiled by TVM in this process, run in poisoned buffers.

Everything that a kernel must not read holds a poison that spreads into its results, and everything
that it must write holds NaN before: halos of what is read without padding, the channels that pad a
block, the neighbours in a buffer of which a tensor is a slice.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import zip_longest
from typing import Any

import numpy as np
import numpy.typing as npt

from tvmconv import accuracy, ops
from tvmconv.accuracy import Trial
from tvmconv.autoschedule.measure.buffers import arguments, own_region, unpack
from tvmconv.autoschedule.space import Candidate
from tvmconv.graph.halos import halo_fill, window_halo
from tvmconv.host import CPUINFO, parse_cpuinfo
from tvmconv.kernel import KernelSpec, canonical_json
from tvmconv.layout import HALVES, Layout
from tvmconv.ops import Case, Operator
from tvmconv.problem import Problem
from tvmconv.target import Target, load_target, targets

Array = npt.NDArray[Any]
Steps = Sequence[Mapping[str, Any]]

BLOCK = 16


@cache
def host() -> Target:
    """This machine, with as many threads as parallel loops need to be seen to work."""
    return replace(load_target("host"), cores=2)


def runs_here(target: Target) -> bool:
    """Whether this machine has the ISA level of a target that ships with the package.

    What a chip has above its level is of no use to arithmetic on vectors of floats.
    """
    match = target.match
    level = match if match is None or match.flags else targets()[match.level].match
    cpu = parse_cpuinfo(CPUINFO.read_text(encoding="utf-8", errors="replace"))
    return level is not None and not cpu.lacking(level.flags)


def cpu_targets() -> list[Target]:
    """The targets that ship with the package and are CPUs."""
    return [target for target in targets().values() if not target.is_gpu]


def runnable_targets() -> list[Target]:
    """The ISA levels that this machine has, and the machine itself."""
    levels = [t for t in targets().values() if t.match is not None and t.match.flags]
    return [*(replace(t, cores=2) for t in levels if runs_here(t)), host()]


# --- buffers


def sliced(layout: Layout, before: int = 1, after: int = 1) -> Layout:
    """The same tensor as a slice of a larger buffer."""
    return replace(layout, slots=before + layout.own_slots + after, first=before)


def unwritten(dtype: str) -> float:
    """What an output holds before it is written."""
    return np.nan if np.dtype(dtype).kind in "fV" else 1 if dtype == "bool" else 85


# --- descriptions


@dataclass(frozen=True)
class Kernel:
    """A kernel with inputs.

    Attributes
    ----------
    spec : KernelSpec
    data : tuple of ndarray
        Logical arrays of ``spec.inputs``.
    constants : tuple of ndarray
        Weight and bias, as ONNX has them.
    """

    spec: KernelSpec
    data: tuple[Array, ...]
    constants: tuple[Array, ...] = ()

    def arguments(self) -> list[Array]:
        """The buffers in the order of the kernel's arguments; the last is for the output."""
        layout = self.spec.output
        output = np.full(layout.buffer_shape, unwritten(layout.dtype), layout.dtype)
        return [*arguments(self.spec, self.data, self.constants), output]


def problem_spec(
    problem: Problem, block: int = BLOCK, in_block: int | None = None, program: Steps = (),
    operands: Sequence[Layout] = (), zero_padding: bool = False, skips_padding: bool = False,
) -> KernelSpec:  # fmt: skip
    """The kernel of a problem as the layout pass describes it.

    Parameters
    ----------
    block, in_block : int
        Channel blocks of the output and, for operators that take either, of the input. A kernel on
        planes (``block`` 1) takes plain tensors and no halo.
    zero_padding : bool
        Whether zeros pad a maximum, because the input is known to have nothing negative.
    skips_padding : bool
        Whether the halo is narrower than the padding.
    """
    if block == 1:
        in_block = 1
    elif in_block is None or ops.get(problem.op).layout != "any":
        in_block = block if ops.get(problem.op).layout != "any" or problem.ci >= block else 1
    if ops.get(problem.op).words:
        in_block = max(in_block, 4)
    x = Layout(problem.input_shape, in_block, dtype=problem.dtypes["x"])
    attrs: dict[str, Any] = {"problem": problem.text, "program": list(program)}
    tests_edges = problem.op == "max_pool" and any(map(any, window_halo(attrs)))
    if (tests_edges and not zero_padding) or (block == 1 and problem.rank):
        attrs["edges"] = "test"
    else:
        attrs |= {"edges": "skip"} if skips_padding else {}
        x = x.with_halo(*window_halo(attrs), halo_fill(attrs))
    dtype = ops.result_dtype(problem.op, list(problem.dtypes.values())[:-1], attrs)
    output = Layout(problem.output_shape, block, dtype=dtype)
    return KernelSpec(problem.op, canonical_json(attrs), (x, *operands), output)


def inputs_of(op: Operator, case: Case) -> list[Array]:
    """Random inputs of a case that make sense to the operator."""
    rng = np.random.default_rng(len(case.source))
    arrays = [rng.standard_normal(shape).astype(np.float32) for shape in case.shapes]
    if op.name in ("log", "sqrt", "pow"):
        return [np.abs(array) + np.float32(0.25) for array in arrays]
    if op.name in ("equal", "arg_max", "arg_min"):
        return [np.round(array) for array in arrays]
    if op.name == "reduce_prod":  # of numbers near 1
        return [np.exp(array / np.float32(99)) for array in arrays]
    if op.name == "acosh":
        return [np.abs(array) + np.float32(1.0) for array in arrays]
    if op.name in ("acos", "asin", "atanh"):
        return [np.tanh(array) for array in arrays]
    if op.name == "is_nan":
        return [np.where(array > 1, np.float32(np.nan), array) for array in arrays]
    if op.name in ("is_infinity", "is_minus_infinity"):
        return [np.where(np.abs(array) > 1, array * np.float32(np.inf), array) for array in arrays]
    if op.name == "is_not_zero":
        return [np.where(np.abs(array) > 1, array, np.float32(0)) for array in arrays]
    if op.name == "max_pool_indices":
        maxima = Problem.parse(case.attrs["problem"]).reference({"x": arrays[0]})
        return [arrays[0], maxima.astype(np.float32)]
    if op.name == "max_unpool":
        size = int(np.prod(op.output_shape(case.shapes, case.attrs)))
        places = rng.choice(size, arrays[0].size, replace=False)
        return [arrays[0], places.reshape(arrays[0].shape).astype(np.int64)]
    return [_typed(rng, a, d) for a, d in zip_longest(arrays, case.dtypes)]


def _typed(rng: np.random.Generator, array: Array, dtype: str | None) -> Array:
    """Truth values by the signs of numbers; integers of a type, beyond a byte where it has them."""
    if dtype in (None, "float32"):
        return array
    if dtype == "bool":
        return array > 0
    if dtype in HALVES:
        return array.astype(dtype)
    limits = np.iinfo(str(dtype))
    low, high = max(limits.min, -400), min(limits.max, 400)
    return rng.integers(low, high, array.shape, dtype, endpoint=True)


def problem_kernel(trial: Trial, spec: KernelSpec, operands: Sequence[Array] = ()) -> Kernel:
    """A kernel of a problem with the inputs of a trial."""
    constants = tuple(array for name, array in trial.arrays.items() if name != "x")
    return Kernel(spec, (trial.arrays["x"], *operands), constants)


def case_kernels(name: str, case: Case, arrays: Sequence[Array]) -> list[Kernel]:
    """The kernels of a case of an operator without a family, in every layout that it takes."""
    operator = ops.get(name)
    op, attrs, data = name, dict(case.attrs), list(arrays)
    shape = operator.output_shape(case.shapes, case.attrs)
    if operator.expression is not None or name == "scale_shift":
        program = program_of(name, case, shape)
        if program is not None:
            op = "elementwise"
            attrs, order = {"program": program[0]}, program[1]
            data = [widened(arrays[k], len(shape), name) for k in order]
    layout = ops.get(op).layout
    blocks = {"plain": [1], "same": [1, BLOCK, 8], "blocked": [BLOCK, 8]}[layout]
    if op == "concat" and attrs["axis"] != 1:
        blocks = [1]
    blocks = blocks if len(shape) > 1 else [1]
    kernels = []
    for block in blocks:
        layouts = tuple(
            Layout(array.shape, block if array.ndim > 1 else 1, dtype=str(array.dtype))
            for array in data
        )
        dtype = ops.result_dtype(op, [layout.dtype for layout in layouts], attrs)
        output = Layout(shape, block, dtype=dtype)
        spec = KernelSpec(op, canonical_json(attrs), layouts, output)
        kernels.append(Kernel(spec, tuple(data)))
    return kernels


def program_of(
    name: str, case: Case, shape: tuple[int, ...]
) -> tuple[list[dict[str, Any]], list[int]] | None:
    """The program of an elementwise node and the order of its inputs; None where it has none."""
    if name == "scale_shift":
        return [{"op": "mul", "operand": 0}, {"op": "add", "operand": 1}], [0, 1, 2]
    if len(case.shapes) == 1:
        return [{"op": name, **case.attrs}], [0]
    if case.shapes[0] == shape:
        return [{"op": name, "operand": 0}], [0, 1]
    if case.shapes[1] == shape:
        return [{"op": name, "operand": 0, "reverse": True}], [1, 0]
    return None


def widened(array: Array, rank: int, name: str) -> Array:
    """An operand with as many axes as the output, as the fusion pass makes it."""
    if name in ("scale_shift", "prelu") and array.ndim == 1:
        return array.reshape(1, -1, *(1,) * (rank - 2))
    return array.reshape((1,) * (rank - array.ndim) + array.shape)


# --- compiling and running


class Compiled:
    """Kernels compiled together."""

    def __init__(self, funcs: Mapping[str, Any], target: Target) -> None:
        from tvmconv.codegen.kernels import compiled

        self.module = compiled(funcs, target)

    def run(self, number: int, kernel: Kernel) -> Array:
        """Run a kernel on aligned copies of its buffers, and return its logical output.

        Fails if it has written anything else of the output's buffer.
        """
        from tvmconv._tvm import tvm

        arguments = [np.asarray(array, order="C") for array in kernel.arguments()]
        words = [a.view(np.uint16) if str(a.dtype) in HALVES else a for a in arguments]
        tensors = [tvm.runtime.tensor(array) for array in words]
        self.module[f"k{number}"](*tensors)
        buffer, layout = np.array(tensors[-1].numpy()), kernel.spec.output
        buffer = buffer.view(arguments[-1].dtype)
        got = unpack(buffer, layout).copy()
        own_region(buffer, layout)[...] = unwritten(layout.dtype)
        buffer = buffer.astype(np.float32) if layout.dtype in HALVES else buffer
        untouched = np.full_like(buffer, unwritten(layout.dtype))
        np.testing.assert_array_equal(buffer, untouched, f"{kernel.spec.op} wrote outside")
        return got

    @property
    def asm(self) -> str:
        """Assembly of everything."""
        return str(self.module.mod.inspect_source("asm"))


def compile_specs(
    specs: Sequence[KernelSpec],
    target: Target | None = None,
    choices: Sequence[Candidate] | None = None,
) -> Compiled:
    """Compile kernels together as ``k0``, ``k1``, …, each with its schedule or the model's."""
    from tvmconv.codegen.kernels import scheduled

    target = target or host()
    funcs = {
        f"k{i}": scheduled(spec, f"k{i}", target, choice)
        for i, (spec, choice) in enumerate(zip(specs, choices or [None] * len(specs), strict=True))
    }
    return Compiled(funcs, target)


def run(kernels: Sequence[Kernel], target: Target | None = None) -> list[Array]:
    """Compile and run kernels, and return their logical outputs."""
    compiled = compile_specs([kernel.spec for kernel in kernels], target)
    return [compiled.run(k, kernel) for k, kernel in enumerate(kernels)]


def reference(kernel: Kernel) -> Array:
    """What a kernel of an operator without a family has to give, in float64."""
    data = [a.astype(np.float64) if a.dtype.kind in "fV" else a for a in kernel.data]
    return np.asarray(ops.get(kernel.spec.op).reference(data, kernel.spec.attrs))


def trials(problem: Problem, seed: int = 0) -> list[Trial]:
    """Integers to be compared exactly, if the problem allows that, and random numbers."""
    exact = [accuracy.trial(problem, seed, exact=True)] if accuracy.is_exact(problem) else []
    return [*exact, accuracy.trial(problem, seed)]
