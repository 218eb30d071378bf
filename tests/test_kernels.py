"""The kernels of every operator against the references: each case of the registry, each layout."""

from __future__ import annotations

import numpy as np
import pytest

from tests.kernels import (
    Kernel,
    case_kernels,
    compile_specs,
    inputs_of,
    problem_kernel,
    problem_spec,
    reference,
    run,
    sliced,
    trials,
)
from tvmconv import ops
from tvmconv.kernel import KernelSpec, canonical_json
from tvmconv.layout import Layout
from tvmconv.ops import Case, Operator
from tvmconv.problem import Problem

INTERNAL = [ops.get("elementwise"), ops.get("pack_weight")]
OPERATORS = [*ops.operators().values(), *INTERNAL]
PROBLEMS = [
    Problem.parse(case.problem) for op in OPERATORS if op.family is not None for case in op.cases
]
OTHERS = [
    pytest.param(op, case, id=f"{op.name}: {case.source}")
    for op in OPERATORS
    if op.family is None and op.name != "reshape"
    for case in op.cases
]
#: Above this a problem is checked in one layout only.
MANY_LAYOUTS_FLOPS = 20_000_000

#: Operators that round more than once: error relative to the element, and to the largest one.
ROUNDING = {
    **dict.fromkeys(
        ("elu", "erf", "exp", "hard_sigmoid", "hard_swish", "leaky_relu", "log", "sigmoid"),
        (1e-6, 1e-7),
    ),
    **dict.fromkeys(("elementwise", "scale_shift", "silu", "softplus", "tanh"), (1e-6, 1e-7)),
    **dict.fromkeys(("acos", "acosh", "asin", "asinh", "atan", "atanh"), (1e-6, 1e-7)),
    **dict.fromkeys(("cos", "cosh", "sin", "sinh", "tan"), (1e-6, 1e-7)),
    **dict.fromkeys(("reduce_l1", "reduce_l2", "reduce_sum", "reduce_sum_square"), (1e-6, 1e-6)),
    **dict.fromkeys(("mod", "reduce_prod", "shrink"), (1e-5, 1e-7)),
    "deform_im2col": (1e-6, 4e-7),
    "lrn": (1e-6, 0.0),
    "log_softmax": (1e-6, 1e-6),
    "pow": (1e-6, 0.0),
    "reduce_mean": (1e-6, 1e-6),
    "softmax": (1e-5, 1e-6),
}


def layouts_of(problem: Problem) -> list[KernelSpec]:
    """Kernels of a problem over the layouts that it can have."""
    specs = [problem_spec(problem)]
    if problem.flops <= MANY_LAYOUTS_FLOPS:
        specs.append(problem_spec(problem, block=8))
        if ops.get(problem.op).layout == "any":
            specs.append(problem_spec(problem, in_block=1))
            specs.append(problem_spec(problem, block=8, in_block=16))
    return list(dict.fromkeys(specs))


def test_every_operator_has_a_kernel_or_is_a_step() -> None:
    for op in OPERATORS:
        kernel = op.compute is not None or op.expression is not None
        assert kernel or op.name in ("reshape", "scale_shift"), op.name
        assert (op.packed_weight is None) or op.pack is not None
        assert not op.costly or op.expression is not None
        assert op.internal == (op in INTERNAL)


@pytest.mark.parametrize("problem", PROBLEMS, ids=str)
def test_problem(problem: Problem) -> None:
    """Exact on integers, within the formula's bound on random numbers."""
    specs = layouts_of(problem)
    compiled = compile_specs(specs)
    for trial in trials(problem):
        for k, spec in enumerate(specs):
            report = trial.check(compiled.run(k, problem_kernel(trial, spec)))
            assert report.passed, f"{spec.inputs[0]}: {report.message}"


@pytest.mark.parametrize(
    "problem", [p for p in PROBLEMS if p.op == "max_pool" and p.dtype == "float32"], ids=str
)
def test_zeros_pad_a_maximum_of_what_is_not_negative(problem: Problem) -> None:
    (exact, _) = trials(problem)
    x = np.abs(exact.arrays["x"])
    (got,) = run([Kernel(problem_spec(problem, zero_padding=True), (x,))])
    np.testing.assert_array_equal(got, problem.reference({"x": x}))


@pytest.mark.parametrize(("op", "case"), OTHERS)
def test_case(op: Operator, case: Case) -> None:
    """Equal to the reference rounded once, but where several roundings are allowed."""
    kernels = case_kernels(op.name, case, inputs_of(op, case))
    for kernel, got in zip(kernels, run(kernels), strict=True):
        expected = reference(kernel)
        assert expected.size == 1 or np.ptp(expected.astype(np.float64)) > 0
        if op.name in ROUNDING:
            relative, absolute = ROUNDING[op.name]
            atol = absolute * float(np.abs(expected).max())
            np.testing.assert_allclose(got, expected, rtol=relative, atol=atol)
        else:
            np.testing.assert_array_equal(got, expected.astype(got.dtype))


def test_a_place_that_only_a_let_shares_with_an_inner_loop() -> None:
    """The row of the operand is one of the stage's too, whose loop ends before it is read."""
    problem = Problem.parse("resize2d:3x1x16x19:7x5:mode=linear")
    steps = [{"op": "minimum", "scalar": 40.0}, {"op": "minimum", "operand": 0}]
    operand = sliced(Layout(problem.output_shape, 8).with_halo((0, 2), (2, 1)), 0, 1)
    trial = trials(problem)[-1]
    other = np.random.default_rng(0).standard_normal(operand.shape).astype(np.float32)
    spec = problem_spec(problem, 8, None, steps, [operand])
    (got,) = run([problem_kernel(trial, spec, [other])])
    plain = problem_kernel(trial, problem_spec(problem, 8))
    np.testing.assert_array_equal(got, np.minimum(run([plain])[0], np.minimum(other, 40)))


def test_an_operand_in_other_blocks_is_refused() -> None:
    """It would be read beyond its last channel."""
    program = canonical_json({"program": [{"op": "add", "operand": 0}]})
    blocked, plain = Layout((1, 17, 3, 3), 16), Layout((1, 17, 3, 3))
    spec = KernelSpec("elementwise", program, (blocked, plain), blocked)
    with pytest.raises(ValueError, match="cannot be read for"):
        compile_specs([spec])


def test_what_is_no_kernel_is_refused() -> None:
    layout = Layout((1, 17, 3, 3))
    for spec in (
        KernelSpec("reshape", "{}", (layout,), layout),
        KernelSpec("elementwise", '{"program": [{"op": "concat"}]}', (layout,), layout),
    ):
        with pytest.raises(ValueError, match=r"reshape is no kernel|concat cannot be a step"):
            compile_specs([spec])
