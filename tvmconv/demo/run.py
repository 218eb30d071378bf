"""What ``tvmconv demo`` does."""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tvmconv.demo.data import SHADES, Digits, load_digits_model, load_test_digits, prepare
from tvmconv.errors import VerificationError
from tvmconv.files import make_output_dir
from tvmconv.target import Target, load_target

if TYPE_CHECKING:
    import onnx
    from rich.console import Console

    from tvmconv.runtime.loader import Module

Say = Callable[[str], None]

FOLDER = Path("tvmconv-demo")
NETWORK = "light_resnet50"
PEER = "onnxruntime"
ROUNDS = 3
SHOWN = 8


@dataclass(frozen=True)
class _Built:
    """A compiled model.

    Attributes
    ----------
    name : str
    proto : ModelProto
    path : Path
        Of the shared library.
    """

    name: str
    proto: onnx.ModelProto
    path: Path


def run_demo(
    work_dir: Path | str | None = None,
    *,
    threads: int | None = None,
    console: Console | None = None,
) -> int:
    """Compile, run, verify and time two networks, and show how C uses one of them.

    Parameters
    ----------
    work_dir : path, optional
        Where the libraries go; default ``tvmconv-demo``. Files there are replaced.
    threads : int, optional
        Default: the host's physical cores.
    console : rich.console.Console, optional
        Where to print; default stdout.

    Returns
    -------
    int
        0.

    Raises
    ------
    VerificationError
        If an output is wrong, or the accuracy is not the trained model's.
    EnvironmentError_
        If something on this machine fails.
    """
    from tvmconv.models import light_model

    start = time.perf_counter()
    folder = Path(FOLDER if work_dir is None else work_dir)
    make_output_dir(folder)
    target = load_target("host")
    threads = threads or target.cores
    say = _printer(console)
    say(f"For this machine ({target.description}) and {threads} threads.\n")

    digits_model, properties = load_digits_model()
    say(f"1. digits: LeNet-5, trained on handwritten digits ({properties['data']})")
    digits = _build("digits", digits_model, folder, target, threads, say)
    images = load_test_digits()
    _classify(digits, images, properties, threads, say)

    say(f"\n2. {NETWORK}, with random weights")
    network = _build(NETWORK, light_model(NETWORK), folder, target, threads, say)

    say("\n3. Time of one inference (blocks with pauses; `tvmconv bench` does it in full)")
    _time([digits, network], threads, say)

    _show_c(folder, images, say)
    say(f"\nDone in {time.perf_counter() - start:.0f} s.")
    return 0


def _printer(console: Console | None) -> Say:
    """Print lines as they are: no markup, no wrapping."""
    if console is None:
        from rich.console import Console

        console = Console()
    out = console
    return lambda text: out.print(text, markup=False, highlight=False, emoji=False, soft_wrap=True)


def _build(
    name: str, proto: onnx.ModelProto, folder: Path, target: Target, threads: int, say: Say
) -> _Built:
    """Compile a model to a library in the folder, and verify it against NumPy."""
    from tvmconv.compiler import compile_to_file
    from tvmconv.verify import verify

    start = time.perf_counter()
    path = compile_to_file(proto, folder / f"{name}.so", target=target, threads=threads)
    seconds, size = time.perf_counter() - start, path.stat().st_size
    say(f"   compiled in {seconds:.1f} s: {path} ({size / 1e6:.1f} MB)")
    report = verify(proto, target=target, threads=threads)
    if not report.ok:
        raise VerificationError(f"{name}: {report.fault}")
    worst = max(check.ratio for check in report.outputs)
    say(f"   verified against NumPy: largest error {worst:.0%} of what is allowed")
    return _Built(name, proto, path)


def _classify(
    built: _Built, digits: Digits, properties: dict[str, str], threads: int, say: Say
) -> None:
    """Run the held-out digits, and compare the accuracy with what training recorded."""
    module = _load(built, threads)
    try:
        logits = np.concatenate([np.array(module(x[None])[0]) for x in prepare(digits.images)])
    finally:
        module.close()
    found = logits.argmax(axis=1)
    say(_picture(digits, found))
    accuracy, trained = float((found == digits.labels).mean()), float(properties["accuracy"])
    say(
        f"   {len(found)} held-out digits: accuracy {accuracy:.2%};"
        f" measured after training: {trained:.2%}"
    )
    if abs(accuracy - trained) > 1e-9:
        raise VerificationError(
            f"{built.name}: accuracy is {accuracy:.4%}, the trained model's is {trained:.4%}"
        )


def _picture(digits: Digits, found: Any) -> str:
    """Draw the first digits in characters, and what the network says of them."""
    chosen = digits.images[:SHOWN]
    rows = [
        "   " + "  ".join("".join(SHADES[p] for p in image[row]) for image in chosen)
        for row in range(digits.images.shape[1])
    ]
    answers = "   " + "  ".join(f"{f'-> {digit}':8}" for digit in found[:SHOWN])
    return "\n".join(line.rstrip() for line in (*rows, answers))


def _time(models: Sequence[_Built], threads: int, say: Say) -> None:
    """Time each model, and ONNX Runtime on the same if it is installed."""
    from tvmconv.bench.harness import Contender, Protocol, compare, measure
    from tvmconv.bench.model import load_bench_model
    from tvmconv.bench.peers import find_peer

    has_peer = importlib.util.find_spec(PEER) is not None
    for built in models:
        model = load_bench_model(built.proto)
        module = _load(built, threads)
        contenders = [Contender("tvmconv", partial(module, dict(model.inputs)), module.close)]
        try:
            if has_peer:
                contenders.append(find_peer(PEER).make(model.proto, model.inputs, threads))
            differs = compare(contenders)
            ours, *others = (t.time_s for t in measure(contenders, Protocol(rounds=ROUNDS)))
        finally:
            for contender in contenders:
                contender.close()
        line = f"   {built.name}: {ours * 1e3:.3g} ms"
        for time_s in others:
            line += f", {PEER} {time_s * 1e3:.3g} ms: {time_s / ours:.2f} times as fast"
        say(line + (f" (outputs differ: {differs[PEER]})" if differs.get(PEER) else ""))
    if not has_peer:
        say(f"   ({PEER} is not installed; pip install 'tvmconv[bench]' to compare with it)")


def _show_c(folder: Path, digits: Digits, say: Say) -> None:
    """Write, compile and run the C program, and show it."""
    from tvmconv.demo.c_example import BUILD, RUN, SOURCE, run_example, write_example

    write_example(folder, prepare(digits.images)[0])
    answer = run_example(folder)
    say(f"\n4. From C, without Python ({folder / 'digit.c'}):\n\n{SOURCE}")
    say(f"   cd {folder}\n   {BUILD}\n   {RUN}\n   {answer}")
    if answer != str(digits.labels[0]):
        raise VerificationError(f"digit.c: says {answer}, the digit is a {digits.labels[0]}")


def _load(built: _Built, threads: int) -> Module:
    from tvmconv.runtime.loader import load

    return load(built.path, threads=threads)
