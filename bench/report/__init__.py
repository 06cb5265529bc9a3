"""The report: a data frame of the view `results` in, a table out. Knows neither the store nor torch."""

from __future__ import annotations

from bench.epsilon import epsilon_text
from bench.report.compare import compare_text
from bench.report.curve import Curve, svg
from bench.report.layout import Entry, Sheet, Table
from bench.report.outdone import with_outdone
from bench.report.render import FORMATS, render

__all__ = [
    "FORMATS",
    "Curve",
    "Entry",
    "Sheet",
    "Table",
    "compare_text",
    "epsilon_text",
    "render",
    "svg",
    "with_outdone",
]
