"""Compile, run, and compare with the NumPy reference."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from tvmconv.accuracy import (
    NETWORK_ATOL,
    QUANTISED_L2,
    TF32,
    AccuracyReport,
    Status,
    check_halves,
    check_network,
)
from tvmconv.errors import InputError
from tvmconv.host import require_runnable
from tvmconv.kernel import TENSOR_CORE_OPS
from tvmconv.layout import HALVES
from tvmconv.ops.options import BYTE_DTYPES, DTYPES
from tvmconv.target import Target, load_target

if TYPE_CHECKING:
    from rich.table import Table

    from tvmconv.compiler import Logs
    from tvmconv.device import Runner
    from tvmconv.graph.ir import Graph

Array = npt.NDArray[Any]
Progress = Callable[[str, int, int], None]
#: ``build(model, params=, fused=)`` compiles with all other options chosen.
Build = Callable[..., Any]


@dataclass(frozen=True)
class OutputCheck:
    """One output against its reference.

    Attributes
    ----------
    name : str
    shape : tuple of int
    ratio : float
        Largest error over the error that is allowed; right up to 1.
    message : str
        One line: what was compared by which rule.
    status : {"right", "wrong", "inconclusive"}
        As of an :class:`~tvmconv.accuracy.AccuracyReport`.
    """

    name: str
    shape: tuple[int, ...]
    ratio: float
    message: str
    status: Status

    @property
    def ok(self) -> bool:
        """Whether it is right."""
        return self.status == "right"


@dataclass(frozen=True)
class VerifyReport:
    """What :func:`verify` found.

    Attributes
    ----------
    model, target : str
    outputs : tuple of OutputCheck
    first_wrong : str
        With ``bisect``: the first node whose output is wrong, or empty.
    arithmetic : str
        What is allowed beyond the rounding of the tensors' types, or empty.
    """

    model: str
    target: str
    outputs: tuple[OutputCheck, ...]
    first_wrong: str = ""
    arithmetic: str = ""

    @property
    def ok(self) -> bool:
        """Whether every output is right."""
        return all(check.ok for check in self.outputs)

    @property
    def fault(self) -> str:
        """Why it is not ``ok``, in a few words."""
        if any(check.status == "wrong" for check in self.outputs):
            return "the output differs from the reference"
        return "too few elements of the reference differ from zero to tell whether it is right"

    def to_json(self) -> dict[str, Any]:
        """JSON-able form."""
        outputs = [{**vars(c), "shape": list(c.shape), "ok": c.ok} for c in self.outputs]
        return {
            "model": self.model,
            "target": self.target,
            "ok": self.ok,
            "outputs": outputs,
            "first_wrong": self.first_wrong,
            "arithmetic": self.arithmetic,
        }

    def table(self) -> Table:
        """Table for a terminal."""
        from rich.table import Table

        table = Table(title=f"{self.model} on {self.target}")
        for column in ("output", "shape", "error / allowed", "result"):
            table.add_column(column, justify="right" if column.startswith("error") else "left")
        for c in self.outputs:
            status = c.status.upper() if c.status == "wrong" else c.status
            verdict = status if c.ok else f"{status}: {c.message}"
            ratio = f"{c.ratio:.3f}" if c.ratio < 1000 else f"{c.ratio:.3g}"
            table.add_row(c.name, "x".join(map(str, c.shape)), ratio, verdict)
        if self.first_wrong or self.arithmetic:
            wrong = f"first wrong node: {self.first_wrong}" if self.first_wrong else ""
            table.caption = wrong or self.arithmetic
        return table


def verify(
    model: Any,
    target: str | Path | Target = "host",
    *,
    bisect: bool = False,
    threads: int | None = None,
    batch: int | None = None,
    params: Any = None,
    log: Logs = None,
    tuned: bool = True,
    exact: bool = False,
    precision: str = "float32",
    allow_tf32: bool = False,
    emulate: bool = False,
    seed: int = 0,
    progress: Progress | None = None,
    runner: Runner | None = None,
) -> VerifyReport:
    """Compile a model for this machine, run it on random inputs, compare every output.

    A problem is held to the error formula of :mod:`tvmconv.accuracy`, a network to
    ``|y - ref| <= 1e-5 + 1e-3·|ref|``. Where a softmax makes an output, its input is compared: a
    softmax saturates, so that nearly anything before it would pass. Outputs are no numbers before
    the run. Where zeros would pass too, because a network's whole output or most of what a
    problem's terms reach is zero, the result is neither right nor wrong but inconclusive.

    Parameters
    ----------
    model : path, ModelProto or problem text
    target : Target, name or file
    bisect : bool
        If an output is wrong, find the first node whose output is.
    threads, batch, params, log, tuned, exact, precision, allow_tf32
        As for :func:`tvmconv.compile`.
    emulate : bool
        For a GPU target: run its kernels on this machine's CPU, and check each access to memory
        and each barrier.
    seed : int
        Of the inputs, and of a problem's weights if ``params`` leaves them out.
    runner : Runner, optional
        What runs the model, instead of this machine.

    Raises
    ------
    InputError
        The model cannot be compiled, or this machine cannot run code for the target.
    VerificationError
        A kernel that is emulated reads or writes where it must not, or its threads race.
    RunnerError
        It cannot be run elsewhere.
    """
    from tvmconv.compiler import compile

    machine = load_target(target)
    if emulate and runner is not None:
        raise InputError("runner: emulated kernels run on this machine, not by a runner")
    make: Build = compile
    if runner is None and not emulate:
        require_runnable(machine)
    if runner is not None:
        from tvmconv.device.module import RemoteModule

        make = partial(RemoteModule.compile, runner=runner)
    build: Build = partial(
        make, target=machine, threads=threads, log=log, tuned=tuned, exact=exact,
        precision=precision, allow_tf32=allow_tf32, progress=progress,
    )  # fmt: skip
    emulated: AbstractContextManager[None] = nullcontext()
    if emulate:
        from tvmconv.cuda_emulator.emulation import emulated_build, emulation

        emulated, build = emulation(machine), emulated_build(build, machine)
    with emulated:
        return _verify(model, machine, build, params, batch, seed, bisect, precision, allow_tf32)


def _verify(
    model: Any,
    machine: Target,
    build: Build,
    params: Any,
    batch: int | None,
    seed: int,
    bisect: bool,
    precision: str,
    allow_tf32: bool,
) -> VerifyReport:
    from tvmconv.frontend import is_problem_text

    if bisect and (precision != "float32" or allow_tf32):
        raise InputError("bisect looks for a wrong node of a network in float32")

    if isinstance(model, str) and is_problem_text(model):
        if batch is not None or bisect:
            raise InputError(f"{model}: batch and bisect are for models, not for problems")
        return _verify_problem(model, machine, build, params, seed)
    if params is not None:
        raise InputError("params are for problems; a model has its own weights")
    return _verify_network(model, machine, build, batch, seed, bisect, precision, allow_tf32)


def _verify_problem(
    text: str, target: Target, build: Build, params: Any, seed: int
) -> VerifyReport:
    from tvmconv import ops
    from tvmconv.accuracy import trial
    from tvmconv.frontend.problems import read_params
    from tvmconv.ops import winograd
    from tvmconv.problem import Problem

    problem = Problem.parse(text)
    given = read_params(problem, params) if params is not None else {}
    drawn = trial(problem, seed, fixed=given)
    arrays = drawn.arrays
    # Some kernels read weights that are transformed at compile time.
    if winograd.tile_outputs(problem) or ops.get(problem.op).packed_weight is None:
        given = {k: v for k, v in arrays.items() if k != "x"}
    module = build(text, params=given or None)
    (got,) = _run(module, {k: v for k, v in arrays.items() if k not in given})
    named = (step["algorithm"] for step in module.metadata["steps"] if "algorithm" in step)
    rule = next(named, "direct")
    output = _checked("y", got, drawn.check(got, rule))
    return VerifyReport(problem.text, target.name, (output,), arithmetic=_arithmetic(rule))


def _verify_network(
    model: Any, target: Target, build: Build, batch: int | None, seed: int, bisect: bool,
    precision: str, allow_tf32: bool,
) -> VerifyReport:  # fmt: skip
    from tvmconv.frontend import load
    from tvmconv.frontend.read import read_model
    from tvmconv.graph.evaluate import evaluate
    from tvmconv.models import resolve
    from tvmconv.oracle import before_softmax, evaluate_model

    named = isinstance(model, (str, os.PathLike))
    label = os.fspath(model) if named else "model"
    proto = read_model(resolve(label) if named else model)
    names = before_softmax(proto)
    graph = load(label if named else model, batch=batch, outputs=names)
    feeds = random_feeds(graph, seed)
    module = build(graph)
    got = _run(module, feeds)
    wanted = evaluate_model(proto, feeds, names)
    outputs = [output.name for output in proto.graph.output]
    dtype, count = _halves(graph, precision)
    if not dtype and (rounding := _tf32_products(graph, module.metadata["steps"])):
        dtype, count = TF32, rounding
    if is_quantised(graph) and dtype in ("", TF32):
        checks = _check_quantised(graph, feeds, outputs, got, wanted)
    elif dtype:
        if dtype != TF32 and precision == "float32":  # ONNX's evaluator would round at each step
            wanted = evaluate(graph, feeds)
        reports = [check_halves(y, ref, dtype, count) for y, ref in zip(got, wanted, strict=True)]
        checks = tuple(
            _checked(name, y, r) for name, y, r in zip(outputs, got, reports, strict=True)
        )
    else:
        triples = zip(outputs, got, wanted, strict=True)
        checks = tuple(compare(name, y, ref) for name, y, ref in triples)
    wrong = ""
    if bisect and any(c.status == "wrong" for c in checks):
        wrong = first_wrong_node(graph, feeds, build)
    return VerifyReport(str(label), target.name, checks, wrong, _arithmetic(dtype))


def _run(module: Any, feeds: Mapping[str, Array]) -> list[Array]:
    """Run a model into memory full of ones, which are no number: what it leaves out is seen.

    Runs elsewhere and emulated ones do so of themselves.
    """
    from tvmconv.runtime.arrays import poisoned
    from tvmconv.runtime.loader import Module

    if isinstance(module, Module):
        return module(feeds, out=poisoned(module.outputs))
    results: list[Array] = module(feeds)
    return results


def _checked(name: str, got: Array, report: AccuracyReport) -> OutputCheck:
    return OutputCheck(name, got.shape, report.ratio, report.message, report.status)


def _arithmetic(rule: str) -> str:
    """What to know of the arithmetic to which outputs are held, if it is not that of the dtype."""
    return "factors may be rounded to TF32, by 2^-11 of each" if rule == TF32 else ""


def _tf32_products(graph: Graph, steps: Sequence[Mapping[str, Any]]) -> int:
    """Roundings to TF32 that follow one another, at most: of both factors of a step's products."""
    from tvmconv.graph.precision import longest

    there = [step.get("algorithm") for step in steps].count(TF32)
    return 2 * min(there, longest(graph, lambda node: node.op in TENSOR_CORE_OPS))


