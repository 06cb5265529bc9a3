"""How every picture looks: a paper's widths and fonts, colours that survive greyscale and colour blindness."""

from __future__ import annotations

import io
import re
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Form = Literal["svg", "png", "pdf"]
FORMS: tuple[Form, ...] = ("svg", "png", "pdf")
WIDTHS = {"column": 3.4, "page": 6.9}  # inches: one column, and the text width, of a two-column paper
COLOURS = ("#0072b2", "#d55e00", "#000000", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")  # Okabe and Ito
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "*")
DASHES = ("-", "--", "-.", (0, (1, 1.2)), (0, (5, 1.5, 1, 1.5, 1, 1.5)))
GREY = "#767676"
SETTINGS: dict[str, Any] = {
    "font.family": "sans-serif",
    "font.size": 8,
    "axes.titlesize": 8.5,
    "axes.labelsize": 8,
    "xtick.labelsize": 7.5,
    "ytick.labelsize": 7.5,
    "legend.fontsize": 7.5,
    "legend.frameon": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.6,
    "lines.linewidth": 1.3,
    "lines.markersize": 4,
    "figure.constrained_layout.use": True,
    "savefig.dpi": 200,
    "svg.fonttype": "none",
    "svg.hashsalt": "purification-bench",
    "pdf.fonttype": 42,
    "text.parse_math": False,  # names come from users: a dollar is a dollar
    "text.usetex": False,
}


class MissingMatplotlib(LookupError):
    """matplotlib is not installed."""


@contextmanager
def styled() -> Iterator[None]:
    """While it lasts, matplotlib draws and writes in our style, whatever the user's own settings are.

    Raises:
        MissingMatplotlib: it is not installed.
    """
    try:
        import matplotlib
    except ImportError as error:
        raise MissingMatplotlib(
            "Pictures need matplotlib, which is not installed. Try: pip install 'purification-bench[plot]'."
        ) from error
    import logging

    logging.getLogger("matplotlib.font_manager").setLevel(logging.ERROR)  # a glyph that one font lacks is no news
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        settings: Any = matplotlib.rcParams  # its type names every setting of one version
        settings.update(SETTINGS)
        yield


def new_figure(width: float, height: float) -> Figure:
    """An empty figure, in inches; it belongs to no window and no global list."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), facecolor="white")


def line_style(number: int) -> dict[str, Any]:
    """Colour, marker and dashes of the n-th line: each of the three tells the first lines apart by itself."""
    return {
        "color": COLOURS[number % len(COLOURS)],
        "marker": MARKERS[number % len(MARKERS)],
        "linestyle": DASHES[number % len(DASHES)],
    }


def clean_text(text: object) -> str:
    """A user's text as one line that every format can hold: control characters become spaces."""
    return re.sub(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]+", " ", str(text)).strip()


def wrap(text: object, letters: int) -> str:
    """A user's text in lines of at most so many letters."""
    return "\n".join(textwrap.wrap(clean_text(text), letters))


def check_form(form: str) -> Form:
    """The form by its name or a file's ending; ValueError lists those that there are."""
    for known in FORMS:
        if form.lower().lstrip(".") == known:
            return known
    raise ValueError(f"Expected a picture that ends in {', '.join(FORMS)}, got {form!r}.")


def write(figure: Figure, form: Form, description: str = "") -> bytes:
    """The figure as a file; the same figure gives the same bytes.

    Args:
        figure: drawn inside of `styled`.
        form: "svg", "png" or "pdf".
        description: kept in the file, where the form can.
    """
    kept: dict[str, Any] = {
        "svg": {"Date": None, "Creator": None, "Description": description or None},
        "png": {"Software": None, "Description": description or None},
        "pdf": {"CreationDate": None, "ModDate": None, "Subject": description or None},
    }[form]
    buffer = io.BytesIO()
    figure.savefig(buffer, format=form, metadata=kept)
    data = buffer.getvalue()
    if form != "svg":
        return data
    text = "\n".join(line.rstrip() for line in data.decode().splitlines())
    return (text[text.index("<svg") :].rstrip() + "\n").encode()
