"""Pages to browse results: data in, HTML out. Knows neither the store nor torch."""

from __future__ import annotations

from bench.view.bundle import write_bundle
from bench.view.pages import CellData, Pages, Site
from bench.view.serve import make_server

__all__ = ["CellData", "Pages", "Site", "make_server", "write_bundle"]
