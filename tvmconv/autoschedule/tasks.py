"""What there is to tune: the distinct workloads of networks and problems, each with its count."""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tvmconv import ops
from tvmconv.autoschedule.record import Cache
from tvmconv.autoschedule.workload import alternatives, canonical
from tvmconv.errors import InputError
from tvmconv.kernel import KernelSpec
from tvmconv.layers import Layer
from tvmconv.layout import itemsize
from tvmconv.problem import Problem
from tvmconv.target import Target

if TYPE_CHECKING:
    from tvmconv.graph.ir import Graph
    from tvmconv.graph.lower import Lowered

#: Packs a weight that is not a constant; in a network there is none.
_NOT_TUNED = "pack_weight"


@dataclass
class Task:
    """One workload, in all the ways to compute it.

    Attributes
    ----------
    specs : tuple of KernelSpec
        Alternatives with the same result, the direct one first; of a problem also the one on
        planes.
    cold_bytes : int
        Bytes of weights that a network reads from one use of the task's to the next, see
        :func:`cold_bytes`; 0 for a problem's, whose weights stay in the cache.
    networks : dict of str to int
        How often each network runs it in one inference.
    untuned : KernelSpec, optional
        The alternative that is compiled when no log knows better, if conversions decide that.
    """

    specs: tuple[KernelSpec, ...]
    cold_bytes: int = 0
    networks: dict[str, int] = field(default_factory=dict)
    untuned: KernelSpec | None = None

    @property
    def cache(self) -> Cache:
        """How it is measured."""
        return "cold" if self.cold_bytes else "warm"

    @property
    def name(self) -> str:
        """For people."""
        return describe(self.specs[0])

    @property
    def count(self) -> int:
        """How often all networks together run it."""
        return sum(self.networks.values())

    @property
    def macs(self) -> int:
        """Multiply-accumulates of the direct algorithm, 0 where they are not counted."""
        attrs = self.specs[0].attrs
        return Problem.parse(attrs["problem"]).macs if "problem" in attrs else 0


def describe(spec: KernelSpec) -> str:
    """A workload for people: the problem or the shape, and the fused steps."""
    attrs = spec.attrs
    shape = "x".join(map(str, spec.output.shape))
    steps = "".join(f"+{step['op']}" for step in attrs.get("program", ()))
    return f"{attrs.get('problem') or f'{spec.op}:{shape}'}{steps}"


def moved_bytes(spec: KernelSpec) -> int:
    """Bytes of the activations that a kernel reads and writes."""
    layouts = (*spec.inputs, spec.output)
    return sum(math.prod(v.buffer_shape) * itemsize(v.dtype) for v in layouts)


