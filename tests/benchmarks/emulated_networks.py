"""The light networks, with random weights, on processors that are not at hand.

    python -m tests.benchmarks.emulated_networks cortex-a72 [NAME]...

Compiles each for the target, runs it in QEMU's user mode, compares it with the NumPy reference, and
prints a row of a table. The seconds are those of all that, mostly of the reference and the
emulator: they say nothing of the processor.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import click

from tvmconv.cli._options import make_runner
from tvmconv.models import light_model, light_models
from tvmconv.target import load_target
from tvmconv.verify import verify


@click.command()
@click.argument("target")
@click.argument("names", nargs=-1)
@click.option("--timeout", type=float, default=900.0, help="Seconds for the emulator.")
def main(target: str, names: Sequence[str], timeout: float) -> None:
    """Verify the networks NAMES, or all of them, for TARGET."""
    machine = load_target(target)
    runner = make_runner(f"qemu-{machine.arch}-static", timeout)
    wrong = 0
    click.echo(
        "| network | target | outputs | largest error / its bound | seconds |\n" + "|---" * 5 + "|"
    )
    for name in names or light_models():
        start = time.monotonic()
        report = verify(light_model(name), machine, threads=2, runner=runner)
        wrong += not report.ok
        found = "right" if report.ok else "WRONG"
        error = max(check.ratio for check in report.outputs)
        seconds = time.monotonic() - start
        click.echo(f"| {name} | {machine.name} | {found} | {error:.2g} | {seconds:.0f} |")
    raise SystemExit(int(wrong > 0))


if __name__ == "__main__":
    main()
