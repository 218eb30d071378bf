"""What commands print: tables, JSON, progress. Rich is imported when there is something to show."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from rich.console import Console

#: ``progress(phase, done, total)`` with ``total`` 0 if it is unknown; called by long work.
Progress = Callable[[str, int, int], None]


def finite(value: Any) -> Any:
    """Replace the floats that JSON lacks, NaN and infinities, by None, at any depth."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(item) for item in value]
    return value


def to_json(data: Any) -> str:
    """Format JSON for people and programs alike."""
    return json.dumps(finite(data), indent=2, allow_nan=False)


def print_json(data: Any) -> None:
    """Print JSON."""
    click.echo(to_json(data))


def console() -> Console:
    """Make a console for stdout that shows text as it is and breaks lines only on a terminal."""
    from rich.console import Console

    width = None if sys.stdout.isatty() else 1000
    return Console(width=width, markup=False, highlight=False, emoji=False)


def show(renderable: object) -> None:
    """Print text, or anything that rich can draw."""
    if isinstance(renderable, str):
        click.echo(renderable)
    else:
        console().print(renderable)


def print_table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print rows under column heads; columns of numbers are aligned to the right."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for position, column in enumerate(columns):
        numeric = all(isinstance(row[position], (int, float)) for row in rows)
        table.add_column(column, justify="right" if numeric else "left")
    for row in rows:
        table.add_row(*map(_cell, row))
    out = console()
    with out.capture() as capture:
        out.print(table)
    # Rich fills each line up to the table's width; that would only be in the way of `diff`.
    click.echo("\n".join(line.rstrip() for line in capture.get().splitlines()))


def _cell(value: object) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


@contextmanager
def progress_bar() -> Iterator[Progress | None]:
    """Draw progress on stderr while the block runs, or yield None where that is no terminal."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bar

    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn())
    with Bar(*columns, TimeElapsedColumn(), console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=None)

        def report(phase: str, done: int, total: int) -> None:
            bar.update(task, description=phase, completed=done, total=total or None)

        yield report
