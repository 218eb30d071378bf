"""Kernels announce their parallel loops to the thread pool."""

from __future__ import annotations

import re
from typing import Any

import pytest

from tests.kernels import host, problem_spec
from tvmconv._tvm import tirx, tvm_ffi
from tvmconv.codegen.kernels import build, scheduled
from tvmconv.problem import Problem


@pytest.mark.parametrize(
    ("text", "loops"),
    [
        ("conv2d:1x32x56x56:64x3x3:padding=1", 1),
        ("conv2d:1x64x56x56:64x3x3:padding=1:algorithm=winograd4_online", 2),
        ("max_pool2d:1x64x56x56:3x3:stride=2:padding=1", 1),
        ("conv2d:1x16x4x4:16x1x1", 0),
    ],
)
def test_every_parallel_loop_is_announced(text: str, loops: int) -> None:
    func = scheduled(problem_spec(Problem.parse(text)), "k0", host())
    found: list[Any] = []
    tvm_ffi.structural_walk(func.body, (tirx.For, found.append))
    extents = [str(loop.extent) for loop in found if loop.kind == tirx.ForKind.PARALLEL]
    code = str(build(func, "k0", host()).inspect_source("ll"))
    assert len(extents) == loops
    assert len(re.findall(r"define [^\n]*@__tvm_parallel_lambda", code)) == loops
    announced = re.findall(r"call [^\n]*@tvmconv_expect_iterations\(i32 (?:\w+ )?(\d+)\)", code)
    assert sorted(announced) == sorted(extents)
