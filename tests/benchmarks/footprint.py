"""Size, start-up time and memory of networks, ours beside ONNX Runtime's, on this machine.

    python -m tests.benchmarks.footprint [NETWORK]...

Each measurement is a process of its own, the contenders in turn; the table has medians. Bytes are
those of the files that a run needs; memory is what the process has taken at most, beyond Python and
NumPy, when the first output is there: mapped files count as far as they were read.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import click
import numpy as np
import onnx
import onnxruntime

from tests.benchmarks import footprint_process
from tvmconv.compiler import compile_to_file
from tvmconv.export.export import sample
from tvmconv.models import light_model
from tvmconv.target import load_target

NETWORKS = ("light_squeezenet", "light_resnet50")
ROUNDS = 5


def prepare(network: str, folder: Path, threads: int) -> None:
    """Write a network as each contender has it, with random weights, and an input."""
    model = light_model(network)
    compile_to_file(model, folder / "model.so", target=load_target("host"), threads=threads)
    onnx.save(model, folder / "model.onnx")
    (port,) = (
        p for p in model.graph.input if p.name not in {t.name for t in model.graph.initializer}
    )
    shape = tuple(d.dim_value for d in port.type.tensor_type.shape.dim)
    ((x,), _) = sample(model, {port.name: (shape, "float32")}, None, 1)
    np.save(folder / "x.npy", x)


def measure(contender: str, folder: Path, threads: int) -> dict[str, float]:
    """Start one process."""
    command = [sys.executable, footprint_process.__file__, contender, str(folder), str(threads)]
    path = os.pathsep.join(entry for entry in sys.path if entry)
    environment = {**os.environ, "PYTHONPATH": path}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    found: dict[str, float] = json.loads(done.stdout)
    return found


def file_bytes(contender: str, folder: Path) -> int:
    """The model's file, and the library if it is another one."""
    if contender == "tvmconv":
        return (folder / "model.so").stat().st_size
    (library,) = Path(onnxruntime.__file__).parent.glob("capi/libonnxruntime.so.*")
    return (folder / "model.onnx").stat().st_size + library.stat().st_size


@click.command()
@click.argument("networks", nargs=-1)
@click.option("--threads", default=2)
def main(networks: Sequence[str], threads: int) -> None:
    """Print the table."""
    heads = ["network", "", "files MB", "import ms", "create ms", "first run ms", "later ms", "MB"]
    click.echo("| " + " | ".join(heads) + " |\n" + "|---" * len(heads) + "|")
    for network in networks or NETWORKS:
        with tempfile.TemporaryDirectory(prefix="tvmconv-") as name:
            folder = Path(name)
            prepare(network, folder, threads)
            found: dict[str, list[dict[str, float]]] = {c: [] for c in footprint_process.CONTENDERS}
            for _ in range(ROUNDS):
                for contender, rows in found.items():
                    rows.append(measure(contender, folder, threads))
            ours, theirs = (np.load(folder / f"y.{contender}.npy") for contender in found)
            np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-5)
            for contender, rows in found.items():
                row = {key: statistics.median(r[key] for r in rows) for key in rows[0]}
                times = [f"{row[key]:.2f}" for key in ("import", "create", "first", "later")]
                size = f"{file_bytes(contender, folder) / 1e6:.1f}"
                cells = [network, contender, size, *times, f"{row['bytes'] / 1e6:.1f}"]
                click.echo("| " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
