"""Where the libraries behind the pages keep the files that browsers load; none of them is part of this repository."""

from __future__ import annotations

import base64
import importlib.util
from pathlib import Path

FILES = {
    "tables.css": ("itables", "html/dt_bundle.css"),
    "tables.js": ("itables", "html/dt_bundle.js"),
    "plotly.js": ("plotly", "package_data/plotly.min.js"),
}
"""File of a site -> (package, file in it)."""


def read_asset(name: str) -> bytes:
    """A file of a library as a site serves it.

    The tables' module becomes a data URL in a plain script: a browser loads no module from a folder.

    Raises:
        LookupError: the package is not installed, or has no such file any more.
    """
    package, inside = FILES[name]
    found = importlib.util.find_spec(package)
    places = list(found.submodule_search_locations or ()) if found else []
    files = [Path(place, inside) for place in places if Path(place, inside).is_file()]
    if not files:
        raise LookupError(
            f"Expected {inside} of the package {package}, found none. pip install 'purification-bench[view]'."
        )
    content = files[0].read_bytes()
    if name != "tables.js":
        return content
    return b'window.tablesModule = "data:text/javascript;base64,' + base64.b64encode(content) + b'";\n'
