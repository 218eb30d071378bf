"""Rewrites of an imported graph that every target wants, one file each, in the order of ``PASSES``.

Each takes a graph and returns one that computes the same within rounding, with the same inputs and
outputs.
"""

from __future__ import annotations

from collections.abc import Callable

from tvmconv.frontend.limits import ConstantBudget
from tvmconv.frontend.simplify import activations, affine, noops, pads, pools, quantised, shuffle
from tvmconv.graph.ir import Graph, Value

Pass = Callable[[Graph, ConstantBudget], Graph]

#: No-ops go first and last: they hide patterns, and other rewrites leave some behind.
PASSES: tuple[Pass, ...] = (
    noops.run,
    quantised.run,
    activations.run,
    shuffle.run,
    affine.run,
    pads.run,
    pools.run,
    noops.run,
)


def simplify(graph: Graph, budget: ConstantBudget | None = None) -> Graph:
    """Run all passes.

    Parameters
    ----------
    graph : Graph
        Not changed.
    budget : ConstantBudget, optional
        How many bytes of constants may be made; folding stops where it ends.

    Returns
    -------
    Graph
    """
    budget = budget or ConstantBudget(graph.name)
    for run in PASSES:
        graph = run(graph, budget)
    _make_names_unique(graph)
    return graph


def _make_names_unique(graph: Graph) -> None:
    """Rename values that rewrites have made where a file happens to use the same name."""
    values = [*graph.inputs, *graph.outputs]
    for node in graph.nodes:
        values += [node.output, *node.inputs]
    owners: dict[str, Value] = {}
    for value in values:
        name, count = value.name, 0
        while owners.setdefault(value.name, value) is not value:
            count += 1
            value.name = f"{name}.{count}"