def _halves(graph: Graph, precision: str) -> tuple[str, int]:
    """What a network is stored in, if in halves, else an empty text; and how often it rounds."""
    from tvmconv.graph.precision import roundings, stored_in

    graph = stored_in(graph, precision)
    found = {v.dtype for node in graph.nodes for v in (*node.inputs, node.output)} & {*HALVES}
    dtype = max(found, key=lambda name: DTYPES[name].roundoff, default="")
    return dtype, roundings(graph)


def is_quantised(graph: Graph) -> bool:
    """Whether a network rounds to quantised numbers on its way."""
    return any(node.op == "quantize" for node in graph.nodes)


def _check_quantised(
    graph: Graph,
    feeds: Mapping[str, Array],
    names: Sequence[str],
    got: Sequence[Array],
    wanted: Sequence[Array],
) -> tuple[OutputCheck, ...]:
    """Hold outputs to the integers of the graph, and these to the model's arithmetic in floats.

    Where a float lies between two quantised numbers, the last bit decides, and the network after it
    sees another number: integer sums and ONNX's floats agree up to such steps only, so that the
    second comparison is of the norms. So is the first one if there are sums of floats as well,
    which are rounded in another order.
    """
    from tvmconv.graph.evaluate import evaluate

    checks = []
    exact = evaluate(graph, feeds, "float32")
    for name, y, integers, ref in zip(names, got, exact, wanted, strict=True):
        check = compare(name, y, integers.astype(y.dtype))
        if check.status == "wrong" and _sums_floats(graph):
            check = _compare_norms(name, y, integers)
        norms = _compare_norms(name, y, ref)
        checks.append(check if norms.ok or check.status == "wrong" else norms)
    return tuple(checks)


