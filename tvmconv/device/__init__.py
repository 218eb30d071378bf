"""Running models and candidates elsewhere: under an emulator, on a board."""

from __future__ import annotations

from tvmconv.device.runner import DEFAULT_TIMEOUT_S, Runner, RunnerError

__all__ = ["DEFAULT_TIMEOUT_S", "Runner", "RunnerError"]
