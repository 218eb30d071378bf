"""Where values lie: blocks, halos, slices and views; other tests say that results stay right."""

from __future__ import annotations

import numpy as np
import pytest

from tests.graph_cases import Maker, build
from tvmconv.codegen.plan import BorderStep, CopyStep, KernelStep, PackStep, UnpackStep
from tvmconv.frontend import load
from tvmconv.graph.fuse import fuse
from tvmconv.graph.halos import window_halo
from tvmconv.graph.ir import Graph, Node, Value
from tvmconv.graph.layout import Placed, place
from tvmconv.graph.lower import lower
from tvmconv.models import light_path

BLOCK = 16


@pytest.fixture
def m() -> Maker:
    return Maker(np.random.default_rng(0))


def placed(m: Maker, *outputs: Value) -> Placed:
    return place(fuse(Graph("g", m.inputs, list(outputs), m.nodes)), BLOCK)


def ops_of(p: Placed) -> list[str]:
    return [node.op for node in p.graph.nodes]


def steps(p: Placed) -> list[str]:
    return [type(step).__name__.removesuffix("Step") for step in lower(p).plan.steps]


def test_blocks_last_through_a_network(m: Maker) -> None:
    y = m.pool(m.relu(m.conv(m.conv(m.x(1, 3, 8, 8), 20, 3), 40, 3)), "avg_pool")
    p = placed(m, y)
    assert ops_of(p) == ["convert", "conv", "conv", "avg_pool"]
    assert [p.layouts[node.output].block for node in p.graph.nodes] == [1, 16, 16, 16]
    assert steps(p) == ["Pack", "Border", "Kernel", "Border", "Kernel", "Kernel", "Unpack"]


def test_a_wide_input_is_brought_into_blocks(m: Maker) -> None:
    x = m.x(1, 32, 4, 4)
    p = placed(m, m.conv(x, 8, 3), m.pool(x))
    (layout,) = (p.layouts[n.output] for n in p.graph.nodes if n.op == "convert")
    assert (layout.block, layout.lows) == (16, (1, 1))


def test_a_value_is_converted_once(m: Maker) -> None:
    x = m.conv(m.x(1, 16, 4, 4), 16)
    flat = [m.emit("softmax", [x], {"axis": axis}) for axis in (1, 2, 3)]
    assert ops_of(placed(m, *flat)).count("convert") == 2


def test_a_halo_has_the_width_of_its_widest_reader(m: Maker) -> None:
    x = m.relu(m.conv(m.x(1, 16, 6, 6), 16))
    p = placed(
        m,
        m.conv(x, 8, 3),
        m.conv(x, 8, 5, padding=[0, 1, 2, 3]),
        m.pool(x, stride=2, ceil_mode=True, padding=[0, 0, 0, 0]),
    )
    layout = next(p.layouts[n.output] for n in p.graph.nodes if n.op == "conv")
    assert (layout.lows, layout.highs) == ((1, 1), (2, 3))


@pytest.mark.parametrize(
    ("problem", "lows", "highs"),
    [
        ("conv2d:1x4x8x8:4x3x3:padding=1", [1, 1], [1, 1]),
        ("conv2d:1x4x8x9:4x3x3:padding=1:stride=2", [1, 1], [0, 1]),
        ("conv1d:1x4x8:4x3:padding=4,0:dilation=2", [4], [0]),
        ("max_pool2d:1x4x6x6:3x3:stride=2:ceil_mode=true", [0, 0], [1, 1]),
        ("conv2d:1x4x8x8:4x3x3:padding=1,2,0,0", [1, 2], [0, 0]),
        ("global_avg_pool2d:1x4x8x8", [0, 0], [0, 0]),
        ("dense:1x4:3", [], []),
    ],
)
def test_halos_are_what_windows_reach(problem: str, lows: list[int], highs: list[int]) -> None:
    assert window_halo({"problem": problem}) == (lows, highs)


def test_zeros_pad_a_maximum_only_of_what_is_not_negative(m: Maker) -> None:
    x = m.conv(m.x(1, 16, 6, 6), 16)
    high = [
        m.relu(x),
        m.emit("clip", [x], {"min": 0.0, "max": 1.0}),
        m.conv(x, 8, activation="relu"),
    ]
    high += [m.pool(high[0]), m.concat(high[0], high[1])]
    low = [
        x,
        m.emit("tanh", [x]),
        m.emit("clip", [x], {"min": -1.0, "max": 1.0}),
        m.concat(*high, x),
    ]
    low += [m.pool(x), m.emit("neg", [m.relu(x)])]
    p = placed(m, *map(m.pool, (*high, *low)))
    edges = {n.inputs[0]: n.attrs.get("edges") for n in p.graph.nodes if n.op == "max_pool"}
    assert {v: edges[v] for v in high} == dict.fromkeys(high)
    assert {v: edges[v] for v in low} == dict.fromkeys(low, "test")


