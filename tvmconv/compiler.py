"""A model in, an artifact out: the order of the passes, and nothing else."""

from __future__ import annotations

import hashlib
import os
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tvmconv.target import Target, load_target

if TYPE_CHECKING:
    import numpy as np

    from tvmconv.autoschedule.choose import Chooser
    from tvmconv.autoschedule.log import Database
    from tvmconv.graph.ir import Graph
    from tvmconv.graph.lower import Lowered
    from tvmconv.runtime.loader import Module

Format = Literal["shared", "static", "tvm"]
Logs = str | Path | Sequence[str | Path] | None
#: ``progress(what, done, total)``
Progress = Callable[[str, int, int], None]


def lower_graph(
    graph: Graph, target: Target, *, chooser: Chooser | None = None, fused: bool = False
) -> Lowered:
    """Run the graph passes: fusion (unless that is done), layout, memory, lowering."""
    from tvmconv.autoschedule.choose import Chooser
    from tvmconv.graph.lower import lower_module
    from tvmconv.graph.pipeline import optimized

    choose = (chooser or Chooser(target)).algorithm
    return lower_module(optimized(graph, target.layout.channel_block, choose, fused=fused))


def compile_to_file(
    model: Any,
    output: Path,
    *,
    target: Target,
    threads: int | None = None,
    format: Format = "shared",
    batch: int | None = None,
    params: Mapping[str, np.ndarray[Any, Any]] | Path | None = None,
    dump: Mapping[str, Path] | None = None,
    log: Logs = None,
    tuned: bool = True,
    exact: bool = False,
    progress: Progress | None = None,
    fused: bool = False,
) -> Path:
    """Compile a model to a file.

    Parameters
    ----------
    model : path, ModelProto, Graph or problem text
    output : Path
        Appears whole or not at all.
    target : Target
    threads : int, optional
        Threads to plan for and to use by default; the target's cores if left out.
    format : "shared", "static" or "tvm"
    batch : int, optional
        Extent of a symbolic first axis.
    params : mapping or path, optional
        Weights of a problem.
    dump : mapping, optional
        ``{"asm" | "c" | "relax" | "tir": file}`` to write as well: see
        :func:`tvmconv.codegen.dump.write_dumps`.
    log : path or sequence of paths, optional
        Logs, or folders of them, to look for tuned schedules in, besides the user's own and those
        that ship with the package.
    tuned : bool
        Whether to use logs at all.
    exact : bool
        Whether every convolution is computed directly, not on transformed tiles, which round more.
    progress : callable, optional
        ``progress(what, done, total)``.
    fused : bool
        Whether a Graph has been through fusion, as bisection compiles it.

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
    from tvmconv.autoschedule.choose import Chooser
    from tvmconv.codegen.artifact import write_artifact
    from tvmconv.codegen.kernels import object_code
    from tvmconv.frontend import load as load_model
    from tvmconv.graph.ir import Graph

    graph = model if isinstance(model, Graph) else load_model(model, batch=batch, params=params)
    target = replace(target, cores=threads) if threads else target
    chooser = Chooser(target, _database(log, target) if tuned else None, exact)
    if not _is_problem(model):
        chooser.cold_bytes = sum(value.data.nbytes for value in graph.constants())
    lowered = lower_graph(graph, target, chooser=chooser, fused=fused)
    found = ((symbol, chooser.schedule(spec)) for symbol, spec in lowered.kernels.items())
    lowered.choices = {symbol: trace for symbol, trace in found if trace is not None}
    objects: list[bytes | Path] = []
    for k, (symbol, spec) in enumerate(lowered.kernels.items()):
        if progress is not None:
            progress("compiling kernels", k, len(lowered.kernels))
        objects.append(object_code(spec, symbol, target, lowered.choices.get(symbol)))
    plan = replace(lowered.plan, threads=threads or 0, metadata=_metadata(model, graph, target))
    if dump:
        from tvmconv.codegen.dump import write_dumps

        write_dumps(dump, replace(lowered, plan=plan), target)
    write_artifact(
        plan,
        objects,
        lowered.weights.image(),
        output,
        target_triple=target.zig.triple,
        cpu_flags=[f"-mcpu={target.zig_mcpu}"],
        format=format,
    )
    return output


def _is_problem(model: Any) -> bool:
    from tvmconv.frontend import is_problem_text

    return isinstance(model, str) and is_problem_text(model)


def _database(log: Logs, target: Target) -> Database:
    """The logs that a compilation looks into."""
    from tvmconv.autoschedule.log import Database

    paths = [log] if isinstance(log, (str, Path)) else log or ()
    return Database.open([Path(path) for path in paths], target)


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
    progress: Progress | None = None,
    fused: bool = False,
) -> Module:
    """Compile a model and load it.

    Takes what :func:`compile_to_file` takes, and a target by name or file.

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
            progress=progress,
            fused=fused,
        )
        return load(path, threads=threads)
