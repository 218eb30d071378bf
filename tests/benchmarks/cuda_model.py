"""What the model expects of ResNet-50's layers on GPUs, and what their kernels use.

Needs no GPU: ``python -m tests.benchmarks.cuda_model --target a100 --batch 1 --half``. The roofline
is the larger of the multiply-adds at the device's peak and of all data once at the memory's. With
several launches, registers and shared memory are those of the first, the contraction itself.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import replace

from rich.console import Console
from rich.table import Table

from tvmconv.autoschedule.space import space_for
from tvmconv.codegen.cuda.build import compiled_images
from tvmconv.codegen.cuda.device import DeviceKernel, cuda_source
from tvmconv.codegen.cuda.nvrtc import Compiler, compiler
from tvmconv.codegen.cuda.usage import occupancy
from tvmconv.codegen.kernels import device_kernel, prim_func
from tvmconv.graph.halos import window_halo
from tvmconv.kernel import KernelSpec, canonical_json
from tvmconv.layout import Layout
from tvmconv.problem import Problem
from tvmconv.target import Target, load_target

#: Each distinct layer of ResNet-50 with stride 1, the first and the last one; N is the batch.
LAYERS = (
    "conv2d:Nx3x224x224:64x7x7:stride=2:padding=3:bias=true:activation=relu",
    "conv2d:Nx64x56x56:64x1x1:bias=true:activation=relu",
    "conv2d:Nx64x56x56:64x3x3:padding=1:bias=true:activation=relu",
    "conv2d:Nx64x56x56:256x1x1:bias=true",
    "conv2d:Nx256x56x56:64x1x1:bias=true:activation=relu",
    "conv2d:Nx128x28x28:128x3x3:padding=1:bias=true:activation=relu",
    "conv2d:Nx128x28x28:512x1x1:bias=true",
    "conv2d:Nx512x28x28:128x1x1:bias=true:activation=relu",
    "conv2d:Nx256x14x14:256x3x3:padding=1:bias=true:activation=relu",
    "conv2d:Nx256x14x14:1024x1x1:bias=true",
    "conv2d:Nx1024x14x14:256x1x1:bias=true:activation=relu",
    "conv2d:Nx512x7x7:512x3x3:padding=1:bias=true:activation=relu",
    "conv2d:Nx512x7x7:2048x1x1:bias=true",
    "conv2d:Nx2048x7x7:512x1x1:bias=true:activation=relu",
    "dense:Nx2048:1000:bias=true",
)


def kernel_of(problem: Problem, target: Target, half: bool) -> KernelSpec:
    """The kernel of a layer inside a network."""
    block = target.layout.channel_block
    attrs = {"problem": problem.text, "program": []}
    dtype = "float16" if half else "float32"
    x = Layout(problem.input_shape, block if problem.ci >= block else 1, dtype=dtype)
    x = x.with_halo(*window_halo(attrs))
    output = Layout(problem.output_shape, block, dtype=dtype)
    return KernelSpec(problem.op, canonical_json(attrs), (x,), output)


def roofline_us(problem: Problem, spec: KernelSpec, target: Target) -> float:
    """Time at the device's peaks."""
    device = target.gpu
    half = spec.output.dtype == "float16"
    tflops = device.f16_tflops if half and device.f16_tflops else device.f32_tflops
    func = prim_func(spec, "kernel", aligned=True)
    data = sum(Layout(tuple(map(int, p.ty.shape)), dtype=str(p.ty.dtype)).buffer_bytes
               for p in func.params)  # fmt: skip
    return max(problem.flops / tflops / 1e6, data / device.dram_gb_s / 1e3)


def rows(target: Target, batch: int, half: bool, using: Compiler) -> Iterator[tuple[str, ...]]:
    """The table's rows."""
    own = replace(target, device=replace(target.gpu, cubins=(target.gpu.sm,), ptx=False))
    for text in LAYERS:
        problem = Problem.parse(text.replace("N", str(batch), 1))
        spec = kernel_of(problem, target, half)
        func = prim_func(spec, "kernel", aligned=True)
        best = space_for(target).candidates(func, target)[0]
        kernel: DeviceKernel = device_kernel(spec, "kernel", target, best)
        (image,) = compiled_images(cuda_source([kernel]), own, {}, using=using)
        time_us = best.cycles / target.gpu.clock_ghz / 1e3
        launch = kernel.launches[0]
        used = image.usage[launch.function]
        yield (
            problem.text.partition(":bias")[0],
            "x".join(str(value) for _, value in best.knobs),
            f"{time_us:.1f}",
            f"{time_us / roofline_us(problem, spec, target):.2f}",
            str(launch.grid[0]),
            str(used.registers),
            str(used.shared_bytes + launch.dynamic_bytes),
            f"{occupancy(launch, used, target.gpu):.2f}",
            str(sum(usage.spill_bytes for usage in image.usage.values())),
        )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--target", default="a100")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--half", action="store_true", help="float16 with sums in float32")
    options = parser.parse_args()
    target = load_target(options.target)
    table = Table(title=f"{target.description}, batch {options.batch}")
    for name in ("layer", "schedule", "µs", "/ roofline", "blocks", "registers", "shared bytes",
                 "occupancy", "spilled"):  # fmt: skip
        table.add_column(name)
    for row in rows(target, options.batch, options.half, compiler()):
        table.add_row(*row)
    Console(width=160).print(table)


if __name__ == "__main__":
    main()
