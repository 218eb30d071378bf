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

from tvmconv._tvm import TVMObject, relax, tvm
from tvmconv.graph import fuse, layout
from tvmconv.graph.ir import Graph
from tvmconv.graph.relax import from_relax, to_relax
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


def layout_passes(block: int, choose: Callable[[KernelSpec], str]) -> list[TVMObject]:
    """Passes after which every value has its layout, in blocks of so many channels.

    ``choose(spec)`` names the algorithm of a convolution.
    """
    return [
        graph_pass("AssignBlocks", lambda graph: layout.assign_channel_blocks(graph, block)),
        graph_pass("ChooseAlgorithms", lambda graph: layout.choose_algorithms(graph, choose)),
        graph_pass("AssignHalos", layout.assign_halos),
        graph_pass("ShareConcatenations", layout.share_concatenations),
        graph_pass("ShareViews", layout.share_views),
    ]


def optimized(
    graph: Graph,
    block: int,
    choose: Callable[[KernelSpec], str] = lambda spec: "direct",
    *,
    fused: bool = False,
) -> TVMObject:
    """Run the passes.

    Parameters
    ----------
    graph : Graph
    block : int
        Channels in a block.
    choose : callable
        ``choose(spec)``: name of the algorithm of a convolution; all are direct if left out.
    fused : bool
        Whether the graph has been through fusion.

    Returns
    -------
    IRModule
        Every binding carries the layout of its result.
    """
    passes = [] if fused else fusion_passes()
    passes += [relax.transform.DeadCodeElimination(), *layout_passes(block, choose)]
    return tvm.transform.Sequential(passes, name="tvmconv")(to_relax(graph))
