"""TVM's own MetaSchedule against ``tvmconv tune``, each given the same time for one network.

    python -m tests.benchmarks.metaschedule light_resnet50.onnx --seconds 300

Both tune the same tensor expressions, with weights packed in channel blocks, from an empty log;
MetaSchedule with its default space, builder, runner, cost model and search. Then every kernel's
best is timed by the same clock, TVM's ``time_evaluator``, with as many threads as the target has.
"""

from __future__ import annotations

import math
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import click
import numpy as np

from tests.benchmarks.limited import limited
from tvmconv._tvm import tvm
from tvmconv.autoschedule.choose import Chooser
from tvmconv.autoschedule.log import Database
from tvmconv.autoschedule.measure.buffers import arguments
from tvmconv.autoschedule.tasks import Task, extract
from tvmconv.autoschedule.tuner import tune
from tvmconv.codegen.kernels import compiled, prim_func, scheduled
from tvmconv.kernel import KernelSpec
from tvmconv.problem import Problem
from tvmconv.target import Target, load_target

#: A kernel that takes longer is timed once.
_SLOW_S = 0.1


def tasks_of(model: str, target: Target) -> list[Task]:
    """The network's kernels that have something to tune."""
    return [task for task in extract([model], target)[0] if task.macs]


def tune_stock(model: str, folder: Path, target: Target) -> None:
    """Tune with MetaSchedule until somebody ends the process."""
    from tvm.s_tir import meta_schedule as ms

    tasks = tasks_of(model, target)
    contexts = [
        ms.TuneContext(
            prim_func(task.specs[0], "main"),
            target=tvm.target.Target(target.llvm_target()),
            space_generator="post-order-apply",
            search_strategy="evolutionary",
            task_name=f"task{number}",
            num_threads=target.cores,
        )
        for number, task in enumerate(tasks)
    ]
    weights = [float(task.count) for task in tasks]
    ms.tune.tune_tasks(
        tasks=contexts,
        task_weights=weights,
        work_dir=str(folder),
        max_trials_global=1_000_000,
        num_trials_per_iter=16,
    )


def seconds(func: Any, spec: KernelSpec, target: Target) -> float:
    """Median time of a scheduled kernel on random data."""
    rng = np.random.default_rng(0)
    problem = Problem.parse(spec.attrs["problem"])
    data = [rng.random(layout.shape, np.float32) for layout in spec.inputs]
    constants = [rng.random(s, np.float32) for name, s in problem.inputs.items() if name != "x"]
    output = np.zeros(spec.output.buffer_shape, np.float32)
    arrays = [tvm.runtime.tensor(a) for a in (*arguments(spec, data, constants), output)]
    module = compiled({"main": func}, target).mod
    once = float(module.time_evaluator("main", tvm.cpu(), number=1)(*arrays).mean)
    if once > _SLOW_S:
        return once
    number = max(1, math.ceil(0.01 / once))
    timer = module.time_evaluator("main", tvm.cpu(), number=number, repeat=7)
    return float(np.median(timer(*arrays).results))


def stock_best(folder: Path, spec: KernelSpec, target: Target) -> Any:
    """MetaSchedule's best of a kernel; the kernel as it is if it found none."""
    from tvm.s_tir import meta_schedule as ms

    func = prim_func(spec, "main")
    database = ms.database.JSONDatabase(work_dir=str(folder))
    found = database.query_schedule(
        tvm.IRModule({"main": func}), tvm.target.Target(target.llvm_target()), workload_name="main"
    )
    return func if found is None else found.mod["main"]


@click.command()
@click.argument("model")
@click.option("--seconds", "budget", default=300.0, show_default=True)
@click.option("--worker", type=Path, hidden=True)
def main(model: str, budget: float, worker: Path | None) -> None:
    """Compare, and print a line for every kernel and the network's sum."""
    host = load_target("host")
    target = host.with_threads(min(host.cores, len(os.sched_getaffinity(0))))
    os.environ["TVM_NUM_THREADS"] = str(target.cores)
    if worker is not None:
        tune_stock(model, worker, target)
        return
    with tempfile.TemporaryDirectory() as name:
        folder, log = Path(name, "stock"), Path(name, "log")
        folder.mkdir()
        again = [sys.executable, "-m", "tests.benchmarks.metaschedule", model]
        command = [*again, "--worker", str(folder)]
        if code := limited(command, budget, stdout=subprocess.DEVNULL):  # it must not fail before
            raise subprocess.CalledProcessError(code, command)
        tune(model, target=target, time_budget=budget, log=log, shipped=False)
        database = Database.open([log], target, shipped=False)
        totals = np.zeros(2)
        print(f"{'MetaSchedule us':>16} {'tvmconv us':>11} {'ratio':>6}  times kernel")
        for task in tasks_of(model, target):
            chooser = Chooser(target, database, cold_bytes=task.cold_bytes)
            spec = chooser.chosen(task.specs[0])
            record = chooser.record(spec)
            ours = scheduled(spec, "main", target, list(record.trace) if record else None)
            times = np.array(
                [
                    seconds(stock_best(folder, task.specs[0], target), task.specs[0], target),
                    seconds(ours, spec, target),
                ]
            )
            totals += times * task.count
            stock, own = times * 1e6
            print(f"{stock:16.1f} {own:11.1f} {stock / own:6.2f}  {task.count:5} {task.name}")
        stock, own = totals * 1e3
        print(f"network's kernels: MetaSchedule {stock:.2f} ms, tvmconv {own:.2f} ms,"
              f" {stock / own:.2f} times faster after {budget:.0f} s each")  # fmt: skip


if __name__ == "__main__":
    main()
