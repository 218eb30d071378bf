"""Traces: what a log keeps of a schedule is replayed exactly, and nothing else is replayed."""

from __future__ import annotations

import copy
import json
import random
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.kernels import host, problem_spec
from tests.trace_mutants import mutated
from tvmconv._tvm import TVMObject, s_tir, tvm
from tvmconv.autoschedule.space import space_for
from tvmconv.autoschedule.trace import MAX_INSTRUCTIONS, replay, to_json, validate
from tvmconv.autoschedule.workload import alternatives
from tvmconv.codegen.kernels import prim_func
from tvmconv.problem import Problem

PROBLEMS = [
    "conv2d:1x20x7x7:24x3x3:padding=1:bias=true:activation=relu",
    "conv2d:1x256x14x14:256x3x3:padding=1:groups=8",
    "conv1d:1x64x100:64x9:dilation=4",
    "conv3d:1x3x8x20x20:32x3x3x3:stride=1,2,2:padding=1",
    "depthwise_conv2d:1x24x17x17:24x3x3:padding=1",
    "separable_conv2d:1x24x12x17:24x3x3:padding=1:inner_activation=relu6",
    "locally_connected2d:2x24x9x8:40x3x3:bias=true",
    "gated_conv1d:1x24x40:24x2:activation=tanh",
    "max_pool2d:1x20x7x7:3x3:stride=2:padding=1",
    "global_avg_pool2d:1x32x7x7",
    "dense:2x64:10",
]


@cache
def kernels() -> dict[str, TVMObject]:
    """Unscheduled kernels by the text of their problem, all algorithms of one."""
    specs = [problem_spec(Problem.parse(text)) for text in PROBLEMS]
    specs += alternatives(problem_spec(Problem.parse("conv2d:1x32x15x15:32x3x3:padding=1")))
    return {spec.attrs["problem"]: prim_func(spec, "main") for spec in specs}


def schedules(name: str, count: int = 4) -> list[TVMObject]:
    """The schedule that the model likes best, and some others."""
    func, space = kernels()[name], space_for(host())
    first, *others = space.candidates(func, host())
    chosen = [first, *random.Random(name).sample(others, min(count - 1, len(others)))]
    return [space.schedule(func, host(), candidate) for candidate in chosen]


@cache
def traces(name: str) -> list[Any]:
    return [to_json(schedule) for schedule in schedules(name)]


CONV = PROBLEMS[0]


def conv_trace() -> Any:
    """A trace that may be changed."""
    return copy.deepcopy(traces(CONV)[0])


@pytest.mark.parametrize("name", kernels())
def test_a_replayed_schedule_is_the_same(name: str) -> None:
    for schedule in schedules(name):
        trace = to_json(schedule)
        assert json.loads(json.dumps(trace)) == trace
        replayed = replay(kernels()[name], trace)
        tvm.ir.assert_structural_equal(schedule.mod, replayed.mod)
        assert to_json(replayed) == trace


def test_an_empty_trace_is_no_schedule_at_all() -> None:
    func = kernels()[CONV]
    tvm.ir.assert_structural_equal(replay(func, [[], []]).mod["main"], func)


def test_a_schedule_that_no_log_may_keep_is_refused_when_it_is_made() -> None:
    sch = s_tir.Schedule(kernels()[CONV])
    sch.annotate(sch.get_child_blocks(sch.get_sblock("root"))[0], "pragma_import_c", "code")
    with pytest.raises(ValueError, match="instruction 2: not of a kind that a trace may have"):
        to_json(sch)


# --- traces that are wrong by themselves


ROOT = ["GetSBlock", [], ["root", "main"], ["b0"]]
BLOCKS = ["GetChildBlocks", ["b0"], [], ["b1", "b2"]]
LOOPS = ["GetLoops", ["b2"], [], ["l3", "l4", "l5", "l6", "l7"]]
HEAD = [ROOT, BLOCKS, LOOPS]
SPLIT = ["Split", ["l5", "None", 2], [True, False], ["l8", "l9"]]


def changed_split(place: int, value: object) -> list[Any]:
    return [*SPLIT[:place], value, *SPLIT[place + 1 :]]


