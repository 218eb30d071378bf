"""Design space for RISC-V: scalar code, or the vector extension at a fixed length."""

from __future__ import annotations

from tvmconv.autoschedule.space import DesignSpace, register

from .cpu import candidates, schedule

register(DesignSpace("riscv64", candidates, schedule))
