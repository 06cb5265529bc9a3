"""Pictures: valid files in every form, the same twice, users' text escaped, colours that greyscale tells apart."""

from __future__ import annotations

import builtins
import io
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

from bench.draw import (
    FORMS,
    Line,
    Mark,
    MissingMatplotlib,
    Point,
    Tile,
    draw_bars,
    draw_lines,
    draw_scatter,
    draw_strip,
)
from bench.draw.lines import HOLLOW
from bench.draw.style import COLOURS, DASHES, MARKERS, check_form, line_style

NASTY = '<script>alert("$x^$")</script> & \x00\x1b]0;\ud800 \\frac{'
LINES = [Line(f"{NASTY} {n}", (Point(0.1, 20.0 + n, 10.0, 40.0), Point(0.2, 50.0))) for n in range(3)]
PICTURES: dict[str, Any] = {
    "lines": lambda form: draw_lines(
        LINES, x_label=NASTY, y_label=NASTY, title=NASTY, remark=NASTY, log=True, form=form
    ),
    "bars": lambda form: draw_bars({NASTY: [1, 2], "b": [3, 0]}, x_label=NASTY, y_label="n", title=NASTY, form=form),
    "scatter": lambda form: draw_scatter(
        [Mark(50.0, 40.0, 30.0, 45.0, NASTY), Mark(1.0, 2.0, None, None, "b")],
        x_label=NASTY, y_label="", form=form,
    ),
    "strip": lambda form: draw_strip(
        [
            [Tile(np.full((1, 4, 4), 0.5, np.float32), NASTY), Tile(np.zeros((3, 4, 4), np.float32), "b", True)],
            [Tile(None), Tile(None)],
        ],
        [NASTY, "b"], title=NASTY, remark=NASTY, form=form,
    ),
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", PICTURES)
def test_users_text_breaks_no_picture(name: str, form: str) -> None:
    data = PICTURES[name](form)
    if form == "svg":
        text = data.decode()
        root = ElementTree.fromstring(text)
        assert "<script" not in text and root.tag.endswith("svg")
        assert "alert(" in "".join(root.itertext())  # as text, every letter of it
    elif form == "png":
        from PIL import Image

        assert min(Image.open(io.BytesIO(data)).convert("RGB").size) > 200
    else:
        assert data.startswith(b"%PDF") and b"/Type3" not in data  # fonts that journals take


@pytest.mark.parametrize("form", FORMS)
def test_the_same_numbers_are_the_same_file(form: str) -> None:
    assert PICTURES["lines"](form) == PICTURES["lines"](form)


def test_the_users_own_settings_change_nothing() -> None:
    import matplotlib

    before = PICTURES["lines"]("svg")
    with matplotlib.rc_context({"font.size": 30, "text.usetex": True, "axes.grid": False}):
        assert PICTURES["lines"]("svg") == before
        assert matplotlib.rcParams["font.size"] == 30


def test_lines_are_told_apart_without_colour() -> None:
    """Neighbours differ in marker and dashes, and the first colours in luminance too."""
    styles = [line_style(number) for number in range(8)]
    for a, b in zip(styles, styles[1:], strict=False):
        assert a["marker"] != b["marker"] and a["linestyle"] != b["linestyle"] and a["color"] != b["color"]
    pairs = {(MARKERS.index(s["marker"]), DASHES.index(s["linestyle"])) for s in styles}
    assert len(pairs) == 8

    def luminance(colour: str) -> float:
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    light = [luminance(colour) for colour in COLOURS]
    assert len({round(value, 2) for value in light}) == len(COLOURS)
    for value in light[:4]:
        assert 1.05 / (value + 0.05) >= 3  # contrast with white paper


def test_points_that_differ_in_more_are_not_joined() -> None:
    import re

    def strokes(joined: bool) -> int:
        line = Line("a", (Point(0, 10), Point(1, 20), Point(2, 90)), joined=joined)
        text = draw_lines([line], x_label="", y_label="").decode()
        return len(re.findall(r'd="M [\d.]+ [\d.]+ ?\nL [\d.]+ [\d.]+ ?\nL', text))

    assert strokes(True) > strokes(False)


def test_a_doubted_point_is_hollow_and_the_picture_says_what_that_means() -> None:
    for doubted in (False, True):
        text = draw_lines([Line("a", (Point(0, 10), Point(1, 20, doubted=doubted)))], x_label="", y_label="").decode()
        assert [word in text for word in ("fill: #ffffff; stroke", '"in doubt at x": [1.0]', HOLLOW)] == [doubted] * 3


def test_an_ending_that_is_none_is_refused() -> None:
    assert check_form(".PDF") == "pdf"
    with pytest.raises(ValueError, match="svg, png, pdf"):
        check_form(".jpg")


def test_without_matplotlib_there_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *rest: Any, **more: Any) -> Any:
        if name.split(".")[0] == "matplotlib":
            raise ImportError(name)
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(MissingMatplotlib, match=r"pip install 'purification-bench\[plot\]'"):
        PICTURES["lines"]("svg")
