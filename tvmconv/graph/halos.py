"""Which kernels read a halo around their input, how wide it is, and what it holds."""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import replace
from math import prod
from typing import Any

from tvmconv.graph.fuse import FAMILY
from tvmconv.graph.ir import Graph, Node, Value
from tvmconv.ops import conv, phases, winograd
from tvmconv.problem import Problem

#: A tensor that is so many times larger with its halo than with a narrow one costs more to fill,
#: and takes more of the caches, than is lost by small tiles.
_WIDE = 1.3


def window_halo(attrs: Mapping[str, Any]) -> tuple[list[int], list[int]]:
    """How far a node of a problem reads beyond its input, before and after each axis."""
    problem = Problem.parse(attrs["problem"])
    if outputs := winograd.tile_outputs(problem):
        return winograd.halo(problem, outputs)
    if problem.family.transposed:
        return phases.halo(problem)
    if not problem.kernel or not problem.family.windows:
        return [0] * problem.rank, [0] * problem.rank
    lows, highs = _whole_halo(problem)
    if attrs.get("edges") == "skip":
        reach = conv.reach(problem)
        return list(map(min, lows, reach)), list(map(min, highs, reach))
    return lows, highs


def _whole_halo(problem: Problem) -> tuple[list[int], list[int]]:
    """As :func:`window_halo`, for windows that read all of their padding."""
    highs = [
        max(0, (out - 1) * stride + extent - low - size)
        for out, stride, extent, low, size in zip(
            problem.out_spatial, problem.stride, problem.kernel_extent, problem.pads_low,
            problem.in_spatial, strict=True,
        )
    ]  # fmt: skip
    return list(problem.pads_low), highs


def skip_edges(graph: Graph) -> Graph:
    """Let convolutions whose padding is a good part of their input skip the taps that lie in it.

    A narrow halo does for them. Only schedules of CPUs skip taps.
    """
    nodes = [
        replace(node, attrs={**node.attrs, "edges": "skip"}) if _has_wide_halo(node) else node
        for node in graph.nodes
    ]
    return replace(graph, nodes=nodes)


def _has_wide_halo(node: Node) -> bool:
    """Whether a convolution's input with its halo is much larger than with a narrow one."""
    if node.op != "conv":
        return False
    problem = Problem.parse(node.attrs["problem"])
    if winograd.tile_outputs(problem):
        return False
    sizes = problem.in_spatial
    whole = zip(sizes, *_whole_halo(problem), strict=True)
    narrow = zip(sizes, *window_halo({**node.attrs, "edges": "skip"}), strict=True)
    return prod(map(sum, whole)) > _WIDE * prod(map(sum, narrow))


def halo_fill(attrs: Mapping[str, Any]) -> int:
    """What a node of a problem expects in its halo: the zero point of quantised numbers, or 0."""
    return int(Problem.parse(attrs["problem"]).option("zero_point") or 0)


def reads_halo(node: Node) -> bool:
    """Whether a node reads beyond its input."""
    if node.op not in FAMILY or node.attrs.get("edges") == "test":
        return False
    return any(map(any, window_halo(node.attrs)))


def tests_edges(node: Node, positive: Container[Value]) -> bool:
    """Whether a maximum must not see the halo's zeros: its input may be negative."""
    return node.op == "max_pool" and node.inputs[0] not in positive and reads_halo(node)


def non_negative(graph: Graph) -> set[Value]:
    """Values known to have no negative element: for them zeros pad a maximum rightly."""
    known: set[Value] = set()
    for node in graph.nodes:
        program = node.attrs.get("program", [])
        last: dict[str, Any] = program[-1] if program else {}
        activation = ""
        if node.op in FAMILY:
            activation = Problem.parse(node.attrs["problem"]).activation
        clips = last.get("op") == "clip" and min(last["min"], last["max"]) >= 0
        made = last.get("op") in ("relu", "sigmoid", "hard_sigmoid") or clips
        made = made or (not program and activation in ("relu", "relu6", "sigmoid"))
        keeps = node.op in ("max_pool", "avg_pool", "global_avg_pool", "concat", "convert")
        keeps = keeps and not program and all(v in known for v in node.inputs)
        if made or keeps:
            known.add(node.output)
    return known
