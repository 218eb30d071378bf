"""The demo: a trained digit classifier and a random-weight ResNet-50, compiled, verified, timed."""

from __future__ import annotations

from tvmconv.demo.run import run_demo

__all__ = ["run_demo"]
