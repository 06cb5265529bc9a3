"""The curve: right places, every number drawn, valid SVG."""

from __future__ import annotations

import re
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


def test_points_lie_where_their_numbers_say() -> None:
    drawn = svg(CURVE, [cell(0.2, 0.0, robust_low=0.0), cell(0.1, 100.0, robust_high=100.0)])
    root = ElementTree.fromstring(drawn)
    circles = [(float(c.get("cx", 0)), float(c.get("cy", 0))) for c in root.iter("{http://www.w3.org/2000/svg}circle")]
    assert circles == [(80.0, 44.0), (470.0, 348.0)]  # left and right end, top and bottom of the frame
    assert "DiffPure, exact, gold" in drawn and "A &amp; B" in drawn and "diffusion time t" in drawn


def test_a_line_a_series_and_names_that_do_not_overlap() -> None:
    kinds = ("exact", "straight_through", "transfer")
    drawn = svg(CURVE, [cell(t, 50.0, gradient=kind) for kind in kinds for t in (0.1, 0.2)])
    heights = [float(y) for y in re.findall(r'x="500.0" y="([\d.]+)" fill="#\w+">DiffPure', drawn)]
    assert len(heights) == 3 and sorted(heights) == heights and heights[1] - heights[0] >= 12
    assert drawn.count("stroke-dasharray") == 3 and drawn.count("<circle") == 6


def test_seeds_pool_into_one_point() -> None:
    drawn = svg(CURVE, [cell(0.1, 40.0), cell(0.1, 60.0, data_seed=1)])
    assert drawn.count("<circle") == 1 and 'cy="196.0"' in drawn  # 50 %, the middle


def test_what_has_not_run_is_no_point() -> None:
    assert svg(CURVE, [cell(0.1, None), cell(0.2, 50.0)]).count("<circle") == 1
    assert "not run" in svg(CURVE, [cell(0.1, None)])


def test_a_parameter_that_no_defense_has_is_refused() -> None:
    with pytest.raises(ValueError, match="numeric 'sigma'"):
        svg(Curve(x="sigma", x_label="", title=""), [cell(0.1, 1.0)])