WRONG: dict[str, Any] = {
    "nothing": None,
    "text": "[[], []]",
    "mapping": {"instructions": []},
    "one list": [[]],
    "three lists": [[], [], []],
    "tuples": ([], []),
    "decisions": [[ROOT], [[0, 1]]],
    "decisions of another type": [[ROOT], {}],
    "no list of instructions": [{}, []],
    "too long": [[ROOT] * (MAX_INSTRUCTIONS + 1), []],
    "instruction text": [["GetSBlock"], []],
    "instruction short": [[ROOT[:3]], []],
    "instruction long": [[[*ROOT, []]], []],
    "kind list": [[[[], [], [], []]], []],
    "kind mapping": [[[{}, [], [], []]], []],
    "inputs text": [[["GetSBlock", "", ["root", "main"], ["b0"]]], []],
    "attributes text": [[["GetSBlock", [], "root", ["b0"]]], []],
    "outputs text": [[["GetSBlock", [], ["root", "main"], "b0"]], []],
    "an input too many": [[["GetSBlock", ["b0"], ["root", "main"], ["b0"]]], []],
    "no output": [[["GetSBlock", [], ["root", "main"], []]], []],
    "two outputs": [[["GetSBlock", [], ["root", "main"], ["b0", "b1"]]], []],
    "another function": [[["GetSBlock", [], ["root", "other"], ["b0"]]], []],
    "another block": [[["GetSBlock", [], ["conv", "main"], ["b0"]]], []],
    "attribute list": [[["GetSBlock", [], [["root"], "main"], ["b0"]]], []],
    "unknown block": [[BLOCKS], []],
    "the block itself": [[ROOT, ["GetChildBlocks", ["b1"], [], ["b1"]]], []],
    "a block defined later": [[BLOCKS, ROOT], []],
    "None for a block": [[ROOT, ["GetChildBlocks", ["None"], [], ["b1"]]], []],
    "null for a block": [[ROOT, ["GetChildBlocks", [None], [], ["b1"]]], []],
    "a list for a block": [[ROOT, ["GetChildBlocks", [["b0"]], [], ["b1"]]], []],
    "a loop for a block": [[*HEAD, ["GetLoops", ["l3"], [], ["l8"]]], []],
    "a block for a loop": [[*HEAD, ["Parallel", ["b1"], [], []]], []],
    "a name twice": [[ROOT, ["GetChildBlocks", ["b0"], [], ["b1", "b1"]]], []],
    "a name again": [[ROOT, ["GetChildBlocks", ["b0"], [], ["b0"]]], []],
    "a name of another kind": [[ROOT, ["GetChildBlocks", ["b0"], [], ["l1"]]], []],
    "a name None": [[ROOT, ["GetChildBlocks", ["b0"], [], ["None"]]], []],
    "a long name": [[ROOT, ["GetChildBlocks", ["b0"], [], ["b" + "1" * 1000]]], []],
    "a name with a NUL": [[ROOT, ["GetChildBlocks", ["b0"], [], ["b1\0"]]], []],
    "many names": [[ROOT, ["GetChildBlocks", ["b0"], [], [f"b{k}" for k in range(1, 99)]]], []],
    "an index map": [[*HEAD, changed_split(1, ["l3", '{"root_index":0,"nodes":[]}'])], []],
    "factor 0": [[*HEAD, changed_split(1, ["l3", "None", 0])], []],
    "factor < 0": [[*HEAD, changed_split(1, ["l3", -1, 2])], []],
    "factor huge": [[*HEAD, changed_split(1, ["l3", "None", 1 << 62])], []],
    "factor float": [[*HEAD, changed_split(1, ["l3", "None", 2.0])], []],
    "factor true": [[*HEAD, changed_split(1, ["l3", "None", True])], []],
    "factor null": [[*HEAD, changed_split(1, ["l3", None, 2])], []],
    "factor loop": [[*HEAD, changed_split(1, ["l3", "None", "l4"])], []],
    "no factors": [[*HEAD, changed_split(1, ["l3"])], []],
    "many factors": [[*HEAD, changed_split(1, ["l3", "None", *[1] * 8])], []],
    "no predicates": [[*HEAD, changed_split(2, [True, True])], []],
    "predicates 0": [[*HEAD, changed_split(2, [True, 0])], []],
    "an attribute missing": [[*HEAD, changed_split(2, [True])], []],
    "fuse nothing": [[*HEAD, ["Fuse", [], [1], ["l8"]]], []],
    "fuse true": [[*HEAD, ["Fuse", ["l3", "l4"], [True], ["l8"]]], []],
    "fuse 2": [[*HEAD, ["Fuse", ["l3", "l4"], [2], ["l8"]]], []],
    "scope": [[*HEAD, ["SetScope", ["b1"], [0, "shared"], []]], []],
    "scope buffer": [[*HEAD, ["SetScope", ["b1"], [-1, "local"], []]], []],
    "compute_at index": [[*HEAD, ["ComputeAt", ["b1", "l3"], [1, 7], []]], []],
    "an output of nothing": [[*HEAD, ["Parallel", ["l3"], [], ["l8"]]], []],
    **{
        name: [[*HEAD, [name, inputs, attributes, []]], []]
        for name, inputs, attributes in (
            ("Annotate", ["l3", "1"], ["pragma_import_llvm"]),
            ("Tensorize", ["b1"], ["intrin", 1]),
            ("UnsafeSetDType", ["b1"], [0, "int8"]),
            ("ReverseComputeAt", ["b2", "l3"], [1, -1]),
            ("SampleCategorical", [], [[1], [1.0]]),
            ("EnterPostproc", [], []),
            ("Bind", ["l3"], ["threadIdx.x"]),
            ("nosuch", [], []),
            ("", [], []),
        )
    },
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_no_trace_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=r"^trace: [^\n]+$"):
        validate(WRONG[name])
    with pytest.raises(ValueError, match=r"^trace: [^\n]+$"):
        replay(kernels()[CONV], WRONG[name])


