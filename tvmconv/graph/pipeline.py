"""The graph passes, in the order in which they run, as passes over Relax modules.

Each is a ``tvm.transform.module_pass`` whose input and output have the form of
:func:`~tvmconv.graph.relax.to_relax`, so that TVM's own passes and instruments work between them::

    with tvm.transform.PassContext(instruments=[tvm.ir.instrument.PrintAfterAll()]):
        module = tvmconv.compile("model.onnx")

and an own pass can run after fusion, before layouts are chosen::

    passes = tvm.transform.Sequential([*fusion_passes(), graph_pass("Mine", rewrite)])
    graph = from_relax(passes(to_relax(tvmconv.frontend.load("model.onnx"))))
    module = tvmconv.compile(graph, fused=True)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from tvmconv._tvm import TVMObject, relax, tvm
from tvmconv.graph import fuse, layout
from tvmconv.graph.gate_kernels import choose_gates
from tvmconv.graph.halos import skip_edges
from tvmconv.graph.ir import Graph
from tvmconv.graph.relax import from_relax, to_relax
from tvmconv.graph.separable import Prices, fuse_separable
from tvmconv.graph.upsampled import join_upsampled
from tvmconv.kernel import KernelSpec


def graph_pass(name: str, rewrite: Callable[[Graph], Graph]) -> TVMObject:
    """Make a pass over Relax modules of a function over graphs.

    Parameters
    ----------
    name : str
        By which instruments and ``disabled_pass`` know it.
    rewrite : callable
        May change the graph that it gets.

    Returns
    -------
    ModulePass
    """

    @tvm.transform.module_pass(opt_level=0, name=name)  # type: ignore[untyped-decorator]
    def transform(module: TVMObject, context: TVMObject) -> TVMObject:
        return to_relax(rewrite(from_relax(module)))

    return transform


def fusion_passes() -> list[TVMObject]:
    """Passes after which all elementwise work is part of the kernels that feed it."""
    return [graph_pass(name, rewrite) for name, rewrite in fuse.REWRITES]


class Choices(Prices, Protocol):
    """Makes the choices that the passes leave to measurements or a model."""

    def algorithm(self, spec: KernelSpec) -> str:
        """Name of the algorithm of a convolution."""


def layout_passes(
    block: int, choices: Choices | None, skips_padding: bool = False
) -> list[TVMObject]:
    """Passes after which every value has its layout; see :func:`optimized`."""

    def choose_algorithms(graph: Graph) -> Graph:
        return layout.choose_algorithms(graph, choices.algorithm) if choices else graph

    def join_enlarged(graph: Graph) -> Graph:
        return join_upsampled(graph, block, choices) if choices else graph

    def join_separable(graph: Graph) -> Graph:
        return fuse_separable(graph, block, choices) if choices else graph

    skipping = [graph_pass("SkipEdges", skip_edges)] if skips_padding else []
    return [
        graph_pass("JoinUpsampled", join_enlarged),
        *skipping,
        graph_pass("ChooseGates", lambda graph: choose_gates(graph, block, choices)),
        graph_pass("FuseSeparable", join_separable),
        graph_pass("AssignForms", lambda graph: layout.assign_forms(graph, block, choices)),
        graph_pass("ChooseAlgorithms", choose_algorithms),
        graph_pass("AssignHalos", layout.assign_halos),
        graph_pass("ShareConcatenations", layout.share_concatenations),
        graph_pass("ShareViews", layout.share_views),
    ]


def optimized(
    graph: Graph,
    block: int,
    choices: Choices | None = None,
    *,
    fused: bool = False,
    skips_padding: bool = False,
) -> TVMObject:
    """Run the passes.

    Parameters
    ----------
    graph : Graph
    block : int
        Channels in a block.
    choices : Choices, optional
        Without them all convolutions are direct, and on blocks.
    fused : bool
        Whether the graph has been through fusion.
    skips_padding : bool
        Whether schedules can skip taps that lie in padding.

    Returns
    -------
    IRModule
        Every binding carries the layout of its result.
    """
    passes = [] if fused else fusion_passes()
    passes += [relax.transform.DeadCodeElimination(), *layout_passes(block, choices, skips_padding)]
    return tvm.transform.Sequential(passes, name="tvmconv")(to_relax(graph))
