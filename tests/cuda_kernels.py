"""Kernels for CUDA on their own, run by the emulator in poisoned buffers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from tests.kernels import Kernel, unwritten
from tvmconv.autoschedule.measure.buffers import own_region, unpack
from tvmconv.autoschedule.space import Candidate, space_for
from tvmconv.codegen.cuda.device import DeviceKernel, Operand, cuda_source
from tvmconv.codegen.kernels import device_kernel, prim_func
from tvmconv.cuda_emulator import Launch, host_image, run_both_ways
from tvmconv.kernel import KernelSpec
from tvmconv.target import Target

Array = npt.NDArray[Any]


def space(spec: KernelSpec, target: Target) -> list[Candidate]:
    """Every schedule of a kernel, the model's first choice first."""
    return space_for(target).candidates(prim_func(spec, "kernel", aligned=True), target)


class Emulated:
    """Kernels compiled together for the emulator, each with its schedule or the model's."""

    def __init__(
        self,
        specs: Sequence[KernelSpec],
        target: Target,
        choices: Sequence[Candidate | None] | None = None,
    ) -> None:
        pairs = zip(specs, choices or [None] * len(specs), strict=True)
        self.kernels = [
            device_kernel(spec, f"k{i}", target, choice) for i, (spec, choice) in enumerate(pairs)
        ]
        self.image = host_image(cuda_source(self.kernels), sm=target.gpu.sm)

    def run(self, number: int, kernel: Kernel) -> Array:
        """Run a kernel with its threads in two orders, and return its logical output.

        Fails if it reads or writes outside of a buffer, races, or has written anything else of the
        output's buffer.
        """
        arrays = [np.array(array, order="C", ndmin=1) for array in kernel.arguments()]
        run_both_ways(self.image, _launches(self.kernels[number], arrays))
        buffer, layout = arrays[-1].reshape(kernel.spec.output.buffer_shape), kernel.spec.output
        got = unpack(buffer, layout).copy()
        own_region(buffer, layout)[...] = unwritten(layout.dtype)
        untouched = np.full_like(buffer, unwritten(layout.dtype))
        same = buffer == untouched
        if buffer.dtype.kind in "fV":
            same = np.isnan(buffer.astype(np.float32))
        assert same.all(), f"{kernel.spec.op} wrote outside its output"
        return got


def _launches(kernel: DeviceKernel, arrays: Sequence[Array]) -> list[Launch]:
    """The launches of a kernel, with buffers of NaN for what passes between them."""
    scratch = {
        operand.offset: np.full(operand.nbytes, 0xFF, np.uint8)
        for launch in kernel.launches
        for operand in launch.operands
        if operand.parameter < 0
    }

    def buffer(operand: Operand) -> Array:
        return scratch[operand.offset] if operand.parameter < 0 else arrays[operand.parameter]

    return [
        Launch(
            launch.function,
            launch.grid,
            launch.block,
            [buffer(operand) for operand in launch.operands],
            launch.dynamic_bytes,
        )
        for launch in kernel.launches
    ]
