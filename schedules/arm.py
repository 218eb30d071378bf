"""Design spaces for ARM: Advanced SIMD of AArch64 and of ARMv7."""

from __future__ import annotations

from tvmconv.autoschedule.space import DesignSpace, register

from .cpu import candidates, schedule, with_arithmetic

register(DesignSpace("aarch64", candidates, schedule, with_arithmetic))
register(DesignSpace("arm", candidates, schedule, with_arithmetic))
