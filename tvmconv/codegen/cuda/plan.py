"""A plan's steps as launches on device addresses, and these as the C tables of cuda_plan.h."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tvmconv.codegen.cuda.device import SCRATCH_ALIGNMENT, DeviceKernel, Launch, Operand
from tvmconv.codegen.cuda.steps import step_kernel
from tvmconv.codegen.plan import (
    BlockedTensor,
    BorderStep,
    KernelStep,
    Plan,
    Port,
    TensorArgument,
)
from tvmconv.codegen.plan_c import METADATA_SYMBOL, WEIGHTS_SYMBOL, Tables, c_string, numbers

#: The symbol of the object with the images.
IMAGES_SYMBOL = "tvmconv_images"


@dataclass(frozen=True)
class Address:
    """A buffer in device memory: ``space`` is "arena" or "weights"."""

    space: str
    offset: int
    nbytes: int


@dataclass(frozen=True)
class PlacedLaunch:
    """A launch of step number ``step`` on the addresses of its operands."""

    launch: Launch
    step: int
    addresses: tuple[Address, ...]


@dataclass(frozen=True)
class DevicePlan:
    """A whole model on a device.

    Attributes
    ----------
    plan : Plan
        What it was made from.
    launches : tuple of PlacedLaunch
        In execution order; those of a step stand together.
    sources : tuple of str
        CUDA C++ of the steps that are no operator's kernel.
    input_offsets, output_offsets : tuple of int
        In the arena, which they and the kernels' scratch extend.
    arena_bytes : int
    """

    plan: Plan
    launches: tuple[PlacedLaunch, ...]
    sources: tuple[str, ...]
    input_offsets: tuple[int, ...]
    output_offsets: tuple[int, ...]
    arena_bytes: int

    def extents(self) -> dict[str, tuple[int, ...]]:
        """By function, the bytes of the buffer behind each parameter."""
        return {p.launch.function: tuple(a.nbytes for a in p.addresses) for p in self.launches}


def device_plan(plan: Plan, kernels: Mapping[str, DeviceKernel]) -> DevicePlan:
    """Place inputs, outputs and scratch, and list all launches.

    Parameters
    ----------
    plan : Plan
        Without border steps: halos are what they have to be from the start, and stay so.
    kernels : mapping of str to DeviceKernel
        By the name under which the plan calls them.
    """
    end = plan.arena_bytes
    inputs, end = _placed(plan.inputs, end)
    outputs, end = _placed(plan.outputs, end)
    bases = {("arena", 0): 0}
    bases |= {("input", k): offset for k, offset in enumerate(inputs)}
    bases |= {("output", k): offset for k, offset in enumerate(outputs)}
    scratch = _aligned(end)

    def address(tensor: TensorArgument | BlockedTensor) -> Address:
        if tensor.space == "weights":
            return Address("weights", tensor.offset, tensor.nbytes)
        index = tensor.index if isinstance(tensor, TensorArgument) else 0
        return Address("arena", bases[tensor.space, index] + tensor.offset, tensor.nbytes)

    def operand_address(operand: Operand, given: Sequence[Address]) -> Address:
        if operand.parameter < 0:
            return Address("arena", scratch + operand.offset, operand.nbytes)
        return given[operand.parameter]

    launches: list[PlacedLaunch] = []
    sources: dict[str, str] = {}
    for number, step in enumerate(plan.steps):
        if isinstance(step, BorderStep):
            raise ValueError(f"{step.name}: the halo is not resident")
        if isinstance(step, KernelStep):
            found, given = kernels[step.kernel].launches, [address(a) for a in step.arguments]
        else:
            source, launch = step_kernel(step)
            sources[launch.function] = source
            found, given = (launch,), [address(step.source), address(step.destination)]
        for launch in found:
            places = tuple(operand_address(o, given) for o in launch.operands)
            launches.append(PlacedLaunch(launch, number, places))
    room = max((kernel.scratch_bytes for kernel in kernels.values()), default=0)
    end = scratch + room if room else end
    return DevicePlan(
        plan, tuple(launches), tuple(sources.values()), tuple(inputs), tuple(outputs), end
    )


def _aligned(offset: int) -> int:
    return -(-offset // SCRATCH_ALIGNMENT) * SCRATCH_ALIGNMENT


def _placed(ports: Sequence[Port], end: int) -> tuple[list[int], int]:
    """Offsets of ports one after the other, and where the last one ends."""
    offsets = []
    for port in ports:
        offsets.append(_aligned(end))
        end = offsets[-1] + port.nbytes
    return offsets, end


# --- C


@dataclass(frozen=True)
class ImagePlace:
    """Where an image lies among the bytes of all."""

    sm: int
    is_ptx: bool
    offset: int


def cuda_plan_source(device: DevicePlan, images: Sequence[ImagePlace], weight_bytes: int) -> str:
    """The text of plan.c for a device."""
    plan, tables = device.plan, Tables()
    inputs = tables.ports("inputs", plan.inputs)
    outputs = tables.ports("outputs", plan.outputs)
    lines = tables.lines
    lines += _offsets("input_offsets", device.input_offsets)
    lines += _offsets("output_offsets", device.output_offsets)
    lines += ["static const tvmconv_image images[] = {"]
    lines += [f"  {{{i.sm}, {int(i.is_ptx)}, {IMAGES_SYMBOL} + {i.offset}u}}," for i in images]
    lines += ["  {0, 0, NULL},", "};"]
    functions = _functions(device.launches)
    lines += ["static const tvmconv_function functions[] = {"]
    lines += [f"  {{{c_string(name)}, {most}u}}," for name, most in functions.items()]
    lines += ["  {NULL, 0u},", "};"]
    order = {name: number for number, name in enumerate(functions)}
    rows = []
    for number, placed in enumerate(device.launches):
        places = ", ".join(f"{{TVMCONV_{a.space.upper()}, {a.offset}u}}" for a in placed.addresses)
        lines.append(f"static const tvmconv_address arguments_{number}[] = {{{places}}};")
        launch = placed.launch
        rows.append(
            f"  {{{order[launch.function]}, {placed.step}, {numbers(launch.grid)}, "
            f"{numbers(launch.block)}, {launch.dynamic_bytes}u, arguments_{number}, "
            f"{len(placed.addresses)}}},"
        )
    lines += ["static const tvmconv_cuda_launch launches[] = {", *rows, "  {.count = 0},", "};"]
    fills = [f"  {{{f.offset}u, {f.nbytes}u, {f.value}}}," for f in plan.fills]
    lines += ["static const tvmconv_fill fills[] = {", *fills, "  {0u, 0u, 0},", "};"]
    counts = (*map(len, (plan.inputs, plan.outputs, images, functions, rows, fills)),)
    lines.append(
        f"const tvmconv_cuda_plan tvmconv_cuda_model_plan = {{{device.arena_bytes}u, "
        f"{weight_bytes}u, {WEIGHTS_SYMBOL}, {METADATA_SYMBOL}, {inputs}, {outputs}, "
        f"input_offsets, output_offsets, images, functions, launches, fills, "
        f"{', '.join(map(str, counts))}, {len(plan.steps)}}};"
    )
    return _HEADER + "\n".join(lines) + "\n"


_HEADER = f"""\
#include "cuda_plan.h"

extern __attribute__((visibility("hidden"))) const uint8_t {WEIGHTS_SYMBOL}[];
extern __attribute__((visibility("hidden"))) const uint8_t {IMAGES_SYMBOL}[];
extern __attribute__((visibility("hidden"))) const char {METADATA_SYMBOL}[];
"""


def _offsets(name: str, offsets: Sequence[int]) -> list[str]:
    return [f"static const uint64_t {name}[] = {numbers(offsets or (0,))};"]


def _functions(launches: Sequence[PlacedLaunch]) -> dict[str, int]:
    """The functions that are launched, with the most dynamic shared memory that each is given."""
    found: dict[str, int] = {}
    for placed in launches:
        launch = placed.launch
        found[launch.function] = max(found.get(launch.function, 0), launch.dynamic_bytes)
    return found
