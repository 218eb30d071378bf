"""A model in, an artifact out: the order of the passes, and nothing else."""

from __future__ import annotations

import hashlib
import math
import os
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from tvmconv.errors import InputError
from tvmconv.layout import itemsize
from tvmconv.runtime.inspect import DEFAULT_PREFIX
from tvmconv.target import Target, load_target

if TYPE_CHECKING:
    import numpy as np

    from tvmconv.autoschedule.choose import Chooser
    from tvmconv.autoschedule.log import Database
    from tvmconv.codegen.cuda.build import ImageBuilder
    from tvmconv.codegen.kernels import Choice
    from tvmconv.codegen.plan import Plan
    from tvmconv.graph.ir import Graph
    from tvmconv.graph.lower import Lowered
    from tvmconv.kernel import KernelSpec
    from tvmconv.runtime.loader import Module

Format = Literal["shared", "static", "tvm"]
#: Logs, folders of them, or what :func:`open_logs` made of them.
Logs: TypeAlias = "str | Path | Sequence[str | Path] | Database | None"
#: ``progress(what, done, total)``
Progress = Callable[[str, int, int], None]


def lower_graph(
    graph: Graph, target: Target, *, chooser: Chooser | None = None, fused: bool = False
) -> Lowered:
    """Run the graph passes: fusion (unless that is done), layout, memory, lowering."""
    from tvmconv.autoschedule.choose import Chooser
    from tvmconv.codegen.kernels import require_supported
    from tvmconv.graph.lower import lower_module
    from tvmconv.graph.pipeline import optimized

    require_supported(target)
    choices = chooser or Chooser.of(target)
    module = optimized(
        graph,
        target.layout.channel_block,
        choices,
        fused=fused,
        skips_padding=not target.is_gpu,
    )
    return lower_module(module, resident_halos=target.is_gpu, allow_tf32=choices.allow_tf32)


@dataclass(frozen=True)
class Parts:
    """A compiled model before it is linked, from which several artifacts can be written.

    Attributes
    ----------
    plan : Plan
    kernels : mapping of str to bytes or DeviceKernel
        Objects, or what a GPU's code is made from, by the name under which the plan calls them.
    weights : bytearray
    target : Target
    images : callable, optional
        For a GPU: what makes its code.
    """

    plan: Plan
    kernels: Mapping[str, Any]
    weights: bytearray
    target: Target
    images: ImageBuilder | None = None

    def write(
        self,
        output: Path,
        format: Format = "shared",
        *,
        prefix: str = DEFAULT_PREFIX,
        soname: str = "",
        triple: str = "",
    ) -> None:
        """Link an artifact: see :func:`tvmconv.codegen.artifact.write_artifact`.

        Parameters
        ----------
        output : Path
        format, prefix, soname
        triple : str
            zig's name of the system; the target's if empty.
        """
        from tvmconv.codegen.artifact import write_artifact

        target = self.target
        if triple:
            target = replace(target, zig=replace(target.zig, triple=triple))
        if self.images is not None:
            from tvmconv.codegen.cuda.build import write_cuda_artifact

            write_cuda_artifact(
                self.plan, self.kernels, self.weights, output, self.images, target=target,
                format=format, prefix=prefix, soname=soname,
            )  # fmt: skip
            return
        write_artifact(
            self.plan,
            list(self.kernels.values()),
            self.weights,
            output,
            target_triple=target.zig.triple,
            cpu_flags=[f"-mcpu={target.zig_mcpu}"],
            format=format,
            prefix=prefix,
            soname=soname,
        )


def compile_to_file(model: Any, output: Path, *, format: Format = "shared", **options: Any) -> Path:
    """Compile a model to a file.

    Parameters
    ----------
    model : path, ModelProto, Graph or problem text
    output : Path
        Appears whole or not at all.
    format : "shared", "static" or "tvm"
    **options
        Those of :func:`compile_parts`.

    Returns
    -------
    Path
        ``output``.

    Raises
    ------
    InputError
        The model cannot be compiled, or the output cannot be written.
    EnvironmentError_
        A tool is missing or the disk is full.
    """
    compile_parts(model, **options).write(output, format)
    return output


