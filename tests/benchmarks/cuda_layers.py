"""What the model expects of a network's layers on GPUs that are not at hand, and what they use.

    python -m tests.benchmarks.cuda_layers --target cuda-sm80 --target cuda-sm90 --batch 1 --batch 8

prints a table for each target and batch, each distinct layer of ResNet-50 a row, and at the end a
line for each. ``--half`` is float16 on tensor cores, ``--network`` another network of the
suite (:mod:`tvmconv.layers`).
"""

from __future__ import annotations

import argparse
import re

from rich.console import Console
from rich.table import Table

from tvmconv.bench.static_gpu import COLUMNS, GpuStaticReport, gpu_static_report
from tvmconv.layers import LAYERS, Layer
from tvmconv.problem import Problem
from tvmconv.target import load_target


def layers_of(network: str, batch: int, dtype: str = "float32") -> list[Layer]:
    """The distinct layers of a network of the suite, at another batch and in another type."""
    found = []
    for layer in LAYERS:
        if layer.origin.startswith(f"{network}:"):
            text = re.sub(r"(?<=:)1(?=x)", str(batch), layer.problem, count=1)
            found.append(Layer(layer.origin, Problem.parse(text).replace(dtype=dtype).text))
    if not found:
        raise SystemExit(f"there is no network {network!r} among the suite's layers")
    return found


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--target", action="append", required=True)
    parser.add_argument("--batch", action="append", type=int, default=[])
    parser.add_argument("--network", default="resnet50")
    parser.add_argument("--half", action="store_true", help="float16 with sums in float32")
    parser.add_argument("--allow-tf32", action="store_true", help="float32 multiplied as TF32")
    parser.add_argument("--markdown", action="store_true", help="one table of all, for a README")
    options = parser.parse_args()
    dtype = "float16" if options.half else "float32"
    kind = "tf32" if options.allow_tf32 else dtype
    reports: dict[str, GpuStaticReport] = {}
    for name in options.target:
        target = load_target(name)
        for batch in options.batch or [1]:
            layers = layers_of(options.network, batch, dtype)
            title = f"{target.description.removeprefix('NVIDIA ')}, batch {batch}"
            reports[title] = gpu_static_report(layers, target=target, allow_tf32=options.allow_tf32)
    if options.markdown:
        print(markdown(reports))
    else:
        for title, report in reports.items():
            show(f"{title}, {kind}", report)
    for title, report in reports.items():
        worst = max(report.scores, key=lambda score: score.ratio)
        print(f"{title}, {kind}: {report.summary()}; worst {worst.ratio:.2f} ({worst.kernel})")


def show(title: str, report: GpuStaticReport) -> None:
    """Print all that is known of each kernel."""
    table = Table(*COLUMNS, title=title)
    for score in report.scores:
        kernel, *cells = map(str, score.row())
        table.add_row(short(kernel), *cells)
    Console(width=200, markup=False).print(table)


def markdown(reports: dict[str, GpuStaticReport]) -> str:
    """A row a layer, a column a report: time, over roofline, registers, shared KiB, occupancy."""
    lines = [f"| layer | {' | '.join(reports)} |", "|---" * (len(reports) + 1) + "|"]
    for scores in zip(*(report.scores for report in reports.values()), strict=True):
        name = re.sub(r"^(\w+:)\d+x", r"\1Nx", short(scores[0].kernel))
        cells = [
            f"{s.time_us:.1f} µs {s.ratio:.1f}× · {s.registers} · {s.shared_bytes / 1024:.0f} · "
            f"{s.occupancy:.2f}"
            for s in scores
        ]
        lines.append(f"| `{name}` | {' | '.join(cells)} |")
    return "\n".join(lines)


def short(kernel: str) -> str:
    """A problem without what follows its shape."""
    return kernel.partition(":bias")[0].partition(":dtype")[0]


if __name__ == "__main__":
    main()
