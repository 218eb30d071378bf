"""Small workloads of every kind, with what each is there for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from tests.kernels import problem_spec
from tvmconv.autoschedule.workload import canonical
from tvmconv.kernel import KernelSpec, canonical_json
from tvmconv.layout import Layout
from tvmconv.problem import Problem

RESIDUAL = [{"op": "add", "operand": 0}, {"op": "relu"}]


def workload(
    text: str, program: Sequence[Any] = (), zero_padding: bool = False, **attrs: Any
) -> KernelSpec:
    """The workload of a problem; an operand of its program has the output's shape."""
    problem = Problem.parse(text)
    operands = [Layout(problem.output_shape, 16) for step in program if "operand" in step]
    spec = problem_spec(
        problem, program=program, operands=operands, zero_padding=zero_padding
    )  # fmt: skip
    return canonical(replace(spec, attrs_json=canonical_json({**spec.attrs, **attrs})))


def without_problem(
    op: str, shape: tuple[int, ...], block: int = 1, inputs: int = 1, **attrs: Any
) -> KernelSpec:
    """The workload of an operator whose inputs and output have one shape."""
    layout = Layout(shape, block)
    return KernelSpec(op, canonical_json(attrs), (layout,) * inputs, layout)


WORKLOADS = {
    "convolution with bias": workload("conv2d:1x24x7x7:40x3x3:padding=1:bias=true"),
    "strides, batch and relu": workload(
        "conv2d:2x16x7x7:16x3x3:stride=2:padding=1:activation=relu"
    ),
    "groups": workload("conv2d:1x32x7x7:32x3x3:groups=4"),
    "shuffled channels": workload("conv2d:1x48x7x7:32x1x1", shuffled=3),
    "first layer": workload("conv2d:1x3x19x19:20x7x7:stride=2:padding=3"),
    "residual": workload("conv2d:1x24x7x7:40x1x1", RESIDUAL),
    "a step that rounds": workload("conv2d:1x24x7x7:40x1x1", [{"op": "silu"}]),
    "no number for half of the inputs": workload("conv2d:1x24x7x7:40x1x1", [{"op": "log"}]),
    "winograd": workload("conv2d:1x32x9x9:24x3x3:padding=1:algorithm=winograd4", RESIDUAL),
    "one axis": workload("conv1d:1x16x40:24x3:dilation=2"),
    "depthwise": workload("depthwise_conv2d:1x24x9x9:24x3x3:stride=2:padding=1"),
    "dense": workload("dense:2x70:10:bias=true"),
    "maximum": workload("max_pool2d:1x24x9x9:3x3:stride=2:padding=1"),
    "maximum of what is positive": workload("max_pool2d:1x24x9x9:3x3:padding=1", zero_padding=True),
    "mean": workload("avg_pool2d:1x24x9x9:3x3:stride=2:padding=1"),
    "global mean": workload("global_avg_pool2d:1x24x7x7"),
    "softmax": without_problem("softmax", (2, 50), axis=1),
    "lrn": without_problem("lrn", (1, 24, 5, 5), 16, size=5, alpha=1e-4, beta=0.75, bias=1.0),
    "elementwise": without_problem("elementwise", (1, 24, 5, 5), 16, 2, program=RESIDUAL),
}
