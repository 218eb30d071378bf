"""What the assembler reports that kernels use, and whether a target has it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from tvmconv.codegen.cuda.device import Launch
from tvmconv.errors import InputError
from tvmconv.gpu import Device

_FUNCTION = re.compile(r"Compiling entry function '(\w+)' for 'sm_(\d+)a?'")
_SPILLS = re.compile(r"(\d+) bytes spill stores, (\d+) bytes spill loads")
_REGISTERS = re.compile(r"Used (\d+) registers")
_SHARED = re.compile(r"(\d+) bytes smem")


@dataclass(frozen=True)
class Usage:
    """Of one device function.

    Attributes
    ----------
    registers : int
        Of a thread.
    shared_bytes : int
        Declared by the function.
    spill_bytes : int
        Stored to memory for lack of registers.
    """

    registers: int
    shared_bytes: int
    spill_bytes: int


def read_usage(log: str) -> dict[str, Usage]:
    """Read the report of ``ptxas -v``, by the functions' names."""
    parts = _FUNCTION.split(log)
    found = {}
    for name, text in zip(parts[1::3], parts[3::3], strict=True):
        registers, shared = _REGISTERS.search(text), _SHARED.search(text)
        spills = _SPILLS.search(text)
        if registers is None:
            raise ValueError(f"no number of registers is reported for {name}")
        found[name] = Usage(
            int(registers[1]),
            int(shared[1]) if shared else 0,
            int(spills[1]) if spills else 0,
        )
    return found


def check_launches(
    launches: Iterable[Launch], usage: Mapping[str, Usage], device: Device, sm: int, label: str
) -> None:
    """Check that a device can run all launches.

    Parameters
    ----------
    launches : iterable of Launch
    usage : mapping of str to Usage
        By function; empty where only PTX is made.
    device : Device
    sm : int
        What the code was compiled for, for messages.
    label : str
        What messages call the model.

    Raises
    ------
    InputError
        If a launch needs more than there is; the message names the kernel.
    """
    for launch in launches:
        used = usage.get(launch.function, Usage(0, 0, 0))
        for what, needed, limit in (
            ("threads in a block", launch.threads, device.threads_per_block),
            (
                "bytes of shared memory",
                used.shared_bytes + launch.dynamic_bytes,
                device.shared_bytes_per_block,
            ),
            ("registers in a block", _registers(launch, used, device), device.registers_per_sm),
        ):
            if needed > limit:
                raise InputError(
                    f"{label}: kernel {launch.function} needs {needed} {what}; sm_{sm} has {limit}"
                )


def _registers(launch: Launch, used: Usage, device: Device) -> int:
    """Registers of a block: each warp gets whole units."""
    warps = -(-launch.threads // device.warp_threads)
    unit = device.register_unit
    return warps * -(-used.registers * device.warp_threads // unit) * unit


def occupancy(launch: Launch, used: Usage, device: Device) -> float:
    """Share of a multiprocessor's threads that can be resident.

    References
    ----------
    CUDA C++ Best Practices Guide, section "Occupancy".
    """
    shared = used.shared_bytes + launch.dynamic_bytes + device.shared_reserved_bytes
    shared = -(-shared // device.shared_unit_bytes) * device.shared_unit_bytes
    warps = -(-launch.threads // device.warp_threads)
    blocks = min(
        device.blocks_per_sm,
        device.threads_per_sm // (warps * device.warp_threads),
        device.registers_per_sm // max(1, _registers(launch, used, device)),
        device.shared_bytes_per_sm // max(1, shared),
    )
    return blocks * warps * device.warp_threads / device.threads_per_sm
