"""Design space for x86: SSE, AVX2 and AVX-512."""

from __future__ import annotations

from tvmconv.autoschedule.space import DesignSpace, register

from .cpu import candidates, schedule, with_arithmetic

register(DesignSpace("x86_64", candidates, schedule, with_arithmetic))
