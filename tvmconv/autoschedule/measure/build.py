"""What a builder does: schedule a candidate and compile it. Importing this imports TVM.

A module of this form is what the supervisor imports before it forks: ``prepare`` is called once in
the process that forks, ``build`` in each child.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tvmconv._tvm import TVMObject
from tvmconv.autoschedule.space import Candidate
from tvmconv.autoschedule.trace import to_json
from tvmconv.codegen import kernels
from tvmconv.kernel import KernelSpec, canonical_json
from tvmconv.layout import Layout
from tvmconv.problem import Problem
from tvmconv.target import Target, from_dict


def prepare(table: Mapping[str, Any], folder: Path) -> None:
    """Build a small kernel for a target: what that imports and sets up takes as long as a build."""
    build(small_job(table), folder)


def small_job(table: Mapping[str, Any]) -> dict[str, Any]:
    """The job of a small kernel for a target."""
    target = from_dict(dict(table), "target")
    block = target.layout.channel_block
    problem = Problem.make("conv", (1, block, 4, 4), (block, 1, 1))
    layout = Layout(problem.input_shape, block)
    attrs = canonical_json({"problem": problem.text, "program": []})
    spec = KernelSpec("conv", attrs, (layout,), layout)
    first = kernels.candidates(spec, target)[0]
    knobs = {"knobs": first.knobs, "cycles": first.cycles}
    return {"workload": spec.text, "target": table, "symbol": "prepared", **knobs}


def read_job(job: Mapping[str, Any]) -> tuple[KernelSpec, str, Target, kernels.Choice]:
    """What a job is to build: the kernel, its symbol, for which target, scheduled how."""
    choice: kernels.Choice = job.get("trace")
    if choice is None:
        knobs = tuple((str(name), int(value)) for name, value in job["knobs"])
        choice = Candidate(knobs, float(job["cycles"]))
    target = from_dict(job["target"], "target")
    return KernelSpec.parse(job["workload"]), job["symbol"], target, choice


def build(job: Mapping[str, Any], folder: Path) -> None:
    """Write ``<symbol>.o`` and ``<symbol>.trace``.

    Parameters
    ----------
    job : mapping
        ``workload``, a text; ``target``, a table; ``symbol``; and either ``knobs`` and ``cycles``
        or ``trace``.
    folder : Path
    """
    compiled(job, folder).write_to_file(str(folder / f"{job['symbol']}.o"))


def compiled(job: Mapping[str, Any], folder: Path) -> TVMObject:
    """Compile what :func:`build` is given; only the trace is written."""
    spec, symbol, target, choice = read_job(job)
    schedule = kernels.schedule(spec, symbol, target, choice)
    trace = json.dumps(to_json(schedule))
    (folder / f"{symbol}.trace").write_text(trace, encoding="utf-8")
    return kernels.build(kernels.finish(schedule, target), symbol, target)
