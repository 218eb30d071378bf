"""Instructions that a convolution takes on AArch64: ours beside other libraries', counted by QEMU.

    python -m tests.benchmarks.qemu_instructions [--target neoverse-n1] [--folder DIR]

Every contender is prepared and run by Debian's AArch64 Python in QEMU's user mode, with one
thread, in float32; what is counted are two runs after the first, without preparation. Activations
enter and leave in NCHW, but for XNNPACK, whose operators have NHWC: it is spared the change. Each
output is compared with NumPy's. Counts do not depend on this machine, nor on what else it does,
and say nothing of the time that an instruction takes. Needs Debian with ``qemu-user`` and 300 MB
of downloads, which are kept in the folder.
"""

from __future__ import annotations

import itertools
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path

import click
import numpy as np
import numpy.typing as npt
import onnx

from tests.benchmarks import qemu_guest, qemu_plugin, qemu_sysroot
from tests.benchmarks.qemu_sysroot import Guest
from tvmconv.bench.layer import problem_to_onnx, read_problem
from tvmconv.bench.ncnn_peer import network
from tvmconv.compiler import compile_to_file
from tvmconv.problem import Problem
from tvmconv.target import Target, load_target

#: Each with bias and relu.
LAYERS = (
    "conv2d:1x64x56x56:64x3x3:padding=1",
    "conv2d:1x256x56x56:64x1x1",
    "depthwise_conv2d:1x32x112x112:32x3x3:padding=1",
    "conv2d:1x3x224x224:64x7x7:stride=2:padding=3",
    "conv2d:1x256x14x14:256x3x3:padding=1",
)
RUNS = 2
#: Largest error, relative to the largest output, with Winograd's rounding.
TOLERANCE = 1e-4


def prepare(text: str, target: Target, folder: Path) -> npt.NDArray[np.float64]:
    """Write one layer in the form of every contender; what NumPy computes."""
    problem = Problem.parse(text)
    model, inputs = problem_to_onnx(problem)
    found = read_problem(model)
    assert found is not None  # the layers are single operators
    constants = found[1]
    compile_to_file(model, folder / "model.so", target=target, threads=1)
    onnx.save(model, folder / "layer.onnx")
    parameters, weights = network(problem, constants)
    (folder / "layer.param").write_text(parameters)
    (folder / "layer.bin").write_bytes(weights)
    np.savez(folder / "layer.npz", **constants)
    np.save(folder / "x.npy", inputs["x"])
    (top, left), (bottom, right) = problem.pads_low, problem.pads_high
    facts = {
        "pads": (top, right, bottom, left),
        "kernel": problem.kernel,
        "stride": problem.stride,
        "dilation": problem.dilation,
        "groups": problem.groups,
        "output_shape": problem.output_shape,
        "relu": problem.activation == "relu",
    }
    (folder / "layer.json").write_text(json.dumps(facts))
    return problem.reference({**inputs, **constants})


def millions(contender: str, layer: Path, guest: Guest, plugin: Path) -> float:
    """10⁶ instructions of one run of the layer by one contender."""
    script = [guest.python, "-S", qemu_guest.__file__, contender, str(layer), str(RUNS)]
    (count,) = qemu_plugin.counts(script, plugin, guest.options, guest.variables)
    return count / RUNS / 1e6


@click.command()
@click.option("--target", "names", multiple=True, default=("cortex-a72", "neoverse-n1"))
@click.option("--folder", type=click.Path(path_type=Path), default=Path("build/qemu"))
def main(names: Sequence[str], folder: Path) -> None:
    """Print the table; exit code 1 if an output is wrong."""
    root = qemu_sysroot.make_sysroot(folder.resolve())
    plugin = qemu_plugin.build_plugin(folder.resolve())
    ours, *peers = qemu_guest.CONTENDERS
    heads = ["target", "layer, with bias and relu", "ours, 10⁶", *(f"ours / {p}" for p in peers)]
    click.echo("| " + " | ".join(heads) + " |\n" + "|---" * len(heads) + "|")
    wrong = 0
    for target, text in itertools.product(map(load_target, names), LAYERS):
        guest = qemu_sysroot.guest(root, target)
        with tempfile.TemporaryDirectory(prefix="tvmconv-") as name:
            layer = Path(name)
            expected = prepare(f"{text}:bias=true:activation=relu", target, layer)
            found = {c: millions(c, layer, guest, plugin) for c in qemu_guest.CONTENDERS}
            for contender in found:
                error = np.abs(np.load(layer / f"y.{contender}.npy") - expected).max()
                if not error <= TOLERANCE * np.abs(expected).max():
                    click.echo(f"{contender}: {text}: wrong by {error:.3g}", err=True)
                    wrong += 1
        ratios = [f"{found[ours] / found[peer]:.2f}" for peer in peers]
        cells = [target.name, text, f"{found[ours]:.2f}", *ratios]
        click.echo("| " + " | ".join(cells) + " |")
    raise SystemExit(int(wrong > 0))


if __name__ == "__main__":
    main()