def cold_bytes(weights: int, target: Target) -> int:
    """Bytes to read between two uses of a weight, for a network with so many bytes of weights.

    A few sizes only, because each is another process that measures: a quarter of the last cache,
    all of it, or more than it holds.
    """
    last = target.caches.l3_bytes or target.caches.l2_bytes
    steps = (0, last // 4, last, 2 * last)
    return next((size for size in steps if weights <= size), steps[-1])


def extract(
    sources: Sequence[Any],
    target: Target,
    batch: int | None = None,
    precision: str = "float32",
    allow_tf32: bool = False,
) -> tuple[list[Task], list[str]]:
    """Compile models and problems down to kernels, and collect these.

    Parameters
    ----------
    sources : sequence of path, ModelProto, problem text or Layer
    target : Target
    batch : int, optional
        Extent of a symbolic first axis.
    precision : str
        What models are stored in: see :mod:`tvmconv.graph.precision`.
    allow_tf32 : bool
        Whether a GPU's tensor cores may round float32 to TF32.

    Returns
    -------
    tasks : list of Task
        Each workload once, in the order in which it is met first.
    networks : list of str
        Names of the sources.

    Raises
    ------
    InputError
        If a model or problem cannot be compiled.
    """
    from tvmconv.autoschedule.choose import Chooser
    from tvmconv.compiler import lower_graph

    if allow_tf32:
        target.require_tf32()
    tasks: dict[str, Task] = {}
    networks: list[str] = []
    for source in sources:
        graph, name, is_problem = _load(source, batch, precision)
        networks.append(name if name not in networks else f"{name}#{len(networks) + 1}")
        weights = 0 if is_problem else _weight_bytes(graph)
        chooser = Chooser.of(target)
        chooser.cold_bytes, chooser.allow_tf32 = weights, allow_tf32
        chooser.blocks_only = chooser.blocks_only or is_problem
        lowered = lower_graph(graph, target, chooser=chooser)
        for key, specs, count in _kernels(lowered, target, network=not is_problem):
            found = Task(specs)
            if is_problem and not target.is_gpu:
                _add_planes(found, graph, target)
            task = tasks.setdefault(key, found)
            # What a network forbids is out for all.
            task.specs = min(task.specs, found.specs, key=len)
            task.networks[networks[-1]] = count
            task.cold_bytes = max(task.cold_bytes, cold_bytes(weights, target))
    return list(tasks.values()), networks


def _load(source: Any, batch: int | None, precision: str) -> tuple[Graph, str, bool]:
    """Load a source with constant weights; its graph, its name, and whether it is a problem."""
    import numpy as np

    from tvmconv.frontend import is_problem_text, load
    from tvmconv.graph.precision import stored_in

    text = source.problem if isinstance(source, Layer) else source
    if isinstance(text, str) and is_problem_text(text):
        problem = Problem.parse(text)
        if precision != "float32":
            raise InputError(f"{text}: precision is for models; a problem has dtype={precision}")
        shapes = {name: shape for name, shape in problem.inputs.items() if name != "x"}
        # Only their shape matters: no kernel depends on the values of its weights.
        params = {name: np.ones(shape, problem.dtypes[name]) for name, shape in shapes.items()}
        name = source.origin if isinstance(source, Layer) else problem.text
        return load(problem.text, params=params), name, True
    graph = stored_in(load(source, batch=batch), precision)
    is_path = isinstance(source, (str, os.PathLike))
    return graph, (Path(source).stem if is_path else graph.name or "model"), False


def _add_planes(task: Task, graph: Graph, target: Target) -> None:
    """Add a problem's kernel on planes, and find out which is compiled without a log."""
    from tvmconv.compiler import lower_graph
    from tvmconv.graph.forms import BOTH, planes_of

    if task.specs[0].op not in BOTH:
        return
    planes = planes_of(task.specs[0])
    task.specs = (*task.specs, planes)
    compiled = lower_graph(graph, target).kernels.values()
    if any(canonical(spec).text == planes.text for spec in compiled):
        task.untuned = planes


def _weight_bytes(graph: Graph) -> int:
    """Bytes of a network's constants."""
    return sum(value.data.nbytes for value in graph.constants() if value.data is not None)


def _is_tuned(spec: KernelSpec, target: Target) -> bool:
    """Whether measurements can make a kernel's arguments: floats, on a GPU also of float16."""
    known = ("float32", "float16") if target.is_gpu else ("float32",)
    if spec.op == _NOT_TUNED or any(v.dtype not in known for v in (*spec.inputs, spec.output)):
        return False
    operator = ops.get(spec.op)
    weights = operator.family is not None and len(Problem.parse(spec.attrs["problem"]).inputs) > 1
    if operator.pack is None or weights:
        return True
    return all(table.dtype == "float32" for table in operator.pack(spec, []))


def _kernels(
    lowered: Lowered, target: Target, *, network: bool
) -> Iterator[tuple[str, tuple[KernelSpec, ...], int]]:
    """The workloads of a plan: key, alternatives (a GPU has none), how often they run."""
    from tvmconv.codegen.plan import KernelStep

    runs = Counter(step.kernel for step in lowered.plan.steps if isinstance(step, KernelStep))
    found: dict[str, tuple[KernelSpec, ...]] = {}
    counts: Counter[str] = Counter()
    for name, count in runs.items():
        spec = lowered.kernels[name]
        if _is_tuned(spec, target):
            specs = alternatives(spec, network)[: 1 if target.is_gpu else None]
            found[specs[0].text] = specs
            counts[specs[0].text] += count
    for key, specs in found.items():
        yield key, specs, counts[key]