def _sums_floats(graph: Graph) -> bool:
    """Whether there is a convolution or the like of floats."""
    from tvmconv.graph.fuse import FAMILY

    return any(n.op in FAMILY and n.inputs[0].dtype == "float32" for n in graph.nodes)


def _compare_norms(name: str, y: Array, reference: Array) -> OutputCheck:
    """Limit the relative L2 error of an output."""
    wide = reference.astype(np.float64)
    share = float(np.linalg.norm(y.astype(np.float64) - wide)) / (
        float(np.linalg.norm(wide)) or 1.0
    )
    status: Status = "right" if wide.any() else "inconclusive"
    message = "" if wide.any() else "the reference is zero, the check does not count"
    if not share <= QUANTISED_L2:
        status, message = "wrong", f"relative L2 error {share:.2e} is over {QUANTISED_L2:.0e}"
    return OutputCheck(name, y.shape, share / QUANTISED_L2, message, status)


def random_feeds(graph: Graph, seed: int) -> dict[str, Array]:
    """Random inputs of a graph: see :func:`random_arrays`."""
    return random_arrays({v.name: (v.shape, v.dtype) for v in graph.inputs}, seed)


def random_arrays(inputs: Mapping[str, tuple[tuple[int, ...], str]], seed: int) -> dict[str, Array]:
    """Standard normal arrays of these shapes and types; true and false by their signs; any bytes.

    Other integers count the elements in a random order, so that indices are of different places.
    """
    rng = np.random.default_rng(seed)

    def drawn(shape: tuple[int, ...], dtype: str) -> Array:
        if dtype in BYTE_DTYPES:
            limits = np.iinfo(dtype)
            return rng.integers(limits.min, limits.max, shape, dtype, endpoint=True)
        if np.issubdtype(dtype, np.integer):
            return rng.permutation(prod(shape)).reshape(shape).astype(dtype)
        numbers = rng.standard_normal(shape)
        return numbers > 0 if dtype == "bool" else numbers.astype(dtype)

    return {name: drawn(shape, dtype) for name, (shape, dtype) in inputs.items()}


