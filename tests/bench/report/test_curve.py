"""The curve: right places, every number drawn, valid SVG."""

from __future__ import annotations

import json
from typing import Any
from xml.etree import ElementTree

import pytest

from bench.report import Curve, svg

CURVE = Curve(x="t", x_label="diffusion time t", title="A & B")


def cell(t: float, robust: float | None, **changes: Any) -> dict[str, Any]:
    ends = (None, None) if robust is None else (robust - 5, robust + 5)
    return {
        **{
            "dataset": "cifar10",
            "classifier": "wrn",
            "score": "net",
            "defense": "diffpure_sde",
            "defense_title": "DiffPure",
            "attack": "gold",
        },
        **{
            "defense_title": "DiffPure",
            "defense_params": {"t": t},
            "attack_params": {},
            "norm": "Linf",
            "epsilon": 8 / 255,
            "gradient": "exact",
        },
        **{"tier": "gold", "num_images": 64, "data_seed": 0, "seed": 0, "cell_key": f"{t}{changes}"},
        **{"clean_accuracy": robust and 90.0, "robust_accuracy": robust, "robust_low": ends[0], "robust_high": ends[1]},
        **changes,
    }


def described(drawn: str) -> list[dict[str, Any]]:
    """The numbers that an SVG says it shows."""
    texts = [node.text for node in ElementTree.fromstring(drawn).iter("{http://purl.org/dc/elements/1.1/}description")]
    return json.loads(texts[0])


def marks(drawn: str) -> list[tuple[float, float]]:
    """Places of the markers of the first line, in points, left to right."""
    nodes = [n for n in ElementTree.fromstring(drawn).iter("{http://www.w3.org/2000/svg}use") if n.get("x")]
    ends = [float(n.get("x")) for n in nodes]
    return sorted({(float(n.get("x")), float(n.get("y"))) for n in nodes if 0 < min(ends)})


def test_points_lie_where_their_numbers_say() -> None:
    drawn = svg(CURVE, [cell(0.2, 0.0, robust_low=0.0), cell(0.1, 100.0, robust_high=100.0)])
    (line,) = described(drawn)
    assert line["line"] == "DiffPure, exact, gold"
    assert line["x y low high"] == [[0.1, 100.0, 95.0, 100.0], [0.2, 0.0, 0.0, 5.0]]
    places = marks(drawn)
    assert places[0][0] < places[-1][0] and min(y for _, y in places) < max(y for _, y in places)
    assert "DiffPure, exact, gold" in drawn and "A &amp; B" in drawn and "diffusion time t" in drawn


def test_a_line_a_series() -> None:
    kinds = ("exact", "straight_through", "transfer")
    drawn = svg(CURVE, [cell(t, 50.0, gradient=kind) for kind in kinds for t in (0.1, 0.2)])
    assert [line["line"].split(", ")[1] for line in described(drawn)] == list(kinds)
    assert all(drawn.count(f">DiffPure, {kind}, gold<") == 1 for kind in kinds)


def test_seeds_pool_into_one_point() -> None:
    (line,) = described(svg(CURVE, [cell(0.1, 40.0), cell(0.1, 60.0, data_seed=1)]))
    assert [point[:2] for point in line["x y low high"]] == [[0.1, 50.0]]


def test_what_has_not_run_is_no_point() -> None:
    (line,) = described(svg(CURVE, [cell(0.1, None), cell(0.2, 50.0)]))
    assert len(line["x y low high"]) == 1
    assert "not run" in svg(CURVE, [cell(0.1, None)])


def test_a_parameter_that_no_defense_has_is_refused() -> None:
    with pytest.raises(ValueError, match="numeric 'sigma'"):
        svg(Curve(x="sigma", x_label="", title=""), [cell(0.1, 1.0)])
