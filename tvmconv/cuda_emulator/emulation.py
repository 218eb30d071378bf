"""Compile and run whole models for the emulated device, in place of a GPU."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from tvmconv.codegen.cuda.build import Image
from tvmconv.cuda_emulator.build import driver, host_image
from tvmconv.cuda_emulator.run import configure
from tvmconv.errors import InputError, TvmconvError, VerificationError
from tvmconv.runtime.arrays import poisoned
from tvmconv.runtime.loader import Module
from tvmconv.target import Target, load_target

Array = npt.NDArray[Any]
#: Where the runtime of a model looks for the driver, and the emulated driver for its device.
_DRIVER, _SM = "TVMCONV_CUDA_DRIVER", "TVMCONV_EMULATOR_SM"


def emulated_images(
    source: str, target: Target, extents: Mapping[str, Sequence[int]]
) -> list[Image]:
    """Compile CUDA C++ for the emulator, in place of cubins: ``images`` of :func:`compile`."""
    code = host_image(source, sm=target.gpu.sm, extents=extents)
    return [Image(0, "emulated", code, {}, "zig")]


@contextmanager
def emulation(target: Target) -> Iterator[None]:
    """Let models that are loaded inside find an emulated device of a target's capability.

    So do processes that are started inside.

    Raises
    ------
    InputError
        The target is not a GPU.
    """
    if not target.is_gpu:
        raise InputError(f"{target.name}: only kernels for GPUs are emulated")
    before = {name: os.environ.pop(name, None) for name in (_DRIVER, _SM)}
    os.environ |= {_DRIVER: str(driver()), _SM: str(target.gpu.sm)}
    configure(sm=target.gpu.sm)
    try:
        yield
    finally:
        configure()
        for name, value in before.items():
            del os.environ[name]
            if value is not None:
                os.environ[name] = value


def on_this_host(target: Target) -> Target:
    """A GPU target whose host is this machine, as images for the emulator are."""
    host = load_target("host")
    return replace(target, llvm=host.llvm, zig=host.zig)


def emulated_build(build: Callable[..., Module], target: Target) -> Callable[..., BothWays]:
    """A ``compile`` of models for a GPU that makes them for the emulator."""
    here = on_this_host(target)

    def make(model: Any, **options: Any) -> BothWays:
        module = build(model, **options, target=here, images=emulated_images)
        return BothWays(module, target.gpu.sm)

    return make


class BothWays:
    """A model that runs with its threads backwards and then forwards at each call."""

    def __init__(self, module: Module, sm: int) -> None:
        self._module = module
        self._sm = sm

    @property
    def metadata(self) -> Any:
        """The model's."""
        return self._module.metadata

    def __call__(self, feeds: Any) -> list[Array]:
        """Run twice and compare.

        Raises
        ------
        VerificationError
            A kernel does something wrong, or the outputs depend on the order of threads.
        """
        backwards, forwards = (self._run(feeds, order) for order in (1, 0))
        for port, one, other in zip(self._module.outputs, forwards, backwards, strict=True):
            if np.ascontiguousarray(one).tobytes() != np.ascontiguousarray(other).tobytes():
                raise VerificationError(f"output {port.name} depends on the order of threads")
        return forwards

    def _run(self, feeds: Any, order: int) -> list[Array]:
        configure(sm=self._sm, order=order)
        try:
            return self._module(feeds, out=poisoned(self._module.outputs))
        except InputError:
            raise
        except TvmconvError as error:
            raise VerificationError(str(error).partition("cannot run: ")[2] or str(error)) from None
