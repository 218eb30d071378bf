"""A page: figures and tables as data, and the file they become."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from tvmconv.errors import EnvironmentError_
from tvmconv.files import replacing
from tvmconv.versions import VERSION

TEMPLATE = Path(__file__).with_name("page.html")


@dataclass(frozen=True)
class Tile:
    """One number that sums a report up.

    Attributes
    ----------
    value, label : str
    """

    value: str
    label: str


@dataclass(frozen=True)
class Table:
    """A table of text.

    Attributes
    ----------
    heads : sequence of str
    rows : sequence of sequence of str
    texts : int
        How many columns, from the first on, are text; the others are numbers.
    """

    heads: Sequence[str]
    rows: Sequence[Sequence[str]]
    texts: int = 1


@dataclass(frozen=True)
class Section:
    """A part of a page.

    Attributes
    ----------
    title : str
    text : str
        A sentence or two on how to read it.
    figure : dict, optional
        Plotly's ``data`` and ``layout``.
    table : Table, optional
    folded : bool
        Whether the table is shown only when asked for.
    """

    title: str
    text: str = ""
    figure: dict[str, Any] | None = None
    table: Table | None = None
    folded: bool = False


@dataclass(frozen=True)
class Page:
    """A whole report.

    Attributes
    ----------
    title : str
    lines : sequence of str
        Machine, versions, method.
    tiles : sequence of Tile
    sections : sequence of Section
    """

    title: str
    lines: Sequence[str]
    tiles: Sequence[Tile]
    sections: Sequence[Section]


def load_packages() -> tuple[Any, Any]:
    """Import Jinja's module and Plotly's; EnvironmentError_ if one is not installed."""
    try:
        return import_module("jinja2"), import_module("plotly.offline")
    except ImportError as error:
        raise EnvironmentError_(
            f"a report needs {error.name}, which is not installed; pip install 'tvmconv[report]'"
        ) from error


def render(page: Page) -> str:
    """Make the page's HTML; every text in it is escaped."""
    jinja2, plotly = load_packages()
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    # No NaN: it is no JSON, and it would be a hole in a plot that nobody has asked for.
    environment.policies["json.dumps_kwargs"] = {"allow_nan": False}
    template = environment.from_string(TEMPLATE.read_text(encoding="utf-8"))
    figures = [section.figure for section in page.sections if section.figure]
    html: str = template.render(
        page=page, figures=figures, plotly_js=plotly.get_plotlyjs(), version=VERSION
    )
    return html


def write_page(path: Path, page: Page) -> None:
    """Write a page to a file that appears whole or not at all."""
    html = render(page)
    with replacing(path) as temporary:
        temporary.write_text(html, encoding="utf-8")
