"""The files that a command writes beside what it prints."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from tvmconv.cli._output import print_json, to_json
from tvmconv.errors import InputError
from tvmconv.files import check_output_file, replacing

_STDOUT = Path("-")

json_file_option: Callable[[Any], Any] = click.option(
    "--json",
    "json_file",
    metavar="F",
    type=click.Path(path_type=Path),
    help="Write the figures as JSON to F; `-` prints them instead of the text.",
)
page_option: Callable[[Any], Any] = click.option(
    "--report",
    "page",
    metavar="F.html",
    type=click.Path(path_type=Path),
    help="Write a page with plots to F.html.",
)


def check_files(**files: Path | None) -> None:
    """Refuse before long work what could not be written after it.

    Parameters
    ----------
    **files : Path, optional
        By what they will hold.

    Raises
    ------
    InputError
        If two are the same.
    EnvironmentError_
        If one cannot be written.
    """
    kinds: dict[Path, str] = {}
    for kind, path in files.items():
        if path is None or path == _STDOUT:
            continue
        if path in kinds:
            raise InputError(f"{path}: is both the {kinds[path]} and the {kind}")
        check_output_file(path)
        kinds[path] = kind


def write_json(data: Any, path: Path | None, print_text: Callable[[], None]) -> None:
    """Print text, or JSON instead; and write the JSON if there is a file for it.

    Parameters
    ----------
    data
        What becomes JSON.
    path : Path, optional
        ``-`` for JSON instead of text.
    print_text : callable
    """
    if path == _STDOUT:
        print_json(data)
        return
    print_text()
    if path is not None:
        write_text(path, to_json(data) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write a file, which appears whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
