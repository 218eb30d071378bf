"""Random models of one node against ONNX Runtime.

    python -m tests.benchmarks.single_nodes 500 [--first SEED]

Prints every model whose outputs differ, and how many were compared and refused. ONNX Runtime lacks
some operators and attributes, which it refuses; and where the two differ, ONNX's own evaluator is
asked which of them is right.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import click
import numpy as np
import numpy.typing as npt
import onnxruntime as ort
from onnx.reference import ReferenceEvaluator
from onnxruntime.capi import onnxruntime_pybind11_state as errors

import tvmconv
from tests.nodes import Node, random_node
from tvmconv.errors import InputError

Array = npt.NDArray[Any]

_REFUSALS = (errors.Fail, errors.InvalidArgument, errors.InvalidGraph, errors.NotImplemented,
             errors.RuntimeException)  # fmt: skip


def difference(got: Sequence[Array], expected: Sequence[Array]) -> str:
    """How outputs differ; empty if they do not."""
    try:
        for y, wanted in zip(got, expected, strict=True):
            np.testing.assert_allclose(y, wanted, rtol=1e-3, atol=1e-5, strict=True)
    except AssertionError as error:
        return str(error).strip().replace("\n", "; ")
    return ""


def outcome(node: Node, threads: int) -> tuple[str, str]:
    """What becomes of a model, and why."""
    model = node.model()
    options = ort.SessionOptions()
    options.log_severity_level = 4
    try:
        session = ort.InferenceSession(model.SerializeToString(), options)
        expected = session.run(None, node.feeds())
    except _REFUSALS as error:
        return "refused by ONNX Runtime", str(error).splitlines()[0]
    try:
        got = tvmconv.compile(model, threads=threads)(node.feeds())
    except InputError as error:
        return "refused", str(error)
    if not (text := difference(got, expected)):
        return "right", ""
    other = difference(got, ReferenceEvaluator(model).run(None, node.feeds()))
    return ("wrong", f"{text}; {other}") if other else ("right, other than ONNX Runtime", text)


@click.command()
@click.argument("count", type=int, default=500)
@click.option("--first", type=int, default=0, help="The first seed.")
def main(count: int, first: int) -> None:
    """Compare COUNT models."""
    results: Counter[str] = Counter()
    for seed in range(first, first + count):
        node = random_node(seed)
        result, why = outcome(node, 1 + seed % 2)
        results[result] += 1
        if result != "right":
            shapes = [None if a is None else a.shape for a in node.operands]
            click.echo(f"{seed} {result}: {node.op} {node.attributes} {shapes}: {why[:400]}")
    click.echo(", ".join(f"{number} {result}" for result, number in results.most_common()))
    raise SystemExit(int(results["wrong"] > 0))


if __name__ == "__main__":
    main()
