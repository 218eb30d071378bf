"""A lowered network to machine code for GPUs, and that to an artifact."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

from tvmconv.codegen.artifact import Format, Runtime, write_artifact
from tvmconv.codegen.cuda.device import DeviceKernel, cuda_source
from tvmconv.codegen.cuda.nvrtc import CompileError, Compiler, compiler
from tvmconv.codegen.cuda.plan import (
    IMAGES_SYMBOL,
    DevicePlan,
    ImagePlace,
    cuda_plan_source,
    device_plan,
)
from tvmconv.codegen.cuda.usage import Usage, check_launches, occupancy, read_usage
from tvmconv.codegen.elf import Blob
from tvmconv.codegen.link import GPU_NAMES
from tvmconv.codegen.plan import Plan
from tvmconv.errors import EnvironmentError_, InputError
from tvmconv.runtime.inspect import DEFAULT_PREFIX
from tvmconv.target import Target

_SOURCES = ("cuda_model", "cuda_images", "cuda_driver", "interface", "error", "features")
#: Where the images lie in a file, and to what each is aligned there.
IMAGES_SECTION, IMAGE_ALIGNMENT = ".tvmconv.images", 64


@dataclass(frozen=True)
class Image:
    """Code of all kernels for one kind of device.

    Attributes
    ----------
    sm : int
        Compute capability that it was made for; 0 for one that fits any device.
    kind : str
        "cubin", "ptx", or what an emulated driver loads.
    code : bytes
    usage : mapping of str to Usage
        By function; empty where no machine code was made.
    compiler : str
    """

    sm: int
    kind: str
    code: bytes
    usage: Mapping[str, Usage]
    compiler: str


#: ``builder(source, target, extents)``: the images of CUDA C++ for a target. ``extents`` has, by
#: function, the bytes of the buffer behind each parameter.
ImageBuilder: TypeAlias = Callable[[str, Target, Mapping[str, Sequence[int]]], Sequence[Image]]


def image_builder(target: Target, nvcc: Path | None = None) -> ImageBuilder:
    """What compiles for a target: NVRTC, or an nvcc that is named.

    Raises
    ------
    EnvironmentError_
        There is no such compiler, or it does not know one of the target's capabilities.
    """
    device = target.gpu
    using = compiler(nvcc)
    known = using.capabilities()
    for sm in (device.sm, *device.cubins):
        if sm not in known:
            names = ", ".join(f"sm_{number}" for number in known)
            raise EnvironmentError_(f"{target.name}: {using.name} knows no sm_{sm}, only {names}")
    return partial(compiled_images, using=using)


def compiled_images(
    source: str, target: Target, extents: Mapping[str, Sequence[int]], *, using: Compiler
) -> list[Image]:
    """Compile CUDA C++ for all capabilities of a target, at once.

    ``extents`` is for other builders.

    Raises
    ------
    InputError
        The compiler refuses a kernel.
    """
    device = target.gpu

    def make(job: tuple[str, int]) -> Image:
        kind, sm = job
        try:
            made = using.cubin(source, sm) if kind == "cubin" else using.ptx(source, sm)
        except CompileError as error:
            raise InputError(f"{target.name}: {using.name}: sm_{sm}: {_reason(error)}") from None
        usage = read_usage(made.log) if kind == "cubin" else {}
        code = made.code if kind == "cubin" else made.code + b"\0"
        return Image(sm, kind, code, usage, using.name)

    jobs = [("cubin", sm) for sm in device.cubins] + [("ptx", device.sm)] * device.ptx
    with ThreadPoolExecutor() as pool:
        return list(pool.map(make, jobs))


def _reason(error: CompileError) -> str:
    """The line of a compiler's log that says what is wrong."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return next((line for line in lines if "error" in line), " ".join(lines[:1]))


def network_source(device: DevicePlan, kernels: Mapping[str, DeviceKernel]) -> str:
    """CUDA C++ of a whole network: its operators' kernels, then the other steps'."""
    return cuda_source(list(kernels.values())) + "\n".join(device.sources)


def write_cuda_artifact(
    plan: Plan,
    kernels: Mapping[str, DeviceKernel],
    weights: bytes | bytearray,
    output: Path,
    images: ImageBuilder,
    *,
    target: Target,
    format: Format = "shared",
    prefix: str = DEFAULT_PREFIX,
    soname: str = "",
) -> None:
    """Compile and link a model for GPUs, and put the finished file in its place.

    Parameters
    ----------
    plan : Plan
        Without border steps.
    kernels : mapping of str to DeviceKernel
        By the name under which the plan calls them.
    weights : bytes-like
    output : Path
    images : callable
        Makes code of the source: :func:`image_builder`'s, or an emulator's.
    target : Target
    format : "shared" or "static"
    prefix, soname
        As for :func:`~tvmconv.codegen.artifact.write_artifact`.

    Raises
    ------
    InputError
        A kernel needs more than the target has, or the format is not to be had.
    EnvironmentError_
        As :func:`~tvmconv.codegen.artifact.write_artifact`.
    """
    if format == "tvm":
        raise InputError(f"{target.name}: a file for TVM's runtime can be made for CPUs only")
    device = device_plan(plan, kernels)
    source = network_source(device, kernels)
    made = list(images(source, target, device.extents())) if source else []
    for image in made:
        launches = [placed.launch for placed in device.launches]
        check_launches(launches, image.usage, target.gpu, image.sm, output.name)
    code, places = _joined(made)
    facts = {"images": _described(made), "functions": _functions(device, made, target)}
    whole = replace(plan, arena_bytes=device.arena_bytes, metadata={**plan.metadata, **facts})
    runtime = Runtime(
        _SOURCES,
        lambda weight_bytes: cuda_plan_source(device, places, weight_bytes),
        (Blob(IMAGES_SECTION, IMAGES_SYMBOL, code, large=True),),
        ("dl",),
        GPU_NAMES,
    )
    write_artifact(
        whole,
        [],
        weights,
        output,
        target_triple=target.zig.triple,
        cpu_flags=[f"-mcpu={target.zig_mcpu}"],
        format=format,
        runtime=runtime,
        prefix=prefix,
        soname=soname,
    )


def _joined(images: Sequence[Image]) -> tuple[bytes, list[ImagePlace]]:
    """All images one after the other, and where each lies."""
    code, places = bytearray(), []
    for image in images:
        code += bytes(-len(code) % IMAGE_ALIGNMENT)
        places.append(ImagePlace(image.sm, image.kind == "ptx", len(code)))
        code += image.code
    return bytes(code), places


def _described(images: Sequence[Image]) -> list[dict[str, Any]]:
    """What metadata says of the images."""
    return [
        {"kind": i.kind, "sm": i.sm, "bytes": len(i.code), "compiler": i.compiler} for i in images
    ]


def _functions(device: DevicePlan, images: Sequence[Image], target: Target) -> list[dict[str, Any]]:
    """What metadata says of every kernel in every cubin."""
    launches = {placed.launch.function: placed.launch for placed in device.launches}
    return [
        {
            "function": name,
            "sm": image.sm,
            "threads": launch.threads,
            "registers": used.registers,
            "shared_bytes": used.shared_bytes + launch.dynamic_bytes,
            "spill_bytes": used.spill_bytes,
            "occupancy": round(occupancy(launch, used, target.gpu), 3),
        }
        for image in images
        for name, launch in launches.items()
        if (used := image.usage.get(name)) is not None
    ]
