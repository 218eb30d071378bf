"""Random problems of the convolution family, compiled for a GPU and verified by the emulator.

Needs no GPU: ``python -m tests.benchmarks.cuda_random --target cuda-sm80 --count 200``. Each is
compiled to a file as for the device, and run through the same runtime, twice, with the order of
threads reversed; every access to memory is checked, and the output is compared with NumPy's.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter

import numpy as np
from rich.console import Console
from rich.table import Table

from tests.strategies import random_problem
from tvmconv.errors import TvmconvError
from tvmconv.target import Target, load_target
from tvmconv.verify import verify

MAX_FLOPS = 400_000
#: Of so many problems one is of bytes.
BYTES_EVERY = 5


def check(text: str, target: Target) -> str:
    """What is wrong with a problem's kernels, or nothing."""
    try:
        report = verify(text, target=target, emulate=True)
    except TvmconvError as error:
        return f"{type(error).__name__}: {error}"
    except Exception as error:  # noqa: BLE001  # what TVM raises is a finding as well
        return f"{type(error).__name__}: {str(error).strip().splitlines()[-1]}"
    return "" if report.ok else "; ".join(check.message for check in report.outputs)


def main() -> int:
    """Print the problems that are wrong, and a table of all operators."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--target", default="cuda-sm80")
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    target = load_target(options.target)
    console = Console(width=100, soft_wrap=True, highlight=False)
    right: Counter[str] = Counter()
    wrong: Counter[str] = Counter()
    for number in range(options.count):
        rng = np.random.default_rng([options.seed, number])
        problem = random_problem(rng, MAX_FLOPS, quantised=number % BYTES_EVERY == 0)
        message = check(problem.text, target)
        (wrong if message else right)[problem.op] += 1
        if message:
            console.print(f"{number}: {problem.text}: {message}", markup=False)
    table = Table(title=f"{options.count} random problems, seed {options.seed}, {target.name}")
    for name in ("operator", "right", "wrong"):
        table.add_column(name, justify="left" if name == "operator" else "right")
    for name in sorted(right | wrong):
        table.add_row(name, str(right[name]), str(wrong[name]))
    table.add_section()
    table.add_row("all", str(right.total()), str(wrong.total()))
    console.print(table)
    return min(1, wrong.total())


if __name__ == "__main__":
    sys.exit(main())
