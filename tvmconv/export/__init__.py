"""A folder with everything that a program on a board needs of a model."""

from __future__ import annotations

from tvmconv.export.export import ExportReport, export_model

__all__ = ["ExportReport", "export_model"]