def compare(name: str, got: Array, reference: Array, atol: float = NETWORK_ATOL) -> OutputCheck:
    """Compare a network's value with its reference: ``|got - ref| <= atol + 1e-3·|ref|``."""
    return _checked(name, got, check_network(got, reference, atol=atol))


#: Outputs that one library may have, less a margin.
_MAX_EXPOSED = 200


def first_wrong_node(graph: Graph, feeds: Mapping[str, Array], build: Build) -> str:
    """Name the first kernel whose output differs from the reference of its node.

    The fused graph is compiled with the result of every kernel as an output, some at a time, and
    each is compared with the same value in an evaluation of the graph by NumPy.

    Parameters
    ----------
    graph : Graph
        Not fused.
    feeds : mapping
        Arrays of its inputs.
    build : callable
        Compiles a graph, with the options with which the wrong output came.
    """
    from tvmconv.graph.evaluate import trace
    from tvmconv.graph.fuse import fuse
    from tvmconv.graph.ir import Graph

    references = {node.output: array for node, array in trace(graph, feeds)}
    fused = fuse(graph)
    nodes = [n for n in fused.nodes if n.output in references]
    for start in range(0, len(nodes), _MAX_EXPOSED):
        part = nodes[start : start + _MAX_EXPOSED]
        exposed = Graph(graph.name, graph.inputs, [n.output for n in part], fused.nodes)
        module = build(exposed, fused=True)
        for node, got in zip(part, _run(module, feeds), strict=True):
            wanted = references[node.output]
            # Inside a network values have any scale: what rounds is small beside their mean square.
            scale = float(np.sqrt(np.mean(np.square(wanted, dtype=np.float64))))
            wanted = wanted.astype(got.dtype)
            check = compare(node.output.name, got, wanted, max(NETWORK_ATOL, 1e-4 * scale))
            if check.status == "wrong":
                return f"{node.name} ({node.op}): {check.message}"
    return "none of the kernels: the frontend's reading of the model"