@pytest.mark.parametrize("name", ["densenet", "nested_concatenations"])
def test_concatenations_cost_nothing(name: str) -> None:
    p = place(fuse(build(name)), BLOCK)
    assert "concat" not in ops_of(p)
    for node in p.graph.nodes:
        if node.op == "join":
            firsts = [p.layouts[part].first for part in node.inputs]
            sizes = [p.layouts[part].own_slots for part in node.inputs]
            start = p.layouts[node.output].first
            assert firsts == [start + sum(sizes[:k]) for k in range(len(sizes))]
            root = p.root(node.output)
            assert {p.root(part) for part in node.inputs} == {root}
            assert {p.layouts[v].lows for v in node.inputs} == {p.layouts[root].lows}


def test_a_second_concatenation_copies() -> None:
    p = place(fuse(build("part_of_two_concatenations")), BLOCK)
    assert sorted(op for op in ops_of(p) if op in ("join", "concat")) == [
        "concat", "concat", "join",
    ]  # fmt: skip


def test_ragged_parts_are_copied_unless_they_come_last(m: Maker) -> None:
    x = m.conv(m.x(1, 3, 4, 4), 16)
    a, b = m.conv(x, 16), m.conv(x, 5)
    p = placed(m, m.concat(a, b), m.concat(m.relu(b), m.relu(a)))
    assert [op for op in ops_of(p) if op in ("join", "concat")] == ["join", "concat"]


@pytest.mark.parametrize(("channels", "batch", "moved"), [(16, 2, 0), (5, 1, 0), (5, 2, 1)])
def test_flattening_one_pixel_moves_nothing_where_it_need_not(
    m: Maker, channels: int, batch: int, moved: int
) -> None:
    x = m.flatten(m.pool(m.conv(m.x(batch, 3, 4, 4), channels), "global_avg_pool"))
    p = placed(m, m.emit("softmax", [x], {"axis": 1}))
    assert steps(p).count("Unpack") == moved
    assert ops_of(p).count("view") == 2 - moved


def test_a_halo_is_not_viewed() -> None:
    p = place(fuse(build("from_a_halo_into_another")), BLOCK)
    names = [n.output.name for n in p.graph.nodes if n.op == "convert"]
    assert any(name.endswith(":plain") for name in names)
    for node in p.graph.nodes:
        if node.op == "view":
            assert not any(p.layouts[v].has_halo for v in (node.inputs[0], node.output))


def test_kernels_read_and_write_the_callers_tensors(m: Maker) -> None:
    x = m.x(2, 3, 4)
    p = placed(m, m.emit("softmax", [m.reshape(x, 2, 12)], {"axis": 1}))
    (step,) = lower(p).plan.steps
    assert isinstance(step, KernelStep)
    assert [(a.space, a.shape) for a in step.arguments] == [("input", (2, 12)), ("output", (2, 12))]


def test_an_output_that_is_read_again_is_copied(m: Maker) -> None:
    y = m.emit("softmax", [m.x(2, 12)], {"axis": 1})
    z = m.emit("softmax", [y], {"axis": 1})
    plan = lower(placed(m, y, z, m.reshape(z, 12, 2))).plan
    assert [type(s) for s in plan.steps] == [KernelStep] * 2 + [UnpackStep] * 3
    assert {a.space for s in plan.steps[:2] for a in s.arguments} == {"input", "arena"}


def test_an_input_that_is_read_with_padding_is_copied_once(m: Maker) -> None:
    x = m.x(1, 3, 8, 8)
    p = placed(m, m.conv(x, 8, 3), m.conv(x, 8, 5), m.conv(x, 8))
    assert ops_of(p).count("convert") == 1
    assert p.layouts[x].is_plain


def test_equal_kernels_are_compiled_once_and_weights_kept_once(m: Maker) -> None:
    x = m.x(1, 16, 4, 4)
    weight = m.constant(16, 16, 1, 1)
    attrs = {"problem": "conv2d:1x16x4x4:16x1x1"}
    for _ in range(3):
        x = m.emit("conv", [x, weight], attrs)
    lowered = lower(placed(m, x))
    assert len(lowered.kernels) == 1
    assert len(lowered.weights.image()) == 16 * 16 * 4


def test_inputs_and_constants_are_copied_to_outputs(m: Maker) -> None:
    x = m.x(2, 3)
    p = placed(m, x, m.constant(4), x)
    assert [type(step) for step in lower(p).plan.steps] == [CopyStep] * 3


def test_output_names_are_kept_to_the_letter() -> None:
    x, y = Value("in:0", (1, 4)), Value("Identity:0", (1, 4))
    graph = Graph("g", [x], [y], [Node("relu", [x], y)])
    plan = lower(place(fuse(graph), BLOCK)).plan
    assert [port.name for port in (*plan.inputs, *plan.outputs)] == ["in:0", "Identity:0"]


def test_resnet50_is_convolutions_and_pools() -> None:
    """A kernel for each of 53 convolutions, 2 pools, dense layer, softmax; the input is moved."""
    plan = lower(place(fuse(load(light_path("light_resnet50"))), BLOCK)).plan
    kinds = [type(step) for step in plan.steps]
    assert kinds.count(KernelStep) == 57
    assert (kinds.count(PackStep), kinds.count(UnpackStep)) == (1, 0)
    assert kinds.count(BorderStep) == 16 + 1  # for each 3x3 convolution, and for the max pool
