"""Reports as web pages: one file each that needs nothing else, neither to be shown nor to be kept.

Plots are Plotly's, whose script is in the page; the figures are plain data, which the page's script
draws. A page is made of a report's ``to_json()``: what ``--json`` writes is all that it shows.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol


class Reported(Protocol):
    """A report that can be written as JSON."""

    def to_json(self) -> dict[str, Any]:
        """Give the whole report as JSON-able data."""


def require_report() -> None:
    """Find out before long work whether the packages that draw reports are installed.

    Raises
    ------
    EnvironmentError_
        If one is not.
    """
    from tvmconv.report.page import load_packages

    load_packages()


def write_bench_report(path: Path, report: Reported) -> None:
    """Write a benchmark as a page: the roofline, the ratios to the libraries, where time goes.

    Parameters
    ----------
    path : Path
        Appears whole or not at all.
    report : BenchReport

    Raises
    ------
    EnvironmentError_
        If a package is missing, or the file cannot be written.
    """
    from tvmconv.report.bench import bench_page
    from tvmconv.report.page import write_page

    write_page(path, bench_page(report.to_json()))


def write_tune_report(path: Path, report: Reported) -> None:
    """Write a tuning run as a page: what it gained, the curves, where time goes, the roofline.

    Parameters
    ----------
    path : Path
        Appears whole or not at all.
    report : TuneReport

    Raises
    ------
    EnvironmentError_
        If a package is missing, or the file cannot be written.
    """
    from tvmconv.report.page import write_page
    from tvmconv.report.tune import tune_page

    write_page(path, tune_page(report.to_json()))
