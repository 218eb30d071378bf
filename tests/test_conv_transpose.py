"""Transposed convolutions: phases, kernels, ONNX's semantics, what the passes make of them."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from math import prod
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from tvmconv.schedules import costs

import tvmconv
from tests.kernels import (
    Kernel,
    compile_specs,
    host,
    problem_kernel,
    problem_spec,
    run,
    runnable_targets,
    sliced,
    trials,
)
from tests.onnx_backend import cases, data_of
from tests.onnx_models import feeds, net, normal, ops_of
from tests.strategies import RandomPicker, draw
from tvmconv import accuracy, ops
from tvmconv.autoschedule.space import Candidate, space_for
from tvmconv.autoschedule.trace import replay, to_json
from tvmconv.codegen.kernels import finish, prim_func, schedule
from tvmconv.errors import InputError
from tvmconv.frontend import load
from tvmconv.graph.evaluate import evaluate
from tvmconv.graph.fuse import fuse
from tvmconv.kernel import KernelSpec, canonical_json
from tvmconv.layout import Layout
from tvmconv.ops import Array, phase_planes, phases
from tvmconv.oracle import evaluate_model
from tvmconv.problem import Problem
from tvmconv.target import Target

#: Odd in one way or another: uneven phases, phases without taps or outputs, tails, groups, ranks.
ODD = [
    "conv2d_transpose:1x20x5x4:33x4x4:stride=2:padding=1:bias=true:activation=relu",
    "conv2d_transpose:2x8x3x5:24x3x3:stride=2:padding=1:output_padding=1",
    "conv2d_transpose:1x16x4x17:6x2x2:stride=2",
    "conv2d_transpose:1x6x3x18:5x3x4:stride=3,4:padding=0,1:activation=tanh",
    "conv2d_transpose:1x12x3x3:8x5x5:stride=2:padding=1,0,0,1:groups=4",
    "conv2d_transpose:1x20x3x4:20x4x4:stride=2:padding=1:groups=20:bias=true",
    "conv2d_transpose:1x6x4x3:12x3x2:stride=2,3:groups=6",
    "conv2d_transpose:1x5x4x4:7x3x3:stride=2:dilation=2:bias=true",
    "conv2d_transpose:1x5x4x3:7x3x2:stride=3,2:dilation=2,3:padding=1",
    "conv2d_transpose:1x30x1x1:20x4x4:bias=true",
    "conv2d_transpose:2x30x1x3:20x4x4:stride=2:padding=1",
    "conv2d_transpose:1x8x5x6:8x2x2:stride=3:output_padding=2,1:bias=true",
    "conv2d_transpose:1x8x4x19:8x3x3:padding=1,2,0,1",
    "conv2d_transpose:1x300x2x3:20x3x3:stride=2",
    "conv1d_transpose:1x20x17:9x7:stride=4:padding=2:output_padding=1",
    "conv1d_transpose:2x3x9:18x3:stride=2",
    "conv1d_transpose:1x2100x6:5x1",
    "conv3d_transpose:1x6x2x3x18:5x2x2x2:stride=2",
    "conv3d_transpose:1x4x2x3x3:18x3x3x3:stride=1,2,3:padding=1",
]
#: Schedules of one problem that are compiled and run.
SAMPLE = 16


def random_problems(count: int, seed: int, max_macs: int = 20_000) -> list[Problem]:
    """Transposed convolutions without an activation."""
    pick = RandomPicker(np.random.default_rng(seed))
    found: list[Problem] = []
    while len(found) < count:
        family = ops.get("conv_transpose").family
        assert family is not None
        try:
            problem = draw(pick, "conv_transpose", family, pick.choice([1, 2, 2, 3]))
        except InputError:
            continue
        if problem.macs <= max_macs:
            found.append(problem.replace(activation=""))
    return found


# --- references


def adjoint(problem: Problem) -> Problem:
    """The convolution whose adjoint a transposed convolution is; it takes its output."""
    filters = (problem.ci, *problem.kernel)
    names = ("stride", "padding", "dilation", "groups")
    options = {name: problem.option(name) for name in names}
    return Problem("conv", problem.output_shape, filters, options)


@pytest.mark.parametrize("problem", random_problems(100, 1), ids=str)
def test_adjoint(problem: Problem) -> None:
    """<conv x, y> = <x, convT y>: the definition of a transposed convolution."""
    problem = problem.replace(bias=False)
    try:
        conv = adjoint(problem)
    except InputError:  # The padding crops so much that no window fits.
        assert min(problem.out_spatial) < max(problem.kernel_extent)
        return
    rng = np.random.default_rng(2)
    weight = rng.standard_normal(problem.inputs["weight"])
    image, y = rng.standard_normal(problem.output_shape), rng.standard_normal(problem.input_shape)
    forward = conv.reference({"x": image, "weight": weight})
    # Dilated, it may have more windows, in what output padding adds: there y is 0.
    forward = forward[tuple(map(slice, y.shape))]
    assert forward.shape == y.shape
    backward = problem.reference({"x": y, "weight": weight})
    left, right = float(np.vdot(forward, y)), float(np.vdot(image, backward))
    scale = np.linalg.norm(forward) * np.linalg.norm(y) + np.linalg.norm(image)
    assert abs(left - right) <= 1e-10 * (scale + np.linalg.norm(backward))


def by_inserted_zeros(problem: Problem, arrays: dict[str, Array]) -> Array:
    """A convolution of stride 1 with flipped taps, over the input with zeros in between."""
    batch, groups = problem.batch, problem.groups
    steps = zip(problem.in_spatial, problem.stride, strict=True)
    spread = np.zeros((batch, problem.ci, *((size - 1) * s + 1 for size, s in steps)))
    spread[(slice(None), slice(None), *(slice(None, None, s) for s in problem.stride))] = arrays[
        "x"
    ]
    ends = zip(problem.out_spatial, problem.pads_low, spread.shape[2:], strict=True)
    pads = [
        (span - 1, max(0, low + out - size))
        for span, (out, low, size) in zip(problem.kernel_extent, ends, strict=True)
    ]
    spread = np.pad(spread, [(0, 0), (0, 0), *pads])
    weight = phases.as_conv(problem, arrays["weight"].astype(np.float64))
    y = np.zeros(problem.output_shape)
    per_in, per_out = problem.ci // groups, problem.co // groups
    for tap in product(*map(range, problem.kernel)):
        start = [
            low + (extent - 1) - k * d
            for low, extent, k, d in zip(
                problem.pads_low, problem.kernel_extent, tap, problem.dilation, strict=True
            )
        ]
        cut = tuple(slice(a, a + n) for a, n in zip(start, problem.out_spatial, strict=True))
        for group in range(groups):
            x = spread[(slice(None), slice(group * per_in, (group + 1) * per_in), *cut)]
            w = weight[(slice(group * per_out, (group + 1) * per_out), slice(None), *tap)]
            y[:, group * per_out : (group + 1) * per_out] += np.einsum("oc,nc...->no...", w, x)
    bias = arrays.get("bias", np.zeros(problem.co))
    return y + bias.reshape(-1, *(1,) * problem.rank)


@pytest.mark.parametrize("problem", random_problems(100, 3), ids=str)
def test_inserted_zeros_give_the_same(problem: Problem) -> None:
    arrays = accuracy.integer_inputs(problem, 1)
    assert np.array_equal(problem.reference(arrays), by_inserted_zeros(problem, arrays))


# --- phases


@pytest.mark.parametrize("problem", random_problems(60, 4), ids=str)
def test_phases_have_every_product_once(problem: Problem) -> None:
    """Each output has the taps and inputs that the definition gives it, and no others."""
    for number, axis in enumerate(phases.axes(problem)):
        size, low = problem.in_spatial[number], problem.pads_low[number]
        stride, dilation = problem.stride[number], problem.dilation[number]
        found = set()
        for phase, (first, taps) in enumerate(zip(axis.firsts, axis.taps, strict=True)):
            for q, (j, k) in product(range(axis.count), enumerate(taps)):
                o, i = q * axis.stride + phase, q + first + j * axis.step
                assert not (o < axis.outputs and axis.reach[1] < i)
                if o < axis.outputs and 0 <= i < size:
                    found.add((o, i, k))
        wanted = {
            (i * stride + k * dilation - low, i, k)
            for i in range(size)
            for k in range(problem.kernel[number])
        }
        assert found == {entry for entry in wanted if 0 <= entry[0] < axis.outputs}


def test_a_tap_belongs_to_one_phase() -> None:
    """So the multiply-adds are those of the definition: with the zeros they would be stride times
    as many."""
    for problem in random_problems(60, 5):
        for number, axis in enumerate(phases.axes(problem)):
            if axis.phases == axis.stride and problem.in_spatial[number] > 1:
                assert sorted(k for taps in axis.taps for k in taps) == [
                    *range(problem.kernel[number])
                ]


def test_macs_and_taps() -> None:
    problem = Problem.parse("conv2d_transpose:1x64x14x14:32x3x3:stride=2:padding=1")
    assert problem.macs == 64 * 14 * 14 * 32 * 9
    assert problem.taps == 64 * 2 * 2
    assert problem.inputs["weight"] == (64, 32, 3, 3)
    assert problem.output_shape == (1, 32, 27, 27)


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("conv2d_transpose:1x3x3x3:2x3x3:stride=3,2:output_shape=10,8",
         "stride=3,2:output_padding=1"),
        ("conv1d_transpose:1x3x9:2x4:stride=2:output_shape=19", "stride=2:padding=1,0"),
        ("conv1d_transpose:1x3x9:2x4:stride=2:output_shape=19:padding=same_upper",
         "stride=2:padding=0,1"),
        ("conv1d_transpose:1x3x9:2x4:stride=2:output_shape=18:output_padding=1:padding=7",
         "stride=2:padding=2,1:output_padding=1"),
        ("conv1d_transpose:1x3x9:2x5:stride=2:padding=same_upper", "stride=2:padding=1,2"),
        ("conv1d_transpose:1x3x9:2x5:stride=2:padding=same_lower", "stride=2:padding=2,1"),
        ("conv1d_transpose:1x3x9:2x5:stride=2:padding=valid", "stride=2"),
    ],
)  # fmt: skip
def test_automatic_padding(text: str, canonical: str) -> None:
    problem = Problem.parse(text)
    assert problem.text == ":".join([*text.split(":")[:3], canonical])
    assert Problem.parse(problem.text) == problem


# --- kernels


def candidates_of(spec: KernelSpec, target: Target) -> list[Candidate]:
    return space_for(target).candidates(prim_func(spec, "main"), target)


def sample(found: list[Candidate], count: int = SAMPLE) -> list[Candidate]:
    """The first, and others from all over the space."""
    return found[:: max(1, len(found) // count)]


def wrong(spec: KernelSpec, found: list[Candidate], target: Target) -> list[str]:
    problem = Problem.parse(spec.attrs["problem"])
    compiled = compile_specs([spec] * len(found), target, found)
    reports = [
        (candidate.knobs, trial.check(compiled.run(k, problem_kernel(trial, spec))))
        for trial in trials(problem)
        for k, candidate in enumerate(found)
    ]
    return [f"{knobs}: {report.message}" for knobs, report in reports if not report.passed]


def specs_of(problem: Problem) -> list[KernelSpec]:
    """Its kernels: on blocks of either input, and on planes if there is one."""
    specs = [problem_spec(problem), problem_spec(problem, block=8, in_block=1)]
    return specs + ([problem_spec(problem, block=1)] if phase_planes.fits(problem) else [])


@pytest.mark.parametrize("text", ODD)
def test_schedules_are_right(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every other problem with loops shared among threads, which the model finds too small."""
    if ODD.index(text) % 2:
        monkeypatch.setattr(costs, "LAUNCH_CYCLES", -1e9)
    for spec in specs_of(Problem.parse(text)):
        found = candidates_of(spec, host())
        assert len({candidate.knobs for candidate in found}) == len(found)
        assert not wrong(spec, sample(found), host()), spec.output.block


