"""The options by which a command takes the layers of a suite besides models and problems."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click

from tvmconv.cli._options import model_source
from tvmconv.errors import InputError
from tvmconv.layers import SUITES, Layer, suite

_METAVAR = "MODEL.onnx|PROBLEM..."


def models_or_suite(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the argument ``models`` and the options ``suite_name`` and ``filter``."""
    for decorate in (
        click.option(
            "--filter",
            metavar="TEXT",
            default="",
            help="Only layers of the suite whose origin or problem contains TEXT.",
        ),
        click.option(
            "--suite",
            "suite_name",
            type=click.Choice(list(SUITES)),
            help="Layers of real networks: of classification and detection, of the whole family of"
            " convolutions, or six of ResNet-50.",
        ),
        click.argument("models", metavar=_METAVAR, nargs=-1),
    ):
        command = decorate(command)
    return command


def sources(models: Sequence[str], suite_name: str | None, filter: str) -> list[str | Path | Layer]:
    """Collect what a command is to work on: what is named, then the suite's layers.

    Raises
    ------
    click.MissingParameter
        If nothing is named.
    InputError
        If a model or problem is none, no layer passes the filter, or there is no suite to filter.
    """
    if filter and not suite_name:
        raise InputError("--filter needs --suite")
    if not models and not suite_name:
        raise click.MissingParameter(param_type="argument", param_hint=f"'{_METAVAR}' or --suite")
    layers = suite(suite_name, filter) if suite_name else ()
    return [*map(model_source, models), *layers]
