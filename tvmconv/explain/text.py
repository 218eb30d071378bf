"""Explanations as text: sections of lines and tables."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from io import StringIO
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console


@dataclass(frozen=True)
class Section:
    """A part of an explanation.

    Attributes
    ----------
    title : str
    lines : tuple of str
        Before the table.
    columns, rows
        The table; none if there are no columns. A column that begins with a number is aligned to
        the right.
    notes : tuple of str
        After the table.
    """

    title: str
    lines: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()
    rows: tuple[tuple[object, ...], ...] = ()
    notes: tuple[str, ...] = ()


def render(sections: Iterable[Section], console: Console | None = None) -> str:
    """Write sections as text for a console, or as plain text that breaks no lines.

    No line ends in spaces.
    """
    if console is None:
        from rich.console import Console

        console = Console(
            file=StringIO(), width=1000, color_system=None, markup=False, highlight=False
        )
    with console.capture() as capture:
        for number, section in enumerate(sections):
            if number:
                console.print()
            console.print(section.title, style="bold")
            for line in section.lines:
                console.print(line, soft_wrap=True)
            if section.columns:
                _print_table(console, section)
            for line in section.notes:
                console.print(line, soft_wrap=True)
    return "\n".join(line.rstrip() for line in capture.get().splitlines())


def _print_table(console: Console, section: Section) -> None:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="dim")
    for position, column in enumerate(section.columns):
        numeric = isinstance(section.rows[0][position], (int, float))
        table.add_column(column, justify="right" if numeric else "left", overflow="fold")
    for row in section.rows:
        table.add_row(*map(_cell, row))
    console.print(table)


def _cell(value: object) -> str:
    if isinstance(value, int):
        return count(value)
    if isinstance(value, float):
        return digits(value)
    # A model's names can hold what a terminal would obey.
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in str(value))


def count(number: int) -> str:
    """A whole number with its thousands apart: ``"36,928"``."""
    return f"{number:,}"


def digits(value: float) -> str:
    """A number with three significant digits, in full: ``"0.0123"``, ``"1,950"``."""
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    rounded = float(f"{value:.3g}")
    places = max(0, 2 - math.floor(math.log10(abs(rounded))))
    return f"{rounded:,.{places}f}"


def scaled(number: float) -> str:
    """A number in thousands, millions or billions: ``"25.5 M"``."""
    scales = ((1e9, " G"), (1e6, " M"), (1e3, " k"))
    scale, unit = next((pair for pair in scales if number >= pair[0]), (1.0, ""))
    return digits(number / scale) + unit


def duration(seconds: float) -> str:
    """A time in the unit in which it is from 1 to 1000: ``"26.9 µs"``."""
    scales = ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs"))
    scale, unit = next((pair for pair in scales if seconds >= pair[0]), (1e-9, "ns"))
    return f"{digits(seconds / scale)} {unit}"


def sizes(shape: Iterable[object]) -> str:
    """A shape: ``"1x64x56x56"``."""
    return "x".join(map(str, shape))


def times(part: float, whole: float) -> str:
    """How many times fewer or more ``part`` is than ``whole``."""
    if not part or not whole:
        return ""
    if part == whole:
        return "the same"
    ratio = whole / part
    return f"{digits(ratio)}× fewer" if ratio > 1 else f"{digits(1 / ratio)}× more"


def shortened(items: list[str], total: int, *last: str) -> str:
    """The first items of a list of so many: ``"3, 5, 7"`` or ``"0, 1, 2, … 223"``."""
    if total <= len(items):
        return ", ".join(items)
    return f"{', '.join(items[:3])}, …{''.join(f' {item}' for item in last)}"


def listed(numbers: range) -> str:
    """Whole numbers in rising order, shortened if there are many."""
    last = [str(numbers[-1])] if numbers else []
    return shortened([str(n) for n in numbers[:8]], len(numbers), *last)
