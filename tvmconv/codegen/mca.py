"""Scores of compiled loops by ``llvm-mca``, for cores that are not at hand.

``llvm-mca`` (Debian's packages ``llvm-16`` and later) simulates a loop on LLVM's scheduling model
of a core, with every load in the first cache level. What it gives is a score to compare code by,
not a time.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from tvmconv.codegen.loops import COMMENTS, Loop
from tvmconv.errors import EnvironmentError_
from tvmconv.target import Target

_TOOL = re.compile(r"llvm-mca(?:-(\d+))?")
_ITERATIONS, _SECONDS = 100, 60
#: Instructions of a loop from which on its beginning and end no longer count for much, and how many
#: iterations are simulated then.
_LONG, _FEW_ITERATIONS = 200, 10
#: Independent multiply-adds of full vectors: ``{}`` is a register's number.
_PEAKS = {
    ("x86_64", 512): "vfmadd231ps %zmm31, %zmm30, %zmm{}",
    ("x86_64", 256): "vfmadd231ps %ymm15, %ymm14, %ymm{}",
    ("x86_64", 128): "mulps %xmm15, %xmm{}",
    ("aarch64", 128): "fmla v{}.4s, v30.4s, v31.s[0]",
    ("arm", 128): "vfma.f32 q{}, q14, q15",
    ("riscv64", 128): "vfmacc.vf v{}, f10, v31",
    ("riscv64", 32): "fmadd.s f{0}, f30, f31, f{0}",
}
#: What stands before them.
_SETTINGS = {("riscv64", 128): "vsetivli zero, 4, e32, m1, ta, ma"}
_PEAK_REGISTERS = 12


@dataclass(frozen=True)
class Score:
    """How a loop runs on a core's model.

    Attributes
    ----------
    cycles : float
        For one iteration, where many follow each other.
    share : float
        Of the multiply-adds that the model can do in that time.
    """

    cycles: float
    share: float


def score(loop: Loop, target: Target) -> Score:
    """Simulate a loop that has multiply-adds.

    Raises
    ------
    EnvironmentError_
        ``llvm-mca`` is not installed, has no model of the core, or does not know an instruction.
    """
    (cycles,) = iteration_cycles([loop], target)
    return Score(cycles, loop.fmas / cycles / peak(target))


def iteration_cycles(loops: Sequence[Loop], target: Target) -> list[float]:
    """Cycles of one iteration of each loop, where many follow each other.

    Raises
    ------
    EnvironmentError_
        As :func:`score`.
    """
    found = dict.fromkeys(range(len(loops)), 0.0)
    long = {k for k, loop in enumerate(loops) if len(loop.instructions) > _LONG}
    for places, iterations in ((found.keys() - long, _ITERATIONS), (long, _FEW_ITERATIONS)):
        order = sorted(places)
        regions = [loops[k].instructions for k in order]
        found |= zip(order, _cycles(regions, target, iterations), strict=True)
    return list(found.values())


@lru_cache
def peak(target: Target) -> float:
    """Multiply-adds in a cycle that the core's model can do.

    Raises
    ------
    EnvironmentError_
        As :func:`score`.
    """
    kind = target.arch, target.vector.bits
    lines = [_PEAKS[kind].format(register) for register in range(_PEAK_REGISTERS)]
    before = [_SETTINGS[kind]] if kind in _SETTINGS else []
    (cycles,) = _cycles([[*before, *lines]], target, _ITERATIONS)
    return _PEAK_REGISTERS / cycles


def _cycles(regions: Sequence[Sequence[str]], target: Target, iterations: int) -> list[float]:
    """Cycles of one of so many iterations of each of some loops."""
    if not regions:
        return []
    command = [
        _tool(),
        f"-mtriple={target.llvm.triple}",
        f"-mcpu={target.llvm.mca_cpu or target.llvm.cpu}",
        f"-mattr={','.join(target.llvm.features)}",
        f"-iterations={iterations}",
        "-json",
    ]
    sign = COMMENTS[target.arch]
    parts = [
        "\n".join((f"{sign} LLVM-MCA-BEGIN {k}", *lines, f"{sign} LLVM-MCA-END {k}\n"))
        for k, lines in enumerate(regions)
    ]
    try:
        result = subprocess.run(
            command,
            input="".join(parts),
            capture_output=True,
            text=True,
            check=False,
            timeout=_SECONDS,
        )
        found = json.loads(result.stdout)["CodeRegions"]
        cycles = [float(region["SummaryView"]["TotalCycles"]) / iterations for region in found]
        if len(cycles) != len(regions):
            raise ValueError("regions are missing")
        return cycles
    except (OSError, subprocess.TimeoutExpired) as error:
        raise EnvironmentError_(f"cannot score code for {target.name}: {error}") from None
    except (ValueError, LookupError, TypeError):
        told = [line for line in result.stderr.splitlines() if "error" in line]
        reason = told[0].partition("error: ")[2] if told else f"exit {result.returncode}"
        raise EnvironmentError_(
            f"cannot score code for {target.name}: llvm-mca: {reason}"
        ) from None


def _tool() -> str:
    """The newest ``llvm-mca`` on the path; Debian's names end in LLVM's version."""
    found: dict[int, Path] = {}
    for folder in os.get_exec_path():
        for path in Path(folder).glob("llvm-mca*"):
            name = _TOOL.fullmatch(path.name)
            if name and os.access(path, os.X_OK):
                found.setdefault(int(name[1] or 0), path)
    if not found:
        raise EnvironmentError_("cannot score code: llvm-mca is missing: apt-get install llvm-19")
    return str(found[max(found)])