def compile_parts(
    model: Any,
    *,
    target: Target,
    threads: int | None = None,
    batch: int | None = None,
    params: Mapping[str, np.ndarray[Any, Any]] | Path | None = None,
    dump: Mapping[str, Path] | None = None,
    log: Logs = None,
    tuned: bool = True,
    exact: bool = False,
    split_separable: bool = False,
    precision: str = "float32",
    allow_tf32: bool = False,
    progress: Progress | None = None,
    fused: bool = False,
    images: ImageBuilder | None = None,
) -> Parts:
    """Compile a model, up to what has to be linked.

    Parameters
    ----------
    model : path, ModelProto, Graph or problem text
    target : Target
    threads : int, optional
        Threads to plan for and to use by default; the target's cores if left out.
    batch : int, optional
        Extent of a symbolic first axis.
    params : mapping or path, optional
        Weights of a problem.
    dump : mapping, optional
        ``{"asm" | "c" | "cuda" | "ptx" | "relax" | "tir": file}`` to write as well: see
        :func:`tvmconv.codegen.dump.write_dumps`.
    log : path, sequence of paths or Database, optional
        Logs, or folders of them, to look for tuned schedules in, besides the user's own and those
        that ship with the package; or what :func:`open_logs` made of them.
    tuned : bool
        Whether to use logs at all.
    exact : bool
        Whether every convolution is computed directly: not on transformed tiles, which round more,
        nor by summed weights (:mod:`tvmconv.graph.upsampled`).
    split_separable : bool
        Whether convolutions whose weights are exactly of low rank become two of fewer
        multiply-adds (:mod:`tvmconv.graph.low_rank`).
    precision : {"float32", "float16", "bfloat16"}
        What a float32 network's activations and weights are stored in
        (:mod:`tvmconv.graph.precision`); its inputs and outputs stay as they are.
    allow_tf32 : bool
        For a GPU: whether products of float32 may be computed by tensor cores, which round their
        factors to 10 bits after the point.
    progress : callable, optional
        ``progress(what, done, total)``.
    fused : bool
        Whether a Graph has been through fusion, as bisection compiles it.
    images : callable, optional
        For a GPU: what makes code of CUDA source, if not NVRTC; see
        :mod:`tvmconv.codegen.cuda.build`.

    Raises
    ------
    InputError
        The model cannot be compiled.
    EnvironmentError_
        A tool is missing.
    """
    from tvmconv.autoschedule.choose import Chooser
    from tvmconv.codegen.dump import check_dump
    from tvmconv.codegen.kernels import device_kernel, object_code
    from tvmconv.frontend import load as load_model
    from tvmconv.graph.ir import Graph

    for kind in dump or ():
        check_dump(kind, target)
    if target.is_gpu and images is None:
        from tvmconv.codegen.cuda.build import image_builder

        images = image_builder(target)
    graph = model if isinstance(model, Graph) else load_model(model, batch=batch, params=params)
    if exact and _is_problem(model):
        from tvmconv.accuracy import algorithm_of
        from tvmconv.problem import Problem

        if (name := algorithm_of(Problem.parse(model))) != "direct":
            raise InputError(f"{model}: algorithm={name} is not exact, which was asked for too")
    if split_separable:
        from tvmconv.graph.low_rank import split_low_rank

        graph = split_low_rank(graph)
    if precision != "float32":
        from tvmconv.graph.precision import stored_in

        if _is_problem(model):
            raise InputError(f"{model}: precision is for models; a problem has dtype={precision}")
        graph = stored_in(graph, precision)
    if allow_tf32:
        target.require_tf32()
    target = target.with_threads(threads)
    chooser = Chooser.of(target, open_logs(log, target) if tuned else None, exact)
    chooser.allow_tf32 = allow_tf32
    if not _is_problem(model):
        chooser.cold_bytes = sum(math.prod(v.shape) * itemsize(v.dtype) for v in graph.constants())
    lowered = lower_graph(graph, target, chooser=chooser, fused=fused)
    make = device_kernel if target.is_gpu else object_code
    made: dict[str, Any] = {}
    used: Counter[str] = Counter()
    for k, (symbol, spec) in enumerate(lowered.kernels.items()):
        if progress is not None:
            progress("compiling kernels", k, len(lowered.kernels))
        made[symbol], choice, method = _kernel(spec, symbol, chooser, make)
        if choice is not None:
            lowered.choices[symbol] = choice
            used[method] += 1
    if chooser.database is not None:
        chooser.database.used += used
    counts = {"tuned_kernels": used.total(), "static_kernels": used["static"]}
    metadata = {**_metadata(model, graph, target), **counts}
    plan = replace(lowered.plan, threads=threads or 0, metadata=metadata)
    if dump:
        from tvmconv.codegen.dump import write_dumps

        write_dumps(dump, replace(lowered, plan=plan), target)
    return Parts(plan, made, lowered.weights.image(), target, images)


