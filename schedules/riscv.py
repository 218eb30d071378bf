"""Design space for RISC-V: scalar code, or the vector extension at a fixed length."""

from __future__ import annotations

from tvmconv.autoschedule.space import DesignSpace, register

from .cpu import candidates, schedule, with_arithmetic

register(DesignSpace("riscv64", candidates, schedule, with_arithmetic))
