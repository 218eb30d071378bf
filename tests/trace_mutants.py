"""Random changes of a trace, as somebody who means harm or a disk that fails could make them."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable
from typing import Any


def mutated(rng: random.Random, trace: Any) -> Any:
    """A trace with one to three random changes."""
    instructions = copy.deepcopy(trace[0])
    for _ in range(rng.choice([1, 1, 2, 3])):
        rng.choice(CHANGES)(rng, instructions, rng.randrange(len(instructions)))
    return [instructions, []]


def known(instructions: list[Any], place: int, letter: str) -> list[str]:
    """The names that are defined before a place."""
    names = [name for entry in instructions[:place] for name in entry[3] if name[0] == letter]
    return names or [f"{letter}0"]


def change_input(rng: random.Random, instructions: list[Any], place: int) -> None:
    inputs = instructions[place][1]
    for position in rng.sample(range(len(inputs)), min(1, len(inputs))):
        value = inputs[position]
        sizes = [1, 2, 3, 7, 16, 1000, 1 << 29, "None", 0, -1]
        named = isinstance(value, str) and value != "None"
        choices = known(instructions, place, value[0]) if named else sizes
        inputs[position] = rng.choice(choices)


def change_attribute(rng: random.Random, instructions: list[Any], place: int) -> None:
    attributes = instructions[place][2]
    for position in rng.sample(range(len(attributes)), min(1, len(attributes))):
        attributes[position] = rng.choice([0, 1, True, False, -1, 7, None, "local", "global"])


def drop(rng: random.Random, instructions: list[Any], place: int) -> None:
    if len(instructions) > 2:
        del instructions[place]


def repeat(rng: random.Random, instructions: list[Any], place: int) -> None:
    instructions.insert(place, copy.deepcopy(rng.choice(instructions)))


def swap(rng: random.Random, instructions: list[Any], place: int) -> None:
    other = rng.randrange(len(instructions))
    instructions[place], instructions[other] = instructions[other], instructions[place]


def insert(rng: random.Random, instructions: list[Any], place: int) -> None:
    loops, blocks = known(instructions, place, "l"), known(instructions, place, "b")
    names = [str(number) for number in rng.sample(range(50_000, 90_000), 2)]
    made = [f"l{name}" for name in names]
    some = rng.sample(loops, rng.randint(1, min(4, len(loops))))
    loop, block, start = rng.choice(loops), rng.choice(blocks), rng.randrange(len(loops))
    new: list[Any] = rng.choice(
        [
            ["Parallel", [loop], [], []],
            ["Vectorize", [loop], [], []],
            ["Unroll", [loop], [], []],
            ["Reorder", some, [], []],
            ["Split", [loop, "None", rng.randint(1, 16)], [True, False], made],
            ["Fuse", loops[start : start + rng.randint(1, 3)], [1], made[:1]],
            ["ComputeAt", [block, loop], [rng.randint(0, 1), -1], []],
            ["SetScope", [block], [rng.randint(0, 1), rng.choice(["local", "global"])], []],
            ["DecomposeReduction", [block, loop], [], [f"b{names[0]}"]],
        ]
    )
    instructions.insert(place, new)


CHANGES: list[Callable[[random.Random, list[Any], int], None]]
CHANGES = [change_input, change_input, change_attribute, drop, repeat, swap, insert, insert]