def _is_problem(model: Any) -> bool:
    from tvmconv.frontend import is_problem_text

    return isinstance(model, str) and is_problem_text(model)


def open_logs(log: Logs, target: Target) -> Database:
    """The logs that a compilation looks into: those named, the user's own, the shipped ones."""
    from tvmconv.autoschedule.log import Database, default_folder

    if isinstance(log, Database):
        return log
    paths = [log] if isinstance(log, (str, Path)) else log or ()
    return Database.open([*map(Path, paths), default_folder()], target)


def _kernel(
    spec: KernelSpec, symbol: str, chooser: Chooser, make: Callable[..., Any]
) -> tuple[Any, Choice, str]:
    """What ``make`` makes of a kernel; how it is scheduled, and by what method, if a log says so.

    A record that cannot be compiled is the log's mistake and not the user's: the next best stands
    in for it, and at last the model.
    """
    from tvmconv.codegen.kernels import recorded

    while (record := chooser.record(spec)) is not None:
        try:
            choice = recorded(record, spec, chooser.target)
            return make(spec, symbol, chooser.target, choice), choice, record.method
        except (ValueError, RuntimeError):  # TVM's own errors are RuntimeErrors
            chooser.reject(record)
    return make(spec, symbol, chooser.target), None, ""


def _metadata(model: Any, graph: Graph, target: Target) -> dict[str, Any]:
    """What ``tvmconv inspect`` shows besides shapes and sizes."""
    from tvmconv.versions import PINS, VERSION

    versions = {"tvmconv": VERSION, **PINS}
    source = _source_sha256(model)
    return {"name": graph.name, "source_sha256": source, "target": target.name, **versions}


def _source_sha256(model: Any) -> str:
    """Hash of the file, the message or the problem's text; empty for a Graph."""
    from tvmconv.frontend import is_problem_text
    from tvmconv.graph.ir import Graph

    if isinstance(model, Graph):
        return ""
    digest = hashlib.sha256()
    if isinstance(model, str) and is_problem_text(model):
        digest.update(model.encode())
    elif isinstance(model, (str, os.PathLike)):
        from tvmconv.models import resolve

        with Path(resolve(os.fspath(model))).open("rb") as file:
            while chunk := file.read(1 << 20):
                digest.update(chunk)
    else:
        digest.update(model if isinstance(model, bytes) else model.SerializeToString())
    return digest.hexdigest()


def compile(
    model: Any,
    target: str | Path | Target = "host",
    threads: int | None = None,
    log: Logs = None,
    *,
    batch: int | None = None,
    params: Mapping[str, np.ndarray[Any, Any]] | Path | None = None,
    tuned: bool = True,
    exact: bool = False,
    split_separable: bool = False,
    precision: str = "float32",
    allow_tf32: bool = False,
    progress: Progress | None = None,
    fused: bool = False,
    images: ImageBuilder | None = None,
) -> Module:
    """Compile a model and load it.

    Takes what :func:`compile_parts` takes, and a target by name or file.

    Returns
    -------
    Module
        Call it with arrays; ``save`` it to keep the file.
    """
    from tvmconv.runtime.loader import load

    with tempfile.TemporaryDirectory(prefix="tvmconv-") as folder:
        path = Path(folder) / f"model-{time.monotonic_ns()}.so"
        compile_to_file(
            model,
            path,
            target=load_target(target),
            threads=threads,
            batch=batch,
            params=params,
            log=log,
            tuned=tuned,
            exact=exact,
            split_separable=split_separable,
            precision=precision,
            allow_tf32=allow_tf32,
            progress=progress,
            fused=fused,
            images=images,
        )
        return load(path, threads, str(model) if isinstance(model, str | Path) else "the model")
