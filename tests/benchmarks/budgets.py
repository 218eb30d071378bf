"""How much of a long tuning run a short one finds.

    python -m tests.benchmarks.budgets light_resnet50.onnx --minutes 5 --minutes 40

One run from an empty log, looked at after each of the budgets; a run that sees no more gain ends
before its budget. Then the network, compiled with what the log held at each, is timed in turns.
"""

from __future__ import annotations

import shutil
import tempfile
from contextlib import ExitStack
from pathlib import Path

import click

from tvmconv.autoschedule.log import Database
from tvmconv.autoschedule.tuner import tune
from tvmconv.bench.harness import TWIN, Contender, Protocol, Timing, measure, spread
from tvmconv.bench.machine import describe_machine
from tvmconv.bench.model import BenchModel, load_bench_model
from tvmconv.compiler import compile as compile_model
from tvmconv.target import Target, load_target


def tuned_for(model: str, minutes: float, log: Path, target: Target) -> None:
    """Tune up to a budget, earlier budgets included, and say what it took."""
    report = tune(model, target=target, time_budget=60 * minutes, log=log, shipped=False)
    print(f"{minutes:g} minutes: {report.measured} more candidates, ended by {report.stopped}")


def contender(
    model: BenchModel, name: str, log: Path, target: Target, stack: ExitStack
) -> Contender:
    """The network with the schedules that one log has."""
    database = Database.open([log], target, shipped=False)
    module = stack.enter_context(compile_model(model.proto, target, log=database))
    return Contender(name, lambda: module(model.inputs))


def table(names: list[str], times: list[Timing]) -> str:
    """A line for each budget: milliseconds, and the time over the last budget's."""
    last = times[len(names) - 1].time_s
    return "\n".join(
        f"{name:>12} {time.time_s * 1e3:8.3f} ms {time.time_s / last:6.3f}"
        for name, time in zip(names, times, strict=False)
    )


@click.command()
@click.argument("model")
@click.option("--minutes", type=float, multiple=True, default=(5.0, 40.0), show_default=True)
@click.option("--log", type=Path, help="Folder for the logs, to go on with what it has.")
@click.option("--rounds", default=12, show_default=True)
def main(model: str, minutes: tuple[float, ...], log: Path | None, rounds: int) -> None:
    """Tune, then compare."""
    target = load_target("host")
    with ExitStack() as stack:
        folder = log or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        kept = {budget: folder / f"after-{budget:g}m" for budget in sorted(minutes)}
        for budget, copy in kept.items():
            if not copy.exists():
                tuned_for(model, budget, folder / "log", target)
                shutil.copytree(folder / "log", copy)
        network = load_bench_model(model)
        names = [f"{budget:g} minutes" for budget in kept]
        logs = list(kept.values())
        contenders = [
            contender(network, name, log, target, stack)
            for name, log in zip([*names, names[-1] + TWIN], [*logs, logs[-1]], strict=True)
        ]
        times = measure(contenders, Protocol(rounds=rounds))
        machine = describe_machine(target.cores)
        print(f"{machine.cpu}, {machine.threads} threads, {machine.versions}")
        print(table(names, times))
        print(f"A/A {spread(times[-2], times[-1])}")


if __name__ == "__main__":
    main()
