"""Two networks in one program, run from many threads at once, under the sanitizers.

    python -m tests.benchmarks.sanitized_networks [--runs 1000] [NETWORK]...

Each network has four callers, each two on one instance of four threads; meanwhile other threads
create, run and destroy instances, and make mistakes (``tests/runtime/load.c``). The C runtime is
instrumented, the generated kernels are not. Every output has to be the first one to the bit.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import click

from tests.runtime import sanitized
from tvmconv.compiler import compile_parts
from tvmconv.errors import EnvironmentError_
from tvmconv.export.export import sample
from tvmconv.models import light_model
from tvmconv.target import load_target

THREADS, CALLERS = 4, 4
LIMIT_S = 3600.0


def instrumented(network: str, prefix: str, folder: Path) -> sanitized.Model:
    """Compile a network, and write an input for it."""
    model = light_model(network)
    parts = compile_parts(model, target=load_target("host"), threads=THREADS)
    ports = {port.name: (port.shape, port.dtype) for port in parts.plan.inputs}
    inputs, _ = sample(model, ports, None, 1)
    for k, array in enumerate(inputs):
        (folder / f"{prefix}_{k}.raw").write_bytes(array.tobytes())
    kernels = list(parts.kernels.values())
    return sanitized.Model(prefix, parts.plan, kernels, weights=bytes(parts.weights))


@click.command()
@click.argument("networks", nargs=-1)
@click.option("--runs", default=1000, help="Runs of each caller.")
def main(networks: Sequence[str], runs: int) -> None:
    """Print a line for each sanitizer; what it finds is an error."""
    names = networks or ("light_squeezenet", "light_shufflenet")
    with tempfile.TemporaryDirectory(prefix="tvmconv-") as name:
        folder = Path(name)
        compiler = sanitized.find_compiler(folder)
        if compiler is None:
            raise EnvironmentError_("neither gcc nor clang with the sanitizers is installed")
        models = [instrumented(network, f"net{k}", folder) for k, network in enumerate(names)]
        for sanitizer in sanitized.SANITIZERS:
            program = sanitized.build(compiler, folder, models, sanitizer)
            start = time.monotonic()
            sanitized.run(program, folder, THREADS, CALLERS, runs, limit_s=LIMIT_S)
            seconds = time.monotonic() - start
            click.echo(f"{sanitizer}: {' and '.join(names)}: {CALLERS} callers, {runs} runs each, "
                       f"clean ({seconds:.0f} s)")  # fmt: skip


if __name__ == "__main__":
    main()
