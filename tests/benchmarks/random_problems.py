"""Random problems of the whole family, compiled and run as users do it, against NumPy.

    python -m tests.benchmarks.random_problems 2000 [--first NUMBER] [--json FILE]

Every operator, element type, algorithm and padding mode, with weights that are constants or come
at run time; each is held to the error formula, and to equality on integers where nothing rounds.
Several are compiled to one library. Prints what is refused or wrong with its number, by which
``--first NUMBER`` and a count of 1 draw it again, and a table.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
from rich.console import Console
from rich.table import Table

import tvmconv
from tests.kernels import trials
from tests.strategies import random_member
from tvmconv import ops
from tvmconv.accuracy import Trial
from tvmconv.errors import InputError
from tvmconv.frontend.problems import graph_of
from tvmconv.graph.ir import Graph
from tvmconv.ops import Array, winograd
from tvmconv.problem import Problem

MAX_FLOPS = 400_000
#: Problems that are compiled together.
BATCH = 25
COLUMNS = ("passed", "refused", "wrong")


@dataclass
class Drawn:
    """A problem with its inputs.

    Attributes
    ----------
    number : int
    problem : Problem
    trials : list of Trial
        One for each run.
    constants : tuple of str
        The inputs that are constants; these have one trial.
    """

    number: int
    problem: Problem
    trials: list[Trial]
    constants: tuple[str, ...]

    @classmethod
    def of(cls, number: int, seed: int) -> Drawn:
        """Draw a problem."""
        rng = np.random.default_rng([seed, number])
        problem = random_member(rng, MAX_FLOPS)
        found = trials(problem, number)
        packs = winograd.tile_outputs(problem) or ops.get(problem.op).packed_weight is None
        if not (packs or rng.integers(2)):
            return cls(number, problem, found, ())
        names = tuple(name for name in problem.inputs if name != "x")
        return cls(number, problem, [found[rng.integers(len(found))]], names)

    def trial(self, run: int) -> Trial:
        """What a run computes; runs beyond the last trial repeat it."""
        return self.trials[min(run, len(self.trials) - 1)]

    def feeds(self, run: int) -> dict[str, Array]:
        """The inputs of a run, by their names in :func:`joined`."""
        arrays = self.trial(run).arrays
        return {f"{self.number}.{k}": v for k, v in arrays.items() if k not in self.constants}


def joined(drawn: Iterable[Drawn]) -> Graph:
    """One graph of independent problems, each value and node with the problem's number."""
    graph = Graph("problems", [], [], [])
    for one in drawn:
        arrays = one.trial(0).arrays
        part = graph_of(one.problem.text, {name: arrays[name] for name in one.constants})
        (node,) = part.nodes
        node.name = f"{one.number}."
        for value in (*node.inputs, node.output):
            value.name = f"{one.number}.{value.name}"
        graph.inputs += part.inputs
        graph.outputs += part.outputs
        graph.nodes += part.nodes
    return graph


def checked(drawn: Sequence[Drawn]) -> list[str]:
    """What is wrong with each problem, compiled together: empty for nothing.

    Raises
    ------
    InputError
        If one is refused.
    """
    module = tvmconv.compile(joined(drawn), threads=1 + drawn[0].number // BATCH % 2, tuned=False)
    rules = {
        step["name"].partition(".")[0]: step["algorithm"]
        for step in module.metadata["steps"]
        if "algorithm" in step
    }
    messages = [""] * len(drawn)
    for run in range(2):
        outputs = module({k: v for one in drawn for k, v in one.feeds(run).items()})
        for place, (one, y) in enumerate(zip(drawn, outputs, strict=True)):
            report = one.trial(run).check(y, rules.get(str(one.number), "direct"))
            if not report.passed:
                messages[place] = report.message
    return messages


def outcomes(drawn: Sequence[Drawn]) -> list[tuple[str, str]]:
    """What becomes of each problem, one of :data:`COLUMNS`, and why."""
    try:
        return [("wrong", why) if why else ("passed", "") for why in checked(drawn)]
    except Exception as error:  # noqa: BLE001  # what TVM raises is a finding as well
        if len(drawn) > 1:
            return [outcome for one in drawn for outcome in outcomes([one])]
        why = str(error).strip().splitlines()[-1]
        return [("refused" if isinstance(error, InputError) else "wrong", why)]


def table(results: dict[str, Counter[str]], title: str) -> Table:
    """The counts of each operator, and of all."""
    found = Table(title=title)
    found.add_column("operator")
    for name in ("drawn", *COLUMNS):
        found.add_column(name, justify="right")
    everything = sum(results.values(), Counter[str]())
    for name, counts in (*sorted(results.items()), ("all", everything)):
        if name == "all":
            found.add_section()
        found.add_row(name, str(counts.total()), *(str(counts[column]) for column in COLUMNS))
    return found


@click.command()
@click.argument("count", type=int, default=2000)
@click.option("--first", type=int, default=0, help="Number of the first problem.")
@click.option("--seed", type=int, default=0)
@click.option("--json", "file", type=Path, help="Counts to add to, for a run in parts.")
def main(count: int, first: int, seed: int, file: Path | None) -> None:
    """Check COUNT problems."""
    console = Console(width=100, soft_wrap=True, highlight=False)
    before: dict[str, Any] = json.loads(file.read_text()) if file and file.exists() else {}
    results = {name: Counter(counts) for name, counts in before.items()}
    for start in range(first, first + count, BATCH):
        numbers = range(start, min(start + BATCH, first + count))
        drawn = [Drawn.of(number, seed) for number in numbers]
        for one, (result, why) in zip(drawn, outcomes(drawn), strict=True):
            results.setdefault(one.problem.op, Counter())[result] += 1
            if result != "passed":
                console.print(f"{one.number} {result}: {one.problem}: {why}", markup=False)
    if file:
        file.write_text(json.dumps(results))
    everything = sum(results.values(), Counter[str]())
    console.print(table(results, f"{everything.total()} random problems, seed {seed}"))
    raise SystemExit(int(everything["wrong"] > 0))


if __name__ == "__main__":
    main()