def test_the_message_names_the_instruction() -> None:
    with pytest.raises(ValueError, match=r"^trace: instruction 3: Split: a factor is no size$"):
        validate(WRONG["factor 0"])


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(max_size=2), inner),
)


@given(JSON)
def test_any_json_is_a_trace_or_a_value_error(data: Any) -> None:
    for trace in (data, [data, []], [[data], []], [[*HEAD, data], []]):
        try:
            assert validate(trace) is trace
        except ValueError as error:
            message = str(error)
            assert message.startswith("trace: ")
            assert "\n" not in message


# --- traces that do not fit the kernel, or are of no use


def refusal(trace: Any) -> str:
    with pytest.raises(ValueError, match=r"^trace: [^\n]+$") as caught:
        replay(kernels()[CONV], trace)
    return str(caught.value).removeprefix("trace: ")


@pytest.mark.parametrize(
    ("instructions", "message"),
    [
        ([ROOT, ["GetChildBlocks", ["b0"], [], ["b1"]]], "instruction 1: GetChildBlocks: makes 2"),
        ([*HEAD[:2], ["GetLoops", ["b2"], [], ["l3"]]], "instruction 2: GetLoops: makes 5 values"),
        ([*HEAD, changed_split(1, ["l3", "None", 1 << 30])], "the factors exceed the loop"),
        ([*HEAD, changed_split(1, ["l5", "None", "None"])], "instruction 3: Split: "),
        ([*HEAD, changed_split(1, ["l5", 2, 2])], "instruction 3: Split: "),
        ([*HEAD, changed_split(3, ["l8"])], "makes 2 values, not 1"),
        ([*HEAD, SPLIT, ["Parallel", ["l5"], [], []]], "instruction 4: Parallel: "),
        ([*HEAD, ["Fuse", ["l3", "l5"], [1], ["l8"]]], "instruction 3: Fuse: "),
        ([*HEAD, ["Reorder", ["l3", "l3"], [], []]], "instruction 3: Reorder: "),
        ([*HEAD, ["ComputeAt", ["b0", "l3"], [1, -1], []]], "instruction 3: ComputeAt: "),
        ([*HEAD, ["SetScope", ["b1"], [5, "local"], []]], "instruction 3: SetScope: "),
        ([*HEAD, ["DecomposeReduction", ["b2", "l3"], [], ["b8"]]], "DecomposeReduction: "),
        ([*HEAD, *(["Parallel", [name], [], []] for name in ("l3", "l4"))], "parallel loops in"),
        ([*HEAD, *(["Vectorize", [name], [], []] for name in ("l6", "l7"))], "a loop in a vector"),
        ([*HEAD, ["Vectorize", ["l6"], [], []]], "a loop in a vector"),
    ],
)  # fmt: skip
def test_a_trace_that_does_not_fit_is_refused(instructions: list[Any], message: str) -> None:
    assert message in refusal([instructions, []])


def test_what_would_be_no_use_to_compile_is_refused() -> None:
    fused = ["Fuse", ["l3", "l4", "l5", "l6", "l7"], [1], ["l8"]]
    assert refusal([[*HEAD, fused, ["Vectorize", ["l8"], [], []]], []]) == "vectors of 1568 lanes"
    inner = ["GetLoops", ["b1"], [], [f"l{k}" for k in range(10, 19)]]
    unrolled = [["Unroll", [f"l{k}"], [], []] for k in range(10, 19)]
    assert "times" in refusal([[*HEAD[:2], inner, *unrolled], []])
    deep = [["Split", [f"l{k}", "None", 1], [True, False], [f"l{k + 1}", f"l{k + 500}"]]
            for k in range(7, 80)]  # fmt: skip
    assert refusal([[*HEAD, *deep], []]) == "loops too deep"


def test_a_trace_of_another_kernel_is_refused() -> None:
    refused = 0
    for name, func in kernels().items():
        try:
            replay(func, traces(CONV)[0])
        except ValueError:
            refused += name != CONV
    assert refused > len(kernels()) / 2


# --- random changes


def replay_mutants(seed: int, count: int) -> None:
    """Replay random changes of traces, and print how many were accepted and refused."""
    rng = random.Random(seed)
    names = list(kernels())
    accepted = 0
    for _ in range(count):
        name = rng.choice(names)
        try:
            replay(kernels()[name], mutated(rng, rng.choice(traces(name))))
            accepted += 1
        except ValueError as error:
            if not str(error).startswith("trace: ") or "\n" in str(error):
                raise
    print(accepted, count - accepted)


def test_random_changes_are_replayed_or_refused() -> None:
    code = "from tests.test_trace import replay_mutants; replay_mutants(seed=1, count=350)"
    process = subprocess.run(
        [sys.executable, "-X", "faulthandler", "-c", code],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parent.parent,
    )
    assert process.returncode == 0, process.stderr[-2000:]
    accepted, refused = map(int, process.stdout.split())
    assert accepted > 50
    assert refused > 50