@pytest.mark.parametrize("target", runnable_targets(), ids=lambda target: target.name)
def test_targets(target: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(costs, "LAUNCH_CYCLES", -1e9)
    for text in ODD[::4]:
        for spec in specs_of(Problem.parse(text)):
            assert not wrong(spec, sample(candidates_of(spec, target), 2), target), text


@pytest.mark.parametrize("seed", range(4))
def test_random_kernels(seed: int) -> None:
    rng = np.random.default_rng(seed)
    drawn = [
        (problem, spec)
        for problem in random_problems(12, 50 + seed, 200_000)
        for spec in specs_of(problem)
    ]
    choices = [
        found[int(rng.integers(len(found)))]
        for found in (candidates_of(spec, host()) for _, spec in drawn)
    ]
    compiled = compile_specs([spec for _, spec in drawn], choices=choices)
    for k, (problem, spec) in enumerate(drawn):
        for trial in trials(problem, k):
            report = trial.check(compiled.run(k, problem_kernel(trial, spec)))
            # Where most outputs are padding alone, zeros are right.
            assert report.status != "wrong", f"{problem} {choices[k]}: {report.message}"


@pytest.mark.parametrize("text", ODD[::3])
def test_traces_make_the_same_kernel(text: str) -> None:
    for spec in specs_of(Problem.parse(text)):
        func = prim_func(spec, "main")
        for candidate in sample(candidates_of(spec, host()), 3):
            made = schedule(spec, "main", host(), candidate)
            again = replay(func, to_json(made))
            assert finish(again, host()).script() == finish(made, host()).script()


def test_phases_of_different_taps_are_not_computed_together() -> None:
    """A schedule that does is refused: it would read weights and inputs that are not there."""
    from tvmconv.schedules.primitives import Tile, find_blocks, tile_reduction

    from tvmconv._tvm import s_tir

    for taps, refused in ((3, True), (4, False)):
        text = f"conv2d_transpose:1x16x4x4:16x{taps}x{taps}:stride=2"
        spec = problem_spec(Problem.parse(text))
        sch = s_tir.Schedule(prim_func(spec, "main"))
        tile = Tile((1, 1, 2, 1, 2), (0, 1, 2, 3, 4), 0)
        tile_reduction(sch, find_blocks(sch), tile, False)
        if refused:
            with pytest.raises(ValueError, match="phases have different taps"):
                finish(sch, host())
        else:
            finish(sch, host())


def test_no_zero_is_multiplied() -> None:
    """The taps that a phase lacks are skipped: their weights may hold anything."""
    problem = Problem.parse("conv2d_transpose:1x16x5x5:16x3x3:stride=2:padding=1:output_padding=1")
    exact = trials(problem)[0]
    for block in (16, 1):
        spec = problem_spec(problem, block=block)
        kernel = problem_kernel(exact, spec)

        class Poisoned(Kernel):
            def arguments(self) -> list[Array]:
                x, weight, *rest = super().arguments()
                ones = (np.ones(self.constants[0].shape, np.float32),)
                (used,) = ops.get("conv_transpose").pack(self.spec, ones)  # type: ignore[misc]
                return [x, np.where(used > 0, weight, np.float32("nan")), *rest]

        poisoned = Poisoned(spec, kernel.data, kernel.constants)
        np.testing.assert_array_equal(run([poisoned])[0], exact.reference)


@pytest.mark.parametrize("block", [16, 1])
@pytest.mark.parametrize("taps", [3, 4])
def test_operands_slices_and_halos(block: int, taps: int) -> None:
    problem = Problem.parse(f"conv2d_transpose:1x5x4x9:7x{taps}x4:stride=2:padding=1:bias=true")
    program = [{"op": "add", "operand": 0}, {"op": "mul", "operand": 1}, {"op": "relu"}]
    shape = problem.output_shape
    layouts = (Layout(shape, block).with_halo((1, 2), (0, 1)), Layout((1, shape[1], 1, 1), block))
    plain = problem_spec(problem, block, program=program, operands=layouts)
    x = sliced(plain.inputs[0].with_halo((2, 1), (1, 3)))
    output = sliced(plain.output.with_halo((0, 1), (2, 0)), 2, 1)
    spec = KernelSpec(plain.op, plain.attrs_json, (x, *layouts), output)
    exact = trials(problem)[0]
    rng = np.random.default_rng(0)
    operands = [rng.integers(-4, 5, v.shape).astype(np.float32) for v in layouts]
    expected = np.maximum((problem.reference(exact.arrays) + operands[0]) * operands[1], 0)
    found = sample(candidates_of(spec, host()), 6)
    compiled = compile_specs([spec] * len(found), choices=found)
    for k, candidate in enumerate(found):
        got = compiled.run(k, problem_kernel(exact, spec, operands))
        np.testing.assert_array_equal(got, expected, err_msg=str(candidate))


@pytest.mark.parametrize("text", ODD[:9])
@pytest.mark.parametrize("in_block", [16, 1])
def test_a_weight_known_at_run_time(text: str, in_block: int) -> None:
    """It is packed by a kernel as NumPy packs it."""
    problem = Problem.parse(text)
    attrs = {"problem": text, "host": "conv_transpose", "role": "weight"}
    attrs |= {"in_block": in_block, "block": 16}
    weight = accuracy.integer_inputs(problem.replace(activation=""), 0)["weight"]
    pack_weight = ops.get("pack_weight")
    shape = pack_weight.output_shape([weight.shape], attrs)
    spec = KernelSpec("pack_weight", canonical_json(attrs), (Layout(weight.shape),), Layout(shape))
    got = compile_specs([spec]).run(0, Kernel(spec, (weight,)))
    np.testing.assert_array_equal(got, pack_weight.reference([weight], attrs))


# --- ONNX


def onnx_cases() -> list[Any]:
    found = {n: case for n, case in cases().items() if n.startswith("node/convtranspose")}
    data = {name: data_of(case) for name, case in found.items()}
    return [pytest.param(model, *sets[0], id=name) for name, (model, sets) in data.items()]


def test_there_are_cases_of_onnx() -> None:
    assert len(onnx_cases()) >= 11


@pytest.mark.parametrize(("model", "inputs", "outputs"), onnx_cases())
@pytest.mark.parametrize("constant", [True, False], ids=["constant", "run-time"])
def test_cases_of_onnx(
    model: onnx.ModelProto, inputs: Sequence[Array], outputs: Sequence[Array], constant: bool
) -> None:
    """Every node test of the operator, compiled, with its weights known beforehand or not."""
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    given = {item.name: array for item, array in zip(model.graph.input, inputs, strict=True)}
    if constant:
        for item in model.graph.input[1:]:
            array = given.pop(item.name)
            changed.graph.initializer.append(numpy_helper.from_array(array, item.name))
    with tvmconv.compile(changed, threads=2) as module:
        (got,) = module(given)
    np.testing.assert_allclose(got, outputs[0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ("strides=[2]", "attribute 'strides' must have 2 values, has 1"),
        ("output_padding=[1]", "attribute 'output_padding' must have 2 values, has 1"),
        ("output_shape=[1,4,9,9]", "attribute 'output_shape' must have 2 values, has 4"),
        ("group=2", "groups must divide the 3 input channels, got 2"),
        ("group=0", "attribute 'group' must be at least 1, is 0"),
        (
            "kernel_shape=[2,2]",
            "attribute 'kernel_shape' [2, 2] disagrees with the weight's [3, 3]",
        ),
        ("output_padding=[1,1]", "output_padding must be less than the stride 1"),
        ("pads=[5,5,5,5]", "padding leaves an output of size 0 on spatial axis 0"),
        ('auto_pad="SAME_UPPER", strides=[5,5]', "padding asks for 40 elements"),
        ("output_shape=[99,99]", "output_shape asks for 99 elements"),
        ("dilation=[1,1]", "unknown attribute 'dilation'"),
    ],
)
def test_refused(attributes: str, message: str) -> None:
    model = net(f"y = ConvTranspose<{attributes}>(x, w);", w=normal(3, 4, 3, 3))
    with pytest.raises(InputError) as caught:
        load(model)
    assert message in str(caught.value)
    assert "ConvTranspose" in str(caught.value)


def test_other_refusals() -> None:
    with pytest.raises(InputError, match="input has 3 channels, but the weight takes 5"):
        load(net("y = ConvTranspose(x, w);", w=normal(5, 4, 3, 3)))
    with pytest.raises(InputError, match=r"weight must have 4 axes, has shape \(3, 4, 3\)"):
        load(net("y = ConvTranspose(x, w);", w=normal(3, 4, 3)))
    with pytest.raises(InputError, match=r"bias must have shape \(4,\), has \(3,\)"):
        load(net("y = ConvTranspose(x, w, b);", w=normal(3, 4, 3, 3), b=normal(3)))


def test_opset_1_divides_uneven_padding_otherwise() -> None:
    body = "y = ConvTranspose<strides=[2,2], output_shape=[{0},{0}]>(x, w);"
    assert load(net(body.format(15), opset=7, w=normal(3, 4, 3, 3)))
    with pytest.raises(InputError, match="convert the model to opset 11"):
        load(net(body.format(16), opset=7, w=normal(3, 4, 3, 3)))
    assert load(net(body.format(16), w=normal(3, 4, 3, 3)))


BATCH_NORM = dict(zip("smv", (normal(4), normal(4), np.abs(normal(4)) + 1), strict=True))


@pytest.mark.parametrize("group", [1, 2])
def test_batch_normalisation_is_folded(group: int) -> None:
    constants = {**BATCH_NORM, "b": normal(4, seed=1), "w": normal(4, 4 // group, 3, 3)}
    body = f"c = ConvTranspose<strides=[2,2], group={group}>(x, w, b);"
    body += "d = BatchNormalization(c, s, b, m, v); y = Relu(d);"
    model = net(body, x="1,4,5,5", **constants)
    graph = load(model)
    assert ops_of(graph) == ["conv_transpose", "relu"]
    inputs = feeds(graph)
    # ONNX's own evaluator takes groups of a transposed convolution for others.
    (wanted,) = evaluate_model(model, inputs, ["y"])
    np.testing.assert_allclose(evaluate(graph, inputs)[0], wanted, rtol=1e-4, atol=1e-4)
    assert ops_of(fuse(graph)) == ["conv_transpose"]


# --- graph passes


@pytest.mark.parametrize(
    ("text", "op"),
    [
        ("conv2d_transpose:1x32x9x8:24x3x3:padding=1:bias=true:activation=relu", "conv"),
        ("conv2d_transpose:2x12x9x8:18x3x2:padding=1,0,2,1:dilation=1,2:groups=3", "conv"),
        ("conv1d_transpose:1x20x30:40x5:groups=20", "depthwise_conv"),
        ("conv2d_transpose:1x8x6x6:8x3x3:dilation=2:output_padding=1", "conv"),
        ("conv2d_transpose:1x8x6x6:8x3x3:padding=3", "conv_transpose"),
        ("conv2d_transpose:1x32x9x8:24x3x3:stride=1,2", "conv_transpose"),
        ("conv2d_transpose:1x32x1x1:24x3x3", "conv_transpose"),
    ],
)
def test_stride_1_is_a_convolution(text: str, op: str) -> None:
    from tvmconv.frontend.problems import graph_of

    problem = Problem.parse(text)
    arrays = accuracy.random_inputs(problem, 0)
    x = arrays.pop("x")
    graph = fuse(graph_of(text, arrays))
    assert ops_of(graph) == [op]
    with tvmconv.compile(text, params=arrays, threads=2) as module:
        (got,) = module(x)
        algorithm = next(
            (s["algorithm"] for s in module.metadata["steps"] if "algorithm" in s), None
        )
    arrays["x"] = x
    report = accuracy.check(
        problem, got, problem.reference(arrays), problem.magnitude(arrays), algorithm
    )
    assert report.passed, report.message


@pytest.mark.parametrize(
    "text", ["conv2d_transpose:1x128x16x16:3x4x4:stride=2:padding=1:activation=tanh", *ODD[:4]]
)
def test_verify(text: str) -> None:
    """From and to plain tensors, with weights known at run time."""
    assert tvmconv.verify(text).ok


def test_a_model_of_several(tmp_path: Any) -> None:
    """A generator in blocks, and its last layer with few channels."""
    weights = {
        "w0": normal(20, 32, 4, 4) / 18, "w1": normal(32, 24, 4, 4) / 12, "w2": normal(24, 3, 4, 4),
        "b": normal(24),
    }  # fmt: skip
    body = (
        "a = ConvTranspose(x, w0); b0 = Relu(a);"
        "c = ConvTranspose<strides=[2,2], pads=[1,1,1,1]>(b0, w1, b); d = Relu(c);"
        "e = ConvTranspose<strides=[2,2], pads=[1,1,1,1]>(d, w2); y = Tanh(e);"
    )
    model = net(body, x="1,20,1,1", **weights)
    path = tmp_path / "generator.onnx"
    onnx.save(model, path)
    assert tvmconv.verify(path).ok


def test_cost_of_uneven_phases() -> None:
    """The model sees the taps that are skipped."""
    from tvmconv.schedules import contraction
    from tvmconv.schedules.primitives import Tile, extents, find_blocks

    from tvmconv._tvm import s_tir

    problem = Problem.parse("conv2d_transpose:1x64x28x28:64x3x3:stride=2:padding=1")
    sch = s_tir.Schedule(prim_func(problem_spec(problem), "main"))
    dims = extents(sch, find_blocks(sch))
    assert prod(dims.reduce) == 64 * 4
    share = contraction.useful_taps(dims, Tile((1, 2, 1, 1, 14), (1, 0, 2, 3, 4), 0))
    assert 9 / 16 * 0.95 <= share <= 9 / 16
